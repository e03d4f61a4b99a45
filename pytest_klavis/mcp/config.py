"""A sandbox's MCP servers written down as the agent frameworks take them: plain data, no framework is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from pytest_klavis.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Style = Literal["standard", "claude", "langchain", "openai-agents", "pydantic-ai"]

AGENTS_TOOL_TIMEOUT = 120.0
"""Seconds that the OpenAI Agents SDK is told to wait for a tool: its own 5 are less than a test run takes."""


class ServerLike(Protocol):
    """What is needed of a server: its URL, and the headers to send (most have none)."""

    @property
    def url(self) -> str: ...

    @property
    def headers(self) -> Mapping[str, str]: ...


def mcp_config(servers: Mapping[str, ServerLike], style: Style = "standard") -> Any:
    """The servers, keyed by name, in the shape of one framework. `headers` is left out where there are none.

    "standard"
        `{"mcpServers": {name: {"type": "http", "url", "headers"}}}`, the file that most clients read: as
        `.mcp.json` by Claude Code (code.claude.com/docs/en/mcp), as `mcp.json` by others,
        `fastmcp.Client(config)` (gofastmcp.com/clients/client, fastmcp/mcp_config.py) and, written to a
        file, pydantic-ai's `load_mcp_toolsets(path)`. Without "type" Claude Code would take it for stdio.
    "claude"
        `{name: {"type": "http", "url", "headers"}}`, for `ClaudeAgentOptions(mcp_servers=...)` of
        claude-agent-sdk (its types.py, `McpHttpServerConfig`).
    "langchain"
        `{name: {"transport": "streamable_http", "url", "headers"}}`, for `MultiServerMCPClient(...)` of
        langchain-mcp-adapters (its sessions.py, `StreamableHttpConnection`).
    "openai-agents"
        `[{"name", "params": {"url", "headers"}, "client_session_timeout_seconds"}]`, each the keywords of one
        `MCPServerStreamableHttp(**each)` of openai-agents (its mcp/server.py, `MCPServerStreamableHttpParams`).
        Without "name" the SDK would name the server by its URL, which is a secret.
    "pydantic-ai"
        `[{"client": url, "id", "headers"}]`, each the keywords of one `MCPToolset(**each)` of
        pydantic-ai (its mcp.py).

    Raises SpecError for another style.
    """
    if style not in get_args(Style):
        raise SpecError(f"mcp_config() knows no style {style!r}; there are {', '.join(get_args(Style))}")
    return _SHAPES[style](servers)


def _address(server: ServerLike) -> dict[str, Any]:
    headers = dict(server.headers)
    return {"url": server.url, "headers": headers} if headers else {"url": server.url}


def _standard(servers: Mapping[str, ServerLike]) -> dict[str, Any]:
    return {"mcpServers": _claude(servers)}


def _claude(servers: Mapping[str, ServerLike]) -> dict[str, Any]:
    return {name: {"type": "http", **_address(server)} for name, server in servers.items()}


def _langchain(servers: Mapping[str, ServerLike]) -> dict[str, Any]:
    return {name: {"transport": "streamable_http", **_address(server)} for name, server in servers.items()}


def _openai_agents(servers: Mapping[str, ServerLike]) -> list[dict[str, Any]]:
    return [
        {"name": name, "params": _address(server), "client_session_timeout_seconds": AGENTS_TOOL_TIMEOUT}
        for name, server in servers.items()
    ]


def _pydantic_ai(servers: Mapping[str, ServerLike]) -> list[dict[str, Any]]:
    found = []
    for name, server in servers.items():
        address = _address(server)
        found.append({"client": address.pop("url"), "id": name, **address})
    return found


_SHAPES: Mapping[str, Callable[[Mapping[str, ServerLike]], Any]] = {
    "standard": _standard,
    "claude": _claude,
    "langchain": _langchain,
    "openai-agents": _openai_agents,
    "pydantic-ai": _pydantic_ai,
}
