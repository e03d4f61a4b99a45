"""The levels that do not isolate: "none" (limits only, asked for by name) and "unavailable" (runs nothing)."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_klavis.embedded.isolation import disk, runner, syscalls
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


def check_machine() -> None:
    """Refuse a machine with a /data of its own: commands would see that one, file tools the workspace."""
    if Path(DATA).exists():
        raise IsolationError(
            "this machine has a /data directory; without isolation commands that name /data would touch it "
            "instead of the workspace. Use --klavis-isolation auto, or a container without /data"
        )


@dataclass(frozen=True)
class NoIsolation:
    """Runs commands with limits, in a process group of their own. They can reach everything that their user can."""

    interpreter: Interpreter
    reason: str = "asked for: commands run with this user's rights"
    level: str = "none"

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
        readable: Sequence[Path] = (),  # noqa: ARG002
    ) -> Completed:
        """See `Isolation.run`."""
        limits = await disk.within_room(jail, limits)
        with self._prepared(argv, jail, limits, cwd, env) as start:
            return await runner.run(start, jail, timeout=timeout, limits=limits, stdin=stdin)

    async def start(
        self,
        argv: Sequence[str],
        jail: Jail,
        *,
        cwd: str = ".",
        env: Mapping[str, str] | None = None,
        limits: Limits = Limits(),  # noqa: B008
        readable: Sequence[Path] = (),  # noqa: ARG002
    ) -> Running:
        """See `Isolation.start`."""
        with self._prepared(argv, jail, limits, cwd, env) as start:
            return Running.launch(start, argv[0])

    async def fork(
        self,
        zygote: Zygote,
        jail: Jail,
        *,
        env: Mapping[str, str] | None = None,
        limits: Limits = Limits(),  # noqa: B008
        readable: Sequence[Path] = (),  # noqa: ARG002
    ) -> Running:
        """See `Forking.fork`."""
        home, tmp = prepare_scratch(jail)
        with self._confinement(jail, limits, ".") as confinement:
            return await zygote.fork(environment(self.interpreter.folder, home, tmp, env), confinement)

    @contextmanager
    def _prepared(
        self, argv: Sequence[str], jail: Jail, limits: Limits, cwd: str, env: Mapping[str, str] | None
    ) -> Iterator[Callable[[runner.Streams], Supervised]]:
        """What starts the command on given streams."""
        runner.check_command(argv, env)
        home, tmp = prepare_scratch(jail)
        with self._confinement(jail, limits, cwd) as confinement:
            clean = environment(self.interpreter.folder, home, tmp, env)
            yield partial(Supervised, argv, clean, confine=confinement.confine)

    @contextmanager
    def _confinement(self, jail: Jail, limits: Limits, cwd: str) -> Iterator[Confinement]:
        check_machine()
        become(jail.uid)  # raises, if it has to
        rlimits = runner.resource_limits(limits, process_limit(jail.uid, limits) if syscalls.LINUX else None)
        directory, _ = open_directory(jail.workspace, cwd, (self.root(jail), DATA))
        try:
            yield Confinement(directory, tuple(rlimits), jail.uid)
        finally:
            os.close(directory)


@dataclass(frozen=True)
class Unavailable:
    """Runs nothing: `reason` says why and what to do."""

    reason: str
    level: str = "unavailable"
    python: str = ""

    def root(self, jail: Jail) -> str:
        return str(jail.workspace)

    async def run(
        self,
        argv: Sequence[str],  # noqa: ARG002
        jail: Jail,  # noqa: ARG002
        *,
        cwd: str = ".",  # noqa: ARG002
        env: Mapping[str, str] | None = None,  # noqa: ARG002
        timeout: float | None = None,  # noqa: ARG002, ASYNC109
        limits: Limits = Limits(),  # noqa: ARG002, B008
        stdin: bytes = b"",  # noqa: ARG002
        readable: Sequence[Path] = (),  # noqa: ARG002
    ) -> Completed:
        """Raises IsolationError."""
        raise IsolationError(f"commands cannot be run: {self.reason}")

    async def start(
        self,
        argv: Sequence[str],  # noqa: ARG002
        jail: Jail,  # noqa: ARG002
        *,
        cwd: str = ".",  # noqa: ARG002
        env: Mapping[str, str] | None = None,  # noqa: ARG002
        limits: Limits = Limits(),  # noqa: ARG002, B008
        readable: Sequence[Path] = (),  # noqa: ARG002
    ) -> Running:
        """Raises IsolationError."""
        raise IsolationError(f"commands cannot be run: {self.reason}")
