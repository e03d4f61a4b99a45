"""The level "landlock": Landlock, a system call filter and rlimits, for machines where bubblewrap cannot work."""

from __future__ import annotations

import functools
import os
import resource
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_klavis.embedded.isolation import disk, runner, seccomp, syscalls
from pytest_klavis.embedded.isolation.model import Completed, IsolationError, Jail, Limits
from pytest_klavis.embedded.isolation.places import environment, open_directory, prepare_scratch
from pytest_klavis.embedded.isolation.supervisor import Supervised
from pytest_klavis.embedded.isolation.users import become, process_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_klavis.embedded.isolation.interpreter import Interpreter

_READABLE = ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin", "/etc/ld.so.cache", "/etc/alternatives")
_DEVICES_READ = ("/dev/zero", "/dev/urandom", "/dev/random", "/dev/full")
_DATA = "/data"  # agents name files that way; processes see the real path
_OLDEST = 3  # before that files outside could be truncated
_SCOPED = syscalls.SCOPE_ABSTRACT_UNIX | syscalls.SCOPE_SIGNAL


def check_kernel() -> int:
    """Version of Landlock, where it and the filter can be had. Raises IsolationError."""
    abi = syscalls.landlock_abi()
    if abi < _OLDEST:
        raise IsolationError("this kernel's Landlock is too old or off (Linux 6.2 or newer, `landlock` among its lsm=)")
    if not seccomp.supported():
        raise IsolationError("there is no system call filter for this processor (x86_64 and aarch64 have one)")
    return abi


@dataclass(frozen=True)
class Landlock:
    """Runs commands under Landlock and seccomp. Two domains are nested: the outer one is the supervisor's, for ending
    what a command leaves behind; the inner one keeps the command from signalling the supervisor."""

    abi: int
    interpreter: Interpreter
    reason: str
    level: str = "landlock"

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
    ) -> Completed:
        """See `Isolation.run`."""
        runner.check_command(argv, env)
        limits = await disk.within_room(jail, limits)
        drop = become(jail.uid)
        home, tmp = prepare_scratch(jail)
        opened: list[int] = []
        try:
            directory, _ = open_directory(jail.workspace, cwd, (self.root(jail), _DATA))
            opened.append(directory)
            inner = self._ruleset(jail.workspace, home, tmp)
            opened.append(inner)
            outer = None
            if self.abi >= 6:
                outer = syscalls.create_ruleset(self.abi, scoped=syscalls.SCOPE_SIGNAL)
                opened.append(outer)
            start = partial(
                Supervised,
                argv,
                environment(self.interpreter.folder, home, tmp, env),
                enter=_enter(outer) if outer is not None else None,
                confine=_confine(
                    directory=directory,
                    ruleset=inner,
                    program=seccomp.program(sockets=False),
                    limits=runner.resource_limits(limits, process_limit(jail.uid, limits)),
                    drop=drop,
                ),
            )
            return await runner.run(
                start,
                (jail.workspace, jail.scratch),
                seconds=limits.wall_seconds if timeout is None else timeout,
                limits=limits,
                stdin=stdin,
            )
        finally:
            for fd in opened:
                os.close(fd)

    @functools.cached_property
    def _readable(self) -> tuple[Path, ...]:
        paths = [*map(Path, _READABLE), *self.interpreter.readable]
        return tuple(dict.fromkeys(Path(os.path.realpath(path)) for path in paths))

    def _ruleset(self, workspace: Path, home: Path, tmp: Path) -> int:
        everything = syscalls.filesystem_rights(self.abi)
        ruleset = syscalls.create_ruleset(
            self.abi, fs=everything, net=syscalls.NET_BIND_TCP | syscalls.NET_CONNECT_TCP, scoped=_SCOPED
        )
        try:
            syscalls.allow_paths(ruleset, self.abi, self._readable, syscalls.FS_READ)
            reading = syscalls.FS_READ_FILE
            syscalls.allow_paths(ruleset, self.abi, map(Path, _DEVICES_READ), reading)
            writing = reading | syscalls.FS_WRITE_FILE | syscalls.FS_TRUNCATE | syscalls.FS_IOCTL_DEV
            syscalls.allow_paths(ruleset, self.abi, [Path("/dev/null")], writing)
            own = everything & ~(syscalls.FS_MAKE_BLOCK | syscalls.FS_MAKE_CHAR | syscalls.FS_IOCTL_DEV)
            syscalls.allow_paths(ruleset, self.abi, (workspace, home, tmp), own)
        except BaseException:
            os.close(ruleset)
            raise
        return ruleset


def _enter(ruleset: int) -> Callable[[], None]:
    def enter() -> None:  # forked child
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        syscalls.restrict_self(ruleset)

    return enter


def _confine(
    *,
    directory: int,
    ruleset: int,
    program: bytes,
    limits: list[tuple[int, tuple[int, int]]],
    drop: Callable[[], None],
) -> Callable[[], None]:
    def confine() -> None:  # forked child
        os.fchdir(directory)
        for kind, pair in limits:
            resource.setrlimit(kind, pair)
        drop()
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        syscalls.restrict_self(ruleset)
        syscalls.load_seccomp(seccomp.sparing(os.getppid()))  # the supervisor: before ABI 6 it is within reach
        syscalls.load_seccomp(program)

    return confine
