"""The MCP clients for Python that are installed, each in each of its modes, behind one way of opening them."""

from __future__ import annotations

import importlib
from contextlib import asynccontextmanager
from importlib.util import find_spec
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio

from pytest_klavis.mcp.connect import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

STATELESS = "2026-07-28"


def _modes() -> list[str]:
    if find_spec("mcp") is None:
        return []
    found = ["session", "connect"]
    if hasattr(importlib.import_module("mcp.client.streamable_http"), "streamablehttp_client"):
        found += ["deprecated"]  # the 1.x spelling that most agents still use
    eras = ["auto", "legacy", STATELESS] if hasattr(importlib.import_module("mcp"), "Client") else []
    found += eras  # the 2.x client, in both eras of the protocol
    if find_spec("fastmcp") is not None:
        found += [f"fastmcp-{era}" for era in eras] or ["fastmcp"]
    return found


MODES = _modes()


@asynccontextmanager
async def opened(mode: str, url: str) -> AsyncIterator[Any]:
    """A client in one of the modes: something with `list_tools()` and `call_tool(name, arguments)`."""
    mcp: Any = importlib.import_module("mcp")
    transport: Any = importlib.import_module("mcp.client.streamable_http")
    package, _, era = mode.partition("-")
    if mode == "connect":
        async with connect(url) as session:
            yield session
    elif mode in ("session", "deprecated"):
        client = transport.streamable_http_client if mode == "session" else transport.streamablehttp_client
        async with client(url) as streams, mcp.ClientSession(streams[0], streams[1]) as session:
            await session.initialize()
            yield session
    elif package == "fastmcp":
        async with importlib.import_module("fastmcp").Client(url, **({"mode": era} if era else {})) as fast:
            yield SimpleNamespace(list_tools=fast.list_tools_mcp, call_tool=fast.call_tool_mcp)
    else:
        async with mcp.Client(url, mode=mode) as high_level:
            yield high_level


def has_sessions(mode: str) -> bool:
    return mode in ("session", "connect", "deprecated", "fastmcp") or mode.endswith("legacy")


def failed(result: Any) -> bool:
    return bool(result.is_error if hasattr(result, "is_error") else result.isError)


def text_of(result: Any) -> str:
    return "\n".join(block.text for block in result.content)


async def said(client: Any, tool: str, arguments: dict[str, Any]) -> str:
    """The text of a call that must go well."""
    with anyio.fail_after(60):
        result = await client.call_tool(tool, arguments)
    assert not failed(result), text_of(result)
    return text_of(result)


def messages(error: BaseException) -> str:
    """What an exception says, and all those in its groups."""
    return " ".join([str(error), *(messages(inner) for inner in getattr(error, "exceptions", ()))])
