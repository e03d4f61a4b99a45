"""A relay on loopback for clients that lose the query of a URL: it puts it back, and changes nothing else."""

from __future__ import annotations

import contextlib
import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from types import TracebackType

_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


class Relay:
    """Passes on to `target`, query included; `url` is without one. `answered`: the method and status of each."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self.answered: list[tuple[str, int]] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(handler) -> None:  # noqa: N805
                body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
                upstream = http.client.HTTPConnection(parts.netloc, timeout=60)
                try:
                    upstream.putrequest(
                        handler.command, f"{parts.path}?{parts.query}", skip_host=True, skip_accept_encoding=True
                    )
                    for name, value in handler.headers.items():
                        if name.lower() not in _HOP:
                            upstream.putheader(name, value)
                    upstream.putheader("Content-Length", str(len(body)))
                    upstream.endheaders(body)
                    answer = upstream.getresponse()
                    content = answer.read()
                finally:
                    upstream.close()
                self.answered.append((handler.command, answer.status))
                handler.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in _HOP:
                        handler.send_header(name, value)
                handler.send_header("Content-Length", str(len(content)))
                with contextlib.suppress(ConnectionError):  # a client that hung up
                    handler.end_headers()
                    handler.wfile.write(content)

            do_GET = do_POST = do_DELETE = do_OPTIONS = pass_on  # noqa: N815

            def log_message(handler, *_: Any) -> None:  # noqa: N805
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"http://127.0.0.1:{self._server.server_port}{parts.path}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
