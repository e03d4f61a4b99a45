"""Checkout: standing in line for sandboxes of the pool until all that is wanted can be had."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from pytest_klavis import clock
from pytest_klavis.errors import ApiError, BackendError, ClosedError, KlavisError, NoneLeftError

from .allocation import Grant, Limits, allocate, holders
from .entries import LIVE, Entry, Want

if TYPE_CHECKING:
    from .ledger import Ledger

__tracebackhide__ = True  # users read their own frames

POLL = 0.01
"""Seconds between two looks at the ledger; a look is a read of one number while nothing has changed."""
FAR = 0.1
"""Seconds between two looks of those who are far from the head of the line."""
LOOK = 0.5
"""Seconds after which the line is looked at again though nobody changed the ledger: owners die, limits pass."""


class Place:
    """One acquire's place in the line; a context."""

    def __init__(
        self,
        ledger: Ledger,
        wants: Sequence[Want],
        *,
        run: str,
        owner: str,
        limits: Limits,
        tend: Callable[[], None],
        short: NoneLeftError | None = None,
    ) -> None:
        self._ledger = ledger
        self._wants = tuple(wants)
        self._run = run
        self._owner = owner
        self._limits = limits
        self._tend = tend
        """Does what has to be done so that the line moves, where there is no keeper to do it."""
        self.seq = short.seq if short is not None else None
        self._stands = False
        self._pause = POLL
        self.trouble: ApiError | None = short.refusal if short is not None else None
        """What the API said when it had none."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._stands and self.seq is not None:
            self._ledger.leave(self.seq)

    def take(self, until: float) -> list[Entry]:
        """An entry for each want: `held`, clean, or `intent`, to be acquired by the caller.

        The first call is the one that takes the place. Who has all stands in nobody's way, but may come back to it.
        Waits until then by the monotonic clock. Raises BackendError, which names who holds what, or what the API said
        when it had none; StandstillError at once where waiting cannot help; ClosedError where the run is over.
        """
        began = clock.monotonic()
        while True:
            seen = self._ledger.database.version
            entries = self._granted()
            if entries:
                return entries
            self._tend()
            self._wait_for_change(seen, until)
            if clock.monotonic() >= until:
                raise self._too_late(clock.monotonic() - began)

    def another(self, want: Want, until: float) -> Entry:
        """One more for a want, with the same place in the line; as `take`."""
        self._wants = (want,)
        return self.take(until)[0]

    def none_left(self, want: Want, error: ApiError) -> None:
        """The API had none: nobody asks it for that spec for a while."""
        self.trouble = error
        self._ledger.run_dry(want)

    def _granted(self) -> list[Entry]:
        if self._stands and not self._may_change():
            return []
        ledger, error = self._ledger, None
        with ledger.database.changing():
            if not self._stands:
                cap = self._limits.cap if self._limits.per_account else None
                self.seq = ledger.queue(self._run, self._owner, self._wants, seq=self.seq, cap=cap)
            try:
                grant = self._grant()
            except BackendError as refused:  # who gives up makes way for the others in the same step
                error, grant = refused, Grant(False)
            for one in grant.evict:
                ledger.change(one, "dirty", owner=None, reusable=False)
            for one in grant.recycle:
                ledger.change(one, "dirty", owner=None)
            found = [self._given(one, want) for one, want in zip(grant.given, self._wants, strict=False)]
            stands = not (grant.ready or error)
            if not stands:
                ledger.leave(self.seq or 0)
        self._stands = stands
        if error is not None:
            raise error
        return found

    def _may_change(self) -> bool:
        """Whether it is worth a transaction of one's own: all who wait look, and only one can be served."""
        with self._ledger.database.looking():
            try:
                grant = self._grant()
            except BackendError:
                return True
        return grant.acts

    def _grant(self) -> Grant:
        ledger, seq = self._ledger, self.seq
        assert seq is not None  # noqa: S101  it stands
        line = ledger.tickets()
        if all(one.seq != seq for one in line):  # taken for dead
            raise ClosedError(f"{self._owner} was taken for dead while it stood in line")
        ahead = sum(one.seq < seq for one in line)
        self._pause = min(POLL * (1 + ahead // self._limits.cap), FAR)
        run = None if self._limits.per_account else self._run
        entries = ledger.entries(run=run, states=LIVE)
        limits = replace(self._limits, room=ledger.room(self._run))
        return allocate(line, seq, entries, limits, dry=ledger.dry(), scarce=ledger.scarce(), now=clock.now())

    def _given(self, found: Entry | None, want: Want) -> Entry:
        if found is None:
            return self._ledger.intend(self._run, self._owner, want)
        held = self._ledger.change(found, "held", owner=self._owner, test=want.test, will=want.will, reusable=True)
        assert held is not None  # noqa: S101  nobody else changes it within our transaction
        return held

    def _wait_for_change(self, seen: tuple[int, ...], until: float) -> None:
        end = min(until, clock.monotonic() + LOOK)
        while clock.monotonic() < end and self._ledger.database.version == seen:
            clock.sleep(self._pause)

    def _too_late(self, waited: float) -> KlavisError:
        if self.trouble is not None:
            self.trouble.add_note(f"It was asked for again for {waited:.0f} s (--klavis-acquire-timeout).")
            return self.trouble
        who = "\n  ".join(holders(self._ledger.entries(states=LIVE)))
        wanted = ", ".join(str(want.spec) for want in self._wants)
        return BackendError(
            f"no place of the pool came free within {waited:.0f} s for {wanted}; of {self._limits.cap}:\n  {who}\n"
            "Raise --klavis-pool-size, or --klavis-acquire-timeout, or run fewer workers."
        )
