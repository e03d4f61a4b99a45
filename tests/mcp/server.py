"""A small MCP server over real HTTP that answers both ways and misbehaves on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self, cast

if TYPE_CHECKING:
    from email.message import Message as Headers

SECRET = "5f0c1d2e-secret-of-the-sandbox"

TOOLS = [
    {"name": "echo", "description": "Says it again.", "inputSchema": {"type": "object", "required": ["text"]}},
    {"name": "add", "inputSchema": {"type": "object"}},
    {"name": "fail", "description": "Always refuses.", "inputSchema": {"type": "object"}},
]

Message = dict[str, Any]
Trouble = Callable[["Handler", Message], None]


def event(message: Message) -> bytes:
    return b"event: message\ndata: " + json.dumps(message).encode() + b"\n\n"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def mcp(self) -> FakeServer:
        return cast("_Http", self.server).mcp

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.reply(405)

    def do_DELETE(self) -> None:
        self.mcp.ended.append(self.headers.get("Mcp-Session-Id"))
        self.reply(200)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        message = json.loads(body)
        mcp = self.mcp
        mcp.requests.append((message, self.headers, self.path))
        if trouble := mcp.trouble.get(message["method"]):
            trouble(self, message)
        elif mcp.sessions and message["method"] != "initialize" and self.headers.get("Mcp-Session-Id") not in mcp.open:
            self.reply(mcp.stale_status, b'{"detail": "Session not found"}', kind="application/json")
        elif "id" not in message:
            self.reply(202)
        else:
            self.answer(mcp.answer_to(message))

    def answer(self, message: Message) -> None:
        headers = {}
        if "protocolVersion" in message.get("result", {}) and self.mcp.sessions:
            headers["Mcp-Session-Id"] = self.mcp.new_session()
        if self.mcp.kind == "sse":
            notice = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "hi"}}
            self.reply(200, event(notice) + event(message), kind="text/event-stream", headers=headers)
        else:
            self.reply(200, json.dumps(message).encode(), kind="application/json; charset=utf-8", headers=headers)

    def reply(self, status: int, body: bytes = b"", *, kind: str = "", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, pieces: list[bytes], *, pause: float = 0.0, kind: str = "text/event-stream") -> None:
        """Send the pieces in chunks of their own, `pause` seconds apart."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for piece in pieces:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()
                time.sleep(pause)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True  # the client has had enough


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    mcp: FakeServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that hang up are part of the tests


class FakeServer:
    """`with FakeServer() as server:` serves at `server.url`. Set `trouble["tools/call"]` to take over one method."""

    def __init__(self, *, kind: str = "json", sessions: bool = True) -> None:
        self.kind = kind
        self.sessions = sessions
        self.page = 2
        self.stale_status = 404
        self.trouble: dict[str, Trouble] = {}
        self.requests: list[tuple[Message, Headers, str]] = []
        self.open: set[str] = set()
        self.ended: list[str | None] = []
        self._http = _Http(("127.0.0.1", 0), Handler)
        self._http.mcp = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._issued = 0

    @property
    def port(self) -> int:
        return self._http.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/filesystem/mcp/?local_sandbox_id={SECRET}"

    def methods(self) -> list[str]:
        return [message["method"] for message, _, _ in self.requests]

    def new_session(self) -> str:
        self._issued += 1
        self.open.add(f"session-{self._issued}")
        return f"session-{self._issued}"

    def answer_to(self, message: Message) -> Message:
        answer: Message = {"jsonrpc": "2.0", "id": message["id"]}
        params = message.get("params") or {}
        if message["method"] == "initialize":
            info = {"name": "fake", "version": "1"}
            return answer | {
                "result": {
                    "protocolVersion": params["protocolVersion"],
                    "capabilities": {"tools": {}},
                    "serverInfo": info,
                }
            }
        if message["method"] == "tools/list":
            start = int(params.get("cursor") or 0)
            more = {"nextCursor": str(start + self.page)} if start + self.page < len(TOOLS) else {}
            return answer | {"result": {"tools": TOOLS[start : start + self.page], **more}}
        if message["method"] == "tools/call":
            return answer | called(params["name"], params.get("arguments") or {})
        return answer | {"error": {"code": -32601, "message": f"Method not found: {message['method']}"}}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join()
        self._http.server_close()


def called(name: str, arguments: Message) -> Message:
    def text(words: str, **more: Any) -> Message:
        return {"result": {"content": [{"type": "text", "text": words}], **more}}

    if name == "echo":
        return text(arguments["text"])
    if name == "add":
        total = arguments["a"] + arguments["b"]
        return text(f"the sum is {total}", structuredContent={"sum": total})
    if name == "fail":
        return text("this never works", isError=True)
    return {"error": {"code": -32602, "message": f"Unknown tool: {name}"}}
