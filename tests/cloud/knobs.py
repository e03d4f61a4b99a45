"""What a stand-in's cloud is like when nothing is wrong with it: how large, how fast, how strict."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from .web import Asked, Reply


@dataclass(kw_only=True)
class Knobs:
    """All can be turned while the cloud runs."""

    latency: Mapping[str, float] = field(default_factory=dict)
    """Seconds that a kind of request (`Asked.kind`) takes. Acquires are carried out at once, all else at the end."""
    capacity: int | None = None
    """How many sandboxes there are."""
    full_status: int = 409
    full_body: str = '{"detail": "no sandbox is idle"}'
    """What an acquire is answered when all are taken."""
    rate: float | None = None
    """Requests per second, in a strict sliding window; beyond it they are answered 429."""
    retry_after: str | None = "1"
    """The header of such an answer."""
    refused_count: bool = False
    """Whether refused requests fill the window as well."""
    reuses_ids: bool = False
    """Whether an account that was given back is handed out again, under the same id: the lowest first."""
    reset_leaves_dirt: bool = False
    """Whether resets are answered 200 and do nothing."""


class Window:
    """The sliding window of a limited rate."""

    def __init__(self) -> None:
        self._passed: deque[float] = deque()
        self._lock = threading.Lock()
        self.refused = 0

    def refusal(self, asked: Asked, knobs: Knobs) -> Reply | None:
        """The 429 for one request too many. Signed URLs are not the API's."""
        if knobs.rate is None or asked.kind in ("put", "fetch"):
            return None
        most = max(1, int(knobs.rate))
        with self._lock:
            now = time.monotonic()
            while self._passed and self._passed[0] <= now - most / knobs.rate:
                self._passed.popleft()
            full = len(self._passed) >= most
            if not full or knobs.refused_count:
                self._passed.append(now)
            self.refused += full
        headers = {} if knobs.retry_after is None else {"Retry-After": knobs.retry_after}
        return Reply(429, b'{"detail": "too many requests"}', headers=headers) if full else None
