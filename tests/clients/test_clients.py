"""The embedded servers, spoken to by the clients that are installed: `mcp` of either line and `fastmcp`, each mode."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from pytest_klavis.mcp.client import McpClient

from .modes import failed, opened, said

if TYPE_CHECKING:
    from .embedded import Box

pytest.importorskip("mcp", reason="needs the mcp package, either line")

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning"),  # see tests/mcp/test_connect.py
    pytest.mark.filterwarnings("ignore:Use `streamable_http_client`:DeprecationWarning"),
]


async def test_the_tools_are_those_that_our_own_client_lists(box: Box, mode: str) -> None:
    for name, server in box.servers.items():
        with McpClient(server.url) as own:
            expected = {tool.name: tool.input_schema for tool in own.list_tools()}
        async with opened(mode, server.url) as client:
            listed = (await client.list_tools()).tools
        schemas = {
            tool.name: tool.input_schema if hasattr(tool, "input_schema") else tool.inputSchema for tool in listed
        }
        assert schemas == expected, name
        assert schemas


async def test_filesystem(box: Box, mode: str) -> None:
    text = "naïve ☃\nsecond line\n"
    async with opened(mode, box.servers["filesystem"].url) as client:
        note = f"{box.root}/deep/note.txt"
        await said(client, "filesystem_create_directory", {"path": f"{box.root}/deep"})
        await said(client, "filesystem_write_file", {"path": note, "content": text})
        assert text.strip() in await said(client, "filesystem_read_text_file", {"path": note})
        assert "note.txt" in await said(client, "filesystem_list_directory", {"path": f"{box.root}/deep"})
        outside = await client.call_tool("filesystem_read_text_file", {"path": "/etc/passwd"})
        assert failed(outside)


async def test_terminal_and_git_see_what_filesystem_wrote(box: Box, mode: str) -> None:
    if box.isolation == "unavailable":
        pytest.skip("no level of isolation works here, so nothing can be run in a sandbox")
    assert box.run("git", "init", "-q", "-b", "main")["exit_code"] == 0
    async with opened(mode, box.servers["filesystem"].url) as client:
        await said(client, "filesystem_write_file", {"path": f"{box.root}/note.txt", "content": "hello\n"})
    async with opened(mode, box.servers["terminal"].url) as client:
        assert "hello" in await said(client, "run_command", {"command": "cat note.txt"})
    async with opened(mode, box.servers["git"].url) as client:
        assert "note.txt" in await said(client, "git_status", {"repo_path": box.root})
        await said(client, "git_add", {"repo_path": box.root, "files": ["note.txt"]})
        await said(client, "git_commit", {"repo_path": box.root, "message": "The note"})
        assert "The note" in await said(client, "git_log", {"repo_path": box.root})


async def test_an_unknown_tool_and_wrong_arguments_are_errors_not_silence(box: Box, mode: str) -> None:
    async with opened(mode, box.servers["filesystem"].url) as client:
        for tool, arguments in [("no_such_tool", {}), ("filesystem_read_text_file", {"path": 7})]:
            try:
                with anyio.fail_after(20):
                    assert failed(await client.call_tool(tool, arguments)), tool
            except Exception as error:
                if type(error).__name__.lower() != "mcperror":  # McpError in 1.x, MCPError in 2.x
                    raise
        await said(client, "filesystem_list_allowed_directories", {})


async def test_several_clients_at_once(box: Box, mode: str) -> None:
    async def write(number: int) -> None:
        async with opened(mode, box.servers["filesystem"].url) as client:
            path = f"{box.root}/{number}.txt"
            await said(client, "filesystem_write_file", {"path": path, "content": str(number)})

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(write, number)
    async with opened(mode, box.servers["filesystem"].url) as client:
        listing = await said(client, "filesystem_list_directory", {"path": box.root})
    assert all(f"{number}.txt" in listing for number in range(5))


async def test_a_released_sandbox_answers_no_more(box: Box, mode: str) -> None:
    url = box.servers["filesystem"].url
    async with opened(mode, url) as client:
        await client.list_tools()
    box.api.delete(f"/local-sandbox/{box.id}").raise_for_status()
    with pytest.raises(Exception) as caught, anyio.fail_after(20):  # each line and mode has its own kind
        async with opened(mode, url) as client:
            await client.call_tool("filesystem_list_allowed_directories", {})
    assert not isinstance(caught.value, TimeoutError)


def test_the_line_that_was_tested(record_property: Any) -> None:
    record_property("mcp", version("mcp"))
    assert version("mcp").split(".")[0] in ("1", "2")
