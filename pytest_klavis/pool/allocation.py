"""Who may have which sandbox: a pure function of the line, the entries and the limits.

The line is first come, first served. Who waits keeps what would serve it, so that nobody behind takes it away, and
those behind may have what nobody before them wants.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from pytest_klavis import clock
from pytest_klavis.errors import BackendError, ClosedError
from pytest_klavis.spec import Spec

from .entries import LIVE, Entry, Ticket, Want

__tracebackhide__ = True  # users read their own frames

COMING = 15.0
"""Seconds that a sandbox which is being reset or acquired ahead is waited for, where there is a place for another."""


_HELP = (
    "Raise --klavis-pool-size, or declare together what a test needs, by marks or klavis_sandboxes([...]): that is "
    "given all at once."
)


class StandstillError(BackendError):
    """Whoever holds a sandbox waits for another one: without this error all would wait for ever."""


@dataclass(frozen=True)
class Limits:
    """How many sandboxes there may be."""

    cap: int
    per_account: bool
    """Somebody set the cap: it is one for all runs of the account, and it is kept. Else it is what a run can be
    expected to use: each run has its own, and goes beyond it rather than fail."""
    room: int | None = None
    """How many more the run may acquire; None where nobody set a limit."""


@dataclass(frozen=True)
class Grant:
    """What a ticket may have now."""

    ready: bool
    """All of it: a clean sandbox or a free place for each want."""
    given: tuple[Entry | None, ...] = ()
    """For each want the idle entry, or None for a place to acquire another in. Only where `ready`."""
    evict: tuple[Entry, ...] = ()
    """Idle ones that have to go first, as there is no place."""
    recycle: tuple[Entry, ...] = ()
    """Idle ones that a reset makes what is wanted: only what they were seeded with speaks against them."""

    @property
    def acts(self) -> bool:
        """Whether there is anything to do now."""
        return self.ready or bool(self.evict or self.recycle)


@dataclass
class _Books:
    """What is not given away yet."""

    idle: list[Entry]
    coming: list[Entry]
    back: list[Entry]
    """Given back: will be reset."""
    free: int
    short: int
    """How many there are too many: another run may have more, and a client of a test's own stands in no line."""
    leaving: int
    """Places that come free without anybody's doing."""
    dry: set[Spec] = field(default_factory=set)
    """What is not asked for now."""
    scarce: Collection[Spec] = ()
    """What is asked for by one at a time."""


def _books(scope: Sequence[Entry], limits: Limits, now: float) -> _Books:
    free = limits.cap - len(scope)
    if limits.room is not None:
        free = min(free, limits.room)
    return _Books(
        idle=[one for one in scope if one.state == "idle"],
        coming=[one for one in scope if _comes(one, now)],
        back=[one for one in scope if one.state == "dirty" and one.resettable and now - one.since < COMING],
        free=max(free, 0),
        short=max(-free, 0),
        leaving=sum(now - one.since < COMING and _leaves(one) for one in scope),
    )


def allocate(
    line: Sequence[Ticket],
    seq: int,
    entries: Sequence[Entry],
    limits: Limits,
    *,
    dry: Collection[Spec],
    scarce: Collection[Spec] = (),
    now: float,
) -> Grant:
    """What the ticket `seq` may have, as everybody before it in the line comes first.

    `dry` are the specs of which the API had none a moment ago: nobody asks for them; the `scarce` ones, of which it had
    none lately, are asked for by one at a time. `now` is by the wall clock. Raises StandstillError where waiting cannot
    help, BackendError where it wants more than there may ever be.
    """
    mine = next(one for one in line if one.seq == seq)
    if not mine.wants:
        return Grant(True)
    scope = [one for one in entries if one.state in LIVE and (limits.per_account or one.run == mine.run)]
    if not limits.per_account:
        limits = replace(limits, cap=max(limits.cap, _needed(mine, scope)))
    if len(mine.wants) > limits.cap:
        raise BackendError(
            f"{len(mine.wants)} sandboxes are wanted at once, and --klavis-pool-size={limits.cap} allows no more than "
            f"{limits.cap}: raise it"
        )
    line = [one for one in line if one.wants and (limits.per_account or one.run == mine.run)]
    _check_room(mine, scope, limits)
    books = _books(scope, limits, now)
    books.scarce = scarce
    books.dry = {*dry, *(one.spec for one in scope if one.state == "intent" and one.spec in scarce)}
    evictable = not books.leaving and line[0].seq == seq
    served = {one.seq: _serve(one, books) for one in line if one.seq <= seq}
    grant = served[seq].grant
    if limits.room == 0 and not grant.ready:  # room would bring nothing
        grant = replace(grant, evict=())
    elif evictable and not grant.acts and served[seq].refused.intersection(dry):  # it may be ours that fill the account
        grant = replace(grant, evict=_unused(books, line[1:])[:1])
    if grant.ready or limits.room == 0 or not (grant.evict or served[seq].lacking):
        return grant
    _refuse_impossible(mine, scope, limits)
    if grant.acts:
        return grant
    served |= {one.seq: _serve(one, books) for one in line if one.seq > seq}
    if any(one.grant.acts or not one.lacking for one in served.values()) or not _stands_still(
        mine, scope, line, limits
    ):
        return grant
    if not limits.per_account:
        return Grant(True, tuple(None for _ in mine.wants))
    raise StandstillError(
        f"all {limits.cap} places of the pool are taken, and whoever holds one waits for another:\n  "
        + "\n  ".join(holders(scope))
        + f"\n{_HELP}"
    )


@dataclass
class _Served:
    grant: Grant
    lacking: int
    """Places that it needs, and that somebody has to free."""
    refused: frozenset[Spec] = frozenset()
    """What it needs, and is not asked for."""


def _serve(ticket: Ticket, books: _Books) -> _Served:
    """Take what the ticket can use out of the books, and say whether that is all of it."""
    given: list[Entry | None] = []
    lacking: list[Want] = []
    recycled: list[Entry] = []
    asks: set[Spec] = set()
    refused: set[Spec] = set()
    waits = False
    for want in ticket.wants:
        found = _best(want, ticket, books.idle)
        if found is not None:
            books.idle.remove(found)
            given.append(found)
        elif _awaited(want, ticket, books.coming):
            waits = True
        elif books.free > 0 and want.spec not in books.dry:
            books.free -= 1
            asks.add(want.spec)
            given.append(None)
        elif _awaited(want, ticket, books.back):
            waits = True
        elif other := next((one for one in books.idle if one.resettable and _will_serve(one, want, ticket)), None):
            books.idle.remove(other)
            recycled.append(other)
        elif want.spec in books.dry:
            refused.add(want.spec)
        else:
            lacking.append(want)
    books.dry |= asks.intersection(books.scarce)
    if not (lacking or waits or recycled or refused):
        return _Served(Grant(True, tuple(given)), 0)
    missing, out = _make_room(len(lacking), books)
    return _Served(Grant(False, evict=tuple(out), recycle=tuple(recycled)), missing, frozenset(refused))


def _make_room(lacking: int, books: _Books) -> tuple[int, list[Entry]]:
    """How many places are missing still, and the idle ones that have to go, the least recently used first."""
    if not lacking:
        return 0, []
    needed = max(lacking + books.short - books.leaving, 0)
    if books.short and needed > len(books.idle):  # it would bring nothing yet
        return needed, []
    books.leaving = max(books.leaving - lacking - books.short, 0)
    books.short = 0
    out = _least_used(books.idle)[:needed]
    for one in out:
        books.idle.remove(one)
    return needed - len(out), out


def _least_used(idle: Sequence[Entry]) -> list[Entry]:
    return sorted(idle, key=lambda one: (one.left > 0, one.since))


def _unused(books: _Books, behind: Sequence[Ticket]) -> tuple[Entry, ...]:
    """The idle ones that bring nobody on who is behind in the line, the least recently used first."""
    left = _least_used(books.idle)
    grants = [_serve(one, books).grant for one in behind]
    used = [one for grant in grants for one in (*grant.given, *grant.evict, *grant.recycle)]
    return tuple(one for one in left if one not in used)


def _awaited(want: Want, ticket: Ticket, entries: list[Entry]) -> bool:
    found = next((one for one in entries if _will_serve(one, want, ticket)), None)
    if found is not None:
        entries.remove(found)
    return found is not None


def _will_serve(entry: Entry, want: Want, ticket: Ticket) -> bool:
    return entry.run == ticket.run and entry.spec == want.spec and entry.left > want.needs


def _best(want: Want, ticket: Ticket, idle: Sequence[Entry]) -> Entry | None:
    """The idle entry that serves a want best: seeded with just that, else an empty one; of these the oldest."""
    fits = [one for one in idle if _will_serve(one, want, ticket) and one.seed in (None, want.seed)]
    return min(fits, key=lambda one: (one.seed is None, one.left, one.number), default=None)


def _comes(entry: Entry, now: float) -> bool:
    """Whether the keeper is making it ready."""
    ahead = entry.state == "intent" and entry.test == ""
    return (ahead or entry.state == "cleaning") and now - entry.since < COMING


def _leaves(entry: Entry) -> bool:
    return entry.state == "releasing" or (entry.state == "dirty" and not entry.resettable)


def _check_room(mine: Ticket, scope: Sequence[Entry], limits: Limits) -> None:
    """Raise where the run may not acquire what is missing, and has nothing that could come free instead."""
    if limits.room is None:
        return
    own = [one.spec for one in scope if one.run == mine.run and one.state != "kept" and one.reusable]
    missing = [want for want in mine.wants if want.spec not in own]
    if len(missing) > limits.room:
        raise ClosedError(
            f"this run has acquired as many sandboxes as --klavis-max-acquires allows, and none is a {missing[0].spec}"
        )


def _needed(mine: Ticket, scope: Sequence[Entry]) -> int:
    """How many places there must be for a ticket to be served at all."""
    return len(mine.wants) + _held_by(mine, scope) + _kept(scope)


def _held_by(mine: Ticket, scope: Sequence[Entry]) -> int:
    return sum(one.state in ("held", "intent") and one.owner == mine.owner for one in scope)


def _kept(scope: Sequence[Entry]) -> int:
    return sum(one.state == "kept" for one in scope)


def _refuse_impossible(mine: Ticket, scope: Sequence[Entry], limits: Limits) -> None:
    if _needed(mine, scope) <= limits.cap:
        return
    own, kept = _held_by(mine, scope), _kept(scope)
    raise StandstillError(
        f"{len(mine.wants)} more wanted, {own} held by the same process and {kept} kept (--klavis-keep) are more than "
        f"the {limits.cap} sandboxes that there may be:\n  " + "\n  ".join(holders(scope)) + f"\n{_HELP}"
    )


def _stands_still(mine: Ticket, scope: Sequence[Entry], line: Sequence[Ticket], limits: Limits) -> bool:
    """Whether nobody moves who could help, and the ticket's owner is among those who hold up the others."""
    # A run that has another cap, or one of its own, goes by that: who waits in it may soon have what it waits for.
    stuck = {one.owner for one in line if one.run == mine.run or (one.cap is not None and one.cap <= limits.cap)}
    still = [one for one in scope if one.state in ("kept", "idle") or (one.state == "held" and one.owner in stuck)]
    held = [one for one in scope if one.state == "held"]
    return len(still) == len(scope) and (not held or any(one.owner == mine.owner for one in held))


def holders(entries: Sequence[Entry]) -> list[str]:
    """Who has what, and for how long, a line each."""
    return [
        f"{one.whose} has {one.name} ({', '.join(one.spec.servers)}; {one.state} for {_since(one):.0f} s)"
        for one in entries
    ]


def _since(entry: Entry) -> float:
    return max(clock.now() - entry.since, 0.0)
