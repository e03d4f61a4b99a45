"""What the keeper does: it watches the ledger, and sees to it that each entry becomes idle again, or goes.

It serves its own run, and does for runs whose keeper died what nobody else will. It ends when its run is over and
nothing is left to do; what it cannot release in ten minutes stays on the ledger, for a later run or
`pytest-klavis reap`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Final

from pytest_klavis import clock, redaction
from pytest_klavis.api.client import KlavisClient
from pytest_klavis.errors import InfraError

from .ahead import Seeds
from .answers import Answers
from .chores import Chores
from .entries import STAYS, Entry
from .foresight import SOON, Foresight
from .jobs import Jobs
from .keeper import OWNER, KeeperConfig
from .ledger import Ledger
from .limiter import Limiter
from .owners import Owner
from .scene import Scene, Watch

POLL: Final = 0.025
"""Seconds between two looks at whether the ledger has changed."""
LOOK: Final = 0.5
"""Seconds after which all is looked at though nothing has changed: owners die, time passes."""
REST: Final = 1.0
"""Seconds after which it looks again when the ledger could not be read."""
SWEEP: Final = 5.0
"""Seconds between two looks at what other runs have left."""
GRACE: Final = 15.0
"""Seconds without any process of the run after which it is over."""
PATIENCE: Final = 600.0
"""Seconds after the end of the run in which it is tried to release what is left."""
LOOKS: Final = (1.0, 4.0, 10.0, 46.0, 60.0)
"""Seconds between two looks for what a lost acquire may have made; the last one again and again."""
SHORT: Final = (60.0, 0.1)
"""An idle sandbox with less time than that, in seconds or as a part of all, is of no use to anybody."""
OLD_LOG: Final = 7 * 86400.0

log = logging.getLogger(__name__)
Job = tuple[int, Callable[[], object]]


class Keeping:
    """One keeper at work, as `owner`."""

    def __init__(self, config: KeeperConfig, owner: Owner) -> None:
        self._config = config
        self._owner = owner
        self._ledger = Ledger(config.account)
        pace = Limiter(config.account / "limiter", config.rate)
        self._api = KlavisClient(config.base_url, config.api_key, region=config.region, pace=pace)
        self._answers = Answers(config.account / "answers")
        self._chores = Chores(
            self._ledger,
            self._answers,
            self._api,
            owner.id,
            verify_reset=config.verify_reset,
            exclusive=config.exclusive,
            count=self._count,
        )
        self._jobs = Jobs()
        self._watch = Watch(self._ledger, config, owner)
        self._seeds = Seeds()
        self._foresight = Foresight(config, self._ledger, self._chores, self._jobs, seeds=self._seeds, pace=pace)
        self._counting = threading.Lock()
        self._counted = (0, 0.0)
        self._told: list[str] = []
        self._seen: object = None
        self._next_look = self._next_sweep = self._rests_until = 0.0
        self._over_since: float | None = None
        self._failing_since: float | None = None
        self._looks: dict[int, tuple[int, float]] = {}

    def run(self) -> None:
        """Keep until the run is over and nothing is left to do."""
        self._remove_old_logs()
        try:
            while self._step():
                clock.sleep(POLL)
        finally:
            self._jobs.close()
            self._seeds.close()
            try:
                self._count()
                self._watch.clear_away()
                self._answers.sweep(lambda: (one.number for one in self._ledger.entries()))
            except (InfraError, OSError) as error:
                log.warning("%s", redaction.redact(str(error)))
            self._ledger.close()

    def _step(self) -> bool:
        """Look, where there may be something to see; whether to go on."""
        now = clock.monotonic()
        if now < self._rests_until:
            return True
        if now >= self._next_look and not self._owner.path.exists():
            log.warning("the directory of this account is gone")
            return False
        try:
            seen = (self._ledger.database.version, len(self._jobs))
            if seen == self._seen and now < self._next_look:
                return True
            self._seen, self._next_look = seen, now + LOOK
            going_on = self._look(now)
        except (InfraError, OSError) as error:
            self._failing_since = self._failing_since or now
            self._rests_until, self._next_look = now + REST, 0.0
            log.warning("%s", redaction.redact(str(error)))
            return now - self._failing_since < PATIENCE
        self._failing_since = None
        return going_on

    def _look(self, now: float) -> bool:
        sweeping = now >= self._next_sweep
        if sweeping:
            self._next_sweep = now + SWEEP
            self._learn()
        scene = self._watch.look(GRACE, sweeping=sweeping)
        self._foresight.plan(scene)
        jobs = [(one, *job) for one in scene.entries if (job := self._job(one, scene)) is not None]
        for entry, _, work in sorted(jobs, key=lambda one: one[1]):
            ours = self._is_for_us(entry)
            self._jobs.start(entry.number, work if ours else partial(self._for_another_run, entry, work))
        self._foresight.start(scene)
        if self._foresight.holds:
            self._next_look = now + SOON
        if not len(self._jobs):
            self._count()
        return not self._is_over(scene, now)

    def _is_over(self, scene: Scene, now: float) -> bool:
        if not scene.closing or scene.has_owners:
            self._over_since = None
            return False
        self._over_since = self._over_since or now
        left = [one for one in scene.entries if self._is_for_us(one) and one.state not in STAYS]
        if left and now - self._over_since > PATIENCE:
            log.warning("left on the ledger: %s", ", ".join(one.name for one in left))
            return True
        return not left and not len(self._jobs)

    def _is_for_us(self, entry: Entry) -> bool:
        return entry.run == self._config.run or entry.owner == self._owner.id

    def _for_another_run(self, entry: Entry, work: Callable[[], object]) -> object:
        done = work()
        if entry.sandbox_id is not None and self._ledger.entry(entry.number) is None:
            what = f"{entry.name} of {entry.test or 'the pool'}, left by the run {entry.run}, was released"
            evidence = entry.will.get("evidence") if entry.state == "held" or entry.save else None
            self._ledger.note(self._config.run, f"{what}; it is saved in {evidence}" if evidence else what)
        return done

    # -- what to do with an entry --------------------------------------------------------------

    def _job(self, entry: Entry, scene: Scene) -> Job | None:
        """What has to be done with an entry, and how urgently: small numbers come first."""
        if entry.number in self._jobs or not self._may_touch(entry, scene):
            return None
        match entry.state:
            case "dirty" | "cleaning" if not entry.save:
                return self._back_into_use(entry, scene)
            case "held" | "dirty":
                return 2, partial(self._chores.settle, entry)
            case "releasing" | "idle":
                stays = entry.state == "idle" and not scene.is_over(entry) and not _is_short(entry)
                return None if stays else (2, partial(self._chores.release, entry))
            case "intent" | "lost":
                return (3, partial(self._reconcile, entry)) if self._is_time_to_look(entry) else None
            case _:
                return (3, partial(self._ledger.remove, entry)) if entry.left <= 0 else None

    def _may_touch(self, entry: Entry, scene: Scene) -> bool:
        """Whether an entry waits for somebody like us: nobody has it, or who had it is dead."""
        if not self._is_for_us(entry) and not scene.is_left(entry):
            return False
        if entry.owner == self._owner.id:  # a former keeper's of this name, or what failed before
            return not self._chores.is_at_work(entry.number)
        if entry.owner is None:
            return True
        # An acquire whose answer was lost is no longer the business of who sent it.
        return entry.state == "lost" or self._watch.is_dead(entry.owner)

    def _back_into_use(self, entry: Entry, scene: Scene) -> Job | None:
        """Reset it, or release it where that makes room for those who wait, or nobody will use it."""
        useless = scene.is_over(entry) or (scene.lacks_room and entry.spec not in scene.wanted)
        if useless or not self._chores.is_worth_a_reset(entry):
            return (0 if scene.waiting else 2), partial(self._chores.release, entry)
        if self._foresight.may_be_wished(entry, scene):
            return None
        return (0 if entry.spec in scene.awaited else 1), self._foresight.cleaning(entry, scene)

    def _reconcile(self, entry: Entry) -> None:
        count = self._looks.get(entry.number, (0, 0.0))[0]
        became = self._chores.reconcile(entry)
        if became == "again":
            pause = LOOKS[min(count, len(LOOKS) - 1)]
            self._looks[entry.number] = count + 1, clock.monotonic() + pause
        else:
            self._looks.pop(entry.number, None)

    def _is_time_to_look(self, entry: Entry) -> bool:
        return self._looks.get(entry.number, (0, 0.0))[1] <= clock.monotonic()

    # -- what the run learns -------------------------------------------------------------------

    def _count(self) -> None:
        """Put on the ledger what has been counted since the last time."""
        with self._counting:
            calls, waited = self._api.calls, self._api.waited
            before = self._counted
            if (calls, waited) == before:
                return
            self._ledger.count(self._config.run, calls=calls - before[0], waited=waited - before[1])
            self._counted = calls, waited

    def _learn(self) -> None:
        """Exchange with the run's other processes what is known of the dialect."""
        record = self._ledger.run(self._config.run)
        self._api.dialect.hear(record.refused if record is not None else ())
        told = self._api.dialect.told
        if told != self._told:
            self._told = told
            self._ledger.learn(self._config.run, told)

    def _remove_old_logs(self) -> None:
        """Those of keepers that ended in trouble stay for a week."""
        for path in self._config.account.glob(f"{OWNER.format(run='*')}.log"):
            try:
                if path != self._config.log and clock.now() - path.stat().st_mtime > OLD_LOG:
                    path.unlink()
            except OSError:
                continue


def _is_short(entry: Entry) -> bool:
    """Whether an idle sandbox has too little time left for anybody; one that was never meant to have more is used."""
    ttl = entry.ttl or 0
    return entry.left < max(SHORT[0], SHORT[1] * ttl) and entry.left < ttl / 2
