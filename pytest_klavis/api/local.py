"""Operations on local sandboxes: several servers over one workspace. `/local-sandbox/...` of the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pytest_klavis.api import models, operations
from pytest_klavis.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_klavis.api.calls import Calls

__tracebackhide__ = True  # users read their own frames


class LocalSandboxes:
    """The half of KlavisClient that is about local sandboxes."""

    _calls: Calls

    def acquire_local_sandbox(
        self,
        server_names: Sequence[str] | Literal["ALL"],
        *,
        benchmark: str | None = None,
        test_account_email: str | None = None,
        ttl_seconds: int | None = None,
        deadline: float | None = None,
    ) -> models.AcquireLocalSandboxResponse:
        """Start a sandbox with these servers, or "ALL". Newer: `ttl_seconds` is 60..86400.

        Never fails for a strange answer as long as an id can be read from it.
        """
        request = models.AcquireLocalSandboxRequest(
            server_names=server_names if isinstance(server_names, str) else list(server_names),
            benchmark=benchmark,
            test_account_email=test_account_email,
            ttl_seconds=ttl_seconds,
        )
        return self._calls.model(operations.ACQUIRE_LOCAL_SANDBOX, {}, body=request, deadline=deadline)

    def get_local_sandbox(self, local_sandbox_id: str, *, deadline: float | None = None) -> models.LocalSandboxInfo:
        """Details of a local sandbox: status and servers."""
        return self._calls.model(operations.GET_LOCAL_SANDBOX, _one(local_sandbox_id), deadline=deadline)

    def list_local_sandboxes(self, *, deadline: float | None = None) -> models.ListLocalSandboxesResponse:
        """The account's active local sandboxes."""
        return self._calls.model(operations.LIST_LOCAL_SANDBOXES, {}, deadline=deadline)

    def release_local_sandbox(self, local_sandbox_id: str, *, deadline: float | None = None) -> None:
        """Give a local sandbox up; the API removes it in the background. One that is gone is a success."""
        try:
            self._calls.success(operations.RELEASE_LOCAL_SANDBOX, _one(local_sandbox_id), deadline=deadline)
        except NotFoundError:
            return

    def reset_local_sandbox(self, local_sandbox_id: str, *, deadline: float | None = None) -> None:
        """Bring a local sandbox and its servers back to their initial state."""
        self._calls.success(operations.RESET_LOCAL_SANDBOX, _one(local_sandbox_id), deadline=deadline)

    # The workspace, as a tar.gz behind a signed URL. All three calls name the region that the URL is in.

    def create_upload_url(self, local_sandbox_id: str, *, deadline: float | None = None) -> models.UploadUrlResponse:
        """A signed URL to PUT the workspace's tar.gz to."""
        operation = operations.CREATE_UPLOAD_URL
        return self._calls.model(operation, _one(local_sandbox_id), params=self._region(), deadline=deadline)

    def initialize_local_sandbox(
        self, local_sandbox_id: str, *, deadline: float | None = None
    ) -> models.InitializeSandboxResponse:
        """Unpack what was uploaded into the workspace."""
        operation = operations.INITIALIZE_LOCAL_SANDBOX
        known, values = {"sandbox_id": local_sandbox_id}, _one(local_sandbox_id)
        return self._calls.model(operation, values, params=self._region(), known=known, deadline=deadline)

    def dump_local_sandbox(self, local_sandbox_id: str, *, deadline: float | None = None) -> models.DumpUrlResponse:
        """Pack the workspace; a signed URL to GET its tar.gz from."""
        operation = operations.DUMP_LOCAL_SANDBOX
        return self._calls.model(operation, _one(local_sandbox_id), params=self._region(), deadline=deadline)

    # Servers that hold data beside the workspace: google_cloud, poste_email_toolathlon, canvas (newer).

    def initialize_local_server(
        self,
        server_name: str,
        sandbox_id: str,
        data: Mapping[str, Any] | None,
        *,
        init_default_data: bool = False,
        deadline: float | None = None,
    ) -> models.InitializeSandboxResponse:
        """Put `data`, in the server's own shape, into one server of a local sandbox (newer).

        The document does not say whether `sandbox_id` is the sandbox's or the server's own (`servers[].id`).
        """
        return self._calls.model(
            operations.INITIALIZE_LOCAL_SERVER,
            {"server_name": server_name, "sandbox_id": sandbox_id},
            params={"init_default_data": "true" if init_default_data else None},
            body=dict(data) if data is not None else None,
            deadline=deadline,
        )

    def dump_local_server(self, server_name: str, sandbox_id: str, *, deadline: float | None = None) -> dict[str, Any]:
        """What one server of a local sandbox holds, as the JSON that came; `data` has its own shape (newer)."""
        values = {"server_name": server_name, "sandbox_id": sandbox_id}
        return self._calls.content(operations.DUMP_LOCAL_SERVER, values, deadline=deadline)

    # Executions: a program in an archive of its own (`main.py`), beside the servers. In the document of 2026-03 only.

    def create_execution_upload_url(
        self, local_sandbox_id: str, execution_name: str, *, deadline: float | None = None
    ) -> models.UploadUrlResponse:
        """A signed URL to PUT an execution's tar.gz to: `main.py`, `requirements.txt`, `packages.txt`."""
        operation = operations.CREATE_EXECUTION_UPLOAD_URL
        call = self._execution(execution_name, deadline)
        return self._calls.model(operation, _one(local_sandbox_id), **call)

    def execute(
        self, local_sandbox_id: str, execution_name: str, *, deadline: float | None = None
    ) -> models.ExecuteResponse:
        """Start what was uploaded, in the background. Not repeated once it may have been started."""
        call = self._execution(execution_name, deadline)
        return self._calls.model(operations.EXECUTE, _one(local_sandbox_id), **call)

    def execution_status(
        self, local_sandbox_id: str, execution_name: str, *, deadline: float | None = None
    ) -> models.ExecutionStatusResponse:
        """How far an execution is: pending, running, completed or failed."""
        params = {"execution_name": execution_name}
        operation = operations.EXECUTION_STATUS
        return self._calls.model(operation, _one(local_sandbox_id), params=params, deadline=deadline)

    def execution_logs(
        self, local_sandbox_id: str, execution_name: str, cursor: int = 0, *, deadline: float | None = None
    ) -> models.ExecutionLogsResponse:
        """What an execution has printed since `cursor`, in bytes: that of the last answer."""
        params = {"execution_name": execution_name, "cursor": str(cursor)}
        return self._calls.model(operations.EXECUTION_LOGS, _one(local_sandbox_id), params=params, deadline=deadline)

    def export_artifacts(
        self, local_sandbox_id: str, execution_name: str, *, deadline: float | None = None
    ) -> models.DumpUrlResponse:
        """Pack the directory of an execution; a signed URL to GET it from."""
        call = self._execution(execution_name, deadline)
        return self._calls.model(operations.EXPORT_ARTIFACTS, _one(local_sandbox_id), **call)

    def _execution(self, name: str, deadline: float | None) -> dict[str, Any]:
        return {"params": self._region(), "body": {"execution_name": name}, "deadline": deadline}

    def _region(self) -> dict[str, str]:
        return {"region": self._calls.region}


def _one(local_sandbox_id: str) -> dict[str, str]:
    return {"local_sandbox_id": local_sandbox_id}
