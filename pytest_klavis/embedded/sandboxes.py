"""The sandboxes of this server: made, found, emptied and removed. Knows disk and processes, nothing of HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_klavis import rundir
from pytest_klavis.embedded import bridge, tools
from pytest_klavis.embedded.files import WorkspaceFiles
from pytest_klavis.embedded.isolation import Isolation, Jail, Limits
from pytest_klavis.embedded.mail.office import SERVER as MAIL
from pytest_klavis.embedded.mail.office import Mail, Office
from pytest_klavis.embedded.side.first_use import FirstUse
from pytest_klavis.embedded.threads import Threads
from pytest_klavis.embedded.tools import ToolContext
from pytest_klavis.embedded.uids import Uids

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pytest_klavis.embedded.bridge import Children
    from pytest_klavis.rundir import RunDir

T = TypeVar("T")
SESSIONS = 1_000  # MCP sessions kept per sandbox; clients that connect per call seldom end them
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_PATIENCE = 10.0  # seconds that an ended call may take to be gone

log = logging.getLogger(__name__)


class CallEnded(Exception):  # noqa: N818 - what happened to the call, not an accident here
    """A call was ended from outside: its sandbox was released or reset, or its client cancelled it."""


@dataclass
class Session:
    """One MCP client's session: the version it settled on and its running calls. No state of tools is in it.

    `unwanted` are ids of running calls whose answer the client gave up.
    """

    server: str
    version: str
    calls: dict[str | int, asyncio.Task[Any]] = field(default_factory=dict)
    unwanted: set[str | int] = field(default_factory=set)


@dataclass(eq=False)
class Sandbox:
    """One live sandbox. Everything that a tool remembers is here, never in an MCP session."""

    id: str
    servers: dict[str, str]  # name -> id of the server in this sandbox
    missing: dict[str, str]  # name -> why this backend does not have it
    benchmark: str | None
    owner: str | None  # the process that acquired it
    home: Path  # holds workspace and scratch
    archives: Path  # uploads and dumps, out of reach for the sandbox's uid
    jail: Jail
    root: str  # the workspace as the agent sees it
    isolation: Isolation
    limits: Limits
    created_at: str
    updated_at: str
    children: Children
    kept: bool = False
    gone: bool = False
    mail: Mail | None = None
    upload: Path | None = None
    dumps: OrderedDict[str, Path] = field(default_factory=OrderedDict)
    sessions: OrderedDict[str, Session] = field(default_factory=OrderedDict)
    gate: asyncio.Lock = field(default_factory=asyncio.Lock)  # held by what must have the workspace for itself
    calls: dict[asyncio.Task[Any], str] = field(default_factory=dict)  # running -> why it was ended
    _endings: list[str] = field(default_factory=list)  # why no call may start now
    _files: WorkspaceFiles | None = None
    _threads: Threads = field(default_factory=Threads)
    _states: dict[str, dict[str, Any]] = field(default_factory=dict)
    _expiry: asyncio.TimerHandle | None = None

    def context(self, server: str, headers: Mapping[str, str] = NO_HEADERS) -> ToolContext:
        """What a call of a tool of this server works with; none of it outlives a reset."""
        if self._files is None:
            self._files = WorkspaceFiles(self.jail.workspace, self.jail.uid, self.limits.disk)
        state = self._states.setdefault(server, {})
        of_sandbox = (self._files, self.jail, self.isolation, self.root, self.limits)
        return ToolContext(*of_sandbox, state, self._threads, headers, self.mail)

    async def call(
        self, work: Callable[[], Coroutine[Any, Any, T]], started: Callable[[asyncio.Task[T]], None] | None = None
    ) -> T:
        """Run a tool call or a command. Raises CallEnded when release, reset or `end_call` stops it."""
        async with self.gate:  # a reset or an extraction comes to its end first
            task = self.start(work())
        if started is not None:
            started(task)
        return await self.outcome(task)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Like `call`, for one who holds the gate: the task, for `outcome`."""
        if self.gone or self._endings:
            work.close()
            raise CallEnded(self._endings[-1] if self._endings else f"sandbox {self.id} was released")
        task = asyncio.get_running_loop().create_task(work)
        self.calls[task] = ""
        return task

    async def outcome(self, task: asyncio.Task[T]) -> T:
        try:
            return await task
        except asyncio.CancelledError:
            if (reason := self.calls[task]) and not _is_cancelled_itself():
                raise CallEnded(reason) from None
            raise
        finally:
            self.calls.pop(task, None)

    def end_call(self, task: asyncio.Task[Any], reason: str) -> None:
        if task in self.calls and not task.done():
            self.calls[task] = reason
            task.cancel()

    @contextlib.asynccontextmanager
    async def alone(self, reason: str) -> AsyncIterator[None]:
        """Have the workspace for oneself: calls that run, or are about to, are ended; later ones wait."""
        self._endings.append(reason)
        try:
            await self._end_calls(reason)
            async with self.gate:
                await self._end_calls(reason)
                yield
        finally:
            self._endings.remove(reason)

    async def _end_calls(self, reason: str) -> None:
        """Returns when all running calls are gone; what their threads still try to change is refused."""
        running = [task for task in self.calls if not task.done()]
        for task in running:
            self.end_call(task, reason)
        if self._files is not None:
            files, self._files, self._threads = self._files, None, Threads()
            await asyncio.to_thread(files.close)
        if running:
            _, late = await asyncio.wait(running, timeout=_PATIENCE)
            if late:
                log.error("sandbox %s: %d ended calls are still running after %.0f s", self.id, len(late), _PATIENCE)

    async def forget(self) -> None:
        """Drop what tools remember, and end the processes that remember something."""
        self._states.clear()
        await self.children.end()

    def touch(self) -> None:
        self.updated_at = now()

    def expire(self, seconds: float, action: Callable[[], None]) -> None:
        self._expiry = asyncio.get_running_loop().call_later(seconds, action)

    def stay(self) -> None:
        """No expiry any more: it is being removed."""
        if self._expiry is not None:
            self._expiry.cancel()


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
        async with sandbox.alone(f"sandbox {sandbox.id} was released"):
            await sandbox.forget()
            if sandbox.mail is not None:
                await sandbox.mail.close()
            await asyncio.to_thread(rundir.remove_tree, sandbox.archives)
            await asyncio.to_thread(rundir.remove_tree, sandbox.home)
        self._uids.give_back(sandbox.jail.uid)

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


def now() -> str:
    """The time as the API writes it: ISO 8601, UTC."""
    return datetime.now(UTC).isoformat()


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


def _is_cancelled_itself() -> bool:
    current = asyncio.current_task()
    return current is not None and current.cancelling() > 0
