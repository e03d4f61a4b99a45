"""The keeper's part in what is to come: acquiring and seeding ahead for the wishes of its run, waiters first."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final

from pytest_klavis import clock

from .ahead import Packed, Plan, Seeds, Wish, plan
from .ledger import ClosedError

if TYPE_CHECKING:
    from pytest_klavis.spec import Spec

    from .chores import Chores
    from .entries import Entry, Want
    from .jobs import Jobs
    from .keeper import KeeperConfig
    from .ledger import Ledger
    from .scene import Scene

AT_ONCE: Final = 4
"""How many are acquired ahead at the same time."""
PAUSE: Final = 30.0
"""Seconds after an acquire ahead that gave nothing, before the next one of that spec."""

log = logging.getLogger(__name__)


class Foresight:
    """What is made ready ahead, and by which jobs."""

    def __init__(self, config: KeeperConfig, ledger: Ledger, chores: Chores, jobs: Jobs, seeds: Seeds) -> None:
        self._config = config
        self._ledger = ledger
        self._chores = chores
        self._jobs = jobs
        self._seeds = seeds
        self._making: dict[int, str | None] = {}
        """Those that are being seeded, with what."""
        self._acquiring: dict[int, Spec] = {}
        self._not_before: dict[Spec, float] = {}
        self._plan = Plan()
        self._count = 0

    def start(self, scene: Scene) -> None:
        """Start what the wishes ask for. While somebody waits for a place, nothing."""
        self._plan = Plan()
        if not self._config.prefetch or not scene.wishes:
            return
        self._plan = self._planned(scene)
        if not scene.waiting:
            self._start_seeding(scene)
            self._start_acquiring(scene)

    def _start_seeding(self, scene: Scene) -> None:
        for entry, wish in self._plan.seed:
            if wish.packed is not None and entry.number not in self._jobs:
                self._making[entry.number] = wish.packed.digest
                if not self._jobs.start(entry.number, partial(self._seed, entry, wish.want, wish.packed)):
                    del self._making[entry.number]
        for entry in scene.entries:
            if entry.state == "idle" and entry.number in self._plan.clean:  # a wrong guess
                self._jobs.start(entry.number, partial(self._recycle, entry, self._plan.clean[entry.number]))

    def _start_acquiring(self, scene: Scene) -> None:
        for want in self._plan.acquire[: max(scene.free, 0)]:
            waits = want.spec in scene.dry or self._not_before.get(want.spec, 0.0) > clock.monotonic()
            if not waits and len(self._acquiring) < AT_ONCE:
                self._count += 1
                key = self._count
                self._acquiring[key] = want.spec
                if not self._jobs.start(("ahead", key), partial(self._acquire, key, want)):
                    del self._acquiring[key]

    def clean(self, entry: Entry, scene: Scene) -> None:
        """Reset an entry, and seed it right away for who waits or wishes for that."""
        wish = self._plan.clean.get(entry.number)
        packed = wish.packed if wish is not None else None
        if packed is not None and entry.spec in scene.awaited:
            seeds = {want.seed for one in scene.waiting for want in one.wants if want.spec == entry.spec}
            packed = packed if packed.digest in seeds else None
        self._reset(entry, packed)

    def _reset(self, entry: Entry, packed: Packed | None) -> None:
        if packed is None:
            self._chores.clean(entry)
            return
        self._making[entry.number] = packed.digest
        try:
            self._chores.clean(entry, archive=packed.archive, digest=packed.digest)
        finally:
            self._making.pop(entry.number, None)

    def _recycle(self, entry: Entry, wish: Wish) -> bool:
        self._reset(entry, wish.packed)
        return True

    def _seed(self, entry: Entry, want: Want, packed: Packed) -> bool:
        try:
            self._chores.seed_ahead(entry, want, packed.archive, packed.digest)
        finally:
            self._making.pop(entry.number, None)
        return True

    def _acquire(self, key: int, want: Want) -> bool:
        found = None
        try:
            found = self._chores.acquire_ahead(self._config.run, want)
        except ClosedError as error:
            log.info("nothing is acquired ahead: %s", error)
        finally:
            if found is None:
                self._not_before[want.spec] = clock.monotonic() + PAUSE
            self._acquiring.pop(key, None)
        return True

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
