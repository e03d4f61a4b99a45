"""Installing the servers when the first acquire needs one, where that is allowed: once per server process."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pytest_klavis.embedded.side.environment import COMMAND, Missing, SideEnvironment, locate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_klavis.embedded.side.install import Installation
    from pytest_klavis.embedded.side.pip import Progress

PATIENCE = 3.0  # seconds that one acquire is kept waiting before it is told what is going on
log = logging.getLogger(__name__)


class BeingInstalledError(Exception):
    """Not yet. The text says how far it is."""


class FirstUse:
    """The way to the servers' environment of one embedded server."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        """`environ` is the user's, for pip; None where nothing may be installed."""
        self._environ = environ
        self._task: asyncio.Task[SideEnvironment] | None = None
        self._found: SideEnvironment | None = None
        self._installation: Installation | None = None
        self._progress = ""

    async def ready(self) -> SideEnvironment | Missing:
        """The environment; where it is missing and that is allowed, it is installed.

        Raises BeingInstalledError when that takes longer than a moment: ask again; InstallError when it failed.
        """
        if self._found is not None:
            return self._found
        found = await asyncio.to_thread(locate)
        if isinstance(found, SideEnvironment):
            self._found = found
            return found
        if self._environ is None:
            return found
        if self._task is None:
            self._task = asyncio.create_task(self._install(self._environ))
        task = self._task
        done, _ = await asyncio.wait([task], timeout=PATIENCE)
        if not done:
            raise BeingInstalledError(
                f"the servers are being installed on first use: {self._progress} ({COMMAND} does it ahead of the tests)"
            )
        return task.result()

    async def close(self) -> None:
        """End an installation that is under way. Whoever asks later begins a new one."""
        task, self._task = self._task, None
        installation, self._installation = self._installation, None
        self._progress = ""
        if installation is not None:
            installation.stop()
        if task is not None:
            await asyncio.gather(task, return_exceptions=True)

    async def _install(self, environ: Mapping[str, str]) -> SideEnvironment:
        from pytest_klavis.embedded.side.install import Installation  # noqa: PLC0415 - few need it

        def tell(progress: Progress) -> None:
            self._progress = str(progress)

        self._installation = Installation(environ=environ, tell=tell)
        log.info("installing the servers")
        found = await asyncio.to_thread(self._installation.run)
        log.info("installed the servers in %s", found.prefix)
        return found
