"""The end of a run on the ledger: nothing more is acquired for it, and all that it has is let go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_klavis import clock

from .entries import LIVE, Entry
from .keeper import keeper_alive
from .ledger import Ledger
from .line import LOOK, POLL
from .rows import RunRecord

__tracebackhide__ = True  # users read their own frames

STUCK = 60.0
"""Seconds without any progress after which it is left to the keeper, or to a later run."""


@dataclass(frozen=True)
class Ended:
    """What a run has done, and what is left of it."""

    record: RunRecord
    left: list[Entry]
    has_keeper: bool
    """Somebody goes on."""


class End:
    """Needs no client of the API where there is a keeper; `release` does its work where there is none."""

    def __init__(self, account: Path, run: str, release: Callable[[Sequence[Entry], float], None]) -> None:
        self._account = account
        self._run = run
        self._release = release
        self._ledger = Ledger(account)

    def begin(self) -> None:
        """From now on nothing is acquired."""
        self._ledger.close_run(self._run)

    def wait(self, until: float, tell: Callable[[int, bool], None]) -> Ended:
        """Wait until all is released, until then by the monotonic clock; Ctrl-C ends the wait.

        `tell` gets how many are left, again and again, and at the end whether they are left to somebody else.
        """
        self.begin()
        left = self._leaving()
        try:
            count, since = len(left), clock.monotonic()
            while left and clock.monotonic() < min(until, since + STUCK):
                tell(len(left), False)
                self._step(left, until)
                left = self._leaving()
                if len(left) != count:
                    count, since = len(left), clock.monotonic()
        except KeyboardInterrupt:
            pass
        if left:
            tell(len(left), True)
        record, rest = self._ledger.run(self._run), self._ledger.entries(run=self._run)
        if not rest:
            self._ledger.forget_run(self._run)
        return Ended(record or RunRecord(self._run, clock.now()), rest, self._has_keeper())

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()

    def _step(self, left: Sequence[Entry], until: float) -> None:
        seen = self._ledger.database.version
        if not self._has_keeper():
            self._release(left, until)
        end = clock.monotonic() + LOOK
        while clock.monotonic() < min(end, until) and self._ledger.database.version == seen:
            clock.sleep(POLL)

    def _has_keeper(self) -> bool:
        return keeper_alive(self._account, self._run)

    def _leaving(self) -> list[Entry]:
        """What is to be released, and the API has not refused to release."""
        found = self._ledger.entries(run=self._run, states=LIVE - {"kept"})
        return [one for one in found if not one.will.get("final")]
