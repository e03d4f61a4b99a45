"""The stand-in's HTTP server: over the sandboxes of a standalone embedded server, or of none."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from . import control
from .behind import Embedded
from .cloud import Cloud
from .dialects import NEWER, Dialect
from .faults import send
from .memory import Memory
from .web import Asked, Reply, reply


class Server(ThreadingHTTPServer):
    """Listens as soon as it is made."""

    daemon_threads = True
    request_queue_size = 64
    cloud: Cloud

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        """Nothing: clients that hang up are what the tests are about."""


@contextmanager
def faulty_cloud(direct: str, dialect: Dialect = NEWER) -> Iterator[Cloud]:
    """A cloud that works, until faults are planted; what is in its local sandboxes is real.

    They are those of the standalone server at `direct`, where none is left of them at the end.
    """
    server = Server()
    server.cloud = Cloud(server.url, direct, Embedded(direct), dialect)
    with _running(server):
        try:
            yield server.cloud
        finally:
            for number in server.cloud.held():
                server.cloud.machines.expire(number)


@contextmanager
def light_cloud(dialect: Dialect = NEWER, **knobs: Any) -> Iterator[Cloud]:
    """The same without anything in its local sandboxes but the workspace; `knobs` are those of `Knobs`."""
    server = light_server(dialect, **knobs)
    with _running(server):
        yield server.cloud


def light_server(dialect: Dialect = NEWER, port: int = 0, **knobs: Any) -> Server:
    """The server of a light cloud, which does not serve yet."""
    server = Server(port)
    server.cloud = Cloud(server.url, server.url, Memory(server.url), dialect, **{"reuses_ids": True} | knobs)
    return server


@contextmanager
def _running(server: Server) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def handle_one(self) -> None:
        cloud = self.server.cloud
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = Asked(self.command, self.path, body, {name.title(): value for name, value in self.headers.items()})
        asked.hung_up = self._has_hung_up
        if asked.parts[0] == control.ROOM:
            send(self, control.answer(cloud, asked), None)
            return
        cloud.requests.append(f"{asked.method} {asked.path}")
        cloud.kinds[asked.kind] += 1
        fault = next((one for one in cloud.faults if one.meets(asked)), None)
        if fault is not None:
            if fault.then is not None:
                fault.then()
            asked.heard = not (fault.delay or fault.way or fault.lose_answer)
            time.sleep(fault.delay)
        if fault is not None and fault.status:
            answer = Reply(fault.status, fault.body.encode(), "application/json", fault.headers)
        else:
            answer = self._served(cloud, asked)
        send(self, answer, fault)

    def _served(self, cloud: Cloud, asked: Asked) -> Reply:
        try:
            answer = cloud.serve(asked)
        except json.JSONDecodeError:
            answer = reply({"detail": "JSON decode error"}, 422)
        if asked.kind == "release" and self._has_hung_up():
            cloud.books.unheard(asked.parts[-1])
        return answer

    def _has_hung_up(self) -> bool:
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    do_GET = do_POST = do_DELETE = do_PUT = handle_one  # noqa: N815

    def log_message(self, *args: Any) -> None:
        """Nothing: the requests are in `cloud.requests`."""
