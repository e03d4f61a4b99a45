"""The level "seatbelt": macOS's sandbox-exec. EXPERIMENTAL: written from its documentation, not yet run on a Mac.

`sandbox-exec` is marked as deprecated by Apple, and is what its own services and other projects still rely on. The
profile denies by default. What it leaves open: processes are seen and, outside of the sandbox, not reached; memory is
not limited (macOS enforces no RLIMIT_AS); a child that takes a session of its own outlives its command, as there is
nothing like a PID namespace or a subreaper; the existence of files can be told.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_klavis.embedded.isolation import disk, runner
from pytest_klavis.embedded.isolation.confinement import Confinement
from pytest_klavis.embedded.isolation.model import Completed, IsolationError, Jail
from pytest_klavis.embedded.isolation.places import DATA, environment, open_directory, prepare_scratch
from pytest_klavis.embedded.isolation.running import Running
from pytest_klavis.embedded.isolation.supervisor import Supervised
from pytest_klavis.embedded.isolation.users import become
from pytest_klavis.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_klavis.embedded.isolation.interpreter import Interpreter

SANDBOX_EXEC = "/usr/bin/sandbox-exec"  # by its path: nothing on PATH takes its place
_EXEC = 'exec "$0" "$@"'  # a shell says 127 and 126 where sandbox-exec would say 71

# Programs, libraries and their data. Not /Library or /private as a whole: keychains and logs are there.
_READABLE = (
    "/usr",
    "/bin",
    "/sbin",
    "/System",
    "/Library/Apple",
    "/Library/Developer/CommandLineTools",
    "/Library/Frameworks",
    "/opt/homebrew",
    "/private/etc/ssl",
    "/private/var/db/dyld",
    "/private/var/db/timezone",
    "/private/var/select",
)
_READABLE_FILES = (
    "/",
    "/private/etc/localtime",
    "/private/var/db/xcode_select_link",
    "/dev/null",
    "/dev/random",
    "/dev/urandom",
    "/dev/zero",
)

_RULES = """\
(version 1)
(deny default)
(allow process-exec process-fork)
(allow process-info* (target same-sandbox))
(allow signal (target same-sandbox))
(allow sysctl-read)
(allow mach-lookup (global-name "com.apple.system.opendirectoryd.libinfo"))
(allow ipc-posix-sem)
(allow file-read-metadata)
(allow file-write-data (literal "/dev/null"))
(deny network*)
"""


def find_sandbox_exec() -> str:
    """Path of sandbox-exec. Raises IsolationError where there is none."""
    if sys.platform != "darwin":
        raise IsolationError("seatbelt is macOS's sandbox-exec; on Linux there are strict and landlock")
    if not os.access(SANDBOX_EXEC, os.X_OK):
        raise IsolationError(f"this macOS has no {SANDBOX_EXEC} any more")
    return SANDBOX_EXEC


def quoted(path: Path | str) -> str:
    """A path as a string of the profile's language. Raises IsolationError for one that has control characters."""
    text = os.fspath(path)
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise IsolationError(f"{text!r} cannot be named in a sandbox profile: it has control characters")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def profile(writable: Sequence[Path], readable: Sequence[Path]) -> str:
    """The profile for a command that may write below the first and read below both, and use no network.

    Paths are resolved: the sandbox knows /private/tmp, not /tmp. Raises IsolationError.
    """
    shown = dict.fromkeys([*_READABLE, *(os.path.realpath(path) for path in (*readable, *writable))])
    own = dict.fromkeys(os.path.realpath(path) for path in writable)
    return (
        _RULES
        + _allow("file-read* file-test-existence", "subpath", shown)
        + _allow("file-read*", "literal", _READABLE_FILES)
        + _allow("file-map-executable", "subpath", shown)
        + _allow("file-write*", "subpath", own)
    )


def _allow(operations: str, kind: str, paths: Mapping[str, object] | Sequence[str]) -> str:
    return f"(allow {operations}\n" + "".join(f"  ({kind} {quoted(path)})\n" for path in paths) + ")\n"


@dataclass(frozen=True)
class Seatbelt:
    """Runs commands in sandbox-exec. `root` is the real path of the workspace, as at landlock."""

    program: str
    interpreter: Interpreter
    reason: str = "experimental: macOS has no namespaces; children in sessions of their own outlive their command"
    level: str = "seatbelt"

    @property
    def python(self) -> str:
        return str(self.interpreter.executable)

    def root(self, jail: Jail) -> str:
        return str(jail.workspace)

    async def run(
        self,
        argv: Sequence[str],
        jail: Jail,
        *,
        cwd: str = ".",
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        limits: Limits = Limits(),  # noqa: B008
        stdin: bytes = b"",
        readable: Sequence[Path] = (),
    ) -> Completed:
        """See `Isolation.run`."""
        limits = await disk.within_room(jail, limits)
        with self._prepared(argv, jail, limits, cwd=cwd, env=env, readable=readable) as start:
            return await runner.run(start, jail, timeout=timeout, limits=limits, stdin=stdin)

    async def start(
        self,
        argv: Sequence[str],
        jail: Jail,
        *,
        cwd: str = ".",
        env: Mapping[str, str] | None = None,
        limits: Limits = Limits(),  # noqa: B008
        readable: Sequence[Path] = (),
    ) -> Running:
        """See `Isolation.start`."""
        with self._prepared(argv, jail, limits, cwd=cwd, env=env, readable=readable) as start:
            return Running.launch(start, argv[0])

    @contextmanager
    def _prepared(
        self,
        argv: Sequence[str],
        jail: Jail,
        limits: Limits,
        *,
        cwd: str,
        env: Mapping[str, str] | None,
        readable: Sequence[Path],
    ) -> Iterator[Callable[[runner.Streams], Supervised]]:
        """What starts the command on given streams."""
        runner.check_command(argv, env)
        become(jail.uid)  # raises, if it has to
        home, tmp = prepare_scratch(jail)
        rules = profile((jail.workspace, home, tmp), (*self.interpreter.readable, *readable))
        words = self.command(argv, rules, environment(self.interpreter.folder, home, tmp, env))
        directory, _ = open_directory(jail.workspace, cwd, (self.root(jail), DATA))
        confinement = Confinement(directory, tuple(runner.resource_limits(limits, None)), jail.uid)
        try:
            yield partial(Supervised, words, {"PATH": "/usr/bin:/bin"}, confine=confinement.confine)
        finally:
            os.close(directory)

    def command(self, argv: Sequence[str], rules: str, values: Mapping[str, str]) -> list[str]:
        """What is executed. The agent's environment is set inside, so that it does not reach sandbox-exec."""
        inside = ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in values.items())]
        return [self.program, "-p", rules, *inside, "/bin/sh", "-c", _EXEC, *argv]
