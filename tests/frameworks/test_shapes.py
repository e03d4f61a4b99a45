"""Each style of mcp_config in the hands of the framework that it is for: the real package, the embedded server.

Runs in an environment that has the frameworks; what is not installed is skipped.
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import anyio
import pytest

from pytest_klavis.mcp.client import McpClient
from pytest_klavis.mcp.config import mcp_config

if TYPE_CHECKING:
    from pathlib import Path

    from tests.clients.embedded import Box, Server

FRAMEWORKS = ("agents", "claude_agent_sdk", "fastmcp", "langchain_mcp_adapters", "pydantic_ai")
if not any(map(find_spec, FRAMEWORKS)):
    pytest.skip("no agent framework is installed: tox -m frameworks", allow_module_level=True)

HEADERS = {"x-email-config": "e30="}

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("default"),  # the frameworks' own warnings are not ours to fail on
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def tools(box: Box) -> dict[str, set[str]]:
    """Server name -> the names of its tools, by our own client."""
    found = {}
    for name, server in box.servers.items():
        with McpClient(server.url) as client:
            found[name] = {tool.name for tool in client.list_tools()}
    return found


@pytest.fixture
def with_headers(box: Box) -> dict[str, Server]:
    return {name: type(server)(server.url, HEADERS) for name, server in box.servers.items()}


async def test_standard_is_a_config_of_fastmcp(box: Box, tools: dict[str, set[str]]) -> None:
    fastmcp: Any = pytest.importorskip("fastmcp", reason="fastmcp is not installed")
    try:
        version("fastmcp")
    except PackageNotFoundError:  # pydantic-ai brings fastmcp-slim
        pytest.skip("fastmcp is not installed whole: its slim distribution reads no config of several servers")
    async with fastmcp.Client(mcp_config(box.servers)) as client:
        listed = {tool.name for tool in await client.list_tools()}
    assert listed == {f"{server}_{name}" for server, names in tools.items() for name in names}


def test_standard_names_the_transport_and_headers_for_fastmcp(with_headers: dict[str, Server]) -> None:
    module: Any = pytest.importorskip("fastmcp.mcp_config", reason="fastmcp is not installed")
    config = module.MCPConfig.model_validate(mcp_config(with_headers))
    for name, server in config.mcpServers.items():
        transport = server.to_transport()
        assert type(transport).__name__ == "StreamableHttpTransport"
        assert (str(transport.url), transport.headers) == (with_headers[name].url, HEADERS)


async def test_standard_is_a_file_for_pydantic_ai(box: Box, tools: dict[str, set[str]], tmp_path: Path) -> None:
    pydantic_ai: Any = pytest.importorskip("pydantic_ai.mcp", reason="pydantic-ai-slim[mcp] is not installed")
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps(mcp_config(box.servers)))
    for toolset in pydantic_ai.load_mcp_toolsets(path):
        name = toolset.wrapped.id
        async with toolset.wrapped as opened:
            assert {tool.name for tool in await opened.list_tools()} == tools[name]


async def test_pydantic_ai(box: Box, tools: dict[str, set[str]], with_headers: dict[str, Server]) -> None:
    pydantic_ai: Any = pytest.importorskip("pydantic_ai.mcp", reason="pydantic-ai-slim[mcp] is not installed")
    for keywords in mcp_config(box.servers, "pydantic-ai") + mcp_config(with_headers, "pydantic-ai"):
        toolset = pydantic_ai.MCPToolset(**keywords)
        async with toolset:
            assert {tool.name for tool in await toolset.list_tools()} == tools[toolset.id]


async def test_langchain(box: Box, tools: dict[str, set[str]], with_headers: dict[str, Server]) -> None:
    client: Any = pytest.importorskip("langchain_mcp_adapters.client", reason="langchain-mcp-adapters not installed")
    for servers in (box.servers, with_headers):
        opened = client.MultiServerMCPClient(mcp_config(servers, "langchain"))
        for name, names in tools.items():
            found = await opened.get_tools(server_name=name)
            assert {tool.name for tool in found} == names
            by_name = {tool.name: tool for tool in found}
            if name == "filesystem":
                answer = await by_name["filesystem_list_allowed_directories"].ainvoke({})
                assert box.root in str(answer)


async def test_openai_agents(box: Box, tools: dict[str, set[str]], with_headers: dict[str, Server]) -> None:
    agents: Any = pytest.importorskip("agents.mcp", reason="openai-agents is not installed")
    for keywords in mcp_config(box.servers, "openai-agents") + mcp_config(with_headers, "openai-agents"):
        async with agents.MCPServerStreamableHttp(**keywords) as server:
            assert {tool.name for tool in await server.list_tools()} == tools[server.name]
            if server.name == "filesystem":
                result = await server.call_tool("filesystem_list_allowed_directories", {})
                assert box.root in result.content[0].text


def test_claude_is_the_type_of_the_sdk(with_headers: dict[str, Server], box: Box) -> None:
    sdk: Any = pytest.importorskip("claude_agent_sdk", reason="claude-agent-sdk is not installed")
    shape = sdk.types.McpHttpServerConfig
    assert get_args(get_type_hints(shape)["type"]) == ("http",)
    for servers in (box.servers, with_headers):
        for server in mcp_config(servers, "claude").values():
            assert shape.__required_keys__ <= server.keys() <= shape.__annotations__.keys()
            assert server["type"] == "http"


async def test_claude_code_connects(box: Box, tools: dict[str, set[str]], tmp_path: Path) -> None:
    """The program that the SDK brings along connects to the servers before any model is asked."""
    sdk: Any = pytest.importorskip("claude_agent_sdk", reason="claude-agent-sdk is not installed")
    options = sdk.ClaudeAgentOptions(
        mcp_servers=mcp_config(box.servers, "claude"),
        setting_sources=[],
        cwd=tmp_path,
        env={"CLAUDE_CONFIG_DIR": str(tmp_path / "config"), "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"},
    )
    try:
        client = sdk.ClaudeSDKClient(options)
        await client.connect()
    except sdk.CLINotFoundError as error:
        pytest.skip(f"this build of claude-agent-sdk brings no program along: {error}")
    try:
        with anyio.fail_after(60):
            servers = (await client.get_mcp_status())["mcpServers"]
            while any(server["status"] == "pending" for server in servers):
                await anyio.sleep(0.1)
                servers = (await client.get_mcp_status())["mcpServers"]
    finally:
        await client.disconnect()
    assert {server["name"]: {tool["name"] for tool in server["tools"]} for server in servers} == tools
