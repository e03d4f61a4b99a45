"""What the keeper sees at one moment: the entries, who waits and wishes, who lives, whether the run goes on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_klavis import clock

from .entries import LIVE, Entry, Ticket, Want
from .keeper import OWNER
from .owners import Owners

if TYPE_CHECKING:
    from pytest_klavis.spec import Spec

    from .keeper import KeeperConfig
    from .ledger import Ledger
    from .owners import Owner

_FRESH = 0.5
"""Seconds for which an owner that was alive is taken for alive."""
_FORGOTTEN = 600.0
"""Seconds after which a run that left nothing but its row is forgotten."""


@dataclass(frozen=True)
class Scene:
    """One look. Of other runs there are entries only in a sweep."""

    run: str
    entries: list[Entry]
    waiting: list[Ticket]
    """Those in line who still lack something, as far as they share our places."""
    wishes: list[tuple[Want, str | None]]
    dry: set[Spec]
    closing: bool
    """Nothing more is acquired for the run."""
    has_owners: bool
    """Whether a process of the run lives."""
    free: int
    """Places that are left."""
    left_runs: frozenset[str]
    """Other runs whose keeper is dead."""
    over_runs: frozenset[str]
    """Those of them without any process."""
    awaited: frozenset[Spec] = frozenset()
    """What those of our run wait for."""
    wanted: frozenset[Spec] = frozenset()
    """What they wait or wish for."""

    @property
    def lacks_room(self) -> bool:
        """Whether somebody waits, and there is no place."""
        return bool(self.waiting) and self.free <= 0

    def is_left(self, entry: Entry) -> bool:
        """Whether it is of a run whose keeper is dead; what nobody has there may still be its workers'."""
        if entry.owner is None and entry.state in ("idle", "dirty"):
            return entry.run in self.over_runs
        return entry.run in self.left_runs

    def is_over(self, entry: Entry) -> bool:
        """Whether nobody of its run will use it any more."""
        return self.closing if entry.run == self.run else True


@dataclass
class _Seen:
    at: float = float("-inf")
    living: set[str] = field(default_factory=set)


class Watch:
    """Looks at the ledger and at who lives, and clears away what the dead left in the line."""

    def __init__(self, ledger: Ledger, config: KeeperConfig, own: Owner) -> None:
        self._ledger = ledger
        self._config = config
        self._own = own
        self._owners = Owners(config.owners)
        self._seen = _Seen()
        self._last_owner = clock.monotonic()

    def look(self, grace: float, *, sweeping: bool) -> Scene:
        """What there is now. A run without any process for `grace` seconds is over, until one comes."""
        run = self._config.run
        now = clock.monotonic()
        entries = self._ledger.entries()
        living = self._living(now, anew=sweeping)  # after the entries: whoever made them lives, or is dead
        tickets = self._bury(self._ledger.tickets())
        has_owners = any(name.startswith(f"{run}--") for name in living)
        if has_owners:
            self._last_owner = now
        record = self._ledger.run(run)
        closing = record is None or record.closed or now - self._last_owner > grace
        left, over = self._abandoned(entries, living) if sweeping else (frozenset[str](), frozenset[str]())
        shared = self._config.per_account
        taken = sum(one.state in LIVE and (shared or one.run == run) for one in entries)
        waiting = [one for one in tickets if one.wants and (shared or one.run == run)]
        wishes = self._ledger.wishes(run) if self._config.prefetch and not closing else []
        awaited = frozenset(want.spec for one in waiting if one.run == run for want in one.wants)
        return Scene(
            run=run,
            entries=[one for one in entries if one.run in (run, *left) or one.owner == self._own.id],
            waiting=waiting,
            wishes=wishes,
            dry=self._ledger.dry(),
            closing=closing,
            has_owners=has_owners,
            free=self._config.cap - taken,
            left_runs=left,
            over_runs=over,
            awaited=awaited,
            wanted=awaited | {want.spec for want, _ in wishes},
        )

    def clear_away(self) -> None:
        """Remove what is left of dead owners beside their entries."""
        for owner in self._owners.dead():
            self._ledger.forget_owner(owner)
            self._owners.bury(owner)

    def is_dead(self, owner: str) -> bool:
        """Whether an owner is dead: asked anew where it is not known to live."""
        if owner in self._seen.living:
            return False
        if not self._owners.alive(owner, self._own):
            return True
        self._seen.living.add(owner)
        return False

    def _living(self, now: float, *, anew: bool) -> set[str]:
        if anew or now - self._seen.at > _FRESH:
            self._seen = _Seen(now, self._owners.living(self._own))
        return self._seen.living

    def _bury(self, tickets: list[Ticket]) -> list[Ticket]:
        """The dead stand in no line, and wish for nothing."""
        for owner in {one.owner for one in tickets if self.is_dead(one.owner)}:
            self._ledger.forget_owner(owner)
        return [one for one in tickets if not self.is_dead(one.owner)]

    def _abandoned(self, entries: list[Entry], living: set[str]) -> tuple[frozenset[str], frozenset[str]]:
        """The other runs whose keeper is dead, and those of them of which nobody lives; their traces are removed."""
        self.clear_away()
        others = {one.run for one in entries}
        others.discard(self._config.run)
        left = {run for run in others if OWNER.format(run=run) not in living}
        over = {run for run in left if not any(name.startswith(f"{run}--") for name in living)}
        for record in self._ledger.runs():
            lives = any(name.startswith(f"{record.id}--") for name in living) or OWNER.format(run=record.id) in living
            if not lives and record.id != self._config.run and clock.now() - record.begun > _FORGOTTEN:
                self._ledger.forget_run(record.id)  # where nothing is left of it
        return frozenset(left), frozenset(over)
