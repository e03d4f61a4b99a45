"""The MCP client against a server that does not answer well: one clear error, in time, that does not tell the URL."""

from __future__ import annotations

import json
import time
import traceback
from typing import TYPE_CHECKING

import pytest

from pytest_klavis import errors
from pytest_klavis.mcp.channel import MAX_ANSWER
from pytest_klavis.mcp.client import McpClient

from .server import SECRET, FakeServer, Handler, Message, Trouble, event

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def client(server: FakeServer) -> Iterator[McpClient]:
    with McpClient(server.url, timeout=10) as opened:
        opened.list_tools()
        yield opened


def said(caught: pytest.ExceptionInfo[errors.KlavisError], server: FakeServer) -> str:
    """The text of the error, after a look that it names the server and tells no secret."""
    text = str(caught.value)
    assert f"MCP server 'filesystem' at 127.0.0.1:{server.port}" in text
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return text


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, errors.AuthError),
        (403, errors.AuthError),
        (404, errors.NotFoundError),
        (410, errors.NotFoundError),
        (418, errors.RequestRefusedError),
        (429, errors.RateLimitError),
        (500, errors.ServerError),
        (503, errors.ServerError),
    ],
)
@pytest.mark.parametrize("method", ["initialize", "notifications/initialized", "tools/call"])
def test_an_http_error_by_its_status(server: FakeServer, status: int, kind: type[errors.ApiError], method: str) -> None:
    page = f"<html>no such thing: {server.url}</html>".encode()
    server.trouble[method] = lambda handler, _: handler.reply(status, page, kind="text/html")
    with McpClient(server.url) as client, pytest.raises(kind) as caught:
        client.call_tool("echo", {"text": "hi"})
    assert caught.value.status == status
    assert caught.value.operation.startswith(f"{method} of MCP server")
    assert "no such thing" in said(caught, server)


def test_a_session_that_is_stale_for_ever_is_renewed_once(server: FakeServer, client: McpClient) -> None:
    server.trouble["tools/call"] = lambda handler, _: handler.reply(404)
    with pytest.raises(errors.NotFoundError, match="may have been released") as caught:
        client.call_tool("echo", {"text": "hi"})
    said(caught, server)
    assert server.methods().count("initialize") == 2


def other_id(handler: Handler, message: Message) -> None:
    handler.answer(handler.mcp.answer_to(message | {"id": 9_999}))


def cut(handler: Handler, _: Message) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"jsonrpc"')
    handler.close_connection = True


def hang_up(handler: Handler, _: Message) -> None:
    handler.close_connection = True


def not_http(handler: Handler, _: Message) -> None:
    handler.wfile.write(b"220 smtp.example.org ESMTP\r\n")
    handler.close_connection = True


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        pytest.param(lambda h, _: h.reply(202), "HTTP 202 and no content type, which is no MCP", id="accepted"),
        pytest.param(lambda h, _: h.reply(200, b"<html>log in</html>", kind="text/html"), "log in", id="html"),
        pytest.param(lambda h, _: h.reply(200, b'{"jsonrpc": ', kind="application/json"), "broken JSON", id="broken"),
        pytest.param(lambda h, _: h.reply(200, b"\xff\xfe", kind="application/json"), "broken JSON", id="binary"),
        pytest.param(lambda h, _: h.reply(200, b"[" * 99_999, kind="application/json"), "broken JSON", id="deep"),
        pytest.param(lambda h, _: h.reply(200, b"null", kind="application/json"), "is no answer to it", id="null"),
        pytest.param(other_id, "is no answer to it", id="other-id"),
        pytest.param(lambda h, m: h.answer({"id": m["id"], "result": [1]}), "no object", id="number"),
        pytest.param(lambda h, m: h.answer({"id": m["id"], "result": {"content": "x"}}), "no list", id="content"),
        pytest.param(lambda h, _: h.stream([b": nothing\n\n"]), "ended its stream without an answer", id="stream"),
        pytest.param(lambda h, _: h.stream([b"data: {\n\n"]), "broken JSON", id="stream-broken"),
        pytest.param(cut, "failed", id="cut"),
        pytest.param(hang_up, "failed: Server disconnected", id="hang-up"),
        pytest.param(not_http, "failed", id="not-http"),
    ],
)
def test_an_answer_that_is_none(server: FakeServer, client: McpClient, trouble: Trouble, words: str) -> None:
    server.trouble["tools/call"] = trouble
    with pytest.raises(errors.TransportError) as caught:
        client.call_tool("echo", {"text": "hi"})
    assert words in said(caught, server)
    server.trouble.clear()
    assert client.call_tool("echo", {"text": "still there"}).text == "still there"


def test_an_answer_without_an_end_is_not_read_whole(server: FakeServer, client: McpClient) -> None:
    million = b" " * 1_000_000
    server.trouble["tools/call"] = lambda handler, _: handler.stream(
        [million] * (MAX_ANSWER // len(million) + 5), kind="application/json"
    )
    with pytest.raises(errors.TransportError, match="more than 64 MiB") as caught:
        client.call_tool("echo", {"text": "hi"})
    said(caught, server)


def drip_head(handler: Handler, _: Message) -> None:
    try:
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"y" * 1000:
            handler.wfile.write(bytes([byte]))
            time.sleep(0.05)
    except OSError:
        handler.close_connection = True


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(lambda h, _: h.stream([b" "] * 200, pause=0.05, kind="application/json"), id="json"),
        pytest.param(lambda h, _: h.stream([b": ping\n\n"] * 200, pause=0.05), id="stream"),
        pytest.param(lambda _, __: time.sleep(3), id="silence"),
        pytest.param(drip_head, id="head"),
    ],
)
@pytest.mark.parametrize("method", ["initialize", "tools/call"])
def test_a_server_that_drips_does_not_hold_a_call(server: FakeServer, trouble: Trouble, method: str) -> None:
    server.trouble[method] = trouble
    client = McpClient(server.url, timeout=0.5)
    start = time.monotonic()
    with pytest.raises(errors.TransportError, match=r"did not finish tools/call of 'echo' within 0\.5 s") as caught:
        client.call_tool("echo", {"text": "hi"})
    assert time.monotonic() - start < 2.5
    said(caught, server)
    server.trouble.clear()
    client.close()


@pytest.mark.parametrize("cursor", ["again", {"page": 2}])
def test_pages_without_an_end(server: FakeServer, cursor: object) -> None:
    def circle(handler: Handler, message: Message) -> None:
        handler.answer({"id": message["id"], "result": {"tools": [], "nextCursor": cursor}})

    server.trouble["tools/list"] = circle
    with McpClient(server.url) as client, pytest.raises(errors.TransportError, match="without an end") as caught:
        client.list_tools()
    said(caught, server)


def test_a_handshake_that_is_refused(server: FakeServer) -> None:
    server.trouble["initialize"] = lambda handler, message: handler.answer(
        {"id": message["id"], "error": {"code": -32602, "message": f"no {SECRET}"}}
    )
    with McpClient(server.url) as client, pytest.raises(errors.TransportError, match=r"refused initialize") as caught:
        client.list_tools()
    said(caught, server)


def test_a_redirect_elsewhere_is_not_followed(server: FakeServer) -> None:
    with FakeServer() as elsewhere:
        server.trouble["initialize"] = lambda handler, _: handler.reply(307, headers={"Location": elsewhere.url})
        with McpClient(server.url) as client, pytest.raises(errors.RequestRefusedError, match="HTTP 307") as caught:
            client.list_tools()
    said(caught, server)
    assert elsewhere.requests == []


@pytest.mark.parametrize("location", ["http://[half", "http://host:port/", ""])
def test_a_redirect_to_nowhere(server: FakeServer, location: str) -> None:
    server.trouble["initialize"] = lambda handler, _: handler.reply(307, headers={"Location": location})
    with McpClient(server.url) as client, pytest.raises(errors.InfraError) as caught:
        client.list_tools()
    said(caught, server)


def test_nobody_listens() -> None:
    with FakeServer() as server:
        pass
    with McpClient(server.url) as client, pytest.raises(errors.TransportError, match="Connection refused") as caught:
        client.list_tools()
    said(caught, server)


STREAMS = {
    "crlf": b"event: message\r\ndata: %s\r\n\r\n",
    "cr": b"event: message\rdata: %s\r\r",
    "no event name": b"data: %s\n\n",
    "no space": b"data:%s\n\n",
    "byte order mark": b"\xef\xbb\xbfdata: %s\n\n",
    "comments and ids": b": hello\nid: 7\nretry: 10\ndata: %s\n: bye\n\n",
    "a priming event": b"id: 1\ndata:\n\ndata: %s\n\n",
    "other events": b"event: endpoint\ndata: /x\n\nevent: message\ndata: %s\n\n",
}


@pytest.mark.parametrize("shape", STREAMS)
@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_streams_however_they_are_cut(server: FakeServer, client: McpClient, shape: str, size: int) -> None:
    def stream(handler: Handler, message: Message) -> None:
        sent = STREAMS[shape] % json.dumps(server.answer_to(message), ensure_ascii=False).encode()
        handler.stream([sent[at : at + size] for at in range(0, len(sent), size)])

    server.trouble["tools/call"] = stream
    assert client.call_tool("echo", {"text": "naïve ☃"}).text == "naïve ☃"


def test_the_answer_may_come_among_others_and_over_several_lines(server: FakeServer, client: McpClient) -> None:
    def stream(handler: Handler, message: Message) -> None:
        answer = json.dumps(server.answer_to(message), indent=1).encode().replace(b"\n", b"\ndata: ")
        pieces = [
            event({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}),
            event({"jsonrpc": "2.0", "id": message["id"], "method": "ping"}),  # the server's own request and id
            event(server.answer_to(message | {"id": 12_345})),
            b"data: " + answer + b"\n\n",
        ]
        handler.stream(pieces)

    server.trouble["tools/call"] = stream
    assert client.call_tool("echo", {"text": "hi"}).text == "hi"


def test_a_batch(server: FakeServer, client: McpClient) -> None:
    def batch(handler: Handler, message: Message) -> None:
        notice = {"jsonrpc": "2.0", "method": "notifications/message"}
        body = json.dumps([notice, server.answer_to(message)]).encode()
        handler.reply(200, body, kind="application/json")

    server.trouble["tools/call"] = batch
    assert client.call_tool("echo", {"text": "hi"}).text == "hi"
