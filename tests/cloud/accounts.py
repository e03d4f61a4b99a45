"""Remote sandboxes as the API describes them: state in, state out, one account each."""

from __future__ import annotations

import json
import secrets
from typing import Any

from .dialects import Dialect, Odd
from .web import Asked, Reply, not_found, reply


class Accounts:
    """The sandboxes of one customer. `live` maps the id of each that is not released to its data."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.live: dict[str, dict[str, Any]] = {}
        self.instances: dict[str, str] = {}
        self.details_have_urls = True
        self.prepared: list[dict[str, str]] = []
        self._about: dict[str, dict[str, Any]] = {}

    def answer(self, asked: Asked, dialect: Dialect, odd: Odd | None) -> Reply:
        """The answer to a request below `/sandbox`."""
        _, *rest = asked.parts
        if not rest:
            return self._list(asked.query, dialect)
        if len(rest) == 1:
            if rest == ["prepare"]:
                return self._prepare(asked, dialect)
            return self._acquire(rest[0], asked, dialect, odd)
        server, number, *action = rest
        if number not in self.live:
            return reply({"detail": f"no sandbox {number}"}, 404)
        if action in (["initialize"], ["dump"]) and not dialect.typed:
            return not_found()
        return self._one(server, number, action, asked, dialect)

    def reuse(self, number: str) -> None:
        """Its time is over and somebody else has it now: same id, another instance."""
        self.instances[number] = secrets.token_hex(16)

    def _acquire(self, server: str, asked: Asked, dialect: Dialect, odd: Odd | None) -> Reply:
        content = asked.content or {}
        refusal = dialect.refusal(content, dialect.acquire)
        if refusal is not None:
            return refusal
        number = f"{server}-{len(self.asked) + 1}"
        self.asked.append(content)
        self.live[number] = {}
        self.instances[number] = f"{number}-planted-{secrets.token_hex(8)}"
        given = content.get("tags") or {}
        self._about[number] = {"server_name": server, "tags": given if dialect.tags == "object" else list(given)}
        answer = {
            "sandbox_id": number,
            "server_name": server,
            "server_urls": {server: self._url(server, number)},
            "status": "occupied",
            "message": "acquired",
        }
        return reply(odd.remote(answer) if odd else answer, 201)

    def _one(self, server: str, number: str, action: list[str], asked: Asked, dialect: Dialect) -> Reply:
        answer: dict[str, Any] = {"sandbox_id": number, "status": "occupied", "message": "done", "server_name": server}
        if asked.method == "DELETE":
            instance = asked.query.get("instance_id") if dialect.typed else None
            if instance is not None and instance != self.instances[number]:
                return reply(answer | {"message": "skipped: the instance is another's"})
            del self.live[number]
            return reply(answer | {"status": "idle"})
        if action == ["reset"]:
            self.live[number] = {}
        elif action == ["initialize"]:
            self.live[number] = asked.content or {}
        elif action == ["dump"]:
            dumped = {"sandbox_id": number, "server_name": server, "dumped_at": "2026-05-09T00:00:00Z"}
            return reply(dumped | {"data": self.live[number]})
        else:
            secret = {"access_token": "planted-token"}
            answer |= {"auth_data": secret, "metadata": {"test_account_email": "a@example.com"}}
            answer |= {"server_url": self._url(server, number) if self.details_have_urls else None}
            answer |= {"tags": self._about[number]["tags"]}
        return reply(answer)

    def _list(self, query: dict[str, str], dialect: Dialect) -> Reply:
        wanted = json.loads(query.get("tags", "{}")) if dialect.tags == "object" else {}
        found = []
        for number in self.live:
            about = self._about[number]
            if "server_name" in query and dialect.typed and query["server_name"].lower() != about["server_name"]:
                continue
            if dialect.tags == "object" and not wanted.items() <= about["tags"].items():
                continue
            found.append({"sandbox_id": number, "status": "occupied", **about})
        return reply({"sandboxes": found, "total_count": len(found)})

    def _prepare(self, asked: Asked, dialect: Dialect) -> Reply:
        if not dialect.typed:
            complaint = {"loc": ["path", "server_name"], "msg": "Input should be 'jira', ...", "type": "enum"}
            return reply({"detail": [complaint]}, 422)
        self.prepared.append(asked.query)
        return reply({})

    def _url(self, server: str, number: str) -> str:
        return f"https://{server}-mcp-server.klavis.ai/mcp/?instance_id={self.instances[number]}"
