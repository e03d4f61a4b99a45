"""This process's part in the run: settings, the way to the backend, leases and what became of each item."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from . import artifacts, clock, ending, orders
from .ahead import Ahead
from .errors import BackendError, ClosedError, InfraError, SpecError, UnavailableError
from .interrupts import PATIENCE, Termination
from .logs import redact_logs
from .settings import Settings
from .spec import Ask
from .state import STATE, ItemState, Run, Use
from .tally import Tally
from .timeouts import paused

if TYPE_CHECKING:
    from .lease import Lease, Order
    from .lifecycle import Desk

__tracebackhide__ = True  # users read their own frames

OWN_FILES = "files"
"""The folder of an attempt that holds the test's own evidence."""
DRAIN_AT_END = 300.0
"""Seconds for handing over at an orderly end of the run."""
INTERRUPTED_END = 20.0
"""Seconds for the same after Ctrl-C; another one ends it at once."""
LAST_CALL = 0.3
"""Seconds for a release that comes when the time is up."""


class Scope:
    """The leases of one fixture, from its setup to its end."""

    def __init__(self, session: KlavisSession, request: pytest.FixtureRequest) -> None:
        self.session = session
        self._request = request
        self._uses: list[Use] = []
        self._ended = False

    def lease(self, asks: Sequence[Ask]) -> list[Lease]:
        """One lease per ask, or none: everything is checked before the first one is acquired."""
        item = self.session.item
        if item is None or self._ended:
            raise SpecError(f"{self._request.fixturename} cannot give a sandbox any more: its test is over")
        orders = [(ask.key, self.session.order(ask, self._request, item)) for ask in asks]
        with self.session.acquiring(item):
            made = self.session.acquire(orders, item, self._request)
            if self._ended:  # while a thread was waiting in here
                for use in made:
                    self.session.discard(use)
                raise SpecError(f"{self._request.fixturename} ended while it waited for a sandbox")
            self._uses += made
        return [use.lease for use in made]

    def benchmark(self) -> str | None:
        """The benchmark for asks that name none."""
        return orders.benchmark_of(self.session, self._request)

    def end(self) -> None:
        """The scope is over: its leases are handed over as soon as the verdict is known."""
        self._ended = True
        for use in self._uses:
            use.lease.over = True


class KlavisSession:
    """One per pytest process; lives in `config.stash[KEY]`."""

    def __init__(self, config: pytest.Config, settings: Settings, run: Run) -> None:
        self.config = config
        self.settings = settings
        self.run = run
        self.tally = Tally()
        self.pid = os.getpid()
        """A forked child of a test ends no run."""
        self._parent = os.getppid() if run.worker else None
        self.item: pytest.Item | None = None
        self.uses: list[Use] = []
        self.lock = threading.RLock()
        """Async tests acquire in threads."""
        self.patience: float | None = None
        """When the clean-up after an interrupt has to be over, by the monotonic clock."""
        self.desk: Desk | None = None
        """Made when the first sandbox is asked for."""
        self.ahead = Ahead(self)
        self.ended = False
        """The run is closed on the ledger."""
        self.largest_set = 1
        """The most sandboxes that the marks of one test declare."""
        self._termination = Termination()
        self._acquiring: list[str] = []
        self._settled = threading.Condition()

    # -- the backend ---------------------------------------------------------------------------

    def open_desk(self) -> Desk:
        """The way to the backend, made on the first sandbox; raises BackendError when there is none."""
        with self.lock:
            if self.desk is None:
                from .desk import open_desk  # noqa: PLC0415  httpx and pydantic load with the first sandbox

                self.desk = open_desk(self.settings, self.run.id, self.tally, enough=self.enough)
                self.desk.hurry = self.hurry
                redact_logs(self.config)
        self.take_signals()
        return self.desk

    @property
    def enough(self) -> int:
        """How many sandboxes the run can use at once: what each worker has, and what is made ready for it."""
        return 2 * self.run.workers * self.largest_set

    def take_signals(self) -> None:
        """Let SIGTERM and SIGHUP end in the clean-up. Only the main thread can; elsewhere this does nothing."""
        self._termination.become_interrupts()

    @property
    def has_keeper(self) -> bool:
        """Whether somebody goes on when this process is gone."""
        return self.desk is not None and self.desk.pool is not None and self.desk.pool.has_keeper()

    def tests_are_over(self) -> None:
        """Under xdist the workers end from here on."""
        if self.desk is None and not hasattr(self.config, "workeroutput"):
            ending.close(self)

    def finish(self, *, interrupted: bool) -> None:
        """A worker tells the controller what it did; the controller ends the run and forgets old ones."""
        output = getattr(self.config, "workeroutput", None)
        if output is not None:
            output["klavis"] = asdict(self.tally)
            output["klavis_learned"] = self.ahead.learned
            return
        ending.end_run(self, patience=INTERRUPTED_END if interrupted else DRAIN_AT_END)
        self.ahead.remember()
        if self.run_folder.is_dir():
            artifacts.forget_old_runs(self.settings.artifacts_dir)

    def merge(self, output: Mapping[str, Any]) -> None:
        """In the controller: count what a worker did; a crashed one tells nothing."""
        if output.get("klavis"):
            self.tally.add(Tally(**output["klavis"]))
        self.ahead.merge(output.get("klavis_learned"))

    def close(self) -> None:
        """Let go of the backend and of the signals."""
        if not hasattr(self.config, "workeroutput"):
            ending.end_run(self, patience=0.0)  # where it has not ended in order
        if self.desk is not None:
            self.desk.close()
        self._termination.restore()

    # -- items ---------------------------------------------------------------------------------

    def begin(self, item: pytest.Item) -> None:
        """A new attempt at `item` starts."""
        self.item = item
        state = item.stash[STATE] = ItemState()
        # A test with `request` may get at a fixture that its signature does not name.
        fixtures = getattr(item, "fixturenames", ())
        for use in self.uses:
            if use.wide and not use.lease.over and ("request" in fixtures or use.fixture in fixtures):
                use.items.append(state)

    @contextmanager
    def body(self, item: pytest.Item) -> Iterator[None]:
        """The body of `item` runs."""
        state = item.stash[STATE]
        state.in_body = True
        self.ahead.begin(item)
        try:
            yield
        finally:
            state.in_body = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """We wait for the backend: pytest-timeout's timer of the current item stands still."""
        if self.item is None:
            yield
        else:
            with paused(self.item):
                yield

    def record(self, error: InfraError) -> None:
        """Remember an infra error against the item that runs, whatever the test does with it."""
        if self.item is not None and error not in self.item.stash[STATE].infra:
            self.item.stash[STATE].infra.append(error)

    def attempt_folder(self, item: pytest.Item) -> Path:
        """Where the evidence of this attempt at `item` goes. Nothing is made."""
        state = item.stash[STATE]
        if state.attempt is None:
            first = int(getattr(item, "execution_count", 1))
            test = artifacts.slug(item.nodeid, self.run.worker if self.run.every_test_everywhere else "")
            state.attempt = artifacts.new_attempt(self.run_folder / test, first)
        return state.attempt

    def evidence_folder(self, item: pytest.Item, use: Use) -> Path:
        """Where the evidence of `use` in this attempt at `item` goes. Nothing is made."""
        own = use.lease.order.evidence
        if own is not None and own in item.stash[STATE].folders:
            return own
        return self.new_folder(item, use.key)

    def new_folder(self, item: pytest.Item, key: str) -> Path:
        """A folder for the evidence of a sandbox of `item` that is not taken yet. Nothing is made."""
        taken = item.stash[STATE].folders
        with self.lock:
            attempt = self.attempt_folder(item)
            folder = artifacts.sandbox_folder(attempt, key, {*taken, attempt / OWN_FILES})
            taken.add(folder)
        return folder

    def files(self, item: pytest.Item) -> Path:
        """The folder for the test's own evidence; it goes again unless the rule for artifacts keeps it."""
        state = item.stash[STATE]
        if state.files is None:
            state.files = self.attempt_folder(item) / OWN_FILES
            state.files.mkdir(parents=True)
        return state.files

    def settle_files(self, item: pytest.Item, state: ItemState) -> None:
        """Keep the test's own evidence, or remove it, now that its verdict is known."""
        if state.files is None:
            return
        if {"never": False, "on-failure": state.failed, "always": True}[self.settings.artifacts]:
            artifacts.begin_run(self.run_folder)
            item.user_properties.append(("klavis_artifacts", artifacts.shown(state.files)))
            return
        shutil.rmtree(state.files, ignore_errors=True)
        for folder in (state.files.parent, state.files.parent.parent, self.run_folder, self.settings.artifacts_dir):
            with suppress(OSError):
                folder.rmdir()

    @contextmanager
    def acquiring(self, item: pytest.Item) -> Iterator[None]:
        """A sandbox for `item` is on its way, perhaps in a thread that an interrupt does not reach."""
        with self._settled:
            self._acquiring.append(item.nodeid)
        try:
            yield
        finally:
            with self._settled:
                self._acquiring.remove(item.nodeid)
                self._settled.notify_all()

    def settle(self) -> None:
        """Wait for sandboxes on their way; half of the time that is left, as they have to be released as well."""
        with self._settled:
            if not self._settled.wait_for(lambda: not self._acquiring, max(self.time_left() / 2, 0.0)):
                self.tally.unknown += [f"a sandbox for {test}" for test in self._acquiring]

    def time_left(self) -> float:
        """Seconds that are left for the clean-up at the end."""
        return (self.patience or 0.0) - clock.monotonic()

    def share(self, count: int) -> float:
        """Seconds for the first of `count` releases at the end. Each is sent, even when the time is up."""
        return max(self.time_left() / count, LAST_CALL)

    def hurry(self, count: int) -> float | None:
        """Seconds for the first of `count` releases of fixtures; None where nobody waits for the end of the run."""
        session = self.config.pluginmanager.get_plugin("session")
        if getattr(session, "exitstatus", None) != pytest.ExitCode.INTERRUPTED:
            return None
        if self.patience is None:
            self.patience = clock.monotonic() + PATIENCE
        return self.share(count)

    @property
    def run_folder(self) -> Path:
        """Where the evidence of this run goes; the same in every process of the run."""
        return self.settings.artifacts_dir / self.run.id

    # -- leases --------------------------------------------------------------------------------

    @contextmanager
    def leases(self, request: pytest.FixtureRequest) -> Iterator[Scope]:
        """The leases of one fixture; its end marks them over."""
        scope = Scope(self, request)
        try:
            yield scope
        finally:
            scope.end()

    def acquire(
        self, orders: Sequence[tuple[str, Order]], item: pytest.Item, request: pytest.FixtureRequest
    ) -> list[Use]:
        """Acquire what was ordered for `item`, all or nothing; an infra error is remembered against it."""
        try:
            return self._acquire(orders, item, request)
        except UnavailableError as error:
            if self.settings.require:
                self.record(error)
                raise
            reason = str(error)
        except InfraError as error:
            self.record(error)
            if isinstance(error, ClosedError):
                item.session.shouldstop = str(error)
            raise
        except OSError as error:
            trouble = BackendError(f"no sandbox could be acquired: {error}")
            self.record(trouble)
            raise trouble from error
        # Outside the handler: a skip that carries the error as its context would count as an infra error.
        pytest.skip(f"{reason}\n(--klavis-require=on makes this an error)")

    def _acquire(
        self, orders: Sequence[tuple[str, Order]], item: pytest.Item, request: pytest.FixtureRequest
    ) -> list[Use]:
        fixture, wide = str(request.fixturename), request.scope != "function"
        if self._parent not in (None, os.getppid()) and self.pid == os.getpid():
            raise ClosedError("the process that began this run is gone: nothing more is acquired for it")
        with paused(item):
            first = self.desk is None
            desk = self.open_desk()
            if first:  # while this one is acquired, the next one can be
                self.ahead.wish()
            leases = desk.acquire([order for _, order in orders])
        state = item.stash[STATE]
        uses = [Use(lease, fixture, wide, key, [state]) for (key, _), lease in zip(orders, leases, strict=True)]
        with self.lock:
            self.uses += uses
        if desk.pool is not None and not wide:
            self.ahead.acquired(item, [order for _, order in orders])
        for use in uses:
            use.lease.over = True  # until the hooks have let them pass
        for use in uses:
            self.config.hook.pytest_klavis_acquired(item=item, sandbox=use.lease.sandbox)
        for use in uses:
            use.lease.over = False
        return uses

    def discard(self, use: Use) -> None:
        """Hand a lease over at once: it was part of a set that could not be completed, or came too late."""
        use.lease.over = True  # should an interrupt come meanwhile
        self.open_desk().hand_over(use.lease, why="nobody could use it any more", reusable=True)
        self.forget(use)

    def forget(self, use: Use) -> None:
        """Its lease was handed over; one that another thread is still handing over stays, to be named if that fails."""
        with self.lock:
            if use in self.uses and (use.lease.handed_over or use.lease.pid != os.getpid()):
                self.uses.remove(use)

    def order(self, ask: Ask, request: pytest.FixtureRequest, item: pytest.Item) -> Order:
        """Resolve an ask completely; SpecError for what can be known wrong before anything is acquired."""
        with paused(item):
            return orders.order(self, ask, request, item)


KEY = pytest.StashKey[KlavisSession]()
