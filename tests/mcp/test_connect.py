"""`connect()` with the installed line of the `mcp` package, under asyncio and trio."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from pytest_klavis import errors
from pytest_klavis.mcp.connect import connect

from .server import SECRET, FakeServer, Handler, Message

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("mcp", reason="connect() needs the extra [mcp]")
pytestmark = [
    pytest.mark.anyio,
    # mcp leaves the generators of a stream that it has read enough of to the garbage collector; trio complains.
    pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning"),
]


@pytest.fixture(autouse=True)
def _garbage_stays_here() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    if request.param == "trio":
        pytest.importorskip("trio", reason="trio is not installed")
    return str(request.param)


def said(error: BaseException, server: FakeServer) -> str:
    assert isinstance(error, errors.TransportError)
    assert f"MCP server 'filesystem' at 127.0.0.1:{server.port}" in str(error)
    shown = "".join(traceback.format_exception(error))
    assert SECRET not in shown
    assert "ExceptionGroup" not in shown
    return str(error)


@pytest.mark.parametrize("kind", ["json", "sse"])
async def test_a_session_lists_and_calls(server: FakeServer, kind: str) -> None:
    server.kind = kind
    server.page = 10
    async with connect(server.url, {"x-email-config": "e30="}) as session:
        listed = await session.list_tools()
        assert [tool.name for tool in listed.tools] == ["echo", "add", "fail"]
        result = await session.call_tool("echo", {"text": "hi"})
        block: Any = result.content[0]
        assert block.text == "hi"
    assert {headers["x-email-config"] for _, headers, _ in server.requests} == {"e30="}
    assert server.ended == ["session-1"]


class StopError(BaseException):
    """Like the exceptions of pytest.fail and pytest.skip, no Exception."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("the agent was wrong"),
        errors.InfraError("the judge is down"),
        StopError("as pytest.fail"),
        KeyboardInterrupt(),
        ExceptionGroup("the user's own", [ValueError("a"), KeyError("b")]),
        StopAsyncIteration("odd"),
        TimeoutError("of the body"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_the_body_raises_arrives_as_itself(server: FakeServer, error: BaseException) -> None:
    async def body() -> None:
        async with connect(server.url) as session:
            await session.call_tool("echo", {"text": "hi"})
            raise error

    with pytest.raises(type(error)) as caught:
        await body()
    assert caught.value is error
    assert caught.value.__cause__ is None
    assert server.ended == ["session-1"]


async def test_the_body_can_be_cancelled(server: FakeServer) -> None:
    with anyio.move_on_after(0.3) as scope:
        async with connect(server.url) as session:
            await session.call_tool("echo", {"text": "hi"})
            await anyio.sleep(30)
    assert scope.cancelled_caught


async def test_two_at_once(server: FakeServer) -> None:
    async with connect(server.url) as one, connect(server.url) as two:
        await one.list_tools()
        await two.list_tools()
    assert sorted(map(str, server.ended)) == ["session-1", "session-2"]


async def refused(server: FakeServer, **options: Any) -> str:
    reported: list[errors.InfraError] = []
    with pytest.raises(errors.TransportError) as caught:
        async with connect(server.url, on_error=reported.append, **options):
            pytest.fail("the handshake went well")
    assert reported == [caught.value]
    return said(caught.value, server)


async def test_nobody_listens() -> None:
    with FakeServer() as server:
        pass
    assert "could not be connected to" in await refused(server)


@pytest.mark.parametrize("status", [401, 404, 429, 500])
async def test_the_handshake_is_refused(server: FakeServer, status: int) -> None:
    page = f"<html>{server.url}</html>".encode()
    server.trouble["initialize"] = lambda handler, _: handler.reply(status, page, kind="text/html")
    assert "could not be connected to" in await refused(server)


async def test_the_handshake_is_answered_with_an_error(server: FakeServer) -> None:
    server.trouble["initialize"] = lambda handler, message: handler.answer(
        {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32602, "message": "not with you"}}
    )
    assert "not with you" in await refused(server)


async def test_the_handshake_takes_too_long(server: FakeServer) -> None:
    server.trouble["initialize"] = lambda handler, _: handler.stream([b": ping\n\n"] * 100, pause=0.05)
    start = time.monotonic()
    assert "did not finish the MCP handshake within 0.5 s" in await refused(server, timeout=0.5)
    assert time.monotonic() - start < 3


async def test_the_server_dies_in_the_middle(server: FakeServer) -> None:
    def die(handler: Handler, _: Message) -> None:
        handler.close_connection = True

    async def body() -> None:
        async with connect(server.url) as session:
            server.trouble["tools/call"] = die
            with anyio.fail_after(10):
                await session.call_tool("echo", {"text": "hi"})

    with pytest.raises(errors.TransportError, match="lost the connection") as caught:
        await body()
    said(caught.value, server)


async def test_proxies_are_not_asked_for_this_machine(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with connect(server.url) as session:
        await session.list_tools()


@pytest.mark.parametrize("missing", ["mcp", "mcp.client.streamable_http"])
def test_without_the_package_it_says_what_to_install(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from pytest_klavis import errors\n"
        "from pytest_klavis.mcp.connect import connect\n"
        "try: connect('http://127.0.0.1:1/git/mcp/')\n"
        "except errors.SpecError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'pytest-klavis[mcp]'" in done.stdout
