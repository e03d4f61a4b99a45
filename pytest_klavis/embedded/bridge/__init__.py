"""The servers that are upstream's own programs (excel, word, powerpoint), in every sandbox that has them.

Each is a process inside the sandbox's isolation, spoken to by JSON-RPC over stdin and stdout. What it remembers belongs
to the sandbox: it is ended by a reset or the release, and by nothing that an MCP session does.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from pytest_klavis.embedded.bridge.channel import RefusedError
from pytest_klavis.embedded.bridge.child import Child, Seat
from pytest_klavis.embedded.bridge.environment import Environment
from pytest_klavis.embedded.bridge.programs import SERVERS, shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

__all__ = ["SERVERS", "Children", "Environment", "RefusedError", "Seat"]


class Children:
    """The bridged servers of one sandbox."""

    def __init__(self, environment: Environment, seat: Seat, benchmark: str | None) -> None:
        self._environment, self._seat, self._benchmark = environment, seat, benchmark
        self._children: dict[str, Child] = {}

    def ahead(self, servers: Sequence[str]) -> None:
        """Start those of the servers that are bridged, all at once, without waiting."""
        for server in servers:
            if server in SERVERS:
                self._child(server).ahead()

    async def list(self, server: str) -> list[dict[str, Any]]:
        """The tools of a server as the sandbox's benchmark shows them. Raises IsolationError."""
        listed = self._environment.lists.get(server) or await self._child(server).list()
        return [shown(server, self._benchmark, tool) for tool in listed]

    async def call(self, server: str, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The result of a tool as upstream gives it. Raises IsolationError, RefusedError."""
        return await self._child(server).call(name, arguments)

    @contextlib.asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """None of them does anything meanwhile."""
        async with contextlib.AsyncExitStack() as stack:
            for child in self._children.values():
                await stack.enter_async_context(child.frozen())
            yield

    async def end(self) -> None:
        """End them all; they are started anew when they are needed. Raises IsolationError."""
        ended = await asyncio.gather(*(child.end() for child in self._children.values()), return_exceptions=True)
        self._children.clear()
        for outcome in ended:
            if isinstance(outcome, BaseException):
                raise outcome

    def _child(self, server: str) -> Child:
        if server not in self._children:
            self._children[server] = Child(server, self._seat, self._environment)
        return self._children[server]
