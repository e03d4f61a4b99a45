"""The MCP client against a server that answers well."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import httpcore
import httpx
import pytest

from pytest_klavis.errors import SpecError
from pytest_klavis.mcp.client import McpClient, ToolInfo, ToolResult

from .server import SECRET, FakeServer, Handler, Message

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["json", "sse"])
def server(request: pytest.FixtureRequest) -> Iterator[FakeServer]:
    with FakeServer(kind=request.param) as running:
        yield running


@pytest.fixture
def client(server: FakeServer) -> Iterator[McpClient]:
    with McpClient(server.url, timeout=10) as opened:
        yield opened


def test_lists_the_tools_of_every_page(client: McpClient) -> None:
    assert client.list_tools() == [
        ToolInfo("echo", "Says it again.", {"type": "object", "required": ["text"]}),
        ToolInfo("add", "", {"type": "object"}),
        ToolInfo("fail", "Always refuses.", {"type": "object"}),
    ]


def test_a_result_carries_text_blocks_and_structured_data(client: McpClient) -> None:
    assert client.call_tool("add", {"a": 2, "b": 3}) == ToolResult(
        text="the sum is 5", data={"sum": 5}, content=({"type": "text", "text": "the sum is 5"},)
    )


@pytest.mark.parametrize(
    ("said", "data"),
    [
        ('{"a": [1, 2]}', {"a": [1, 2]}),
        ("42", 42),
        ("forty-two", None),
        ("NaN", None),
        ("[" * 100_000, None),
        ("", None),
        ("naïve ☃ \ud83d\ude00", None),
    ],
)
def test_text_that_is_json_is_data_as_well(client: McpClient, said: str, data: object) -> None:
    result = client.call_tool("echo", {"text": said})
    assert result.data == data
    assert result.text.encode("utf-16", "surrogatepass") == said.encode("utf-16", "surrogatepass")


def test_a_tool_that_refuses_is_a_result(client: McpClient) -> None:
    result = client.call_tool("fail")
    assert result.is_error
    assert result.text == "this never works"


def test_an_unknown_tool_is_a_result(client: McpClient) -> None:
    result = client.call_tool("frobnicate")
    assert result.is_error
    assert result.text == "Unknown tool: frobnicate (JSON-RPC error -32602)"


@pytest.mark.parametrize("refusal", ["result", "error"])
def test_what_a_refusal_says_can_be_reported(server: FakeServer, client: McpClient, refusal: str) -> None:
    """Half a character would end a worker of xdist."""
    said = "ENOENT \udcff"
    answers: dict[str, Message] = {
        "result": {"content": [{"type": "text", "text": said}], "isError": True},
        "error": {"code": 1, "message": said},
    }
    server.trouble["tools/call"] = lambda handler, message: handler.answer(
        {"jsonrpc": "2.0", "id": message["id"], refusal: answers[refusal]}
    )
    assert client.call_tool("echo", {}).text.startswith(r"ENOENT \udcff")


def test_a_json_rpc_error_may_come_with_http_400(server: FakeServer, client: McpClient) -> None:
    def refuse(handler: Handler, message: Message) -> None:
        error = {"code": -32602, "message": "text is required"}
        handler.reply(400, json_bytes({"jsonrpc": "2.0", "id": message["id"], "error": error}), kind="application/json")

    server.trouble["tools/call"] = refuse
    assert client.call_tool("echo", {}).is_error
    assert server.methods().count("initialize") == 1


def test_one_handshake_and_one_session_for_all_calls(server: FakeServer, client: McpClient) -> None:
    client.list_tools()
    client.call_tool("echo", {"text": "hi"})
    assert server.methods() == ["initialize", "notifications/initialized", "tools/list", "tools/list", "tools/call"]
    assert all(path.endswith(SECRET) for _, _, path in server.requests)
    for _, headers, _ in server.requests[1:]:
        assert headers["Mcp-Session-Id"] == "session-1"
        assert headers["Mcp-Protocol-Version"] == "2025-11-25"
    assert "Mcp-Session-Id" not in server.requests[0][1]


def test_the_version_that_the_server_chose_is_used(server: FakeServer, client: McpClient) -> None:
    def older(handler: Handler, message: Message) -> None:
        answer = server.answer_to(message)
        answer["result"]["protocolVersion"] = "2025-03-26"
        handler.answer(answer)

    server.trouble["initialize"] = older
    client.call_tool("echo", {"text": "hi"})
    assert server.requests[-1][1]["Mcp-Protocol-Version"] == "2025-03-26"


def test_headers_of_the_server_go_with_every_request(server: FakeServer) -> None:
    with McpClient(server.url, {"x-email-config": "e30="}) as client:
        client.list_tools()
    assert {headers["x-email-config"] for _, headers, _ in server.requests} == {"e30="}


def test_a_server_without_sessions(server: FakeServer, client: McpClient) -> None:
    server.sessions = False
    assert client.call_tool("echo", {"text": "hi"}).text == "hi"
    client.close()
    assert server.ended == []


@pytest.mark.parametrize("status", [404, 400])
def test_a_forgotten_session_is_renewed(server: FakeServer, client: McpClient, status: int) -> None:
    server.stale_status = status
    client.call_tool("echo", {"text": "hi"})
    server.open.clear()
    assert client.call_tool("echo", {"text": "again"}).text == "again"
    assert server.methods().count("initialize") == 2


def test_closing_ends_the_session(server: FakeServer, client: McpClient) -> None:
    client.list_tools()
    client.close()
    client.close()
    assert server.ended == ["session-1"]


def test_closing_is_quiet_when_the_server_is_gone(server: FakeServer) -> None:
    client = McpClient(server.url)
    client.list_tools()
    server.stop()
    client.close()


def test_threads_take_turns(client: McpClient) -> None:
    said: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: said.append(client.call_tool("echo", {"text": str(n)}).text))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == [str(n) for n in range(8)]


def test_a_redirect_on_the_same_origin_is_followed(server: FakeServer, client: McpClient) -> None:
    def move(handler: Handler, message: Message) -> None:
        server.trouble.clear()
        handler.reply(307, headers={"Location": f"/moved/mcp/?local_sandbox_id={SECRET}"})

    server.trouble["initialize"] = move
    assert len(client.list_tools()) == 3
    assert server.requests[1][2].startswith("/moved/mcp/")


def test_mocks_of_the_suite_do_not_answer_for_the_sandbox(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def mocked(*_: object) -> None:
        raise AssertionError("a mock was asked")  # pragma: no cover

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", mocked)  # as pytest-httpx
    for name in ("ConnectionPool", "HTTPConnection", "HTTPProxy"):
        monkeypatch.setattr(getattr(httpcore, name), "handle_request", mocked)  # as respx and vcrpy
    with McpClient(server.url) as client:
        assert client.call_tool("echo", {"text": "real"}).text == "real"


def test_a_proxy_of_the_environment_is_used(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://user:word@127.0.0.1:{server.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    with McpClient("http://klavis.test/filesystem/mcp/?instance_id=1") as client:
        assert len(client.list_tools()) == 3
    _, headers, path = server.requests[0]
    assert path == "http://klavis.test/filesystem/mcp/?instance_id=1"
    assert headers["Proxy-Authorization"].startswith("Basic ")


def test_no_proxy_for_the_embedded_server(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with McpClient(server.url) as client:
        assert len(client.list_tools()) == 3


@pytest.mark.parametrize("argument", [{1, 2}, float("nan"), b"bytes"])
def test_arguments_that_are_no_json_are_refused(server: FakeServer, client: McpClient, argument: object) -> None:
    with pytest.raises(SpecError, match="the arguments of tools/call are no JSON"):
        client.call_tool("echo", {"text": argument})
    assert "tools/call" not in server.methods()


def test_the_name_is_read_from_the_path_or_given() -> None:
    assert repr(McpClient(f"https://u:p@local-dev.klavis.ai/git/mcp/?local_sandbox_id={SECRET}")) == (
        "<McpClient MCP server 'git' at local-dev.klavis.ai>"
    )
    assert McpClient(f"https://gmail-mcp-server.klavis.ai/mcp/?instance_id={SECRET}").label == (
        "MCP server at gmail-mcp-server.klavis.ai"
    )
    assert McpClient(f"http://[::1]:8080/mcp/?instance_id={SECRET}", name="gmail").label == (
        "MCP server 'gmail' at [::1]:8080"
    )


@pytest.mark.parametrize("url", ["", "local-dev.klavis.ai/git", "ftp://host/mcp", "http://", "http://host:port/", None])
def test_what_is_no_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(SpecError, match="is http"):
        McpClient(url)


def json_bytes(value: object) -> bytes:
    return httpx.Response(200, json=value).content
