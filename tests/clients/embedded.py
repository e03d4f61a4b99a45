"""The embedded server as a user starts it by hand, and one local sandbox in it, acquired by plain REST."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import httpx

from tests.cloud import standalone

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

KEY = "key-of-the-client-tests"


@dataclass(frozen=True)
class Server:
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Box:
    """A local sandbox: its servers by name, and `root`, the workspace as they see it."""

    id: str
    servers: Mapping[str, Server]
    root: str
    isolation: str
    api: httpx.Client

    def run(self, *argv: str) -> Any:
        answer = self.api.post(f"/local-sandbox/{self.id}/run", json={"argv": argv}, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextmanager
def embedded_server() -> Iterator[httpx.Client]:
    """`pytest-klavis serve`, and an HTTP client for its API."""
    headers = {"Authorization": f"Bearer {KEY}"}
    with standalone(key=KEY) as url, httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=30) as api:
        yield api


@contextmanager
def local_sandbox(api: httpx.Client, names: Sequence[str] | Literal["ALL"]) -> Iterator[Box]:
    answer = api.post("/local-sandbox", json={"server_names": names if names == "ALL" else list(names)})
    assert answer.status_code in (200, 201), answer.text
    body = answer.json()
    servers = {one["server_name"]: Server(one["mcp_server_url"]) for one in body["servers"] if one["mcp_server_url"]}
    metadata = body["servers"][0]["metadata"]
    box = Box(body["local_sandbox_id"], servers, metadata["root"], metadata["isolation"], api)
    try:
        yield box
    finally:
        api.delete(f"/local-sandbox/{box.id}")
