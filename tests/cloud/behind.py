"""The standalone embedded server that the stand-in's local sandboxes are those of."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from .web import Asked, Reply

KEY = "sk-planted-cloud-key"


class Embedded:
    """The server behind at `url`; all customers of the stand-in are one to it."""

    def __init__(self, url: str) -> None:
        self._url = url

    def forward(self, asked: Asked, body: Any = None) -> Reply:
        """What the server behind answers."""
        connection = http.client.HTTPConnection(urlsplit(self._url).netloc)
        left_out = {"host", "content-length"}
        headers = {key: value for key, value in asked.headers.items() if key.lower() not in left_out}
        content = asked.body if body is None else json.dumps(body).encode()
        if body is not None:
            headers["Content-Type"] = "application/json"
        if "Authorization" in headers:
            headers["Authorization"] = f"Bearer {KEY}"
        connection.request(asked.method, asked.target, content, headers)
        answer = connection.getresponse()
        read = answer.read()
        connection.close()
        return Reply(answer.status, read, answer.headers.get("Content-Type", ""))


@contextmanager
def standalone(*arguments: str, key: str = KEY, **variables: str) -> Iterator[str]:
    """`pytest-klavis serve` as a process; yields its URL."""
    ours = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("KLAVIS_")}
    kept = {name: os.environ[name] for name in ("KLAVIS_SERVERS_DIR",) if name in os.environ}
    environment = {**ours, **kept, "KLAVIS_API_KEY": key, **variables}
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
