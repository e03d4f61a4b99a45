"""Async tests talk to the servers through `connect()`, an MCP ClientSession."""

import pytest

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.mark.local_sandbox("filesystem", workspace={"notes/monday.txt": "call the bank\n"})
async def test_reads_a_note(sandbox):
    async with sandbox.connect() as session:
        tools = {tool.name for tool in (await session.list_tools()).tools}
        read = next(name for name in tools if name.endswith("read_text_file"))
        answer = await session.call_tool(read, {"path": f"{sandbox.root}/notes/monday.txt"})

    assert answer.content[0].text == "call the bank\n"


async def test_two_sandboxes_do_not_see_each_other(local_sandbox):
    first = await local_sandbox.acquire("filesystem", workspace={"a.txt": "first"}, name="first")
    second = await local_sandbox.acquire("filesystem", workspace={"b.txt": "second"}, name="second")

    assert await first.alist_files() == ["a.txt"]
    assert await second.alist_files() == ["b.txt"]
