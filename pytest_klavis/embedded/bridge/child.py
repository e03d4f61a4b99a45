"""One upstream server in one sandbox: started when it is needed, called, ended, started anew when it died."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_klavis.embedded.bridge import programs
from pytest_klavis.embedded.bridge.channel import Channel, ChannelError, RefusedError
from pytest_klavis.embedded.isolation import IsolationError, disk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping

    from pytest_klavis.embedded.bridge.environment import Environment
    from pytest_klavis.embedded.isolation import Isolation, Jail, Limits

T = TypeVar("T")
START = 60.0  # seconds that starting may take: many may start at once
_CPU = 10  # times the CPU time of a run: one that a child may use in its life
_DEPTH = 100  # of arguments: what these servers read JSON with refuses twice that, by not answering
_INITIALIZE = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "pytest-klavis", "version": "embedded"},
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seat:
    """Where a child lives: a sandbox's place on disk, what keeps it in there, and how `root` names the workspace."""

    jail: Jail
    isolation: Isolation
    limits: Limits
    root: str


class Child:
    """One upstream server in one sandbox. What it remembers lives as long as its process."""

    def __init__(self, server: str, seat: Seat, environment: Environment) -> None:
        self._server, self._seat, self._environment = server, seat, environment
        self._turn = asyncio.Lock()  # these servers do one thing at a time, and so it is known which call did it
        self._starting: asyncio.Task[Channel] | None = None
        self._calls: set[asyncio.Task[Any]] = set()

    def ahead(self) -> None:
        """Start it, unless it runs. What goes wrong is told to who needs it."""
        if self._starting is None:
            self._starting = asyncio.get_running_loop().create_task(self._start())
            self._starting.add_done_callback(_retrieved)

    async def list(self) -> list[dict[str, Any]]:
        """Its tools as upstream lists them. Raises IsolationError."""
        if self._server not in self._environment.lists:
            await self._to_its_end(self._list())
        return self._environment.lists[self._server]

    async def call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The result of `tools/call` as upstream gives it, or one that says what became of the call.

        When this is cancelled, the call comes to its end all the same: the server cannot be interrupted.
        Raises IsolationError when it cannot be started, RefusedError for a JSON-RPC error.
        """
        if programs.depth_over(_DEPTH, arguments):
            return _failure(f"not carried out: the arguments of {name} are nested more than {_DEPTH} deep")
        called: dict[str, Any] = await self._to_its_end(self._call(name, programs.readable(arguments)))
        return called

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.get_running_loop().create_task(work)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        task.add_done_callback(_retrieved)
        return await asyncio.shield(task)

    @contextlib.asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Nothing of it runs meanwhile; calls wait."""
        async with self._turn:
            starting = self._starting
            if starting is not None:
                await asyncio.wait([starting])
            if starting is None or starting.cancelled() or starting.exception() is not None:
                yield
                return
            channel = starting.result()
            try:
                await channel.freeze()
                yield
            finally:
                channel.thaw()

    async def end(self) -> None:
        """End it and all that it started, and wait for that. Raises IsolationError."""
        while calls := [task for task in self._calls if not task.done()]:  # first those that would start it anew
            for task in calls:
                task.cancel()
            await asyncio.wait(calls)
        starting, self._starting = self._starting, None
        if starting is None:
            return
        if not starting.done():
            starting.cancel()
            await asyncio.wait([starting])
        if not starting.cancelled() and starting.exception() is None:
            channel = starting.result()
            channel.end("it was ended with the state of its sandbox")
            await channel.ended()

    async def _list(self) -> None:
        async with self._turn:
            await self._channel()

    async def _call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        seat = self._seat
        async with self._turn:
            if not await disk.has_room(seat.jail, seat.limits):
                return _failure(
                    f"not carried out: the workspace may hold at most {seat.limits.disk} bytes; remove some"
                )
            if (lost := await self._lost_meanwhile()) is not None:
                return _failure(lost)
            channel = await self._channel()
            params = {"name": name, "arguments": programs.with_paths(arguments, seat.root)}
            watch = disk.Watch((seat.jail.workspace, seat.jail.scratch), seat.limits.disk)
            full = asyncio.get_running_loop().create_task(watch.overflow(*channel.pids))
            full.add_done_callback(lambda done: None if done.cancelled() else channel.end(_FULL))
            try:
                async with asyncio.timeout(seat.limits.wall_seconds):
                    result = await channel.request("tools/call", params)
            except TimeoutError:
                channel.end(_LATE)
                await channel.ended()
                return _failure(f"{name} timed out after {seat.limits.wall_seconds:g} seconds; {self._told(channel)}")
            except ChannelError:
                await channel.ended()
                if channel.why == _FULL:
                    what = f"{name} was stopped: the workspace may hold at most {seat.limits.disk} bytes"
                    return _failure(f"{what}; {self._told(channel)}")
                log.warning("%s: %s during %s", self._server, channel.why, name)
                return _failure(f"{name} was lost: {self._told(channel)}")
            finally:
                full.cancel()
            return (
                result if isinstance(result, dict) else _failure(f"{name} answered with something else than a result")
            )

    def _told(self, channel: Channel) -> str:
        """What happened to the server, and what that means for the next call."""
        told = f"the server {self._server} is started anew by the next call ({channel.why})"
        return f"{told}; what it held open is lost" if self._server in programs.REMEMBERS else told

    async def _lost_meanwhile(self) -> str | None:
        """What is to be told first when a server that remembers died between two calls."""
        starting = self._starting
        if starting is None or not starting.done() or starting.cancelled() or starting.exception() is not None:
            return None
        channel = starting.result()
        if channel.why is None:
            return None
        await channel.ended()
        self._starting = None
        log.warning("%s: %s between two calls", self._server, channel.why)
        return f"not carried out: {self._told(channel)}" if self._server in programs.REMEMBERS else None

    async def _channel(self) -> Channel:
        """The running child, started where there is none."""
        while True:
            self.ahead()
            starting = self._starting
            assert starting is not None
            try:
                channel = await asyncio.shield(starting)
            except BaseException:
                if self._starting is starting and starting.done():
                    self._starting = None  # the next one may try again
                raise
            if channel.why is None:
                return channel
            await channel.ended()
            if self._starting is starting:
                self._starting = None

    async def _start(self) -> Channel:
        seat, server = self._seat, self._server
        limits = replace(seat.limits, cpu_seconds=_CPU * seat.limits.cpu_seconds)
        channel = await Channel.open(await self._environment.start(server, seat, limits))
        try:
            async with asyncio.timeout(START):
                await channel.request("initialize", _INITIALIZE)
                await channel.notify("notifications/initialized")
                if server not in self._environment.lists:
                    listed = await channel.request("tools/list", {})
                    self._environment.lists[server] = listed["tools"]
        except (TimeoutError, ChannelError, RefusedError, KeyError, TypeError) as error:
            channel.end("" if isinstance(error, ChannelError) else f"it did not start properly ({error!r})")
            await channel.ended()
            raise IsolationError(f"the server {server!r} could not be started: {channel.why}") from error
        except BaseException:
            channel.end("it was not wanted any more")
            with contextlib.suppress(asyncio.CancelledError):
                await channel.ended()
            raise
        return channel


_FULL = "its sandbox was full"
_LATE = "it took too long"


def _failure(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], "isError": True}


def _retrieved(task: asyncio.Task[Any]) -> None:
    """Nobody may be left who wants to know."""
    if not task.cancelled():
        task.exception()
