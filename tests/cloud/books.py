"""Who held which sandbox from when to when, and what was done to sandboxes that were not held by who did it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, Literal

SOMEBODY = "somebody else"
"""The key of a customer of whom nothing else is known."""


@dataclass
class Holding:
    """One hold of one sandbox: from its acquire to its release, or to the end of its time."""

    number: str
    key: str
    instance: str
    began: float
    until: float | None
    """Seconds of the monotonic clock, as all times here."""
    ended: float | None = None
    how: Literal["", "released", "expired"] = ""
    heard: bool = True
    """Whether who released it got the answer."""


class Books:
    """Kept for both kinds of sandboxes, by id."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._holdings: dict[str, list[Holding]] = {}
        self._troubles: list[str] = []
        self._promised = 0
        self.most = 0
        """How many were held at once."""

    # -- what happens ----------------------------------------------------------------------------

    def promise(self, capacity: int | None) -> bool:
        """Whether there is room for one more; it is then taken until `promised`."""
        with self._lock:
            room = capacity is None or len(self.open()) + self._promised < capacity
            self._promised += room
            return room

    def promised(self) -> None:
        """The acquire that was promised room is carried out, or refused."""
        with self._lock:
            self._promised -= 1

    def acquired(self, number: str, key: str, *, instance: str = "", ttl: float | None = None) -> None:
        with self._lock:
            now = time.monotonic()
            until = None if ttl is None else now + ttl
            if self.holding(number) is not None:
                self._note("double lease", number, "it was handed out while it was held")
            self._holdings.setdefault(number, []).append(Holding(number, key, instance, now, until))
            self.most = max(self.most, len(self.open()))

    def released(self, number: str, key: str, *, heard: bool = True) -> None:
        """A DELETE was carried out, whether it found something or not; `heard`: its answer is on its way."""
        with self._lock:
            found = self.holding(number)
            if found is None:
                self._released_twice(number, heard=heard)
                return
            if found.key != key:
                self._note("foreign release", number, f"it was held by {_name(found.key)}, not by {_name(key)}")
            found.ended, found.how, found.heard = time.monotonic(), "released", heard

    def unheard(self, number: str) -> None:
        """Who released it did not get the answer."""
        with self._lock:
            for one in self._holdings.get(number, [])[-1:]:
                one.heard = False

    def expired(self, number: str) -> None:
        with self._lock:
            found = self.holding(number)
            if found is not None:
                found.ended, found.how = time.monotonic(), "expired"

    def reset(self, number: str, key: str) -> None:
        """A reset was asked for, whether it found something or not."""
        with self._lock:
            found = self.holding(number)
            if found is None:
                self._note("reset", number, "nobody holds it")
            elif found.key != key:
                self._note("foreign reset", number, f"it was held by {_name(found.key)}, not by {_name(key)}")

    # -- what is written -------------------------------------------------------------------------

    def holding(self, number: str) -> Holding | None:
        """Who holds a sandbox now."""
        with self._lock:
            last = self._holdings.get(number, [])[-1:]
        return last[0] if last and last[0].ended is None else None

    def open(self) -> list[str]:
        """What was acquired and is neither released nor expired, but for what somebody else holds."""
        with self._lock:
            last = [of_one[-1] for of_one in self._holdings.values()]
        return [one.number for one in last if one.ended is None and one.key != SOMEBODY]

    def overdue(self) -> list[str]:
        """What is held beyond its time."""
        now = time.monotonic()
        with self._lock:
            last = [of_one[-1] for of_one in self._holdings.values()]
        return [one.number for one in last if one.ended is None and one.until is not None and one.until <= now]

    def history(self, number: str) -> list[dict[str, Any]]:
        """The holds of a sandbox, oldest first."""
        with self._lock:
            return [dict(vars(one), key=_name(one.key)) for one in self._holdings.get(number, [])]

    def histories(self) -> dict[str, list[dict[str, Any]]]:
        """Those of all sandboxes."""
        with self._lock:
            return {number: self.history(number) for number in self._holdings}

    def troubles(self) -> list[str]:
        """What should never be: `double release of <id>: ...`, `foreign release`, `reset`, `foreign reset`.

        A release that is repeated because its answer was lost is none, nor is one of a sandbox that expired first.
        """
        with self._lock:
            return list(self._troubles)

    def _released_twice(self, number: str, *, heard: bool) -> None:
        last = self._holdings.get(number, [])[-1:]
        if not last:
            self._note("double release", number, "it was never acquired")
        elif last[0].how == "released" and last[0].heard and heard:
            self._note("double release", number, f"it was released {time.monotonic() - (last[0].ended or 0):.1f} s ago")

    def _note(self, what: str, number: str, why: str) -> None:
        self._troubles.append(f"{what} of {number}: {why}")


def _name(key: str) -> str:
    """A key as it is told."""
    return key if key == SOMEBODY else f"...{key[-4:]}"
