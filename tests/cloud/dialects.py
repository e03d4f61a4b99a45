"""What a dialect of the API takes and refuses, and odd answers that any of them may give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .web import Reply, reply


@dataclass(frozen=True)
class Dialect:
    """One dated form of the API. A field of a body that is not in its set is refused, where the dialect is strict."""

    name: str
    acquire: frozenset[str]
    acquire_local: frozenset[str]
    tags: Literal["object", "list"]
    """How answers show tags."""
    typed: bool
    """Whether there are typed initialize and dump, prepare and executions."""
    strict: bool
    words: Literal["v2", "v1", "text"] = "v2"
    """How a refusal is phrased."""

    def ttl(self, body: Mapping[str, Any]) -> float | None:
        """Seconds until a sandbox is taken back that was acquired with this body; None is never."""
        known = "ttl_seconds" in self.acquire | self.acquire_local
        ttl: float | None = body.get("ttl_seconds", 7200) if known else None
        return ttl

    def refusal(self, body: Any, known: frozenset[str]) -> Reply | None:
        """The 422 for fields of a body that are unknown."""
        strange = sorted(set(body or {}) - known)
        return _refusal(strange, self.words) if strange and self.strict else None


_BOTH = frozenset(("benchmark", "test_account_email"))
SEED = Dialect("seed", _BOTH | {"tags"}, _BOTH | {"server_names"}, "object", typed=False, strict=True)
"""The reference of February 2026: tags as an object, no TTL, no typed data, no executions."""
NEWER = Dialect(
    "newer",
    _BOTH | {"tag", "ttl_seconds", "task_id"},
    _BOTH | {"server_names", "ttl_seconds"},
    "list",
    typed=True,
    strict=False,
)
"""The OpenAPI document of May 2026: a tag that selects, a TTL, typed data, executions; unknown fields are ignored."""


def _refusal(fields: Iterable[str], words: str) -> Reply:
    if words == "text":
        return reply({"detail": f"unknown field {', '.join(map(repr, fields))}"}, 422)
    complaint = {
        "v1": {"msg": "extra fields not permitted", "type": "value_error.extra"},
        "v2": {"msg": "Extra inputs are not permitted", "type": "extra_forbidden", "input": "planted-input"},
    }[words]
    return reply({"detail": [{"loc": ["body", name], **complaint} for name in fields]}, 422)


@dataclass
class Odd:
    """An answer to an acquire that is not as documented; `times` limits how often."""

    how: Literal["other name", "singular", "only in details", "no urls", "error", "new words"]
    times: int = 1_000_000

    def remote(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer to an acquire of a remote sandbox."""
        [(name, url)] = answer["server_urls"].items()
        match self.how:
            case "other name":
                return answer | {"server_urls": {f"{name}_v2": url}, "server_name": f"{name}_v2"}
            case "singular":
                return {key: value for key, value in answer.items() if key != "server_urls"} | {"server_url": url}
            case "only in details" | "no urls":
                return answer | {"server_urls": None}
            case "error":
                return answer | {"status": "error", "message": "the account is broken"}
            case "new words":
                more = {"quota": {"left": 3}, "server_name": ["github"], "message": None, "metadata": "none"}
                return answer | {"status": "warming_up", **more}

    def local(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer to an acquire of a local sandbox."""
        servers = answer["servers"]
        match self.how:
            case "other name":
                servers = [one | {"server_name": f"{one['server_name']}_v2"} for one in servers]
            case "only in details" | "no urls":
                servers = [one | {"mcp_server_url": None} for one in servers]
            case "error":
                answer = answer | {"status": "error", "message": "the machine did not start"}
            case "new words":
                servers = [one | {"status": "booting", "zone": "b", "auth_data": "none"} for one in servers]
                answer = answer | {"status": "warming_up", "node": {"zone": "b"}}
        return answer | {"servers": servers}
