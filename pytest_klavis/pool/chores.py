"""What is done with one entry of the ledger: reset, release, rescue, look for, acquire and seed ahead.

Each chore first claims its entry by a guarded change, and gives up quietly when somebody was faster. That protects
from others who saw the same; that nobody living answers for the entry is for the caller to see to. Whoever does chores
does them here: the keeper's threads, a worker without a keeper, the end of a run, `pytest-klavis reap`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_klavis import clock, redaction
from pytest_klavis.errors import (
    ApiError,
    AuthError,
    BackendError,
    ClosedError,
    InfraError,
    NotFoundError,
    RequestRefusedError,
)
from pytest_klavis.kinds import KINDS, Acquire, Held, id_of, instance_of

from .acquiring import LABEL, NO_CAPACITY, may_have_been_made
from .database import LedgerError
from .entries import LIVE, Entry, Want
from .ledger import Ledger, TakenError
from .rescue import remove_scratch, save_evidence
from .resetting import reset, seed, verify
from .search import Looked, LostAndFound
from .still_ours import Still, still

if TYPE_CHECKING:
    from pytest_klavis.api.client import KlavisClient

    from .allocation import Limits
    from .answers import Answers

__tracebackhide__ = True  # users read their own frames

RESET: Final = 120.0
RELEASE: Final = 60.0
RESCUE: Final = 120.0
LOOK: Final = 60.0
ACQUIRE: Final = 180.0
SEED: Final = 300.0
"""Seconds that each chore may take where nobody says otherwise."""
WORTH: Final = 0.5
"""A sandbox with less than this part of its time left is not worth a reset."""

log = logging.getLogger(__name__)


class NoPlaceError(BackendError):
    """There is no place for a sandbox that nobody waits for."""


class Chores:
    """Usable from several threads. `me` is the owner's id that entries are claimed for.

    `verify_reset`: a reset is confirmed by a dump that has to be empty; `exclusive`: nobody else uses the account.
    `count` is called before a row goes: what has been counted belongs on the ledger by then.
    """

    def __init__(
        self,
        ledger: Ledger,
        answers: Answers,
        api: KlavisClient,
        me: str,
        *,
        verify_reset: bool = False,
        exclusive: bool = False,
        count: Callable[[], None] = lambda: None,
    ) -> None:
        self._ledger = ledger
        self._answers = answers
        self._api = api
        self._me = me
        self._verify_reset = verify_reset
        self._count = count
        self.spared: set[int] = set()
        """Entries whose sandbox was gone when it was to be released, or somebody else's."""
        self._lock = threading.Lock()
        self._at_work: set[int] = set()
        self._lost = LostAndFound(ledger, api, me, exclusive=exclusive, let_go=self._release_found, count=count)

    # -- reuse ---------------------------------------------------------------------------------

    def clean(
        self, entry: Entry, deadline: float | None = None, *, archive: Path | None = None, digest: str | None = None
    ) -> Entry | None:
        """Reset a sandbox, and make it idle once the reset is confirmed; what cannot be reused is released.

        With an `archive` its workspace is seeded right away; `digest` names the content. The idle entry, else None.
        """
        if entry.save or not self.is_worth_a_reset(entry):
            self.settle(entry, deadline)
            return None
        claimed = self._ledger.change(entry, "cleaning", owner=self._me)
        if claimed is None:
            return None
        until = clock.monotonic() + (deadline or RESET)
        try:
            reset(self._api, claimed, until, confirmed_later=archive is not None)
            if self._verify_reset:
                verify(self._api, claimed, self._answers.load(claimed.number, claimed.spec), until)
            if archive is not None:
                seed(self._api, claimed, archive, until)
        except InfraError as error:
            _tell(f"{claimed.name} could not be reset, and is released", error)
            rest = None if deadline is None else clock.left(until)
            self._let_go(claimed, rest, careful=isinstance(error, NotFoundError))
            return None
        self._ledger.count(claimed.run, resets=1)
        return self._become_idle(claimed, digest)

    def is_worth_a_reset(self, entry: Entry) -> bool:
        """Whether a reset would make it as good as new, and leaves it enough of its time."""
        return entry.resettable and (entry.ttl is None or entry.left >= WORTH * entry.ttl)

    def seed_ahead(
        self, entry: Entry, want: Want, archive: Path, digest: str, deadline: float | None = None
    ) -> Entry | None:
        """Seed an idle sandbox with an archive that `digest` names, or release it. The idle entry, or None."""
        if entry.spec != want.spec:
            raise ValueError(f"{entry.name} is no {want.spec}")
        claimed = self._ledger.change(entry, "cleaning", owner=self._me)
        if claimed is None:
            return None
        try:
            seed(self._api, claimed, archive, clock.monotonic() + (deadline or SEED))
        except InfraError as error:
            _tell(f"{claimed.name} could not be seeded ahead, and is released", error)
            self._let_go(claimed, None, careful=isinstance(error, NotFoundError))
            return None
        return self._become_idle(claimed, digest)

    def acquire_ahead(
        self, run: str, want: Want, deadline: float | None = None, *, limits: Limits | None = None
    ) -> Entry | None:
        """Acquire what somebody will want: the idle entry, or None where the API has none, or gives no sandbox.

        Raises NoPlaceError where `limits` leave no place, ClosedError where the run may not acquire any more, another
        InfraError where asking again is no use now.
        """
        with self._lock, self._ledger.database.changing():
            if limits is not None:
                taken = self._ledger.entries(run=None if limits.per_account else run, states=LIVE)
                if len(taken) >= limits.cap:
                    raise NoPlaceError(f"all {limits.cap} places are taken")
            entry = self._ledger.intend(run, self._me, replace(want, test="", will={}))
            self._at_work.add(entry.number)
        try:
            return self._acquired_ahead(entry, want, deadline)
        finally:
            with self._lock:
                self._at_work.discard(entry.number)

    def is_at_work(self, number: int) -> bool:
        """Whether an entry is being acquired ahead here."""
        with self._lock:
            return number in self._at_work

    def _acquired_ahead(self, entry: Entry, want: Want, deadline: float | None) -> Entry | None:
        kind = KINDS[want.spec.kind]
        labels = {LABEL: entry.nonce} if want.spec.kind == "remote" else {}
        try:
            answer = kind.acquire(self._api, want.spec, Acquire(entry.ttl, deadline or ACQUIRE, labels))
        except BaseException as error:
            if may_have_been_made(error):
                self._ledger.change(entry, "lost", owner=None)
            else:
                self._ledger.remove(entry)
            if isinstance(error, ApiError) and error.status in NO_CAPACITY:
                self._ledger.run_dry(want)
                return None
            raise
        ttl = None if "ttl_seconds" in self._api.refused_fields else entry.ttl
        urls = getattr(answer, "urls", {}).values()
        known = {"sandbox_id": id_of(answer), "instance": instance_of(urls), "ttl": ttl}
        try:
            claimed = self._ledger.change(entry, "cleaning", owner=self._me, **known)
        except TakenError:
            self._ledger.remove(entry)  # it is somebody else's
            raise
        except LedgerError:
            kind.release(self._api, Held(want.spec, id_of(answer)), RELEASE)
            self._ledger.remove(entry)
            raise
        if claimed is None:
            raise ClosedError(f"{id_of(answer)} came when its owner had been taken for dead")
        if answer.status == "error":
            self._let_go(claimed, None, careful=False)
            return None
        self._answers.store(claimed.number, claimed.spec, answer)
        return self._become_idle(claimed, None)

    def _become_idle(self, claimed: Entry, digest: str | None) -> Entry | None:
        return self._ledger.change(claimed, "idle", owner=None, seed=digest, test="", will={}, reusable=True)

    # -- the end -------------------------------------------------------------------------------

    def release(self, entry: Entry, deadline: float | None = None) -> bool:
        """Give a sandbox back; whether its row is gone. Else it stays `releasing`, to be tried again.

        The API is asked first whose it is where somebody else may have it by now: after another's attempt, after the
        death of its holder, and past its time, when it is given back only where it is sure to be ours.
        """
        if entry.sandbox_id is None:
            return self.reconcile(entry, deadline) in ("released", "dropped")
        began_by_us = entry.state in ("held", "idle") and entry.owner in (None, self._me)
        given_back = entry.state == "dirty" and entry.owner is None
        begun = entry.state == "releasing"
        return self._let_go(entry, deadline, careful=not (began_by_us or given_back), begun=begun)

    def _let_go(self, entry: Entry, deadline: float | None, *, careful: bool, begun: bool = False) -> bool:
        """`begun` says that somebody has sent the release already, and nobody knows what came of it."""
        claimed = self._ledger.change(entry, "releasing", owner=self._me)
        if claimed is None:
            return False
        until = clock.monotonic() + (deadline or RELEASE)
        try:
            if self._is_ours(claimed, until, careful=careful, begun=begun):
                KINDS[claimed.spec.kind].release(self._api, _held(claimed), max(until - clock.monotonic(), 0.3))
        except (InfraError, OSError) as error:
            _tell(f"{claimed.name} could not be released", error)
            said = {"trouble": redaction.redact(str(error)).splitlines()[0], "final": "yes" if _is_final(error) else ""}
            self._ledger.change(claimed, "releasing", owner=self._me, will={**claimed.will, **said})
            return False
        self._count()
        done = self._ledger.remove(claimed)
        self._answers.drop(claimed.number)
        return done

    def _is_ours(self, entry: Entry, until: float, *, careful: bool, begun: bool) -> bool:
        late = entry.left <= 0
        if not late and (not careful or (entry.spec.kind == "local" and not begun)):
            return True
        found = still(self._api, entry, max(until - clock.monotonic(), 0.3))
        if found is Still.OTHERS:
            log.info("%s is somebody else's by now, and left alone", entry.name)
        ours = found is Still.OURS or (found is Still.UNKNOWN and not late)
        if not ours:
            self.spared.add(entry.number)
        return ours

    # -- the dead ------------------------------------------------------------------------------

    def settle(self, entry: Entry, deadline: float | None = None) -> bool:
        """Release an entry that nobody living answers for, after all that its state asks for first; whether it is done.

        What may exist is looked for, what is to be saved is saved. `deadline` is for each of these.
        """
        if entry.state in ("intent", "lost"):
            return self.reconcile(entry, deadline) in ("released", "dropped")
        if entry.state == "held" or entry.save:
            saved = self.rescue(entry, deadline)
            return saved is None or self.release(saved, deadline)
        return self.release(entry, deadline)

    def rescue(self, entry: Entry, deadline: float | None = None) -> Entry | None:
        """Save what a holder left that died, or that was cut short, as its will says; then it is to be released.

        The entry, `dirty` and claimed; None when somebody was faster. Trouble with the evidence is a note of the run.
        """
        killed = entry.state == "held"
        claimed = self._ledger.change(entry, "dirty", owner=self._me, reusable=False, save=True)
        if claimed is None:
            return None
        seen = replace(claimed, since=entry.since)
        try:
            trouble = save_evidence(
                self._api,
                seen,
                self._answers.load(entry.number, entry.spec),
                outcome="killed" if killed else "interrupted",
                why="its process died" if killed else "its process was interrupted before it could save this",
                patience=deadline or RESCUE,
            )
        except Exception as error:  # noqa: BLE001  whatever it is, the sandbox has to be released
            trouble = f"what {entry.name} of {entry.test} held could not be saved: {redaction.redact(repr(error))}"
        if trouble:
            log.warning("%s", trouble)
            self._ledger.note(entry.run, redaction.redact(trouble))
        saved = self._ledger.change(claimed, "dirty", owner=self._me, save=False)
        remove_scratch(entry, [one for one in self._ledger.entries() if one.state == "held" or one.save])
        return saved

    # -- what may exist ------------------------------------------------------------------------

    def reconcile(self, entry: Entry, deadline: float | None = None) -> Looked:
        """Look for what a lost acquire made, and release it, or make it a suspect; see `LostAndFound`."""
        return self._lost.reconcile(entry, deadline or LOOK)

    def _release_found(self, entry: Entry) -> bool:
        return self._let_go(entry, None, careful=False)


def _is_final(error: InfraError | OSError) -> bool:
    """Whether the API refuses a release, rather than failing to do it."""
    if isinstance(error, RequestRefusedError):
        return error.status not in (408, 409, 423, 425)
    return isinstance(error, AuthError)


def _held(entry: Entry) -> Held:
    assert entry.sandbox_id is not None  # noqa: S101  (for mypy)
    return Held(entry.spec, entry.sandbox_id, entry.instance)


def _tell(what: str, error: BaseException) -> None:
    log.warning("%s: %s", what, redaction.redact(str(error)))
