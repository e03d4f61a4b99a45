"""The keeper's part in what is to come: acquiring and seeding ahead for the wishes of its run, waiters first."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from pytest_klavis import clock
from pytest_klavis.errors import ClosedError

from .ahead import Packed, Plan, Seeds, Wish, plan
from .allocation import Limits
from .chores import NoPlaceError

if TYPE_CHECKING:
    from pytest_klavis.spec import Spec

    from .chores import Chores
    from .entries import Entry, Want
    from .jobs import Jobs
    from .keeper import KeeperConfig
    from .ledger import Ledger
    from .limiter import Limiter
    from .scene import Scene

AT_ONCE: Final = 8
"""How many are acquired ahead at the same time."""
SOON: Final = 0.3
"""Seconds in which who has given a sandbox back says what it wishes next."""
PAUSE: Final = 30.0
"""Seconds after an acquire ahead that gave nothing, before the next one of that spec."""

log = logging.getLogger(__name__)


class Foresight:
    """What is made ready ahead, and by which jobs."""

    def __init__(
        self, config: KeeperConfig, ledger: Ledger, chores: Chores, jobs: Jobs, *, seeds: Seeds, pace: Limiter
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._chores = chores
        self._jobs = jobs
        self._seeds = seeds
        self._pace = pace
        self._making: dict[int, str | None] = {}
        """Those that are being seeded, with what."""
        self._acquiring: dict[int, Spec] = {}
        self._not_before: dict[Spec, float] = {}
        self._plan = Plan()
        self._count = 0
        self.holds = False

    def plan(self, scene: Scene) -> None:
        """Decide what the wishes ask for."""
        idle = scene.closing or not self._config.prefetch or not scene.wishes
        self._plan = Plan() if idle else self._planned(scene)
        self.holds = False

    def start(self, scene: Scene) -> None:
        """Start what was planned. While somebody waits for a place, nothing is acquired."""
        self._start_seeding(scene)
        if not scene.waiting:
            self._start_acquiring(scene)

    def may_be_wished(self, entry: Entry, scene: Scene) -> bool:
        """Whether an entry was given back just now, and who did it may be about to wish for one with a seed."""
        if entry.spec in scene.awaited or entry.number in self._plan.clean or not scene.wishes:
            return False
        seeded = any(want.spec == entry.spec and workspace is not None for want, workspace in scene.wishes)
        self.holds = self.holds or (seeded and 0 <= clock.now() - entry.since < SOON)
        return seeded and 0 <= clock.now() - entry.since < SOON

    def _start_seeding(self, scene: Scene) -> None:
        for entry, wish in self._plan.seed:
            if wish.packed is not None and entry.number not in self._jobs:
                self._making[entry.number] = wish.packed.digest
                if not self._jobs.start(entry.number, partial(self._seed, entry, wish.want, wish.packed)):
                    del self._making[entry.number]
        for entry in scene.entries:
            if entry.state == "idle" and entry.number in self._plan.clean:  # a wrong guess
                self._jobs.start(entry.number, partial(self._reset, entry, self._plan.clean[entry.number].packed))

    def _start_acquiring(self, scene: Scene) -> None:
        if not self._plan.acquire or self._pace.is_busy():  # a spare costs two requests more
            return
        on_the_ledger = sum(one.state == "intent" and one.test == "" for one in scene.entries)
        free = scene.free - max(len(self._acquiring) - on_the_ledger, 0)
        for want in self._plan.acquire[: max(free, 0)]:
            waits = want.spec in scene.dry or self._not_before.get(want.spec, 0.0) > clock.monotonic()
            if not waits and len(self._acquiring) < AT_ONCE:
                self._count += 1
                key = self._count
                self._acquiring[key] = want.spec
                if not self._jobs.start(("ahead", key), partial(self._acquire, key, want)):
                    del self._acquiring[key]

    def cleaning(self, entry: Entry, scene: Scene) -> Callable[[], object]:
        """The job of resetting an entry, and of seeding it right away for who waits or wishes for that."""
        wish = self._plan.clean.get(entry.number)
        packed = wish.packed if wish is not None else None
        if packed is not None and entry.spec in scene.awaited:
            seeds = {want.seed for one in scene.waiting for want in one.wants if want.spec == entry.spec}
            packed = packed if packed.digest in seeds else None
        return partial(self._reset, entry, packed)

    def _reset(self, entry: Entry, packed: Packed | None) -> None:
        if packed is None:
            self._chores.clean(entry)
            return
        self._making[entry.number] = packed.digest
        try:
            self._chores.clean(entry, archive=packed.archive, digest=packed.digest)
        finally:
            self._making.pop(entry.number, None)

    def _seed(self, entry: Entry, want: Want, packed: Packed) -> None:
        try:
            self._chores.seed_ahead(entry, want, packed.archive, packed.digest)
        finally:
            self._making.pop(entry.number, None)

    def _acquire(self, key: int, want: Want) -> None:
        gave = False
        try:
            limits = Limits(self._config.cap, self._config.per_account)
            gave = self._chores.acquire_ahead(self._config.run, want, limits=limits) is not None
        except NoPlaceError:
            gave = True  # nobody was asked
        except ClosedError as error:
            log.info("nothing is acquired ahead: %s", error)
        finally:
            if not gave:
                self._not_before[want.spec] = clock.monotonic() + PAUSE
            self._acquiring.pop(key, None)

    def _planned(self, scene: Scene) -> Plan:
        own = [one for one in scene.entries if one.run == scene.run]
        ahead = [one for one in own if one.state == "intent" and one.test == ""]
        making = {one.number: self._making.get(one.number) for one in own if one.state == "cleaning"}
        making |= {one.number: None for one in ahead} | self._making.copy()
        usable = [one for one in own if one.state != "dirty" or self._chores.is_worth_a_reset(one)]
        found = plan([self._wish(*one) for one in scene.wishes], usable, making)
        # Those that are about to be acquired, and not on the ledger yet.
        coming = list(self._acquiring.copy().values())
        for one in ahead:
            if one.spec in coming:
                coming.remove(one.spec)
        for want in list(found.acquire):
            if want.spec in coming:
                coming.remove(want.spec)
                found.acquire.remove(want)
        return found

    def _wish(self, want: Want, workspace: str | None) -> Wish:
        if workspace is None or want.spec.kind != "local":
            return Wish(want)
        if due := self._seeds.is_due(workspace):
            self._jobs.start(("pack", workspace), partial(self._seeds.pack, workspace))
        return Wish(want, self._seeds.known(workspace), packing=due)
