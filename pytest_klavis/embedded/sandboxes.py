"""The sandboxes of this server: made, found, emptied and removed. Knows disk and processes, nothing of HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import uuid
from typing import TYPE_CHECKING

from pytest_klavis import rundir
from pytest_klavis.embedded import bridge, tools
from pytest_klavis.embedded.isolation import Isolation, Jail, Limits
from pytest_klavis.embedded.mail.office import SERVER as MAIL
from pytest_klavis.embedded.mail.office import Office
from pytest_klavis.embedded.sandbox import Sandbox, now
from pytest_klavis.embedded.side.first_use import FirstUse
from pytest_klavis.embedded.uids import Uids

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_klavis.rundir import RunDir

log = logging.getLogger(__name__)


class Sandboxes:
    """All live sandboxes by id, below the run's directory."""

    def __init__(
        self, run: RunDir, isolation: Isolation, limits: Limits | None = None, side: FirstUse | None = None
    ) -> None:
        self.isolation = isolation
        self.limits = limits or Limits()
        self.side = side or FirstUse()
        self._run = run
        self._bridged = bridge.Environment(isolation, self.side, run.interpreter)
        self._uids = Uids()
        self._office = Office(self._uids, self.side)
        self._live: dict[str, Sandbox] = {}
        self._removals: set[asyncio.Task[None]] = set()
        for folder in (run.workspaces, run.archives):
            rundir.remove_tree(folder)  # of a server that was killed
        run.workspaces.mkdir(mode=rundir.directory_mode())
        run.archives.mkdir(mode=0o700)

    def __iter__(self) -> Iterator[Sandbox]:
        return iter(list(self._live.values()))

    def __len__(self) -> int:
        return len(self._live)

    def find(self, sandbox_id: str | None) -> Sandbox | None:
        return self._live.get(sandbox_id or "")

    async def absent(self, servers: Iterable[str]) -> dict[str, str]:
        """Which of the servers cannot be served on this machine, each with the reason. Raises BeingInstalledError."""
        asked = list(servers)
        absent: dict[str, str] = {}
        if self.isolation.level == "unavailable":
            unsafe = (*tools.NEEDS_ISOLATION, *bridge.SERVERS)
            absent = {name: self.isolation.reason for name in asked if name in unsafe}
        bridged = [name for name in asked if name in bridge.SERVERS and name not in absent]
        if bridged and (why := await self._bridged.absence()) is not None:
            absent |= dict.fromkeys(bridged, why)
        if MAIL in asked and (why := await self._office.absence()) is not None:
            absent[MAIL] = why
        return absent

    def acquire(
        self, servers: Sequence[str], missing: dict[str, str], benchmark: str | None, owner: str | None, ttl: float
    ) -> Sandbox:
        """A new, empty sandbox, released `ttl` seconds from now unless that happens before."""
        sandbox_id = str(uuid.uuid4())
        home, archives = self._run.workspaces / sandbox_id, self._run.archives / sandbox_id
        jail = Jail(workspace=home / "workspace", scratch=home / "scratch", uid=self._uids.take())
        try:
            home.mkdir(mode=rundir.directory_mode())
            archives.mkdir(mode=0o700)
            _make_places(jail)
        except BaseException:
            rundir.remove_tree(home)
            rundir.remove_tree(archives)
            self._uids.give_back(jail.uid)
            raise
        made = now()
        seat = bridge.Seat(jail, self.isolation, self.limits, self.isolation.root(jail))
        sandbox = Sandbox(
            id=sandbox_id,
            servers={name: str(uuid.uuid4()) for name in servers},
            missing=missing,
            benchmark=benchmark,
            owner=owner,
            home=home,
            archives=archives,
            jail=jail,
            root=seat.root,
            isolation=self.isolation,
            limits=self.limits,
            created_at=made,
            updated_at=made,
            children=bridge.Children(self._bridged, seat, benchmark),
        )
        self._live[sandbox_id] = sandbox
        sandbox.expire(ttl, lambda: self.release(sandbox, f"its time to live of {ttl:.0f} s was over"))
        return sandbox

    async def open_mail(self, sandbox: Sandbox) -> None:
        """Give a new sandbox that has the mail server its mail. Raises MailError; the sandbox is released then."""
        if MAIL not in sandbox.servers:
            return
        try:
            sandbox.mail = await self._office.open(sandbox.id)
        except BaseException:
            self.release(sandbox, "it could not have its mail")
            raise
        if sandbox.gone:  # meanwhile, without this mail
            await sandbox.mail.close()

    def release(self, sandbox: Sandbox, reason: str = "released") -> None:
        """From now on it is not found; its calls end and its files go in the background."""
        if sandbox.gone:
            return
        sandbox.gone = True
        del self._live[sandbox.id]
        sandbox.stay()
        log.info("sandbox %s: %s", sandbox.id, reason)
        task = asyncio.get_running_loop().create_task(self._remove(sandbox))
        self._removals.add(task)
        task.add_done_callback(self._removed)

    async def _remove(self, sandbox: Sandbox) -> None:
        """End what it has, each whatever becomes of the others. While something of its user may be left, that user is
        given to nobody else."""
        async with sandbox.alone(f"sandbox {sandbox.id} was released"):
            try:
                try:
                    await sandbox.forget()
                finally:
                    await asyncio.to_thread(rundir.remove_tree, sandbox.archives)
                    await asyncio.to_thread(rundir.remove_tree, sandbox.home)
                self._uids.give_back(sandbox.jail.uid)
            finally:
                if sandbox.mail is not None:
                    await sandbox.mail.close()

    def _removed(self, task: asyncio.Task[None]) -> None:
        self._removals.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("removing a sandbox failed", exc_info=error)

    async def reset(self, sandbox: Sandbox) -> None:
        """Empty the workspace, the scratch and the memory of its tools. Running calls are ended."""
        async with sandbox.alone(f"sandbox {sandbox.id} was reset"):
            await sandbox.forget()
            if sandbox.mail is not None:
                await sandbox.mail.renew()
            await asyncio.to_thread(_empty, sandbox)
            sandbox.upload = None
            sandbox.dumps.clear()
            sandbox.touch()

    async def settle(self) -> None:
        """Returns when everything that was released is removed."""
        while self._removals:
            await asyncio.wait(list(self._removals))

    async def close(self, patience: float = 20.0) -> None:
        """Release everything and wait for it."""
        for sandbox in self:
            self.release(sandbox, "the server ends")
        await self.side.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self.settle()
        self._bridged.close()
        await self._office.end()


def _make_places(jail: Jail) -> None:
    jail.workspace.mkdir(mode=rundir.directory_mode())  # bubblewrap enters it before it becomes the sandbox's uid
    if jail.uid is not None:
        os.chown(jail.workspace, jail.uid, jail.uid)
    jail.scratch.mkdir(mode=rundir.directory_mode())  # ours: what the sandbox's uid may write to is in it


def _empty(sandbox: Sandbox) -> None:
    for folder in (sandbox.jail.workspace, sandbox.jail.scratch):
        if folder.exists():
            rundir.remove_tree(rundir.set_aside(folder))
    _make_places(sandbox.jail)
    for archive in sandbox.archives.iterdir():
        archive.unlink()
