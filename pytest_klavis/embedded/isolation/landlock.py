"""The level "landlock": Landlock, a system call filter and rlimits, for machines where bubblewrap cannot work."""

from __future__ import annotations

import ctypes
import functools
import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_klavis.embedded.isolation import disk, runner, seccomp, syscalls
from pytest_klavis.embedded.isolation.advice import no_landlock
from pytest_klavis.embedded.isolation.confinement import Confinement
from pytest_klavis.embedded.isolation.model import Completed, IsolationError, Jail
from pytest_klavis.embedded.isolation.places import DATA, environment, open_directory, prepare_scratch
from pytest_klavis.embedded.isolation.running import Running
from pytest_klavis.embedded.isolation.supervisor import Supervised
from pytest_klavis.embedded.isolation.users import become, process_limit
from pytest_klavis.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_klavis.embedded.isolation.interpreter import Interpreter
    from pytest_klavis.embedded.isolation.warm import Zygote

_READABLE = ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin", "/etc/ld.so.cache", "/etc/alternatives")
_PUBLIC = ("/etc/mime.types", "/etc/localtime")  # libraries read these where they find them
_DEVICES_READ = ("/dev/zero", "/dev/urandom", "/dev/random", "/dev/full")
_OLDEST = 3  # before that files outside could be truncated
_SCOPED = syscalls.SCOPE_ABSTRACT_UNIX | syscalls.SCOPE_SIGNAL


def check_kernel() -> int:
    """Version of Landlock, where it and the filter can be had. Raises IsolationError."""
    abi = syscalls.landlock_abi()
    if abi < _OLDEST:
        raise IsolationError(no_landlock(ctypes.get_errno() if abi == 0 else 0))
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

    async def fork(
        self,
        zygote: Zygote,
        jail: Jail,
        *,
        env: Mapping[str, str] | None = None,
        limits: Limits = Limits(),  # noqa: B008
        readable: Sequence[Path] = (),
    ) -> Running:
        """See `Forking.fork`."""
        home, tmp = prepare_scratch(jail)
        with self._confinement(jail, limits, ".", (home, tmp), readable) as confinement:
            return await zygote.fork(environment(self.interpreter.folder, home, tmp, env), confinement)

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
        home, tmp = prepare_scratch(jail)
        with self._confinement(jail, limits, cwd, (home, tmp), readable) as confinement:
            yield partial(
                Supervised,
                argv,
                environment(self.interpreter.folder, home, tmp, env),
                enter=confinement.enter if confinement.outer is not None else None,
                confine=confinement.confine,
            )

    @contextmanager
    def _confinement(
        self, jail: Jail, limits: Limits, cwd: str, scratch: tuple[Path, Path], readable: Sequence[Path]
    ) -> Iterator[Confinement]:
        become(jail.uid)  # raises, if it has to
        seccomp.program(sockets=False)  # assembled here, not in each child
        rlimits = runner.resource_limits(limits, process_limit(jail.uid, limits))
        with ExitStack() as opened:
            directory, _ = open_directory(jail.workspace, cwd, (self.root(jail), DATA))
            opened.callback(os.close, directory)
            inner = self._ruleset((jail.workspace, *scratch), readable)
            opened.callback(os.close, inner)
            outer = None
            if self.abi >= 6:
                outer = syscalls.create_ruleset(self.abi, scoped=syscalls.SCOPE_SIGNAL)
                opened.callback(os.close, outer)
            yield Confinement(directory, tuple(rlimits), jail.uid, inner, outer)

    @functools.cached_property
    def _readable(self) -> tuple[Path, ...]:
        of_debian = Path("/etc").glob("python3*")  # its standard library has links to there
        paths = [*map(Path, (*_READABLE, *_PUBLIC)), *of_debian, *self.interpreter.readable]
        return tuple(dict.fromkeys(Path(os.path.realpath(path)) for path in paths))

    def _ruleset(self, writable: Sequence[Path], readable: Sequence[Path]) -> int:
        everything = syscalls.filesystem_rights(self.abi)
        ruleset = syscalls.create_ruleset(
            self.abi, fs=everything, net=syscalls.NET_BIND_TCP | syscalls.NET_CONNECT_TCP, scoped=_SCOPED
        )
        try:
            shown = (*self._readable, *(path for path in readable if not path.is_symlink()))
            syscalls.allow_paths(ruleset, self.abi, shown, syscalls.FS_READ)
            reading = syscalls.FS_READ_FILE
            syscalls.allow_paths(ruleset, self.abi, map(Path, _DEVICES_READ), reading)
            writing = reading | syscalls.FS_WRITE_FILE | syscalls.FS_TRUNCATE | syscalls.FS_IOCTL_DEV
            syscalls.allow_paths(ruleset, self.abi, [Path("/dev/null")], writing)
            own = everything & ~(syscalls.FS_MAKE_BLOCK | syscalls.FS_MAKE_CHAR | syscalls.FS_IOCTL_DEV)
            syscalls.allow_paths(ruleset, self.abi, writable, own)
        except BaseException:
            os.close(ruleset)
            raise
        return ruleset
