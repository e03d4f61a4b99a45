"""The stand-in's HTTP server, and the standalone embedded server behind it."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from .accounts import Accounts
from .dialects import NEWER, Dialect, Odd
from .executions import ROUTES, Executions
from .faults import Fault, send
from .machines import Machines
from .web import Asked, Reply, not_found, reply

KEY = "sk-planted-cloud-key"


@dataclass
class Cloud:
    """Where the stand-in listens, which dialect it speaks, what it was asked, and what it shall do wrong."""

    url: str
    direct_url: str
    dialect: Dialect = NEWER
    faults: list[Fault] = field(default_factory=list)
    odd: Odd | None = None
    """How its answers to acquires are odd."""
    requests: list[str] = field(default_factory=list)
    keys_at_storage: list[str] = field(default_factory=list)
    """Requests to signed URLs that told the API's key."""
    accounts: Accounts = field(default_factory=Accounts)

    def __post_init__(self) -> None:
        self.machines = Machines(self, self.url, self.direct_url)
        self.executions = Executions(self, self.url)

    def count(self, pattern: str) -> int:
        """How many requests match `METHOD path`."""
        return sum(bool(re.fullmatch(pattern, one)) for one in self.requests)

    def held(self) -> list[str]:
        """The ids of the local sandboxes that are not released, as the server behind tells."""
        asked = Asked("GET", "/local-sandbox", b"", {"Authorization": f"Bearer {KEY}"})
        return [one["local_sandbox_id"] for one in self.forward(asked).content["local_sandboxes"]]

    def answer(self, asked: Asked) -> Reply:
        """The answer of a cloud that works."""
        room, *rest = asked.parts
        if room in ("storage", "bucket"):
            if "Authorization" in asked.headers:
                self.keys_at_storage.append(f"{asked.method} {asked.path}")
            return self.forward(asked) if room == "storage" else self.executions.put(rest[-1], asked.body)
        if asked.headers.get("Authorization") != f"Bearer {KEY}":
            return reply({"detail": "Invalid API key"}, 403)
        odd = self._oddity(asked)
        if room == "sandbox":
            return self.accounts.answer(asked, self.dialect, odd)
        if rest[1:2] and rest[1] in ROUTES:
            return self.executions.answer(asked) if self.dialect.typed else not_found()
        return self.machines.answer(asked, self.dialect, odd) if room == "local-sandbox" else not_found()

    def forward(self, asked: Asked, body: Any = None) -> Reply:
        """What the server behind answers."""
        connection = http.client.HTTPConnection(urlsplit(self.direct_url).netloc)
        left_out = {"host", "content-length"}
        headers = {key: value for key, value in asked.headers.items() if key.lower() not in left_out}
        content = asked.body if body is None else json.dumps(body).encode()
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request(asked.method, asked.target, content, headers)
        answer = connection.getresponse()
        read = answer.read()
        connection.close()
        return Reply(answer.status, read, answer.headers.get("Content-Type", ""))

    def _oddity(self, asked: Asked) -> Odd | None:
        acquires = asked.method == "POST" and (asked.parts == ["local-sandbox"] or len(asked.parts) == 2)
        if self.odd is None or not acquires or not self.odd.times:
            return None
        self.odd.times -= 1
        self.accounts.details_have_urls = self.machines.details_have_urls = self.odd.how != "no urls"
        return self.odd


@contextmanager
def standalone(*arguments: str, key: str = KEY) -> Iterator[str]:
    """`pytest-klavis serve` as a process; yields its URL."""
    environment = os.environ | {"KLAVIS_API_KEY": key}
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest_klavis.cli", "serve", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("READY "), line
        yield line.removeprefix("READY ").strip()
    finally:
        process.terminate()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    cloud: Cloud

    def handle_error(self, *_: Any) -> None:
        """Nothing: clients that hang up are what the tests are about."""


@contextmanager
def faulty_cloud(dialect: Dialect = NEWER) -> Iterator[Cloud]:
    """A cloud that works, until faults are planted."""
    with standalone() as direct:
        server = _Server(("127.0.0.1", 0), _Handler)
        cloud = server.cloud = Cloud(f"http://127.0.0.1:{server.server_port}", direct, dialect)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield cloud
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_one(self) -> None:
        cloud = self.server.cloud
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = Asked(self.command, self.path, body, {name.title(): value for name, value in self.headers.items()})
        cloud.requests.append(f"{asked.method} {asked.path}")
        fault = next((one for one in cloud.faults if one.meets(asked)), None)
        if fault is not None:
            if fault.then is not None:
                fault.then()
            time.sleep(fault.delay)
        if fault is not None and fault.status:
            answer = Reply(fault.status, fault.body.encode(), "application/json", fault.headers)
        else:
            answer = cloud.answer(asked)
        send(self, answer, fault)

    do_GET = do_POST = do_DELETE = do_PUT = handle_one  # noqa: N815

    def log_message(self, *args: Any) -> None:
        """Nothing: the requests are in `cloud.requests`."""
