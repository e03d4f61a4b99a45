"""The Klavis API as Python: one method per operation, models in and out; knows nothing of leases or pytest.

Source: the sandbox API reference and, where a docstring says newer, the OpenAPI document of 2026.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Self

from pytest_klavis.api import models, operations, transfer
from pytest_klavis.api.calls import Calls
from pytest_klavis.api.dialect import Dialect
from pytest_klavis.api.local import LocalSandboxes
from pytest_klavis.api.reading import read
from pytest_klavis.api.refusals import refusal
from pytest_klavis.api.remote import RemoteSandboxes
from pytest_klavis.api.transport import Transport
from pytest_klavis.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_klavis.api.answers import Answer
    from pytest_klavis.api.pace import Pace

__tracebackhide__ = True  # users read their own frames

DEFAULT_BASE_URL = "https://api.klavis.ai"


class KlavisClient(RemoteSandboxes, LocalSandboxes):
    """A client of one Klavis API, cloud or embedded. Usable from several threads and after a fork.

    `base_url` is the API (`https://api.klavis.ai`), `api_key` its Bearer token, `region` ("us" or "asia") the
    storage that signed URLs point to, `headers` are sent with each call. `dialect` is what other clients of the
    same API have learned of it; clients that share one learn for each other. `pace` says when each request may be
    sent, where an account's limit is shared; transfers to signed URLs do not count.

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
        dialect: Dialect | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.dialect = dialect if dialect is not None else Dialect()
        self.region = region
        self._transport = Transport(base_url, api_key, headers=headers, pace=pace)
        self._calls = Calls(self._transport, self.dialect, region)

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
        """Seconds waited so far because the API asked to come back later (429, 503), and for turns by `pace`."""
        return self._transport.waited

    @property
    def refused_fields(self) -> frozenset[str]:
        """Fields and query parameters that this API does not know; they are left out from then on."""
        return self.dialect.refused

    @property
    def echoes_tags(self) -> bool | None:
        """Whether answers bring back what a sandbox was labelled with; None while none of them was seen."""
        return self.dialect.echoes_tags

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
        operation, values = operations.RUN_COMMAND, {"local_sandbox_id": local_sandbox_id}
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
        answer = self._calls.answer(operation, values, body=body, deadline=patience)
        if _has_no_such_route(answer):
            raise BackendError(f"{operation.name}: {self._transport.host} cannot run commands in a sandbox yet")
        if answer.status == 503:
            error = refusal(operation, answer, self._transport.host)
            raise BackendError(f"{operation.name}: {self._transport.host} cannot do it: {error.body}")
        return read(operation, self._calls.checked(operation, answer), {})

    # Signed URLs: no key, no headers of ours.

    def upload_archive(self, url: str, path: Path, *, deadline: float = transfer.UPLOAD.deadline) -> None:
        """PUT a tar.gz to the URL of `create_upload_url`; see `transfer.upload_archive`."""
        transfer.upload_archive(url, path, deadline=deadline)

    def download_archive(
        self, url: str, dest: Path, *, limit: int = 4 << 30, deadline: float = transfer.DOWNLOAD.deadline
    ) -> int:
        """GET the tar.gz of `dump_local_sandbox` into a file, whole or not at all; see `transfer.download_archive`."""
        return transfer.download_archive(url, dest, limit=limit, deadline=deadline)


def _has_no_such_route(answer: Answer) -> bool:
    """Tell a route that does not exist from a sandbox that does not: only the latter says what was not found."""
    if answer.status == 405:
        return True
    content = answer.json()
    detail = content.get("detail") if isinstance(content, dict) else None
    return answer.status == 404 and detail in (None, "Not Found")
