"""Checkout by many processes: `python perf/checkout.py [--quick]`. Prints milliseconds and ratios; asserts nothing.

Against what one writes by hand: a JSON file behind filelock, looked at every 50 ms. Nothing is acquired or reset: what
is checked in is clean at once. Whole: about two minutes, quick: half of one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import chain
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Protocol

import filelock

from pytest_klavis.pool.allocation import Limits
from pytest_klavis.pool.entries import Want
from pytest_klavis.pool.ledger import Ledger
from pytest_klavis.pool.line import Place
from pytest_klavis.spec import Spec

PROCESSES = 32
FORK = multiprocessing.get_context("fork")
GITHUB = Spec("remote", ("github",))
Waits = list[float]


class Store(Protocol):
    def fill(self) -> None: ...

    def open(self) -> None: ...

    def lease(self) -> AbstractContextManager[None]: ...


Make = Callable[[Path], Store]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a quarter of the rounds")
    seconds = 2.5 if parser.parse_args().quick else 10.0
    load = os.getloadavg()[0]
    print(f"{PROCESSES} processes, {os.cpu_count()} cores, load {load:.1f}, Python {sys.version.split()[0]}\n")
    stores: dict[str, Callable[..., Store]] = {
        "ours": Ours,
        "ours, 300 more on the ledger": partial(Ours, more=300),
        "filelock + JSON": ByHand,
    }
    print(f"{'one is free for each; body 200 ms':36} {'p50 ms':>10} {'p99 ms':>10} {'max ms':>10}")
    for name, make in stores.items():
        waits = sorted(chain(*measured(partial(make, places=PROCESSES), seconds, body=0.2)))
        show(name, 1000 * statistics.median(waits), 1000 * waits[len(waits) * 99 // 100], 1000 * waits[-1])
    print(f"\n{'8 for all; body 100 ms':36} {'shortest s':>10} {'longest s':>10} {'ratio':>10} {'ideal share':>12}")
    for name, make in stores.items():
        each = measured(partial(make, places=8), seconds, body=0.1)
        waits = sorted(chain(*(one[1:] for one in each)))  # at first there is no line
        leases = sum(map(len, each))
        show(name, waits[0], waits[-1], waits[-1] / max(waits[0], 0.001), leases / (8 * seconds / 0.1))


def show(name: str, *figures: float) -> None:
    print(f"{name:36}" + "".join(f" {one:10.3f}" for one in figures), flush=True)


def measured(make: Make, seconds: float, *, body: float) -> list[Waits]:
    """For each process how long it waited, lease by lease."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder)).fill()
        barrier = FORK.Barrier(PROCESSES)
        answers: Queue[Waits] = FORK.Queue()
        given = (make, Path(folder), barrier, answers, seconds, body)
        workers: list[BaseProcess] = [FORK.Process(target=work, args=given) for _ in range(PROCESSES)]
        for one in workers:
            one.start()
        found = [answers.get() for _ in workers]
        for one in workers:
            one.join()
        return found


def work(  # noqa: PLR0917
    make: Make, folder: Path, barrier: Barrier, answers: Queue[Waits], seconds: float, body: float
) -> None:
    store, waits = make(folder), []
    store.open()
    barrier.wait()
    end = time.monotonic() + seconds
    time.sleep(random.uniform(0, body))
    while time.monotonic() < end:
        began = time.monotonic()
        with store.lease():
            waits.append(time.monotonic() - began)
            time.sleep(body)
    answers.put(waits)


class Ours:
    """The ledger and its line, with idle sandboxes of this run and more of another."""

    def __init__(self, folder: Path, places: int, more: int = 0) -> None:
        self._ledger = Ledger(folder)
        self._limits = Limits(places, per_account=False)
        self._places, self._more = places, more

    def fill(self) -> None:
        for run, count in (("run", self._places), ("another", self._more)):
            self._ledger.begin(run)
            for number in range(count):
                made = self._ledger.intend(run, "me", Want(GITHUB, 3600))
                self._ledger.change(made, "idle", owner=None, sandbox_id=f"{run}-{number}")
        self._ledger.close()

    def open(self) -> None:
        assert self._ledger.run("run")

    @contextmanager
    def lease(self) -> Iterator[None]:
        wants, owner = [Want(GITHUB, 3600, needs=60)], str(os.getpid())
        place = Place(self._ledger, wants, run="run", owner=owner, limits=self._limits, tend=lambda: None)
        with place:
            entries = place.take(time.monotonic() + 60)
        yield
        for one in entries:
            assert self._ledger.change(one, "idle", owner=None)


class ByHand:
    """A file with the names of those that are free."""

    def __init__(self, folder: Path, places: int) -> None:
        self._places = places
        self._file = folder / "pool.json"
        self._lock = filelock.FileLock(folder / "lock")

    def fill(self) -> None:
        self._file.write_text(json.dumps([f"run-{number}" for number in range(self._places)]))

    def open(self) -> None:
        pass

    @contextmanager
    def lease(self) -> Iterator[None]:
        while not (mine := self._changed(lambda free: free.pop() if free else None)):
            time.sleep(0.05)
        yield
        self._changed(lambda free: free.append(mine))

    def _changed(self, change: Callable[[list[str]], str | None]) -> str | None:
        with self._lock:
            free = json.loads(self._file.read_text())
            answer = change(free)
            new = self._file.with_suffix(".new")
            new.write_text(json.dumps(free))
            new.replace(self._file)
            return answer


if __name__ == "__main__":
    main()
