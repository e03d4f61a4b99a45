"""The Klavis API as Python: one method per operation, models in and out; knows nothing of leases or pytest.

Source: the sandbox API reference and, where a docstring says newer, the OpenAPI document of 2026.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from pytest_klavis.api import models, operations, transfer
from pytest_klavis.api.reading import read, unreadable
from pytest_klavis.api.transport import Transport, error_for, extra_fields
from pytest_klavis.errors import BackendError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_klavis.api.operations import Operation
    from pytest_klavis.api.transport import Answer

__tracebackhide__ = True  # users read their own frames

ModelT = TypeVar("ModelT", bound=models.Answer)

DEFAULT_BASE_URL = "https://api.klavis.ai"
# What a dialect may not know yet, or no more: left out once it was refused.
_DIALECT_FIELDS = frozenset(("tags", "tag", "ttl_seconds"))


class KlavisClient:
    """A client of one Klavis API, cloud or embedded. Usable from several threads and after a fork.

    `base_url` is the API (`https://api.klavis.ai`), `api_key` its Bearer token, `region` ("us" or "asia") the
    storage that signed URLs point to, `headers` are sent with each call, `connect_timeout` is in seconds.

    Every method takes `deadline`: seconds for all of the call, repeats included, in place of its own default.
    Every method raises an ApiError for a status that is no success (AuthError, NotFoundError, RateLimitError,
    RequestRefusedError, ServerError), TransportError when no readable answer came and SpecError for an empty name
    or id. Calls that are idempotent are repeated after faults, an acquire only when it was turned away unread.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        region: str = "us",
        headers: Mapping[str, str] | None = None,
        connect_timeout: float = 10.0,
    ) -> None:
        self._transport = Transport(base_url, api_key, headers=headers, connect_timeout=connect_timeout)
        self._connect_timeout = connect_timeout
        self.region = region
        self._refused: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"KlavisClient({self._transport.host!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held between calls, so this releases nothing; it is here for `with`."""

    @property
    def calls(self) -> int:
        """API requests sent so far, repeats included; transfers to signed URLs are not counted."""
        return self._transport.calls

    @property
    def waited(self) -> float:
        """Seconds slept so far because the API asked to come back later (429, 503)."""
        return self._transport.waited

    @property
    def refused_fields(self) -> frozenset[str]:
        """Fields of acquire bodies that this API does not know; they are left out from then on."""
        return self._refused

    # Remote sandboxes: one SaaS account behind one server.

    def acquire_sandbox(
        self,
        server_name: str,
        *,
        benchmark: str | None = None,
        test_account_email: str | None = None,
        tags: Mapping[str, str] | None = None,
        ttl_seconds: int | None = None,
        tag: str | None = None,
        deadline: float | None = None,
    ) -> models.CreateSandboxResponse:
        """Take an idle sandbox of a server. `tags` label it; newer: `tag` selects one, `ttl_seconds` is 60..86400.

        Never fails for a strange answer as long as an id can be read from it.
        """
        request = models.AcquireSandboxRequest(
            benchmark=benchmark,
            test_account_email=test_account_email,
            tags=dict(tags) if tags is not None else None,
            tag=tag,
            ttl_seconds=ttl_seconds,
        )
        return self._acquire(operations.ACQUIRE_SANDBOX, {"server_name": server_name}, request, deadline)

    def get_sandbox(self, server_name: str, sandbox_id: str, *, deadline: float | None = None) -> models.SandboxInfo:
        """Details of a sandbox: status, URL, `auth_data`, `metadata`."""
        return self._about(operations.GET_SANDBOX, server_name, sandbox_id, deadline=deadline)

    def list_sandboxes(
        self,
        tags: Mapping[str, str] | None = None,
        *,
        tag: str | None = None,
        server_name: str | None = None,
        deadline: float | None = None,
    ) -> models.ListSandboxesResponse:
        """The account's sandboxes, filtered by `tags`; newer dialects filter by `tag` and `server_name`."""
        params = {"tags": json.dumps(dict(tags)) if tags is not None else None, "tag": tag, "server_name": server_name}
        return self._model(operations.LIST_SANDBOXES, {}, params=params, deadline=deadline)

    def release_sandbox(
        self,
        server_name: str,
        sandbox_id: str,
        *,
        instance_id: str | None = None,
        deadline: float | None = None,
    ) -> models.ReleaseSandboxResponse:
        """Give a sandbox back; one that is gone already (404, 410) is a success.

        Newer: with `instance_id` (from the server's URL) the API skips the release when it is another's by now.
        """
        operation = operations.RELEASE_SANDBOX
        try:
            return self._about(
                operation, server_name, sandbox_id, params={"instance_id": instance_id}, deadline=deadline
            )
        except NotFoundError as gone:
            message = f"was released before (HTTP {gone.status})"
            return models.ReleaseSandboxResponse(sandbox_id=sandbox_id, message=message)

    def reset_sandbox(
        self, server_name: str, sandbox_id: str, *, deadline: float | None = None
    ) -> models.ResetSandboxResponse:
        """Empty a sandbox, its benchmark's data included, and keep it."""
        return self._about(operations.RESET_SANDBOX, server_name, sandbox_id, deadline=deadline)

    def initialize_sandbox(
        self, server_name: str, sandbox_id: str, data: Mapping[str, Any], *, deadline: float | None = None
    ) -> models.InitializeSandboxResponse:
        """Put `data`, in the server's own shape, into a sandbox (newer; servers that hold data only)."""
        operation = operations.INITIALIZE_SANDBOX
        return self._about(operation, server_name, sandbox_id, body=dict(data), deadline=deadline)

    def dump_sandbox(self, server_name: str, sandbox_id: str, *, deadline: float | None = None) -> dict[str, Any]:
        """What a sandbox holds, as the JSON that came: `data` has the server's own shape (newer)."""
        operation = operations.DUMP_SANDBOX
        answer = self._call(operation, {"server_name": server_name, "sandbox_id": sandbox_id}, deadline=deadline)
        content = answer.json()
        if not isinstance(content, dict):
            raise unreadable(operation, answer, "the body is no JSON object")
        return content

    # Local sandboxes: several servers over one workspace.

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
        return self._acquire(operations.ACQUIRE_LOCAL_SANDBOX, {}, request, deadline)

    def get_local_sandbox(self, local_sandbox_id: str, *, deadline: float | None = None) -> models.LocalSandboxInfo:
        """Details of a local sandbox: status and servers."""
        return self._model(operations.GET_LOCAL_SANDBOX, _local(local_sandbox_id), deadline=deadline)

    def list_local_sandboxes(self, *, deadline: float | None = None) -> models.ListLocalSandboxesResponse:
        """The account's active local sandboxes."""
        return self._model(operations.LIST_LOCAL_SANDBOXES, {}, deadline=deadline)

    def release_local_sandbox(self, local_sandbox_id: str, *, deadline: float | None = None) -> None:
        """Give a local sandbox up; the API removes it in the background. One that is gone is a success."""
        try:
            self._call(operations.RELEASE_LOCAL_SANDBOX, _local(local_sandbox_id), deadline=deadline)
        except NotFoundError:
            return

    def reset_local_sandbox(self, local_sandbox_id: str, *, deadline: float | None = None) -> None:
        """Bring a local sandbox and its servers back to their initial state."""
        self._call(operations.RESET_LOCAL_SANDBOX, _local(local_sandbox_id), deadline=deadline)

    def create_upload_url(self, local_sandbox_id: str, *, deadline: float | None = None) -> models.UploadUrlResponse:
        """A signed URL to PUT the workspace's tar.gz to."""
        operation = operations.CREATE_UPLOAD_URL
        return self._model(operation, _local(local_sandbox_id), params={"region": self.region}, deadline=deadline)

    def initialize_local_sandbox(
        self, local_sandbox_id: str, *, deadline: float | None = None
    ) -> models.InitializeSandboxResponse:
        """Unpack what was uploaded into the workspace."""
        operation = operations.INITIALIZE_LOCAL_SANDBOX
        known = {"sandbox_id": local_sandbox_id}
        values = _local(local_sandbox_id)
        return self._model(operation, values, params={"region": self.region}, known=known, deadline=deadline)

    def dump_local_sandbox(self, local_sandbox_id: str, *, deadline: float | None = None) -> models.DumpUrlResponse:
        """Pack the workspace; a signed URL to GET its tar.gz from."""
        operation = operations.DUMP_LOCAL_SANDBOX
        return self._model(operation, _local(local_sandbox_id), params={"region": self.region}, deadline=deadline)

    def run_command(
        self,
        local_sandbox_id: str,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        files: bytes | None = None,
        deadline: float | None = None,
    ) -> models.RunResponse:
        """Run a command in a local sandbox, isolated; the embedded backend's own route.

        `timeout` (seconds) stops the command, `files` is a tar.gz that is laid over `cwd` for this run.
        Raises BackendError where the backend cannot run commands.
        """
        operation = operations.RUN_COMMAND
        body = {
            "argv": list(argv),
            "cwd": cwd,
            "env": dict(env) if env is not None else None,
            "timeout": timeout,
            "files": base64.b64encode(files).decode("ascii") if files is not None else None,
        }
        body = {name: value for name, value in body.items() if value is not None}
        # The command may have to wait for a tool call of the agent that is still running.
        patience = deadline if deadline is not None or timeout is None else timeout + 120
        answer = self._transport.send(operation, _local(local_sandbox_id), body=body, deadline=patience)
        if _has_no_such_route(answer):
            raise BackendError(f"{operation.name}: {self._transport.host} cannot run commands in a sandbox yet")
        if answer.status == 503:
            error = error_for(operation, answer, self._transport.host)
            raise BackendError(f"{operation.name}: {self._transport.host} cannot do it: {error.body}")
        return read(operation, self._checked(operation, answer), {})

    # Signed URLs: no key, no headers of ours.

    def upload_archive(self, url: str, path: Path, *, deadline: float = transfer.UPLOAD.deadline) -> None:
        """PUT a tar.gz to the URL of `create_upload_url`; see `transfer.upload_archive`."""
        transfer.upload_archive(url, path, deadline=deadline, connect_timeout=self._connect_timeout)

    def download_archive(
        self, url: str, dest: Path, *, limit: int = 4 << 30, deadline: float = transfer.DOWNLOAD.deadline
    ) -> int:
        """GET the tar.gz of `dump_local_sandbox` into a file, whole or not at all; see `transfer.download_archive`."""
        timeout = self._connect_timeout
        return transfer.download_archive(url, dest, limit=limit, deadline=deadline, connect_timeout=timeout)

    # From a call to its answer.

    def _call(
        self,
        operation: Operation[Any],
        values: Mapping[str, str],
        *,
        params: Mapping[str, str | None] | None = None,
        body: Any = None,
        deadline: float | None = None,
    ) -> Answer:
        __tracebackhide__ = True
        query = {name: value for name, value in (params or {}).items() if value is not None}
        answer = self._transport.send(operation, values, params=query, body=body, deadline=deadline)
        return self._checked(operation, answer)

    def _checked(self, operation: Operation[Any], answer: Answer) -> Answer:
        __tracebackhide__ = True
        if not answer.ok:
            raise error_for(operation, answer, self._transport.host)
        return answer

    def _model(
        self,
        operation: Operation[ModelT],
        values: Mapping[str, str],
        *,
        params: Mapping[str, str | None] | None = None,
        body: Any = None,
        known: Mapping[str, str] | None = None,
        deadline: float | None = None,
    ) -> ModelT:
        __tracebackhide__ = True
        answer = self._call(operation, values, params=params, body=body, deadline=deadline)
        return read(operation, answer, known if known is not None else values)

    def _about(
        self,
        operation: Operation[ModelT],
        server_name: str,
        sandbox_id: str,
        *,
        params: Mapping[str, str | None] | None = None,
        body: Any = None,
        deadline: float | None = None,
    ) -> ModelT:
        """Call an operation on one remote sandbox."""
        __tracebackhide__ = True
        values = {"server_name": server_name, "sandbox_id": sandbox_id}
        return self._model(operation, values, params=params, body=body, deadline=deadline)

    def _acquire(
        self,
        operation: Operation[ModelT],
        values: Mapping[str, str],
        request: models.Request,
        deadline: float | None,
    ) -> ModelT:
        __tracebackhide__ = True
        body = {name: value for name, value in request.body().items() if name not in self._refused}
        answer = self._transport.send(operation, values, body=body, deadline=deadline)
        unknown = extra_fields(answer) & body.keys() & _DIALECT_FIELDS
        if unknown:
            # A 422 acquired nothing, so the same without the field is no second acquire.
            self._refused |= unknown
            body = {name: value for name, value in body.items() if name not in unknown}
            answer = self._transport.send(operation, values, body=body, deadline=deadline)
        return read(operation, self._checked(operation, answer), values)


def _local(local_sandbox_id: str) -> dict[str, str]:
    return {"local_sandbox_id": local_sandbox_id}


def _has_no_such_route(answer: Answer) -> bool:
    """Tell a route that does not exist from a sandbox that does not: only the latter says what was not found."""
    if answer.status == 405:
        return True
    content = answer.json()
    detail = content.get("detail") if isinstance(content, dict) else None
    return answer.status == 404 and detail in (None, "Not Found")
