"""Remote sandboxes as the API describes them: state in, state out, one account each."""

from __future__ import annotations

import json
import secrets
import threading
from datetime import UTC, datetime
from typing import Any

from .books import SOMEBODY, Books
from .dialects import Dialect, Odd
from .knobs import Knobs
from .web import Asked, Reply, not_found, reply


class Accounts:
    """The sandboxes of all customers. `live` maps the id of each that is held to its data."""

    def __init__(self, knobs: Knobs | None = None, books: Books | None = None) -> None:
        self.asked: list[dict[str, Any]] = []
        self.live: dict[str, dict[str, Any]] = {}
        self.instances: dict[str, str] = {}
        self.details_have_urls = True
        self.prepared: list[dict[str, str]] = []
        self._about: dict[str, dict[str, Any]] = {}
        self._stock: dict[str, list[str]] = {}
        self._knobs = knobs or Knobs()
        self._books = books or Books()
        self._lock = threading.RLock()

    def answer(self, asked: Asked, dialect: Dialect, odd: Odd | None) -> Reply:
        """The answer to a request below `/sandbox`."""
        with self._lock:
            return self._answer(asked, dialect, odd)

    def reuse(self, number: str) -> None:
        """Its time is over and somebody else has it now: same id, another instance."""
        with self._lock:
            self.expire(number)
            self._hand_out(number, SOMEBODY, None)

    def expire(self, number: str) -> None:
        """Its time is over."""
        with self._lock:
            self.live.pop(number, None)
            self._books.expired(number)

    def _answer(self, asked: Asked, dialect: Dialect, odd: Odd | None) -> Reply:
        _, *rest = asked.parts
        if not rest:
            return self._list(asked, dialect)
        if len(rest) == 1:
            if rest == ["prepare"]:
                return self._prepare(asked, dialect)
            return self._acquire(rest[0], asked, dialect, odd)
        server, number, *action = rest
        if asked.kind == "reset":
            self._books.reset(number, asked.key)
        if number not in self.live:
            if asked.kind == "release":
                self._books.released(number, asked.key, heard=asked.heard)
            return reply({"detail": f"no sandbox {number}"}, 404)
        if action in (["initialize"], ["dump"]) and not dialect.typed:
            return not_found()
        return self._one(server, number, action, asked, dialect)

    def _acquire(self, server: str, asked: Asked, dialect: Dialect, odd: Odd | None) -> Reply:
        content = asked.content or {}
        refusal = dialect.refusal(content, dialect.acquire)
        if refusal is not None:
            return refusal
        self.asked.append(content)
        number = self._idle(server)
        given = content.get("tags") or {}
        tags = given if dialect.tags == "object" else [*given, *filter(None, [content.get("tag")])]
        self._about[number] = {
            "server_name": server,
            "benchmark": content.get("benchmark"),
            "tags": tags,
            "updated_at": datetime.now(UTC).isoformat(),
        }
        self._hand_out(number, asked.key, dialect.ttl(content))
        answer = {
            "sandbox_id": number,
            "server_name": server,
            "server_urls": {server: self._url(server, number)},
            "status": "occupied",
            "message": "acquired",
        }
        return reply(odd.remote(answer) if odd else answer, 201)

    def _idle(self, server: str) -> str:
        """The account that is next: the first that is idle, else a new one."""
        stock = self._stock.setdefault(server, [])
        idle = [one for one in stock if one not in self.live and self._knobs.reuses_ids]
        if not idle:
            idle = [f"{server}-{1 + sum(map(len, self._stock.values()))}"]
            stock += idle
        return idle[0]

    def _hand_out(self, number: str, key: str, ttl: float | None) -> None:
        self.live[number] = {}
        self.instances[number] = f"{number}-planted-{secrets.token_hex(8)}"
        self._books.acquired(number, key, instance=self.instances[number], ttl=ttl)

    def _one(self, server: str, number: str, action: list[str], asked: Asked, dialect: Dialect) -> Reply:
        answer: dict[str, Any] = {"sandbox_id": number, "status": "occupied", "message": "done", "server_name": server}
        if asked.method == "DELETE":
            instance = asked.query.get("instance_id") if dialect.typed else None
            if instance is not None and instance != self.instances[number]:
                return reply(answer | {"message": "skipped: the instance is another's"})
            del self.live[number]
            self._books.released(number, asked.key, heard=asked.heard)
            return reply(answer | {"status": "idle"})
        if action == ["reset"]:
            if not self._knobs.reset_leaves_dirt:
                self.live[number] = {}
        elif action == ["initialize"]:
            self.live[number] |= asked.content or {}
        elif action == ["dump"]:
            dumped = {"sandbox_id": number, "server_name": server, "dumped_at": "2026-05-09T00:00:00Z"}
            return reply(dumped | {"data": self.live[number]})
        else:
            secret = {"access_token": "planted-token"}
            answer |= {"auth_data": secret, "metadata": {"test_account_email": "a@example.com"}}
            answer |= {"server_url": self._url(server, number) if self.details_have_urls else None}
            answer |= self._about[number]
        return reply(answer)

    def _list(self, asked: Asked, dialect: Dialect) -> Reply:
        query = asked.query
        wanted = json.loads(query.get("tags", "{}")) if dialect.tags == "object" else {}
        found = []
        for number in self.live:
            about, holding = self._about[number], self._books.holding(number)
            if holding is not None and holding.key != asked.key:
                continue
            if "server_name" in query and dialect.typed and query["server_name"].lower() != about["server_name"]:
                continue
            if dialect.tags == "object" and not wanted.items() <= about["tags"].items():
                continue
            if dialect.tags == "list" and "tag" in query and query["tag"] not in about["tags"]:
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
