"""A scripted agent: it knows nothing but an MCP configuration, as a framework's agent would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import anyio
import mcp


class Agent:
    """Carries out steps with the tools that the configured servers have.

    A step is a tool's name and its arguments. Servers of different flavours prefix their
    tools differently (`write_file`, `filesystem_write_file`): a step may name the common part,
    as a model would find its way by the tool list.
    """

    def __init__(self, mcp_config: Mapping[str, Any]) -> None:
        self.servers: dict[str, dict[str, Any]] = mcp_config["mcpServers"]

    def work(self, *steps: tuple[str, dict[str, Any]]) -> list[str]:
        """Do the steps one after the other; returns what the tools answered."""
        return anyio.run(self._work, steps)

    async def _work(self, steps: tuple[tuple[str, dict[str, Any]], ...]) -> list[str]:
        async with AsyncTools(self.servers) as tools:
            return [await tools.call(name, arguments) for name, arguments in steps]


class AsyncTools:
    """Sessions to all servers of a configuration, and the tools that they have."""

    def __init__(self, servers: Mapping[str, Mapping[str, Any]]) -> None:
        self._clients = [mcp.Client(server["url"]) for server in servers.values()]
        self._owner: dict[str, mcp.Client] = {}

    async def __aenter__(self) -> Self:
        for client in self._clients:
            await client.__aenter__()
            listed = await client.list_tools()
            self._owner |= {tool.name: client for tool in listed.tools}
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for client in reversed(self._clients):
            await client.__aexit__(*exc_info)

    async def call(self, name: str, arguments: dict[str, Any]) -> str:
        found = name if name in self._owner else next(own for own in self._owner if own.endswith(f"_{name}"))
        result = await self._owner[found].call_tool(found, arguments)
        return "\n".join(part.text for part in result.content if part.type == "text")
