"""What can go wrong on the wire."""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Literal

from .web import Asked, Reply

Way = Literal["cut", "silently cut", "drip", "garbage", "reset", "hang"]


@dataclass
class Fault:
    """What happens to requests that match `METHOD path`; `times` limits how often.

    With a `status` the request is not carried out. Else it is, and the answer spoiled in one `way`.
    """

    pattern: str
    status: int | None = None
    body: str = '{"detail": "planted"}'
    delay: float = 0.0
    lose_answer: bool = False
    """The request is carried out, and the connection closed instead of an answer."""
    times: int = 1_000_000
    way: Way | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    after: int = 0
    """How many matching requests go well before."""
    then: Callable[[], object] | None = None
    """Called when the request has come, before it is carried out."""

    def meets(self, asked: Asked) -> bool:
        """Whether it is this request's turn."""
        if not self.times or not re.fullmatch(self.pattern, f"{asked.method} {asked.path}"):
            return False
        self.after -= 1
        if self.after >= 0:
            return False
        self.times -= 1
        return True


def send(handler: BaseHTTPRequestHandler, answer: Reply, fault: Fault | None) -> None:
    """Send an answer, as the fault has it."""
    way = "reset" if fault and fault.lose_answer else fault.way if fault else None
    if way == "hang":
        time.sleep(60)
    if way in ("hang", "reset"):
        _reset(handler)
        return
    body = b"<html>\xff\x00 no such thing" if way == "garbage" else answer.body
    handler.send_response(answer.status)
    handler.send_header("Content-Type", answer.kind)
    for name, value in answer.headers.items():
        handler.send_header(name, value)
    if way == "silently cut":  # the end of the connection is the end of the body
        handler.send_header("Connection", "close")
    else:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if way == "drip":
        _drip(handler, body)
    elif way in ("cut", "silently cut"):
        handler.wfile.write(body[: len(body) // 2])
        handler.close_connection = True
    else:
        handler.wfile.write(body)


def _drip(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    try:
        for byte in body:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(0.2)
    except OSError:  # the client has had enough
        handler.close_connection = True


def _reset(handler: BaseHTTPRequestHandler) -> None:
    # With a linger of zero, closing sends RST.
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
