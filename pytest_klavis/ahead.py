"""What the next test of this process will ask for, so that the keeper can have it ready: a guess that costs no verdict.

It is known from the next test's marks; else an earlier test of the same function tells, of this run or the last one.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from . import orders
from .markers import FACTORIES, declared

if TYPE_CHECKING:
    from .lease import Order
    from .pool.entries import Want
    from .session import KlavisSession
    from .spec import Ask

__tracebackhide__ = True  # users read their own frames

CACHE = "klavis/asks"
REMEMBERED = 5000
"""Test functions that the cache holds at most."""

Learned = dict[str, list[list[Any]]]
"""Test function -> what its factories were asked for: spec as text, seconds to live, seconds needed."""


class Ahead:
    """What was learned, and what is wished next."""

    def __init__(self, session: KlavisSession) -> None:
        self._session = session
        self._before: Learned | None = None
        self.learned: Learned = {}
        self.next_item: pytest.Item | None = None

    def learn(self, item: pytest.Item, ordered: Sequence[Order]) -> None:
        """A factory was asked for this by `item`."""
        from .pool.entries import spec_text  # noqa: PLC0415  the cloud only

        seen = self.learned.setdefault(_function(item), [])
        if item.stash.get(_FIRST, None) is None:  # of its function's latest item only
            item.stash[_FIRST] = True
            seen.clear()
        seen += [[spec_text(one.spec), one.ttl, one.needs] for one in ordered]

    def begin(self, item: pytest.Item) -> None:
        """The body of `item` begins. Where its factories are still to be called, what they ask for comes first."""
        if not FACTORIES.intersection(getattr(item, "fixturenames", ())):
            self.wish()

    def acquired(self, item: pytest.Item, ordered: Sequence[Order]) -> None:
        """`item` was given this: if that is all, the next item's turn to be prepared has come."""
        before = len(self._known(item))
        self.learn(item, ordered)
        if len(self.learned[_function(item)]) >= before:
            self.wish()

    def wish(self) -> None:
        """Tell the keeper what the next item will ask for."""
        desk = self._session.desk
        if desk is None or desk.pool is None or not self._session.settings.prefetch:
            return
        try:
            wants = [] if self.next_item is None else list(self._wants(self.next_item))
            desk.pool.ledger.wish(self._session.run.id, desk.pool.owner, wants)
        except Exception:  # noqa: BLE001  a guess: where it matters the test itself will tell
            return

    def merge(self, learned: Learned | None) -> None:
        """In the controller: what a worker learned."""
        self.learned.update(learned or {})

    def remember(self) -> None:
        """In the controller: for the next run."""
        cache = getattr(self._session.config, "cache", None)
        if cache is not None and self.learned:
            newest = {**self._cached(), **self.learned}
            cache.set(CACHE, dict(list(newest.items())[-REMEMBERED:]))

    def _cached(self) -> Learned:
        """What the last run learned. Anybody can write there, and an older plugin did."""
        cache = getattr(self._session.config, "cache", None)
        found = cache.get(CACHE, {}) if cache is not None else {}
        return {key: asks for key, asks in found.items() if isinstance(asks, list)} if isinstance(found, dict) else {}

    def _wants(self, item: pytest.Item) -> Iterable[tuple[Want, str | None]]:
        from .pool.entries import Want, spec_of  # noqa: PLC0415  the cloud only

        asks = declared(item)
        for ask in asks.values():
            yield self._declared(ask, item)
        if not asks:
            for text, ttl, needs in self._known(item):
                yield Want(spec_of(text), ttl, needs, test=item.nodeid), None

    def _declared(self, ask: Ask, item: pytest.Item) -> tuple[Want, str | None]:
        from .pool.entries import Want  # noqa: PLC0415  the cloud only

        wanted, workspace = orders.foreseen(self._session, ask, item)
        ttl = ask.ttl or self._session.settings.ttl
        return Want(wanted, ttl, orders.needed(ask, ttl), test=item.nodeid), self._recipe(workspace, git=ask.git)

    def _recipe(self, workspace: Path | Mapping[str, str | bytes] | None, *, git: bool) -> str | None:
        """How the keeper gets at a workspace: it packs a path; what a test writes down itself is packed here, once."""
        if workspace is None:
            return None
        if isinstance(workspace, Path):
            return json.dumps({"path": str(workspace), "git": git})
        from .workspace.seed import resolve_seed  # noqa: PLC0415  the cloud only

        content = hashlib.sha256(repr((sorted(workspace.items()), git)).encode("utf-8", "backslashreplace")).hexdigest()
        desk = self._session.desk
        assert desk is not None  # noqa: S101  `wish` has looked
        archive = desk.scratch / f"ahead-{content[:32]}.tar.gz"
        if not archive.exists():
            seed = resolve_seed(workspace, start=desk.scratch, root=desk.scratch, git=git)
            pending = archive.with_suffix(f".{threading.get_ident()}")
            seed.pack_to(pending)
            pending.replace(archive)
        return json.dumps({"archive": str(archive)})

    def _known(self, item: pytest.Item) -> list[list[Any]]:
        if self._before is None:
            self._before = self._cached()
        function = _function(item)
        return self.learned.get(function) or self._before.get(function) or []


_FIRST = pytest.StashKey[bool]()


def _function(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]
