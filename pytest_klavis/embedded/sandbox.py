"""One live sandbox: what it has, its calls, and how they end. Knows nothing of HTTP, nor of other sandboxes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_klavis.embedded.files import WorkspaceFiles
from pytest_klavis.embedded.threads import Threads
from pytest_klavis.embedded.tools import ToolContext

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
    from pathlib import Path

    from pytest_klavis.embedded.bridge import Children
    from pytest_klavis.embedded.isolation import Isolation, Jail, Limits
    from pytest_klavis.embedded.mail.office import Mail

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


def now() -> str:
    """The time as the API writes it: ISO 8601, UTC."""
    return datetime.now(UTC).isoformat()


def _is_cancelled_itself() -> bool:
    current = asyncio.current_task()
    return current is not None and current.cancelling() > 0
