"""A relay on loopback that passes calls on to a real server and keeps what was said, as it was said."""

from __future__ import annotations

import http.client
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

_HOP = {"connection", "transfer-encoding", "content-length", "host"}


@dataclass(frozen=True)
class Said:
    """One answer: to what, with which status, and its body as JSON."""

    method: str
    path: str
    status: int
    content: Any


@dataclass
class Relay:
    """Relays to `target`. Answers come back byte for byte."""

    target: str
    said: list[Said] = field(default_factory=list)

    def __enter__(self) -> Self:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(handler) -> None:  # noqa: N805
                body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
                headers = {name: value for name, value in handler.headers.items() if name.lower() not in _HOP}
                upstream = http.client.HTTPConnection(urlsplit(self.target).netloc, timeout=60)
                upstream.request(handler.command, handler.path, body, headers)
                answer = upstream.getresponse()
                content = answer.read()
                upstream.close()
                path = handler.path.partition("?")[0]
                self.said.append(Said(handler.command, path, answer.status, json.loads(content)))
                handler.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in _HOP:
                        handler.send_header(name, value)
                handler.send_header("Content-Length", str(len(content)))
                handler.end_headers()
                handler.wfile.write(content)
                handler.close_connection = True

            do_GET = do_POST = do_DELETE = pass_on  # noqa: N815

            def log_message(handler, *_: Any) -> None:  # noqa: N805
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
