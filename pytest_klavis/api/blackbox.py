"""The part of the Blackbox Agent API that is used here: a run's status and the download of its workspace.

Source: the API's reference (Download Workspace, Task Status). Errors are `{"error": "<text>"}`. The status vocabulary
is open: the status route says pending and in_progress where other routes say queued and running.
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote

import httpx

from pytest_klavis.api import models
from pytest_klavis.api.answers import receive
from pytest_klavis.api.connection import Deadline, exchange
from pytest_klavis.api.operations import CONNECT_TIMEOUT, IDEMPOTENT, Operation, Repeat
from pytest_klavis.api.refusals import refusal
from pytest_klavis.api.retry import repeat
from pytest_klavis.api.transfer import download
from pytest_klavis.clock import sleep
from pytest_klavis.errors import (
    ApiError,
    ArchiveError,
    AuthError,
    NotFoundError,
    ServerError,
    SpecError,
)
from pytest_klavis.redaction import redact, register

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_klavis.api.answers import Answer

__tracebackhide__ = True  # users read their own frames

KEY: Final = "BLACKBOX_API_KEY"
TERMINAL: Final = frozenset(("completed", "failed", "cancelled", "interrupted"))
_OTHER: Final = {"tar": "zip", "zip": "tar"}
_NO_PROGRAM = re.compile(r"(command|:) not found")
_MAGIC = (b"\x1f\x8b", b"PK")
_QUOTED = 200  # bytes of what is no archive
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0  # seconds between looks at a run

_STATUS: Final = Operation("get task status", "GET", "/tasks/{run_id}/status", models.Answer, IDEMPOTENT, 60)
_DOWNLOAD: Final = Operation(
    "download workspace", "GET", "/tasks/{run_id}/files/download", models.Answer, IDEMPOTENT, 600
)
# A 500 is looked at before it is repeated: the sandbox may have no program for this format.
_LOOK_AT_500: Final = Repeat(IDEMPOTENT.statuses - {500}, lost=True)

log = logging.getLogger(__name__)


class BlackboxClient:
    """A client of one Agent API. Usable from several threads.

    `base_url` is the API (`https://agent.blackbox.ai/api/v1`), `api_key` its Bearer token. Every method raises an
    ApiError for a status that is no success (AuthError names BLACKBOX_API_KEY) and TransportError when no whole
    answer came; `deadline` is in seconds, over all of the call with its repeats.
    """

    def __init__(self, base_url: str, api_key: str) -> None:
        self._base = _base(base_url)
        self._host = httpx.URL(self._base).netloc.decode("ascii")
        self._headers = {"Authorization": f"Bearer {_key(api_key)}", "Accept": "*/*", "Accept-Encoding": "identity"}

    def __repr__(self) -> str:
        return f"BlackboxClient({self._host!r})"

    def status(self, run_id: str, *, deadline: float = _STATUS.deadline) -> str:
        """The status of a run, in the API's words; "unknown" where the answer has none."""
        request = self._request(_STATUS, run_id, {})
        clock = Deadline(deadline)

        def attempt() -> Answer:
            with exchange(request, clock, CONNECT_TIMEOUT) as response:
                return receive(response, clock)

        answer = repeat(_STATUS, clock, attempt, host=self._host)
        if not answer.ok:
            raise self._refusal(_STATUS, answer)
        content = answer.json()
        found = content.get("status") if isinstance(content, dict) else None
        return found if isinstance(found, str) else "unknown"

    def download_workspace(
        self,
        run_id: str,
        dest: Path,
        *,
        path: str = "/vercel/sandbox",
        format: Literal["tar", "zip"] = "tar",  # noqa: A002  (the API's word)
        limit: int = 4 << 30,
        deadline: float = _DOWNLOAD.deadline,
    ) -> int:
        """GET the archive of a run's workspace, or of the directory `path` in it, into the file `dest`.

        The file appears whole or not at all; returns its bytes. It is a tar.gz or a zip: of the other format when
        the sandbox lacks the program for this one. A run that has no sandbox yet is asked again until it is over.
        `limit` is in bytes.

        Raises NotFoundError when there is nothing to download, ArchiveError when what came is no archive, larger
        than `limit` or cannot be stored.
        """
        clock = Deadline(deadline)

        def get(operation: Operation[Any], wanted: str) -> int:
            request = self._request(operation, run_id, {"path": path, "format": wanted})
            size = download(operation, request, dest, limit=limit, clock=clock, refusal=self._refusal)
            _check(operation, dest, self._host)
            return size

        pause, status = _FIRST_PAUSE, ""
        while True:
            try:
                size = _either_format(get, run_id, format)
            except NotFoundError as missing:
                # A run may have ended since: one that is over is asked once more.
                if status in TERMINAL:
                    raise _gone(run_id, status, missing) from None
                status = self._look(run_id, missing, clock)
                if status not in TERMINAL:
                    if pause >= clock.left():
                        raise _unfinished(run_id, status, missing, deadline) from None
                    sleep(pause)
                    pause = min(pause * 1.5, _LONGEST_PAUSE)
                continue
            if status and status not in TERMINAL:
                log.warning(
                    "Blackbox run %r was %s and had no sandbox; its workspace was downloaded as soon as it had one, "
                    "so it may not be what the run ends with",
                    run_id,
                    status,
                )
            return size

    def _look(self, run_id: str, missing: NotFoundError, clock: Deadline) -> str:
        """The status of a run whose workspace was not found."""
        try:
            return self.status(run_id, deadline=min(_STATUS.deadline, max(clock.left(), 1.0)))
        except NotFoundError:
            hint = (
                f"{self._host} knows no run {run_id!r}:\n"
                f"check the id, and that {KEY} is of the account that started it."
            )
            raise NotFoundError(missing.operation, missing.status, missing.body, hint) from None

    def _request(self, operation: Operation[Any], run_id: str, params: dict[str, str]) -> httpx.Request:
        if not run_id.strip("."):  # dots would climb
            raise SpecError(f"{operation.name}: run_id is {run_id!r}; it must be the id of a run")
        url = self._base + operation.path.format(run_id=quote(run_id, safe=""))
        return httpx.Request(operation.method, url, params=params or None, headers=self._headers)

    def _refusal(self, operation: Operation[Any], answer: Answer) -> ApiError:
        error = refusal(operation, answer, self._host, key=KEY)
        if isinstance(error, AuthError) and error.status == 403:
            hint = (
                f"The run belongs to another account than {KEY} in the environment, or the account's plan has no "
                "Agent API (it needs Pro)."
            )
            return AuthError(error.operation, error.status, error.body, hint)
        return error


def _either_format(get: Callable[[Operation[Any], str], int], run_id: str, wanted: str) -> int:
    """Get the archive in the format that is wanted, or in the other one where the sandbox cannot make it."""
    try:
        return get(replace(_DOWNLOAD, repeat=_LOOK_AT_500), wanted)
    except ServerError as error:
        if error.status != 500:
            raise
        lacks_it = _NO_PROGRAM.search(error.body)
    if lacks_it:
        other = _OTHER[wanted]
        log.warning("the sandbox of Blackbox run %r cannot make a %s, so a %s is asked for", run_id, wanted, other)
        wanted = other
    return get(_DOWNLOAD, wanted)


def _check(operation: Operation[Any], archive: Path, host: str) -> None:
    """Refuse what cannot be an archive, whatever its Content-Type says; the file goes."""
    with archive.open("rb") as file:
        start = file.read(_QUOTED)
    if start.startswith(_MAGIC):
        return
    size = archive.stat().st_size
    archive.unlink()
    shown = ascii(redact(start.decode("utf-8", "replace"))) if start else "nothing"
    raise ArchiveError(
        f"{operation.name} was answered with HTTP 200 and {size:,} bytes that are no archive: {shown}\n"
        f"Is {host} the Agent API, with nothing in between? --klavis-blackbox-url names another one."
    )


def _gone(run_id: str, status: str, missing: NotFoundError) -> NotFoundError:
    hint = (
        f"Run {run_id!r} is over ({status}) and has no sandbox: it never got one, or it is gone by now.\n"
        "Download sooner after a run's end, or start the task again."
    )
    return NotFoundError(missing.operation, missing.status, missing.body, hint)


def _unfinished(run_id: str, status: str, missing: NotFoundError, deadline: float) -> NotFoundError:
    hint = (
        f"Run {run_id!r} is still {status} after {deadline:g} s and has no sandbox yet.\n"
        "Ask again when it is over, or wait longer for it: --klavis-acquire-timeout."
    )
    return NotFoundError(missing.operation, missing.status, missing.body, hint)


def _base(base_url: str) -> str:
    try:
        base = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError):
        base = httpx.URL("")
    if base.scheme not in ("http", "https") or not base.host or base.query or base.userinfo:
        raise SpecError(
            "the address of the Blackbox API must be http(s)://host[:port][/path], such as "
            "https://agent.blackbox.ai/api/v1, without user, password or query: check --klavis-blackbox-url"
        )
    return str(base).rstrip("/")


def _key(api_key: str) -> str:
    """Return the key, registered as a secret, or say without printing it what is wrong with it."""
    key = api_key.strip()
    if not key or not (key.isascii() and key.isprintable()) or " " in key:
        raise SpecError(f"{KEY} is empty or holds characters that no HTTP header carries")
    register(key, f"<{KEY}>")
    return key
