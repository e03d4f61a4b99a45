"""A command in a local sandbox of the cloud, by its execution routes.

An execution is an archive with a `main.py` that the sandbox runs in the background, beside the MCP servers and with
access to their workspace; its output comes as a log. Our `main.py` is `execution_main.py`: it runs the command and
prints how it ended. Source: the OpenAPI document of 2026 and Klavis's notebook `klavis_sandbox_execution`.
"""

from __future__ import annotations

import base64
import binascii
import json
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
"""Seconds that a log may lag behind the end of its execution."""
SHOWN_LOG = 1500
"""Characters of a log in an error."""
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
    order = {"argv": wanted.argv, "cwd": wanted.cwd, "env": env, "timeout": wanted.timeout, "nonce": nonce}
    (tree / "order.json").write_text(json.dumps(order), "utf-8")
    if files is not None:
        extract(files, tree / "files")
    pack(tree, archive)


def _answer(api: KlavisClient, sandbox_id: str, name: str, nonce: str, until: float) -> dict[str, Any]:
    """Wait for the lines that `main.py` prints at its end, and read them."""
    log, cursor, pause = "", 0, FIRST_PAUSE
    over: float | None = None
    while True:
        look = _look(api, sandbox_id, name, cursor, until)
        log += look.logs
        cursor = look.cursor if look.cursor > cursor else cursor + len(look.logs.encode())
        found = _find(log, nonce)
        if found is not None:
            return found
        if look.logs:
            continue  # there may be more at once
        where = f"the execution {name} in sandbox {sandbox_id}"
        if look.status in ENDED:
            over = over or clock.monotonic() + LATE
            if clock.monotonic() > over:
                raise BackendError(f"{where} ended as {look.status!r} without an answer. Its log ends: {_tail(log)}")
        if clock.monotonic() + pause > until:
            raise TransportError(f"{where} was not over in time; it is {look.status!r}. Its log ends: {_tail(log)}")
        clock.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE)


def _look(api: KlavisClient, sandbox_id: str, name: str, cursor: int, until: float) -> ExecutionLogsResponse:
    """What is new in the log; nothing while there is no log yet."""
    try:
        return api.execution_logs(sandbox_id, name, cursor=cursor, deadline=clock.left(until))
    except NotFoundError:
        status = api.execution_status(sandbox_id, name, deadline=clock.left(until)).status
        return ExecutionLogsResponse(status=status)


def _find(log: str, nonce: str) -> dict[str, Any] | None:
    """The answer, once all its lines are there. A line may be cut in two by the log's own pieces, not by others."""
    lines = re.findall(rf"{nonce} (\d+)/(\d+) ([A-Za-z0-9+/=]+);", log)
    if not lines or len({number for number, _, _ in lines}) < int(lines[0][1]):
        return None
    text = "".join(part for _, part in sorted({int(number): part for number, _, part in lines}.items()))
    try:
        found: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(text)))
    except (binascii.Error, zlib.error, ValueError) as error:
        raise ArchiveError(f"the answer of an execution came damaged: {error}") from None
    return found


def _tail(log: str) -> str:
    return redaction.redact(log)[-SHOWN_LOG:] or "(it is empty)"
