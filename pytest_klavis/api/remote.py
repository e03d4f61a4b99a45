"""Operations on remote sandboxes: one SaaS account behind one server. `/sandbox/...` of the API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_klavis.api import models, operations
from pytest_klavis.api.dialect import shows
from pytest_klavis.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_klavis.api.calls import Calls

__tracebackhide__ = True  # users read their own frames


class RemoteSandboxes:
    """The half of KlavisClient that is about remote sandboxes."""

    _calls: Calls

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
        values = {"server_name": server_name}
        answer = self._calls.model(operations.ACQUIRE_SANDBOX, values, body=request, deadline=deadline)
        if tags:
            self._calls.dialect.label(answer.sandbox_id, tags)
            if "tags" in (answer.model_extra or {}):
                self._calls.dialect.notice(answer.sandbox_id, (answer.model_extra or {})["tags"])
        return answer

    def prepare(
        self, *, benchmark: str | None = None, server_name: str | None = None, deadline: float | None = None
    ) -> None:
        """Have sandboxes of a benchmark or server made ready for the next hour or so (newer)."""
        params = {"benchmark": benchmark, "server_name": server_name}
        self._calls.success(operations.PREPARE, {}, params=params, deadline=deadline)

    def get_sandbox(self, server_name: str, sandbox_id: str, *, deadline: float | None = None) -> models.SandboxInfo:
        """Details of a sandbox: status, URL, `auth_data`, `metadata`."""
        answer = self._calls.model(operations.GET_SANDBOX, _one(server_name, sandbox_id), deadline=deadline)
        self._calls.dialect.notice(sandbox_id, answer.tags)
        return answer

    def list_sandboxes(
        self,
        tags: Mapping[str, str] | None = None,
        *,
        tag: str | None = None,
        server_name: str | None = None,
        deadline: float | None = None,
    ) -> models.ListSandboxesResponse:
        """The account's sandboxes, filtered by `tags`; newer dialects filter by `tag` and `server_name`.

        Only those are returned that show what was asked for, as an API that does not know a filter lists everything.
        """
        params = {"tags": json.dumps(dict(tags)) if tags is not None else None, "tag": tag, "server_name": server_name}
        answer = self._calls.model(operations.LIST_SANDBOXES, {}, params=params, deadline=deadline)
        for item in answer.sandboxes:
            self._calls.dialect.notice(item.sandbox_id, item.tags)
        answer.sandboxes = [item for item in answer.sandboxes if shows(item, tags, tag, server_name)]
        return answer

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
        values, params = _one(server_name, sandbox_id), {"instance_id": instance_id}
        try:
            return self._calls.model(operations.RELEASE_SANDBOX, values, params=params, deadline=deadline)
        except NotFoundError as gone:
            message = f"was released before (HTTP {gone.status})"
            return models.ReleaseSandboxResponse(sandbox_id=sandbox_id, message=message)

    def reset_sandbox(
        self, server_name: str, sandbox_id: str, *, deadline: float | None = None
    ) -> models.ResetSandboxResponse:
        """Empty a sandbox, its benchmark's data included, and keep it."""
        return self._calls.model(operations.RESET_SANDBOX, _one(server_name, sandbox_id), deadline=deadline)

    def initialize_sandbox(
        self,
        server_name: str,
        sandbox_id: str,
        data: Mapping[str, Any] | None,
        *,
        init_default_data: bool = False,
        deadline: float | None = None,
    ) -> models.InitializeSandboxResponse:
        """Put `data`, in the server's own shape, into a sandbox (newer; servers that hold data only).

        `init_default_data` asks for the API's own set as well; what that holds is not documented.
        """
        return self._calls.model(
            operations.INITIALIZE_SANDBOX,
            _one(server_name, sandbox_id),
            params={"init_default_data": "true" if init_default_data else None},
            body=dict(data) if data is not None else None,
            deadline=deadline,
        )

    def dump_sandbox(self, server_name: str, sandbox_id: str, *, deadline: float | None = None) -> dict[str, Any]:
        """What a sandbox holds, as the JSON that came: `data` has the server's own shape (newer)."""
        return self._calls.content(operations.DUMP_SANDBOX, _one(server_name, sandbox_id), deadline=deadline)


def _one(server_name: str, sandbox_id: str) -> dict[str, str]:
    return {"server_name": server_name, "sandbox_id": sandbox_id}
