"""A stand-in for the cloud: a standalone server, behind a proxy that misbehaves on demand."""

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

KEY = "sk-planted-cloud-key"


@dataclass
class Fault:
    """What happens to requests that match `METHOD path`; `times` limits how often."""

    pattern: str
    status: int | None = None
    body: str = '{"detail": "planted"}'
    delay: float = 0.0
    lose_answer: bool = False
    """The request is carried out, and the connection closed instead of an answer."""
    times: int = 1_000_000


class Accounts:
    """Remote sandboxes as the reference describes them: state in, state out, one account each."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.live: dict[str, dict[str, Any]] = {}

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """The status and body for a request below `/sandbox`."""
        _, _, server, *rest = path.split("/")
        content = json.loads(body or b"null")
        if not rest:
            number = f"{server}-{len(self.asked) + 1}"
            self.asked.append(content or {})
            self.live[number] = {}
            url = f"https://{server}-mcp-server.klavis.ai/mcp/?instance_id={number}-planted"
            return 201, {
                "sandbox_id": number,
                "server_name": server,
                "server_urls": {server: url},
                "status": "occupied",
                "message": "acquired",
            }
        number, *action = rest
        if number not in self.live:
            return 404, {"detail": f"no sandbox {number}"}
        answer: dict[str, Any] = {"sandbox_id": number, "status": "occupied", "message": "done", "server_name": server}
        if method == "DELETE":
            del self.live[number]
            return 200, {**answer, "status": "idle"}
        if action == ["reset"]:
            self.live[number] = {}
        elif action == ["initialize"]:
            self.live[number] = content
        elif action == ["dump"]:
            return 200, {"sandbox_id": number, "server_name": server, "data": self.live[number]}
        else:
            secret = {"access_token": "planted-token"}
            answer |= {"auth_data": secret, "metadata": {"test_account_email": "a@example.com"}}
        return 200, answer


@dataclass
class Cloud:
    """Where the stand-in listens, what it was asked, and what it shall do wrong."""

    url: str
    direct_url: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    accounts: Accounts = field(default_factory=Accounts)

    def count(self, pattern: str) -> int:
        """How many requests match `METHOD path`."""
        return sum(bool(re.fullmatch(pattern, one)) for one in self.requests)

    def held(self) -> list[str]:
        """The ids of the sandboxes that are not released, as the server behind tells."""
        connection = http.client.HTTPConnection(urlsplit(self.direct_url).netloc)
        connection.request("GET", "/local-sandbox", headers={"Authorization": f"Bearer {KEY}"})
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return [one["local_sandbox_id"] for one in answer["local_sandboxes"]]


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


@contextmanager
def faulty_cloud() -> Iterator[Cloud]:
    """A cloud that works, until faults are planted."""
    with standalone() as direct:
        cloud = Cloud("", direct)
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(cloud))
        server.daemon_threads = True
        cloud.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield cloud
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def _handler(cloud: Cloud) -> type[BaseHTTPRequestHandler]:
    target = urlsplit(cloud.direct_url).netloc

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked = f"{self.command} {urlsplit(self.path).path}"
            cloud.requests.append(asked)
            fault = next((one for one in cloud.faults if one.times and re.fullmatch(one.pattern, asked)), None)
            if fault:
                fault.times -= 1
                time.sleep(fault.delay)
                if fault.status:
                    self.answer(fault.status, fault.body.encode(), "application/json")
                    return
            path = urlsplit(self.path).path
            if path.startswith("/sandbox/"):
                status, content = cloud.accounts.answer(self.command, path, body)
                self.answer(status, json.dumps(content).encode(), "application/json")
                return
            connection = http.client.HTTPConnection(target)
            headers = {key: value for key, value in self.headers.items() if key.lower() != "host"}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            read = answer.read()
            connection.close()
            if fault and fault.lose_answer:
                self.close_connection = True
                return
            self.answer(answer.status, read, answer.headers.get("Content-Type", ""))

        do_GET = do_POST = do_DELETE = do_PUT = forward  # noqa: N815

        def answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Nothing: the requests are in `cloud.requests`."""

    return Proxy
