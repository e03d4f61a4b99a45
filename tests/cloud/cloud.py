"""The stand-in itself: which dialect it speaks, what it was asked, what it shall do wrong, and its answers."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .accounts import Accounts
from .behind import KEY
from .books import Books
from .dialects import NEWER, Dialect, Odd
from .executions import ROUTES, Executions
from .faults import Fault
from .knobs import Knobs, Window
from .machines import Behind, Machines
from .web import Asked, Reply, not_found, reply


@dataclass
class Cloud(Knobs):
    """A cloud at `url`, whose local sandboxes are those of the server `behind`, known to its own as `direct_url`."""

    url: str
    direct_url: str
    behind: Behind
    dialect: Dialect = NEWER
    keys: set[str] = field(default_factory=lambda: {KEY})
    """Those of its customers."""
    faults: list[Fault] = field(default_factory=list)
    odd: Odd | None = None
    """How its answers to acquires are odd."""
    requests: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    """How many requests of each kind there were (`Asked.kind`)."""
    keys_at_storage: list[str] = field(default_factory=list)
    """Requests to signed URLs that told the API's key."""
    books: Books = field(default_factory=Books)

    def __post_init__(self) -> None:
        self.window = Window()
        self.accounts = Accounts(self, self.books)
        self.machines = Machines(self.behind, self.url, self.direct_url, self, self.books)
        self.executions = Executions(self.behind, self.url)

    def count(self, pattern: str) -> int:
        """How many requests match `METHOD path`."""
        return sum(bool(re.fullmatch(pattern, one)) for one in self.requests)

    def held(self) -> list[str]:
        """The ids of our local sandboxes that are not released, as the server behind tells, which may have others."""
        asked = Asked("GET", "/local-sandbox", b"", {"Authorization": f"Bearer {KEY}"})
        found = [one["local_sandbox_id"] for one in self.behind.forward(asked).content["local_sandboxes"]]
        return [number for number in found if number in self.machines.data]

    def expire(self, number: str) -> None:
        """The time of a sandbox is over: it is gone, and the id of a remote one idle again."""
        if number in self.accounts.live:
            self.accounts.expire(number)
        else:
            self.machines.expire(number)

    def serve(self, asked: Asked) -> Reply:
        """The answer of a cloud that works, in its time."""
        refusal = self.window.refusal(asked, self)
        if refusal is not None:
            return refusal
        pause = self.latency.get(asked.kind, 0)
        if asked.kind != "acquire":
            time.sleep(pause)
            asked.heard = asked.heard and not asked.hung_up()
            return self.answer(asked)
        answer = self.answer(asked)
        time.sleep(pause)
        return answer

    def answer(self, asked: Asked) -> Reply:
        """The answer of a cloud that works."""
        room, *rest = asked.parts
        if room in ("storage", "bucket"):
            if "Authorization" in asked.headers:
                self.keys_at_storage.append(f"{asked.method} {asked.path}")
            return self.behind.forward(asked) if room == "storage" else self.executions.put(rest[-1], asked.body)
        if asked.key not in self.keys:
            return reply({"detail": "Invalid API key"}, 403)
        for number in self.books.overdue():
            self.expire(number)
        if asked.kind != "acquire":
            return self._answer(asked, None)
        if not self.books.promise(self.capacity):
            return Reply(self.full_status, self.full_body.encode())
        try:
            return self._answer(asked, self._oddity())
        finally:
            self.books.promised()

    def _answer(self, asked: Asked, odd: Odd | None) -> Reply:
        room, *rest = asked.parts
        if room == "sandbox":
            return self.accounts.answer(asked, self.dialect, odd)
        if rest[1:2] and rest[1] in ROUTES:
            return self.executions.answer(asked) if self.dialect.typed else not_found()
        return self.machines.answer(asked, self.dialect, odd) if room == "local-sandbox" else not_found()

    def _oddity(self) -> Odd | None:
        if self.odd is None or not self.odd.times:
            return None
        self.odd.times -= 1
        self.accounts.details_have_urls = self.machines.details_have_urls = self.odd.how != "no urls"
        return self.odd

    def state(self) -> dict[str, Any]:
        """All that is known, as JSON has it."""
        return {
            "requests": dict(self.kinds),
            "refused": self.window.refused,
            "open": self.books.open(),
            "troubles": self.books.troubles(),
            "most": self.books.most,
            "history": self.books.histories(),
            "keys_at_storage": self.keys_at_storage,
        }
