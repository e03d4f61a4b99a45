"""One process's part in the pool: what it checks out and in, and what it does itself where there is no keeper."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from pytest_klavis import clock
from pytest_klavis.errors import AuthError, BackendError, ClosedError, NoneLeftError, RateLimitError
from pytest_klavis.kinds import id_of, instance_of

from . import refusal
from .acquiring import AnswerT, recorded
from .allocation import Limits
from .answers import Answers
from .chores import Chores
from .entries import Entry, Want
from .keeper import keeper_alive, start_keeper
from .ledger import Ledger
from .line import Place
from .owners import Owner, Owners

if TYPE_CHECKING:
    from pytest_klavis.api.client import KlavisClient
    from pytest_klavis.api.pace import Pace
    from pytest_klavis.kinds import Acquired
    from pytest_klavis.spec import Spec

    from .keeper import KeeperConfig

__tracebackhide__ = True  # users read their own frames

TEND = 1.0
"""Seconds between two looks of a waiting process after the dead."""
STARTS = 3
"""How often a process starts a keeper: one that dies again and again is done without."""


class Pool:
    """Usable from several threads; a forked child is an owner of its own, and holds nothing of its parent's."""

    def __init__(self, config: KeeperConfig, api: KlavisClient, pace: Pace, *, budget: int | None = None) -> None:
        self.config = config
        self.run = config.run
        self.ledger = Ledger(config.account)
        self.answers = Answers(config.account / "answers")
        self.unwritten: list[str] = []
        """What could neither be written down nor released."""
        self.api = api
        self.pace = pace
        self._owners = Owners(config.account / "owners")
        self._owner: Owner | None = None
        self._lock = threading.Lock()
        self._starts = 0
        self._tended = 0.0
        self.ledger.begin(self.run, budget=budget)
        record = self.ledger.run(self.run)
        api.dialect.hear(record.refused if record else ())
        self._told = api.dialect.told
        os.register_at_fork(after_in_child=self._own_nothing)

    @property
    def owner(self) -> str:
        """Who this process is on the ledger."""
        with self._lock:
            if self._owner is None or not self._owner.is_mine():
                name = f"{self.run}--{os.getpid()}-{secrets.token_hex(6)}"
                try:
                    self._owner = Owner(self.config.account / "owners", name)
                except OSError as error:
                    raise BackendError(
                        f"{self.config.account} cannot be used, so nothing is acquired: {error}\n"
                        "Make room there, or set KLAVIS_STATE_DIR to another directory on a local disk."
                    ) from error
            return self._owner.id

    # -- checkout ------------------------------------------------------------------------------

    @contextmanager
    def place(self, wants: Sequence[Want], short: NoneLeftError | None = None) -> Iterator[Place]:
        """A place in the line for all of `wants`; the one that they had when they came `short`."""
        self.with_keeper()
        limits = Limits(self.config.cap, self.config.per_account)
        place = Place(self.ledger, wants, run=self.run, owner=self.owner, limits=limits, tend=self.tend, short=short)
        with place:
            yield place

    def acquire_aside(
        self, spec: Spec, ttl: int, acquire: Callable[[], AnswerT], patience: float
    ) -> tuple[Entry, AnswerT]:
        """Carry out an acquire that is on the ledger, but in no line; a 429 is waited out for `patience` seconds."""
        self.with_keeper()
        until = clock.monotonic() + patience
        while True:
            entry = self.ledger.intend(self.run, self.owner, Want(spec, ttl, test="klavis_client"))
            try:
                return recorded(self, entry, acquire)
            except RateLimitError:  # the next request's turn comes when the API's pause is over
                if clock.monotonic() >= until:
                    raise

    @contextmanager
    def releasing(self, entry: Entry) -> Iterator[None]:
        """The body releases it. If it fails the sandbox is held as before."""
        mine = self.ledger.change(entry, "releasing", owner=self.owner)
        try:
            yield
        except BaseException:
            if mine is not None:
                self.ledger.change(mine, "held", owner=entry.owner)
            raise
        if mine is not None:
            self.ledger.remove(mine)
            self.answers.drop(mine.number)

    def acquired(self, entry: Entry, answer: Acquired) -> Entry:
        """The answer to the acquire of an intent came: it is held from now on.

        Raises TakenError where somebody else on this ledger holds that sandbox, LedgerError where it cannot be written
        down, ClosedError where the run ended meanwhile; the caller has to release it then, but for the first.
        """
        number, instance = id_of(answer), instance_of(getattr(answer, "urls", {}).values())
        ttl = None if "ttl_seconds" in self.api.refused_fields else entry.ttl
        held = self.ledger.change(entry, "held", owner=entry.owner, sandbox_id=number, instance=instance, ttl=ttl)
        if held is None:
            raise ClosedError(f"{number} came when its owner had been taken for dead")
        self.answers.store(entry.number, entry.spec, answer)
        return held

    def lost(self, entry: Entry) -> None:
        """The answer to an acquire was lost: the keeper looks for what it made."""
        self.ledger.change(entry, "lost", owner=None)

    def knows_instance(self, entry: Entry, urls: Iterable[str]) -> Entry:
        """URLs came later than the answer to the acquire."""
        instance = instance_of(urls)
        if entry.instance is not None or instance is None:
            return entry
        return self.ledger.change(entry, entry.state, owner=entry.owner, instance=instance) or entry

    def learn(self) -> None:
        """What this process has learned of the API is for all of the run."""
        told = self.api.dialect.told
        if told != self._told:
            self._told = told
            self.ledger.learn(self.run, told)

    def refusal(self) -> AuthError | None:
        """What another process of the run was told about the key."""
        record = self.ledger.run(self.run)
        return refusal.error_of(record.refusal) if record is not None and record.refusal else None

    def refuse(self, error: AuthError) -> None:
        """The API has refused the key: no process of the run asks again."""
        self.ledger.refuse(self.run, refusal.text_of(error))

    # -- check-in ------------------------------------------------------------------------------

    def check_in(
        self, entry: Entry, *, keep: bool = False, reusable: bool, save: bool = False, patience: float | None = None
    ) -> None:
        """A lease is over: a change of its entry, and the keeper does the rest; without one it is done here.

        `save` says that its evidence is still to be saved, `patience` is in seconds. What cannot be done stays on the
        ledger.
        """
        if keep:
            self.ledger.change(entry, "kept", owner=None)
            return
        dirty = self.ledger.change(entry, "dirty", owner=None, reusable=reusable and not save, save=save)
        if dirty is None or self.has_keeper():
            return
        self.chores().clean(dirty, patience)

    # -- the keeper ----------------------------------------------------------------------------

    def has_keeper(self) -> bool:
        """Whether the run's keeper lives."""
        return keeper_alive(self.config.account, self.run)

    def with_keeper(self) -> None:
        """Start the run's keeper unless it lives. Where it cannot start, this process does what it would have done."""
        with self._lock:
            if self.has_keeper() or self._starts >= STARTS:
                return
            self._starts += 1
            try:
                start_keeper(self.config)
            except (BackendError, OSError) as error:
                self._starts = STARTS
                self.ledger.note(self.run, f"there was no keeper: {str(error).splitlines()[0]}")

    def chores(self) -> Chores:
        """What a process does with single entries."""
        verify, exclusive = self.config.verify_reset, self.config.exclusive
        return Chores(self.ledger, self.answers, self.api, self.owner, verify_reset=verify, exclusive=exclusive)

    def tend(self) -> None:
        """While waiting: bury dead tickets, and do what the keeper would, where there is none."""
        if clock.monotonic() - self._tended < TEND:
            return
        self._tended = clock.monotonic()
        self.bury()
        self.with_keeper()
        if self.has_keeper():
            return
        chores = self.chores()
        for entry in self.ledger.entries(run=self.run, states=("dirty", "lost")):
            if not self._lives(entry.owner):  # else it is being saved
                (chores.clean if entry.state == "dirty" else chores.reconcile)(entry, None)
        for entry in self.ledger.entries(run=self.run, states=("held", "intent", "cleaning", "releasing")):
            if entry.owner is not None and not self._lives(entry.owner):
                chores.settle(entry)

    def bury(self) -> None:
        """The dead stand in no line."""
        for ticket in self.ledger.tickets():
            if not self._lives(ticket.owner):
                self.ledger.forget_owner(ticket.owner)

    # -- the end -------------------------------------------------------------------------------

    def let_go(self) -> None:
        """The leases are over: what this process still holds is what an interrupt left between two steps."""
        if self._owner is None or not self._owner.is_mine():
            return
        for entry in self.ledger.entries(run=self.run, states=("held", "intent")):
            if entry.owner == self._owner.id:
                self.ledger.change(entry, "lost" if entry.state == "intent" else "dirty", owner=None, reusable=False)

    def release_left(self, entries: Sequence[Entry], until: float) -> None:
        """Release what has no living owner, as there is no keeper to do it; until then by the monotonic clock."""
        chores = self.chores()
        for entry in entries:
            if entry.owner is None or entry.owner == self.owner or not self._lives(entry.owner):
                chores.settle(entry, clock.left(until))

    def close(self) -> None:
        """This process's part is over. What it still holds is a dead owner's from now on."""
        with self._lock:
            if self._owner is not None:
                with suppress(BackendError):  # nobody misses it
                    self.ledger.forget_owner(self._owner.id)
                self._owner.close()
        self.ledger.close()

    def _lives(self, owner: str | None) -> bool:
        return owner is not None and self._owners.alive(owner, self._owner)

    def _own_nothing(self) -> None:
        self._lock = threading.Lock()
