"""A command in a local sandbox of the cloud, by its execution routes.

An execution is an archive with a `main.py` that the sandbox runs in the background, beside the MCP servers and with
access to their workspace; its output comes as a log. Our `main.py` is `execution_main.py`: it runs the command and
prints how it ended. Source: the OpenAPI document of 2026 and Klavis's notebook `klavis_sandbox_execution`.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import secrets
import shutil
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_klavis import clock, redaction
from pytest_klavis.api.models import ExecutionLogsResponse
from pytest_klavis.errors import ArchiveError, BackendError, NotFoundError, RequestRefusedError, TransportError
from pytest_klavis.workspace.archive import extract, pack

from .running import Command, RunResult, no_directory
from .signed import upload

if TYPE_CHECKING:
    from pytest_klavis.api.client import KlavisClient

__tracebackhide__ = True  # users read their own frames

MAIN = Path(__file__).with_name("execution_main.py")
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 2.0
"""Seconds between two looks at the log; the account may send two requests per second."""
LATE = 10.0
"""Seconds that a log may lag behind the end of its execution, and an execution behind its order."""
SHOWN_LOG = 1500
"""Characters of a log in an error."""
KEPT_LOG = 16_000
"""Characters of a log's end that are kept; a line of the answer has a good 3,000."""
WAITING = 0.75
"""The share of a command's margin that it may wait in the sandbox for another command to end."""
ENDED = frozenset(("completed", "failed"))


def run_by_execution(
    api: KlavisClient, sandbox_id: str, wanted: Command, files: Path | None, scratch: Path
) -> RunResult:
    """Run a command by the execution routes; `files` is a tar.gz to lay over `cwd`, `scratch` a directory of ours.

    Raises FileNotFoundError when the agent has left no such working directory, BackendError where the cloud has no
    such routes or the execution ended without an answer, TransportError when it was not over in time.
    """
    until = clock.monotonic() + wanted.deadline
    name, nonce = f"run-{secrets.token_hex(6)}", f"klavis-{secrets.token_hex(16)}"
    archive = scratch / "execution.tar.gz"
    _pack(wanted, files, nonce, scratch / "execution", archive)

    def ask(seconds: float) -> str:
        return api.create_execution_upload_url(sandbox_id, name, deadline=seconds).upload_url

    try:
        upload(api, ask, archive, until)
    except (NotFoundError, RequestRefusedError) as error:
        if error.status == 405 or (error.status == 404 and error.body in ("", "Not Found")):
            raise BackendError(f"run() needs the execution routes of the API, and this one has none: {error}") from None
        raise
    api.execute(sandbox_id, name, deadline=clock.left(until))
    answer = _answer(api, sandbox_id, name, nonce, until)
    if "refused" in answer:
        no_directory(wanted, str(answer["refused"]))
    if "trouble" in answer:
        raise BackendError(
            f"run({list(wanted.argv)!r}): the command could not be run in the sandbox: {answer['trouble']}"
        )
    return RunResult(**answer)


def _pack(wanted: Command, files: Path | None, nonce: str, tree: Path, archive: Path) -> None:
    """Write the archive of an execution: `main.py`, its order, and the files to lay over the working directory."""
    tree.mkdir()
    shutil.copyfile(MAIN, tree / "main.py")
    env = {
        # Neither the agent's modules beside the script nor byte code that it left are what the command imports.
        "PYTHONSAFEPATH": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPYCACHEPREFIX": f"/tmp/klavis-pycache-{secrets.token_hex(8)}",  # noqa: S108  (nothing is written)
        **wanted.env,
    }
    limits = {"timeout": wanted.timeout, "wait": wanted.margin * WAITING}
    order = {"argv": wanted.argv, "cwd": wanted.cwd, "env": env, "nonce": nonce, **limits}
    (tree / "order.json").write_text(json.dumps(order), "utf-8")
    if files is not None:
        extract(files, tree / "files")
    pack(tree, archive)


def _answer(api: KlavisClient, sandbox_id: str, name: str, nonce: str, until: float) -> dict[str, Any]:
    """Wait for the lines that `main.py` prints at its end, and read them."""
    where = f"the execution {name} in sandbox {sandbox_id}"
    log, cursor, pause = _Log(nonce), 0, FIRST_PAUSE
    known_by, over = clock.monotonic() + LATE, math.inf
    while True:
        try:
            look = _look(api, sandbox_id, name, cursor, until)
        except NotFoundError:
            if clock.monotonic() > known_by:
                raise
            look = ExecutionLogsResponse(status="not found")
        found = log.add(look.logs)
        if found is not None:
            return found
        # An API that ignores the cursor brings the same again and again: that is no news.
        news = bool(look.logs) and look.cursor > cursor
        cursor = max(cursor, look.cursor) if look.cursor else cursor + len(look.logs.encode())
        now = clock.monotonic()
        if look.status not in ENDED or news:
            over = math.inf
        elif now > over:
            raise BackendError(f"{where} ended as {look.status!r} without an answer. Its log ends: {log.end()}")
        else:
            over = min(over, now + LATE)
        wait = 0.0 if news else pause
        if now + wait > until:
            raise TransportError(f"{where} was not over in time; it is {look.status!r}. Its log ends: {log.end()}")
        if wait:
            clock.sleep(wait)
            pause = min(pause * 1.5, LONGEST_PAUSE)


def _look(api: KlavisClient, sandbox_id: str, name: str, cursor: int, until: float) -> ExecutionLogsResponse:
    """What is new in the log; nothing while there is no log yet."""
    try:
        return api.execution_logs(sandbox_id, name, cursor=cursor, deadline=clock.left(until))
    except NotFoundError:
        status = api.execution_status(sandbox_id, name, deadline=clock.left(until)).status
        return ExecutionLogsResponse(status=status)


class _Log:
    """What is kept of a log, however long it gets: the lines of the answer, and its end."""

    def __init__(self, nonce: str) -> None:
        self._line = re.compile(rf"{nonce} (\d+)/(\d+) ([A-Za-z0-9+/=]+);")
        self._parts: dict[int, str] = {}
        self._tail = ""

    def add(self, piece: str) -> dict[str, Any] | None:
        """The answer, once all its lines are there. A line may be cut in two by the log's own pieces, not by others."""
        self._tail += piece
        count = None
        for number, of, part in self._line.findall(self._tail):
            self._parts[int(number)] = part
            count = int(of)
        self._tail = self._tail[-KEPT_LOG:]
        return _read(self._parts) if count is not None and len(self._parts) >= count else None

    def end(self) -> str:
        """What an error shows of it."""
        return redaction.redact(self._tail)[-SHOWN_LOG:] or "(it is empty)"


def _read(parts: dict[int, str]) -> dict[str, Any]:
    text = "".join(part for _, part in sorted(parts.items()))
    try:
        found: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(text)))
    except (binascii.Error, zlib.error, ValueError) as error:
        raise ArchiveError(f"the answer of an execution came damaged: {error}") from None
    return found
