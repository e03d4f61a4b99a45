"""A command in a local sandbox: what may be asked for, how it ended, and the embedded backend's own way to run it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pytest_klavis.arguments import seconds
from pytest_klavis.errors import RequestRefusedError, SpecError

if TYPE_CHECKING:
    from pytest_klavis.api.client import KlavisClient

__tracebackhide__ = True  # users read their own frames

MAX_TIMEOUT = 3600.0
"""Seconds of one command."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class RunResult:
    """How a command ended: its exit code, what it printed, and the seconds it took.

    `stopped` says which limit ended it ("timeout", "disk", ...), else it is None.
    """

    exit_code: int
    stdout: str
    stderr: str
    seconds: float
    stopped: str | None = None


@dataclass(frozen=True)
class Command:
    """A checked command. Seconds: `timeout` ends it, `margin` is what all else around it may take."""

    argv: tuple[str, ...]
    cwd: str
    env: Mapping[str, str]
    timeout: float
    margin: float = 120.0

    @property
    def deadline(self) -> float:
        """Seconds for all of it: it may have to wait for a tool call of the agent that is still running."""
        return self.timeout + self.margin


def command(
    argv: Sequence[str],
    timeout: float | str,
    cwd: str | None,
    env: Mapping[str, str] | None,
) -> Command:
    """Check what `run()` was asked for; SpecError where it cannot be right."""
    if isinstance(argv, str) or not argv or not all(_word(part) for part in argv):
        raise SpecError(f"run() takes a list of texts such as ['python', '-m', 'unittest'], not {argv!r}")
    try:
        limit = seconds(timeout)
    except ValueError as error:
        raise SpecError(f"run(timeout=...): {error}") from None
    if limit > MAX_TIMEOUT:
        raise SpecError(f"run(timeout={timeout!r}): a command may take an hour at most")
    folder = cwd or "."
    if not _word(folder) or folder.startswith("/") or ".." in folder.split("/"):
        raise SpecError(f"run(cwd={cwd!r}): a path relative to the workspace is taken, without '..'")
    for name, value in (env or {}).items():
        if not _word(name) or not _VARIABLE.fullmatch(name) or not _word(value):
            raise SpecError(f"run(env=...): {name!r} is no name of a variable, or its value is no text")
    return Command(tuple(argv), folder, dict(env or {}), limit)


def run_by_route(api: KlavisClient, sandbox_id: str, wanted: Command, files: Path | None) -> RunResult:
    """Run a command by the route that only the embedded backend has; `files` is a tar.gz to lay over `cwd`."""
    content = files.read_bytes() if files else None
    try:
        answer = api.run_command(
            sandbox_id,
            wanted.argv,
            cwd=wanted.cwd,
            env=wanted.env,
            timeout=wanted.timeout,
            files=content,
            deadline=wanted.deadline,
        )
    except RequestRefusedError as error:
        if error.status == 422 and "working directory" in error.body:
            no_directory(wanted, error.body)
        raise
    return RunResult(answer.exit_code, answer.stdout, answer.stderr, answer.seconds, answer.stopped)


def no_directory(wanted: Command, why: str) -> NoReturn:
    """The agent has left no such directory: nothing is wrong with the infrastructure."""
    raise FileNotFoundError(f"run(cwd={wanted.cwd!r}): {why}") from None


def _word(value: object) -> bool:
    """Whether it can be sent and a system call takes it: text without NUL and halves of surrogate pairs."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
