"""What the levels of isolation share: limits, a sandbox's place on disk, the outcome of a run, and the protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pytest_klavis.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_klavis.embedded.isolation.running import Running
    from pytest_klavis.embedded.isolation.warm import Zygote


class IsolationError(Exception):
    """The command was not run, or not as promised: nothing is known about what it would have done."""


class BadCommandError(IsolationError):
    """The command cannot be run as it was asked for: an empty argv, a NUL byte, a working directory that is not there.

    The caller's mistake (an agent's, say); there is nothing wrong with the isolation.
    """


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
        """One of "strict", "landlock", "seatbelt", "none", "unavailable"."""
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
        limits: Limits = Limits(),  # noqa: B008 - frozen
        stdin: bytes = b"",
        readable: Sequence[Path] = (),
    ) -> Completed:
        """Run a command in the sandbox and wait until it, and every process it started, is gone.

        argv: program and arguments; the program is looked up on the PATH of the sandbox.
        cwd: a directory of the workspace, relative to it (or absolute as the agent sees it).
        env: added to a clean environment (PATH, HOME, TMPDIR, LANG, USER).
        timeout: seconds; replaces `limits.wall_seconds`.
        stdin: what the command reads; nothing by default.
        readable: directories and files to be shown read-only besides, at their own paths, without links in these;
        what is a symbolic link is shown as one (name its target too). Nobody but the server may be able to change
        what is there. Ignored at "none", where all is seen.

        Must be called from the thread of the event loop. When it is cancelled the processes are ended first.
        Raises BadCommandError, and IsolationError when the level could not keep its promises.
        """
        ...

    async def start(
        self,
        argv: Sequence[str],
        jail: Jail,
        *,
        cwd: str = ".",
        env: Mapping[str, str] | None = None,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        readable: Sequence[Path] = (),
    ) -> Running:
        """Start a command that is talked to for as long as it lives; for the rest as `run`.

        Of the limits those count that the kernel keeps: memory, processes, CPU time, file size, open files. Wall clock,
        output and disk are the caller's to watch, and so is that `Running.finish` is awaited. When the server dies the
        command is ended.

        Raises BadCommandError, and IsolationError when the command could not be started.
        """
        ...


@runtime_checkable
class Forking(Isolation, Protocol):
    """A level that can also keep in what is forked and not executed."""

    async def fork(
        self,
        zygote: Zygote,
        jail: Jail,
        *,
        env: Mapping[str, str] | None = None,
        limits: Limits = Limits(),  # noqa: B008
        readable: Sequence[Path] = (),
    ) -> Running:
        """As `start`, in the workspace's root, for what `zygote` has ready.

        All that the level promises holds for the forked process. Raises IsolationError.
        """
        ...
