"""Local sandboxes: those of the embedded server behind, described as the cloud does, and typed servers beside them."""

from __future__ import annotations

import json
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from .books import Books
from .dialects import Dialect, Odd
from .knobs import Knobs
from .web import Asked, Reply, not_found, reply

TYPED = ("google_cloud", "poste_email_toolathlon", "canvas")
"""Local servers that hold data; the server behind has none of them."""


class Behind(Protocol):
    """The server behind."""

    def forward(self, asked: Asked, body: Any = None) -> Reply: ...


class Machines:
    """`data` maps the id of each live sandbox to the data of its typed servers."""

    def __init__(self, behind: Behind, url: str, direct_url: str, knobs: Knobs, books: Books) -> None:
        self._behind = behind
        self._knobs = knobs
        self._books = books
        self._hosts = urlsplit(direct_url).netloc, urlsplit(url).netloc
        self.asked: list[dict[str, Any]] = []
        self.queries: list[tuple[str, dict[str, str]]] = []
        self.data: dict[str, dict[str, Any]] = {}
        self.details_have_urls = True
        self.id_of_typed_routes: Literal["item", "sandbox"] = "item"

    def answer(self, asked: Asked, dialect: Dialect, odd: Odd | None) -> Reply:
        """The answer to a request below `/local-sandbox`, but for executions."""
        parts = asked.parts
        if parts[1:] == [] and asked.method == "POST":
            return self._acquire(asked, dialect, odd)
        if len(parts) == 4 and parts[1] in TYPED:
            return self._typed(parts[1], parts[2], parts[3], asked) if dialect.typed else not_found()
        if parts[2:] == ["run"]:
            return not_found()  # the embedded backend's own
        self.queries.append((asked.path, asked.query))
        if asked.kind == "reset":
            self._books.reset(parts[1], asked.key)
            if self._knobs.reset_leaves_dirt and parts[1] in self.data:
                return reply({})
        answer = self._behind.forward(asked)
        if asked.kind == "release" and answer.status in (200, 404):
            self._books.released(parts[1], asked.key, heard=asked.heard)
        return answer if answer.status >= 300 else self._as_ours(asked, answer, dialect)

    def expire(self, number: str) -> None:
        """Its time is over."""
        self._books.expired(number)
        self.data.pop(number, None)
        self._behind.forward(Asked("DELETE", f"/local-sandbox/{number}", b"", {"Authorization": "Bearer any"}))

    def _as_ours(self, asked: Asked, answer: Reply, dialect: Dialect) -> Reply:
        parts = asked.parts
        if parts[1:] == []:
            content = answer.content
            ours = [one for one in content["local_sandboxes"] if self._is_of(one["local_sandbox_id"], asked.key)]
            shown = [self._described(one, dialect) for one in ours]
            return reply(content | {"local_sandboxes": shown, "total_count": len(shown)})
        if asked.method == "DELETE":
            self.data.pop(parts[1], None)
        elif parts[2:] == ["reset"]:
            self.data[parts[1]] = {name: {} for name in self.data.get(parts[1], {})}
        elif parts[2:] == []:
            return reply(self._described(answer.content, dialect, urls=self.details_have_urls))
        return self._with_our_urls(answer)

    def _acquire(self, asked: Asked, dialect: Dialect, odd: Odd | None) -> Reply:
        content = asked.content or {}
        refusal = dialect.refusal(content, dialect.acquire_local)
        if refusal is not None:
            return refusal
        self.asked.append(content)
        names = content["server_names"]
        typed = [name for name in names if name in TYPED] if isinstance(names, list) else []
        others = names if isinstance(names, str) else [name for name in names if name not in TYPED]
        behind = content | {"server_names": others or ["filesystem"]}
        answer = self._behind.forward(asked, body=behind)
        if answer.status >= 300:
            return answer
        found = answer.content
        self._books.acquired(found["local_sandbox_id"], asked.key, ttl=dialect.ttl(content))
        if not others:
            found["servers"] = []
        self.data[found["local_sandbox_id"]] = {name: {} for name in typed}
        described = self._described(found, dialect)
        return reply(odd.local(described) if odd else described, 201)

    def _described(self, found: dict[str, Any], dialect: Dialect, *, urls: bool = True) -> dict[str, Any]:
        """What the embedded server says of a sandbox, without what only it says."""
        number = found["local_sandbox_id"]
        servers = []
        for one in found["servers"]:
            root = (one.get("metadata") or {}).get("root", "/data")
            # Without isolation the agent sees another path than on the cloud, and has to be told.
            servers.append(one | {"metadata": None if root == "/data" else {"root": root}})
        for name in self.data.get(number, {}):
            url = f"https://local-dev.klavis.ai/{name}/mcp/?local_sandbox_id={number}"
            item = {"server_name": name, "id": f"{name}-of-{number}", "mcp_server_url": url, "status": "occupied"}
            servers.append(item | {"auth_data": {"ip": "10.0.0.7-planted"}})
        if dialect.typed:
            servers = [{"auth_data": None, "tags": []} | one for one in servers]
        if not urls:
            servers = [one | {"mcp_server_url": None} for one in servers]
        return found | {"servers": servers}

    def _typed(self, server: str, number: str, action: str, asked: Asked) -> Reply:
        owners = {f"{server}-of-{one}" if self.id_of_typed_routes == "item" else one: one for one in self.data}
        owner = owners.get(number)
        if owner is None or server not in self.data[owner]:
            return reply({"detail": f"Sandbox {number} not found"}, 404)
        if action == "initialize":
            self.data[owner][server] |= asked.content or {}
            return reply({"sandbox_id": number, "status": "occupied", "message": "initialized"})
        dumped = {"sandbox_id": number, "server_name": server, "dumped_at": "2026-05-09T00:00:00Z"}
        return reply(dumped | {"data": self.data[owner][server]})

    def _is_of(self, number: str, key: str) -> bool:
        holding = self._books.holding(number)
        return holding is not None and holding.key == key

    def _with_our_urls(self, answer: Reply) -> Reply:
        """Signed URLs lead to us, so that storage can fail as well."""
        content = answer.content
        for name in ("upload_url", "download_url"):
            if name in (content or {}):
                content[name] = content[name].replace(*self._hosts)
        return Reply(answer.status, json.dumps(content).encode())
