"""What the tests of the bridged servers share: skipping where these are not installed, and an agent's view of them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from pytest_klavis.embedded import side

if TYPE_CHECKING:
    from tests.embedded.conftest import User

_ids = itertools.count(1)


def skip_without_servers() -> None:
    """Skip the test where the servers are not installed; the reason names the command that mends it."""
    found = side.locate()
    if isinstance(found, side.Missing):
        pytest.skip(found.reason)


class Office:
    """One sandbox with bridged servers, as an agent without an MCP session of its own sees it."""

    def __init__(self, user: User, *servers: str, **more: object) -> None:
        answer = user.api.post("/local-sandbox", json={"server_names": ["filesystem", *servers], **more})
        if answer.status_code == 409 and "closed to others" in answer.text:
            pytest.skip(answer.json()["detail"])
        assert answer.status_code == 201, answer.text
        self.user = user
        self.id: str = answer.json()["local_sandbox_id"]
        listed = answer.json()["servers"]
        self.urls: dict[str, str] = {item["server_name"]: item["mcp_server_url"] for item in listed}
        self.root: str = listed[0]["metadata"]["root"]

    def ask(self, server: str, method: str, **params: Any) -> dict[str, Any]:
        """The JSON-RPC answer, a result or an error."""
        message = {"jsonrpc": "2.0", "id": next(_ids), "method": method, "params": params}
        answer = httpx.post(self.urls[server], json=message, timeout=120)
        found: dict[str, Any] = answer.json()
        return found

    def tools(self, server: str) -> dict[str, dict[str, Any]]:
        return {tool["name"]: tool for tool in self.ask(server, "tools/list")["result"]["tools"]}

    def call(self, server: str, name: str, **arguments: Any) -> dict[str, Any]:
        answer = self.ask(server, "tools/call", name=name, arguments=arguments)
        assert "result" in answer, answer
        found: dict[str, Any] = answer["result"]
        return found

    def text(self, server: str, name: str, **arguments: Any) -> str:
        """The text of a call that must succeed."""
        result = self.call(server, name, **arguments)
        assert not result.get("isError"), result
        return "".join(part["text"] for part in result["content"])

    def failure(self, server: str, name: str, **arguments: Any) -> str:
        """The text of a call that must fail."""
        result = self.call(server, name, **arguments)
        assert result["isError"], result
        return "".join(part["text"] for part in result["content"])

    def reset(self) -> None:
        assert self.user.api.post(f"/local-sandbox/{self.id}/reset").status_code == 200

    def release(self) -> None:
        assert self.user.api.delete(f"/local-sandbox/{self.id}").status_code == 200

    def run(self, *argv: str) -> dict[str, Any]:
        return self.user.run(self.id, *argv)

    @property
    def home(self) -> str:
        """The part of its processes' command lines and paths that only this sandbox has."""
        return self.id
