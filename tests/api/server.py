"""A small HTTP server on loopback that answers as it is told, well or badly, and remembers what it was asked."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Asked:
    """One request as it arrived; header names are lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


Behaviour = Callable[[BaseHTTPRequestHandler], None]


def answer(content: Any = None, status: int = 200, headers: dict[str, str] | None = None) -> Behaviour:
    """Answer with JSON, or with bytes as they are."""
    body = content if isinstance(content, bytes) else json.dumps({} if content is None else content).encode()

    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return behave


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """Read the request and close the connection without a word."""
    with suppress(OSError):
        handler.connection.shutdown(socket.SHUT_RDWR)


def cut(body: bytes, *, announced: int, status: int = 200) -> Behaviour:
    """Announce more bytes than are sent."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(announced))
        handler.end_headers()
        handler.wfile.write(body)

    return behave


def drip(text: bytes, pause: float) -> Behaviour:
    """Write a whole raw answer, one byte at a time."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        with suppress(OSError):
            for byte in text:
                handler.wfile.write(bytes((byte,)))
                handler.wfile.flush()
                time.sleep(pause)

    return behave


def raw(text: bytes) -> Behaviour:
    """Write these bytes for an answer, and close."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        with suppress(OSError):
            handler.wfile.write(text)

    return behave


def close_delimited(body: bytes, *, status: int = 200) -> Behaviour:
    """Answer without a length: the body ends where the connection does."""
    return raw(f"HTTP/1.1 {status} OK\r\nConnection: close\r\n\r\n".encode() + body)


@dataclass
class FakeApi:
    """Answers request after request by its script; the last line of the script is repeated."""

    script: list[Behaviour] = field(default_factory=lambda: [answer()])
    asked: list[Asked] = field(default_factory=list)
    certificate: Path | None = None  # key and certificate in one PEM file, for HTTPS

    def says(self, *behaviours: Behaviour) -> None:
        self.script = list(behaviours)

    def __enter__(self) -> Self:
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 20

            def handle_any(handler) -> None:  # noqa: N805
                parts = urlsplit(handler.path)
                body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in handler.headers.items()}
                # A proxy is asked for whole URLs.
                path = handler.path.split("?")[0] if parts.scheme else parts.path
                with lock:
                    self.asked.append(Asked(handler.command, path, dict(parse_qsl(parts.query)), headers, body))
                    behave = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                behave(handler)
                handler.close_connection = True

            do_GET = do_POST = do_DELETE = do_PUT = handle_any  # noqa: N815

            def log_message(handler, *_: Any) -> None:  # noqa: N805
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if self.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            # The handshake belongs to the handler's thread: one that fails must not end the server.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients hang up on purpose
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        scheme = "http" if self.certificate is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        # Without joining handlers: some of them are told never to finish.
        self._server.block_on_close = False
        self._server.server_close()
