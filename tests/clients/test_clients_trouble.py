"""The same clients where things go wrong or get large: cancelled calls, ended sessions, wrong URLs, much at once."""

from __future__ import annotations

import time
import uuid
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tests.embedded.conftest import processes_with

from .modes import failed, has_sessions, messages, opened, said, text_of
from .relay import Relay

if TYPE_CHECKING:
    from .embedded import Box

pytest.importorskip("mcp", reason="needs the mcp package, either line")

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning"),  # see tests/mcp/test_connect.py
    pytest.mark.filterwarnings("ignore:Use `streamable_http_client`:DeprecationWarning"),
]

PATIENCE = 20.0  # seconds; well below what the command of a tool may take by itself


@pytest.fixture
def runs(box: Box) -> None:
    if box.isolation == "unavailable":
        pytest.skip("no level of isolation works here, so nothing can be run in a sandbox")


async def until(what: Any) -> None:
    with anyio.fail_after(PATIENCE):
        while not what():  # noqa: ASYNC110 - what is waited for is another process
            await anyio.sleep(0.02)


async def test_text_of_all_scripts_goes_both_ways(box: Box, mode: str) -> None:
    text = "naïve ☃ 漢字 עברית \U0001f469\u200d\U0001f680 \u2028 \x7f e\u0301\n"
    async with opened(mode, box.servers["filesystem"].url) as client:
        path = f"{box.root}/ümläut 漢字 \U0001f680.txt"
        await said(client, "filesystem_write_file", {"path": path, "content": text})
        assert await said(client, "filesystem_read_text_file", {"path": path}) == text
        assert "ümläut 漢字 \U0001f680.txt" in await said(client, "filesystem_list_directory", {"path": box.root})


async def test_what_a_tool_refuses_is_a_result_that_says_why(box: Box, mode: str) -> None:
    async with opened(mode, box.servers["filesystem"].url) as client:
        missing = await client.call_tool("filesystem_read_text_file", {"path": f"{box.root}/none.txt"})
        assert failed(missing)
        assert "ENOENT" in text_of(missing)


async def test_an_answer_of_megabytes_arrives_whole(box: Box, mode: str) -> None:
    text = "0123456789abcdé\n" * (3 << 16)
    async with opened(mode, box.servers["filesystem"].url) as client:
        path = f"{box.root}/large.txt"
        await said(client, "filesystem_write_file", {"path": path, "content": text})
        assert await said(client, "filesystem_read_text_file", {"path": path}) == text


async def test_calls_side_by_side_get_their_own_answers(box: Box, mode: str, anyio_backend: str) -> None:
    if anyio_backend == "trio" and version("mcp").startswith("1."):
        pytest.skip("on trio mcp 1.x loses answers of parallel calls that it was sent")
    answers: dict[int, str] = {}

    async with opened(mode, box.servers["filesystem"].url) as client:

        async def write_and_read(number: int) -> None:
            path = f"{box.root}/{number}.txt"
            await said(client, "filesystem_write_file", {"path": path, "content": f"this is {number}"})
            answers[number] = await said(client, "filesystem_read_text_file", {"path": path})

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(write_and_read, number)
    assert answers == {number: f"this is {number}" for number in range(20)}


async def test_servers_of_one_sandbox_are_used_at_once(box: Box, mode: str, runs: None) -> None:
    async with (
        opened(mode, box.servers["filesystem"].url) as files,
        opened(mode, box.servers["terminal"].url) as terminal,
    ):
        await said(files, "filesystem_write_file", {"path": f"{box.root}/a.txt", "content": "from one server\n"})
        assert "from one server" in await said(terminal, "run_command", {"command": "cat a.txt"})
        await said(terminal, "run_command", {"command": "cp a.txt b.txt"})
        assert "from one server" in await said(files, "filesystem_read_text_file", {"path": f"{box.root}/b.txt"})


async def test_a_cancelled_call_leaves_no_process_and_the_client_goes_on(box: Box, mode: str, runs: None) -> None:
    seconds = f"300.{time.monotonic_ns()}"
    async with opened(mode, box.servers["terminal"].url) as client, anyio.create_task_group() as group:
        group.start_soon(client.call_tool, "run_command", {"command": f"sleep {seconds}"})
        await until(lambda: processes_with(seconds))
        group.cancel_scope.cancel()
    # Some clients tell the server of it at once, the others when their session ends.
    await until(lambda: not processes_with(seconds))
    async with opened(mode, box.servers["terminal"].url) as client:
        assert "still here" in await said(client, "run_command", {"command": "echo still here"})


async def test_who_comes_back_finds_the_sandbox_as_it_was(box: Box, mode: str) -> None:
    path = f"{box.root}/count.txt"
    async with opened(mode, box.servers["filesystem"].url) as client:
        await said(client, "filesystem_write_file", {"path": path, "content": ""})
    for number in range(3):
        async with opened(mode, box.servers["filesystem"].url) as client:
            before = await said(client, "filesystem_read_text_file", {"path": path})
            assert before == "x" * number
            await said(client, "filesystem_write_file", {"path": path, "content": before + "x"})


async def test_a_session_is_ended_by_its_client(box: Box, mode: str) -> None:
    with Relay(box.servers["filesystem"].url) as relay:
        async with opened(mode, relay.url) as client:
            await said(client, "filesystem_list_allowed_directories", {})
        ended = [status for method, status in relay.answered if method == "DELETE"]
    assert ended == ([200] if has_sessions(mode) else [])
    assert {status for method, status in relay.answered if method == "POST"} <= {200, 202}


@pytest.mark.parametrize("wrong", ["sandbox", "server"])
async def test_a_url_that_leads_nowhere_fails_at_once(box: Box, mode: str, wrong: str) -> None:
    url = box.servers["filesystem"].url
    url = url.replace(box.id, str(uuid.uuid4())) if wrong == "sandbox" else url.replace("/filesystem/", "/excel/")
    with pytest.raises(BaseException) as caught, anyio.fail_after(PATIENCE):  # each has its own kind
        async with opened(mode, url) as client:
            await client.list_tools()
    assert not isinstance(caught.value, TimeoutError)
    assert messages(caught.value).strip()
