"""What the levels of isolation share: limits, a sandbox's place on disk, the outcome of a run, and the protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class IsolationError(Exception):
    """The command was not run, or not as promised: nothing is known about what it would have done."""


class BadCommandError(IsolationError):
    """The command cannot be run as it was asked for: an empty argv, a NUL byte, a working directory that is not there.

    The caller's mistake (an agent's, say); there is nothing wrong with the isolation.
    """


@dataclass(frozen=True)
class Limits:
    """What one run may use. Bytes and seconds; memory, CPU, file size and open files count per process."""

    memory: int = 1 << 30
    processes: int = 128
    cpu_seconds: int = 60
    wall_seconds: float = 60.0
    file_size: int = 256 << 20
    output: int = 1 << 20
    disk: int = 1 << 30
    open_files: int = 512


@dataclass(frozen=True)
class Jail:
    """One sandbox's place on disk.

    `workspace` is the real path of its directory. `scratch` lies outside of the workspace and belongs to the server;
    the directories `home` and `tmp` in it (made on the first run, given to `uid`) are HOME and TMPDIR of the code.
    `uid` owns the workspace when the server runs as root (one uid, and the gid of the same number, per sandbox).
    """

    workspace: Path
    scratch: Path
    uid: int | None = None


@dataclass(frozen=True)
class Completed:
    """How a run ended.

    `exit_code` is what a shell would show: the code of the command, 128 + n when signal n ended it, 127 when the
    program was not found and 126 when it could not be executed. `stdout` and `stderr` hold at most `Limits.output`
    bytes each, followed by a "[... truncated ...]" line where more came. `stopped` says why the run was ended early:
    "timeout", "disk" (workspace and scratch grew over `Limits.disk`) or "output" (a flood of it), else None;
    the exit code is 137 then. A command that starts in a workspace over the limit can remove files but not write them;
    when it fails, `stderr` ends with a line that says so.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes
    seconds: float
    stopped: str | None = None


class Isolation(Protocol):
    """One level of isolation on this machine."""

    @property
    def level(self) -> str:
        """One of "strict", "landlock", "none", "unavailable"."""
        ...

    @property
    def reason(self) -> str:
        """Why it is not a better level; for "unavailable", what to do about it. Empty for "strict"."""
        ...

    @property
    def python(self) -> str:
        """Path of the interpreter as code in the sandbox sees it; `python` and `python3` on its PATH mean it."""
        ...

    def root(self, jail: Jail) -> str:
        """The workspace as processes see it: "/data" at strict, else the real path."""
        ...

    async def run(
        self,
        argv: Sequence[str],
        jail: Jail,
        *,
        cwd: str = ".",
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the processes are ended by us, not by cancelling a coroutine
        limits: Limits = Limits(),
        stdin: bytes = b"",
    ) -> Completed:
        """Run a command in the sandbox and wait until it, and every process it started, is gone.

        argv: program and arguments; the program is looked up on the PATH of the sandbox.
        cwd: a directory of the workspace, relative to it (or absolute as the agent sees it).
        env: added to a clean environment (PATH, HOME, TMPDIR, LANG, USER).
        timeout: seconds; replaces `limits.wall_seconds`.
        stdin: what the command reads; nothing by default.

        Must be called from the thread of the event loop. When it is cancelled the processes are ended first.
        Raises BadCommandError, and IsolationError when the level could not keep its promises.
        """
        ...
