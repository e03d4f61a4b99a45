"""From a place in the line to sandboxes: idle ones are taken over, new ones acquired, each on the ledger first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from pytest_klavis import catalog, clock
from pytest_klavis.errors import ApiError, NoneLeftError, NotFoundError
from pytest_klavis.interrupts import held
from pytest_klavis.kinds import KINDS, Acquire

from .acquiring import LABEL, NO_CAPACITY, recorded
from .entries import Entry, Want

if TYPE_CHECKING:
    from pytest_klavis.kinds import Acquired

    from .line import Place
    from .pool import Pool

__tracebackhide__ = True  # users read their own frames


class Taken(NamedTuple):
    """A sandbox that is held now."""

    entry: Entry
    answer: Acquired | None
    """To its acquire, where that is known."""
    used: bool
    """Somebody had it before, and it was reset."""

    @property
    def number(self) -> str:
        """Its id."""
        return self.entry.sandbox_id or ""


class Checkout:
    """What a set of wants is served from, one after the other, until then by the monotonic clock."""

    def __init__(self, pool: Pool, place: Place, wants: Sequence[Want], until: float) -> None:
        self._pool = pool
        self._place = place
        self._wants = wants
        self._until = until
        self._granted: list[Entry | None] = [*place.take(until)]
        """For each want what it was given, while nobody took it."""

    def take(self, index: int) -> Taken:
        """A sandbox for a want; asked again, another one.

        Raises NoneLeftError where the API has none for one of a set: others may wait for the rest of it.
        """
        want = self._wants[index]
        while True:
            entry = self._granted[index] or self._place.another(want, self._until)
            self._granted[index] = entry
            if entry.state == "held":
                self._granted[index] = None
                return Taken(entry, self._pool.answers.load(entry.number, entry.spec), used=True)
            try:
                made, answer = self._acquire(index, entry)
            except ApiError as error:
                if not _has_none(error, want) or clock.monotonic() >= self._until:
                    raise
                self._place.none_left(want, error)
                self._granted[index] = None
                if len(self._wants) > 1:
                    raise NoneLeftError(error, self._place.seq) from None
            else:
                self._granted[index] = None
                return Taken(made, answer, used=False)

    def put_back(self) -> None:
        """What nobody took goes back, as clean as it came, or was never made."""
        for entry in filter(None, self._granted):
            if entry.state == "intent":
                self._pool.ledger.remove(entry)
            else:
                self._pool.ledger.change(entry, "idle", owner=None, test="")

    def _acquire(self, index: int, entry: Entry) -> tuple[Entry, Acquired]:
        want = self._wants[index]
        kind = KINDS[want.spec.kind]
        labels = {LABEL: entry.nonce} if want.spec.kind == "remote" else {}
        asked = Acquire(entry.ttl, clock.left(self._until), labels)
        with held():
            made, answer = recorded(self._pool, entry, lambda: kind.acquire(self._pool.api, want.spec, asked))
            self._granted[index] = made  # an interrupt that has waited comes now: it is put back
        return made, answer


def _has_none(error: ApiError, want: Want) -> bool:
    """Whether waiting may help. A server that nobody has heard of is not there, rather than taken."""
    if isinstance(error, NotFoundError) and not all(catalog.kind_of(name) for name in want.spec.servers):
        return False
    return error.status in NO_CAPACITY


@contextmanager
def checkout(pool: Pool, wants: Sequence[Want], until: float, short: NoneLeftError | None = None) -> Iterator[Checkout]:
    """Sandboxes for all of `wants`, or an error and none; see `Place.take` and `Checkout.take` for the errors.

    `short` is what the same wants met before: they have their place in the line again.
    """
    with pool.place(wants, short) as place:
        found = Checkout(pool, place, wants, until)
        try:
            yield found
        finally:
            found.put_back()
