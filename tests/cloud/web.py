"""Requests and replies as the rooms of the stand-in hand them on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass
class Asked:
    """One request."""

    method: str
    target: str
    body: bytes
    headers: Mapping[str, str]
    heard: bool = True
    """Whether its answer will come, as far as one knows."""
    hung_up: Callable[[], bool] = lambda: False
    """Whether the client is gone."""

    @property
    def key(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    @property
    def kind(self) -> str:
        """What it asks for, in one word: `acquire`, `release`, `reset`, `upload-url`, `list`, `get`, `put`..."""
        room, *rest = self.parts
        remote = room == "sandbox"
        if room not in ("sandbox", "local-sandbox"):
            return "put" if self.method == "PUT" else "fetch"
        if self.method == "DELETE":
            return "release"
        if len(rest) == remote and self.method == "POST" and rest != ["prepare"]:
            return "acquire"
        if len(rest) <= 1 + remote and self.method == "GET":
            return "get" if len(rest) == 1 + remote else "list"
        return rest[-1]

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def parts(self) -> list[str]:
        return self.path.strip("/").split("/")

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query))

    @property
    def content(self) -> Any:
        return json.loads(self.body or b"null")


@dataclass
class Reply:
    """One answer."""

    status: int
    body: bytes = b""
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> Any:
        return json.loads(self.body or b"null")


def reply(content: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(content).encode())


def not_found() -> Reply:
    """The answer of a route that does not exist."""
    return reply({"detail": "Not Found"}, 404)
