"""Looking for what an acquire may have made whose answer was lost.

By the label of the acquire, where the API brings labels back: that is certain. Else by what the account's list holds
and the ledger does not: that is a suspicion, as somebody else may use the account.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from pytest_klavis import catalog, clock, redaction
from pytest_klavis.errors import InfraError

from .acquiring import LABEL
from .ledger import TakenError
from .still_ours import APART, moment

if TYPE_CHECKING:
    from pytest_klavis.api.client import KlavisClient

    from .entries import Entry
    from .ledger import Ledger

__tracebackhide__ = True  # users read their own frames


SETTLED: Final = 60.0
"""Seconds after which an acquire that nobody waits for any more has made what it will ever make."""
FORGOTTEN: Final = 7200.0
"""Seconds after which a lost acquire without a time to live is given up."""

Looked = Literal["released", "suspect", "dropped", "again", "taken"]
"""What became of a lost acquire: `again` is to be looked for later, `taken` is somebody else's chore."""

log = logging.getLogger(__name__)


class LostAndFound:
    """Looks on behalf of the owner `me`. `let_go` releases what is found, `count` is called before a row goes."""

    def __init__(
        self,
        ledger: Ledger,
        api: KlavisClient,
        me: str,
        *,
        exclusive: bool,
        let_go: Callable[[Entry], bool],
        count: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._api = api
        self._me = me
        self._exclusive = exclusive
        self._release = let_go
        self._count = count
        self._one_at_a_time = threading.Lock()
        self._lost_at: dict[int, float] = {}
        """When acquires were lost, by the wall clock, as far as is known here."""

    def reconcile(self, entry: Entry, deadline: float) -> Looked:
        """Look for what an acquire made that is `lost`, or whose sender is dead: release it, or make it a suspect.

        A look that finds nothing settles it, once the acquire has been lost for a minute: what has not appeared by
        then was never made, and the row goes. Before, and while the API cannot be asked, it stays `lost`, but no
        longer than what it may have made can live.
        """
        with self._one_at_a_time:  # two that look at once could take back the same sandbox, and forget another
            return self._reconcile(entry, deadline)

    def _reconcile(self, entry: Entry, deadline: float) -> Looked:
        lost_at = self._lost_at.setdefault(entry.number, entry.since if entry.state == "lost" else clock.now())
        claimed: Entry | None = entry
        if entry.state != "lost" or entry.owner != self._me:
            claimed = self._ledger.change(entry, "lost", owner=self._me)
        if claimed is None:
            return "taken"
        settled = clock.now() - lost_at >= SETTLED  # before the look
        try:
            found = look(self._api, self._ledger, claimed, deadline)
        except InfraError as error:
            log.warning("the account cannot be searched for %s: %s", claimed.name, redaction.redact(str(error)))
            return self._drop(claimed) if _is_over(claimed) else "again"
        if found.labelled is not None:
            return self._take_back(claimed, found.labelled)
        if found.nameless and not found.unsure:
            return self._found(claimed, found)
        if (settled and not found.nameless) or _is_over(claimed):
            return self._drop(claimed)
        return "again"

    def _found(self, entry: Entry, found: Found) -> Looked:
        first, *more = found.nameless
        if self._exclusive and len(more) <= found.rivals:
            return self._take_back(entry, first)
        try:
            if self._ledger.change(entry, "suspect", owner=None, sandbox_id=first) is None:
                return "taken"
        except TakenError:  # its acquire was answered just now
            return "again"
        self._lost_at.pop(entry.number, None)
        others = f" (or one of {', '.join(more)})" if more else ""
        self._ledger.note(
            entry.run,
            f"the answer to the acquire of a {entry.spec} was lost; {first}{others} may be what it made: "
            "pytest-klavis reap --suspects releases it",
        )
        return "suspect"

    def _take_back(self, entry: Entry, number: str) -> Looked:
        try:
            claimed = self._ledger.change(entry, "releasing", owner=self._me, sandbox_id=number)
        except TakenError:
            return "again"
        if claimed is None:
            return "taken"
        self._lost_at.pop(entry.number, None)
        self._release(claimed)
        return "released"

    def _drop(self, entry: Entry) -> Looked:
        self._count()
        self._lost_at.pop(entry.number, None)
        return "dropped" if self._ledger.remove(entry) else "taken"


def _is_over(entry: Entry) -> bool:
    return entry.age > FORGOTTEN if entry.ttl is None else entry.left <= 0


@dataclass(frozen=True)
class Found:
    """What a look at the account's list gave."""

    labelled: str | None = None
    """The id of the sandbox with the label of the acquire."""
    nameless: list[str] = field(default_factory=list)
    """Ids of sandboxes that it may have made, and that nobody on the ledger has."""
    unsure: bool = False
    """Whether other acquires are on their way, whose sandboxes may be among these."""
    rivals: int = 0
    """How many other lost acquires may have made these."""


def look(api: KlavisClient, ledger: Ledger, entry: Entry, deadline: float) -> Found:
    """Ask the API what it holds that an acquire may have made. Raises an InfraError where it does not say."""
    before = ledger.entries()
    if entry.spec.kind == "local":
        listed = api.list_local_sandboxes(deadline=deadline).local_sandboxes
        return _difference(entry, [(one.local_sandbox_id, one) for one in listed], before, ledger.entries())
    for one in before:  # what this client did not acquire itself tells it whether labels come back
        if one.sandbox_id is not None and one.spec.kind == "remote":
            api.dialect.label(one.sandbox_id, {LABEL: one.nonce})
    if "tags" not in api.refused_fields:
        labelled = api.list_sandboxes({LABEL: entry.nonce}, deadline=deadline).sandboxes
        if labelled:
            return Found(labelled[0].sandbox_id)
    remote = api.list_sandboxes(server_name=entry.spec.servers[0], deadline=deadline).sandboxes
    if api.echoes_tags:
        return Found()
    taken = [(one.sandbox_id, one) for one in remote if one.status != "idle"]
    return _difference(entry, taken, before, ledger.entries())


def _difference(
    entry: Entry, listed: Iterable[tuple[str, Any]], before: Sequence[Entry], after: Sequence[Entry]
) -> Found:
    """The ledger has to be read before the list and after it.

    A sandbox that is released meanwhile is on the list, and its row gone; an acquire that is answered meanwhile has its
    id on the ledger only then.
    """
    seen = [one for one in (*before, *after) if _place(one) == _place(entry) and one.number != entry.number]
    known = {one.sandbox_id for one in seen}
    nameless = [number for number, item in listed if number not in known and _may_be(entry, item)]
    settled = {one.number for one in before if one.state in ("intent", "lost")} - {one.number for one in after}
    unsure = any(one.state == "intent" or one.number in settled for one in seen)  # what those were given may be listed
    return Found(None, nameless, unsure, len({one.number for one in seen if one.state == "lost"}))


def _place(entry: Entry) -> tuple[str, str]:
    return entry.spec.kind, entry.spec.servers[0] if entry.spec.kind == "remote" else ""


def _may_be(entry: Entry, item: Any) -> bool:
    """Whether nothing that the list tells of a sandbox speaks against this acquire."""
    made = moment(getattr(item, "created_at", None) or getattr(item, "updated_at", None))
    if made is not None and made < entry.born_at - APART:
        return False
    if item.benchmark and entry.spec.benchmark and item.benchmark != entry.spec.benchmark:
        return False
    names = {catalog.resolve(one.server_name or "") for one in getattr(item, "servers", ())}
    strange = any(catalog.kind_of(name) is None for name in (*names, *entry.spec.servers))
    return strange or not names or names == set(entry.spec.servers)
