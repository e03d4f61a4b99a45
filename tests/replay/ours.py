"""Our side: `pytest-klavis serve`, sandboxes by REST, and calls over MCP HTTP."""

from __future__ import annotations

import io
import json
import tarfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tests.cloud import standalone

from .stdio import PROTOCOL, Answer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KEY = "key-of-the-replay"


class Box:
    """One local sandbox with one server. `workspace` is where the host has its files."""

    def __init__(self, api: httpx.Client, place: Path, server: str, benchmark: str | None) -> None:
        self._api = api
        answer = api.post("/local-sandbox", json={"server_names": [server], "benchmark": benchmark})
        assert answer.status_code in (200, 201), answer.text
        body = answer.json()
        self.id = body["local_sandbox_id"]
        (found,) = body["servers"]
        assert found.get("status") != "error", found
        self.url = found["mcp_server_url"]
        self.root = found["metadata"]["root"]
        self.auth_data = found.get("auth_data") or {}
        (self.workspace,) = place.glob(f"pytest-klavis-*/*/workspaces/{self.id}/workspace")
        self.headers: dict[str, str] = {}
        self._session: dict[str, str] = {}

    def seed(self, folder: Path) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            archive.add(folder, ".")
        url = self._api.post(f"/local-sandbox/{self.id}/upload-url").json()["upload_url"]
        assert httpx.put(url, content=packed.getvalue()).status_code == 200
        answer = self._api.post(f"/local-sandbox/{self.id}/initialize")
        assert answer.status_code == 200, answer.text

    def tools(self) -> list[str]:
        return [tool["name"] for tool in self._request("tools/list", {})["result"]["tools"]]

    def call(self, tool: str, arguments: Mapping[str, Any]) -> Answer:
        return Answer.of(self._request("tools/call", {"name": tool, "arguments": dict(arguments)}))

    def release(self) -> None:
        self._api.delete(f"/local-sandbox/{self.id}")

    def _request(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if not self._session:
            info = {"name": "replay", "version": "1"}
            first = self._post("initialize", {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": info})
            self._session = {"MCP-Protocol-Version": PROTOCOL}
            if "mcp-session-id" in first.headers:
                self._session["Mcp-Session-Id"] = first.headers["mcp-session-id"]
        answer = self._post(method, params)
        assert answer.status_code == 200, answer.text
        message: dict[str, Any] = answer.json()
        return message

    def _post(self, method: str, params: Mapping[str, Any]) -> httpx.Response:
        headers = {"Accept": "application/json, text/event-stream", **self._session, **self.headers}
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": dict(params)}
        # Not json=: what cannot be written in UTF-8 is sent escaped, as by the other side.
        headers["Content-Type"] = "application/json"
        return self._api.post(self.url, content=json.dumps(message), headers=headers, timeout=120)


@contextmanager
def embedded_server(place: Path) -> Iterator[httpx.Client]:
    """`pytest-klavis serve` with its files below `place`, and an HTTP client for its API."""
    headers = {"Authorization": f"Bearer {KEY}"}
    with (
        standalone(key=KEY, TMPDIR=str(place)) as url,
        httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as api,
    ):
        yield api
