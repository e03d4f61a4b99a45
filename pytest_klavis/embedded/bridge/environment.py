"""The environment that upstream's servers run in: where it is, what of it is shown in sandboxes, what they list."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_klavis.embedded import side
from pytest_klavis.embedded.isolation import IsolationError
from pytest_klavis.embedded.isolation.interpreter import describe
from pytest_klavis.embedded.isolation.model import Forking
from pytest_klavis.embedded.isolation.probe import prove
from pytest_klavis.embedded.isolation.syscalls import LINUX
from pytest_klavis.embedded.isolation.warm import Zygote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_klavis.embedded.bridge.child import Seat
    from pytest_klavis.embedded.isolation import Completed, Isolation, Jail, Limits, Running
    from pytest_klavis.embedded.side.first_use import FirstUse

_START = 60.0  # seconds that starting may take: many may start at once
log = logging.getLogger(__name__)
_SOURCE = Path(__file__).with_name("launch.py")
_ENV = {"FASTMCP_CHECK_FOR_UPDATES": "off", "FASTMCP_SHOW_CLI_BANNER": "false", "FASTMCP_LOG_LEVEL": "WARNING"}


class Environment:
    """What all sandboxes of a run share of the bridged servers. Found when it is first needed.

    `lists` holds the tools of each server that has been asked, as upstream lists them.
    """

    def __init__(self, isolation: Isolation, servers: FirstUse, place: Path) -> None:
        """`servers`: the way to the environment. `place`: the directory of links to the sandboxes' interpreter."""
        self._isolation, self._servers, self._place = isolation, servers, place
        self._proof: asyncio.Task[bool] | None = None
        self._zygotes: dict[str, asyncio.Task[Zygote | None]] = {}
        self._living: list[Zygote] = []
        self._python: Path | None = None
        self._readable: tuple[Path, ...] = ()
        self._describing = asyncio.Lock()
        self.lists: dict[str, list[dict[str, Any]]] = {}

    async def absence(self) -> str | None:
        """Why there are no bridged servers, None when there are. Raises BeingInstalledError."""
        found = await self._servers.ready()
        if isinstance(found, side.Missing):
            return found.reason
        if os.geteuid() == 0 and self._isolation.level != "strict":
            closed = _closed_to_others(found.prefix) or _closed_to_others(found.python)
            if closed is not None:
                return (
                    f"the servers in {found.prefix} cannot be used by the users that sandboxes have as root: "
                    f"{closed} is closed to others. Install them with an interpreter and in a directory "
                    "(KLAVIS_SERVERS_DIR) that everybody can read: pytest-klavis servers install"
                )
        return None

    async def start(self, server: str, seat: Seat, limits: Limits) -> Running:
        """Start a server in a sandbox. Raises IsolationError."""
        found = await self._servers.ready()
        if isinstance(found, side.Missing):
            raise IsolationError(found.reason)
        if self._python is None:
            # By a path without links to the environment: links on the way are not shown inside.
            self._python = await asyncio.to_thread(found.prefix.resolve) / found.python.relative_to(found.prefix)
        if (raising := self._zygotes.get(server)) is None:
            raising = self._zygotes[server] = asyncio.get_running_loop().create_task(self._raise_zygote(server))
        async with self._describing:
            if not self._readable:
                self._readable = await asyncio.to_thread(self._describe, found)
        if (zygote := await self._proven(raising)) is not None and isinstance(seat.isolation, Forking):
            try:
                return await seat.isolation.fork(zygote, seat.jail, env=_ENV, limits=limits, readable=self._readable)
            except IsolationError as error:
                log.warning("%s is started cold: %s", server, error)
                if zygote.over():
                    self._zygotes.pop(server, None)  # the next one is forked from another
        argv = [str(self._python), "-I", "-B", "-Wignore", "-c", _SOURCE.read_text(encoding="utf-8"), server]
        return await seat.isolation.start(argv, seat.jail, env=_ENV, limits=limits, readable=self._readable)

    async def _proven(self, raising: asyncio.Task[Zygote | None]) -> Zygote | None:
        """What forks a server; None where that does not work, or was given up by `close`."""
        if self._proof is None:
            self._proof = asyncio.get_running_loop().create_task(self._prove())
        proof = self._proof
        await asyncio.wait([proof, raising])
        if proof.cancelled() or raising.cancelled() or not proof.result():
            return None
        return raising.result()

    async def _raise_zygote(self, server: str) -> Zygote | None:
        if not (LINUX and isinstance(self._isolation, Forking)):
            return None
        try:
            zygote = Zygote(str(self._python), "pytest_klavis.embedded.bridge.launch:load", [server], _ENV)
        except IsolationError as error:
            log.warning("%s cannot be started warm: %s", server, error)
            return None
        self._living.append(zygote)
        try:
            await zygote.ready(_START)
        except IsolationError as error:
            log.warning("%s cannot be started warm: %s", server, error)
            return None
        return zygote

    async def _prove(self) -> bool:
        """Does a fork stay in its sandbox? Tried once, with something to lose."""
        isolation = self._isolation
        if not (LINUX and isinstance(isolation, Forking)):
            return False

        async def run(code: str, arguments: Sequence[str], jail: Jail) -> Completed:
            zygote = Zygote(str(self._python), "pytest_klavis.embedded.isolation.forking:script", [code, *arguments])
            try:
                await zygote.ready(_START)
                return await (await isolation.fork(zygote, jail, readable=self._readable)).completed(_START)
            finally:
                zygote.close()

        try:
            await prove(isolation, run)
        except (IsolationError, OSError) as error:
            log.warning("servers are started cold: %s", error)
            return False
        return True

    def close(self) -> None:
        """End what is kept for warm starts. What is started later makes it anew."""
        for task in (self._proof, *self._zygotes.values()):
            if task is not None:
                task.cancel()
        for zygote in self._living:
            zygote.close()
        self._proof = None
        self._zygotes.clear()
        self._living.clear()

    def _describe(self, found: side.SideEnvironment) -> tuple[Path, ...]:
        """What its interpreter needs to see."""
        interpreter = describe(str(found.prefix.resolve()), self._place, own_packages=True)
        shown = [path for path in interpreter.readable if path != self._place]
        return (*shown, *(link for link, _ in interpreter.links))


def _closed_to_others(path: Path) -> Path | None:
    """The first directory on the way that other users cannot pass."""
    target = Path(os.path.realpath(path))
    for parent in reversed((target, *target.parents)):
        if not parent.stat().st_mode & stat.S_IXOTH:
            return parent
    return None
