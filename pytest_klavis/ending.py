"""The end of a run on the cloud: the controller closes it, waits for the keeper, and counts what the ledger says."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from . import clock
from .errors import InfraError

if TYPE_CHECKING:
    from .pool.entries import Entry
    from .pool.ledger import RunRecord
    from .pool.pool import Pool
    from .session import KlavisSession
    from .tally import Tally

__tracebackhide__ = True  # users read their own frames

LEFT = ("held", "dirty", "cleaning", "idle", "releasing")
QUIET = 2.0
"""Seconds that the releases at the end may take before somebody is told."""


def end_run(session: KlavisSession, *, patience: float) -> None:
    """Nothing more is acquired for this run, and all of it is released within `patience` seconds. Once."""
    if session.ended or session.pid != os.getpid():
        return
    pool = session.pool_of_the_run()
    if pool is None:
        return
    session.ended = True
    record, left = pool.end(clock.monotonic() + patience, _Progress(session.config))
    _count(session.tally, record, left, pool)
    if session.desk is None:
        pool.close()


def leave(session: KlavisSession) -> None:
    """The run ends without its end: nothing more is acquired, and what is left is the keeper's."""
    if session.ended or session.pid != os.getpid():
        return
    pool = session.pool_of_the_run()
    if pool is None:
        return
    session.ended = True
    with suppress(InfraError):
        pool.end(clock.monotonic(), _Progress(session.config, hurried=True))
    if session.desk is None:
        pool.close()


class _Progress:
    """Says what is waited for, once it takes long, on a line of its own."""

    def __init__(self, config: pytest.Config, *, hurried: bool = False) -> None:
        self._hurried = hurried
        self._reporter = config.pluginmanager.get_plugin("terminalreporter")
        self._began = clock.monotonic()
        self._said = False
        self._left = 0

    def __call__(self, left: int) -> None:
        if left < 0 or self._hurried:
            count = self._left if left < 0 else left
            self._write(f"klavis: {count} sandboxes left to the keeper, which goes on to release them")
        elif not self._said and clock.monotonic() - self._began > QUIET:
            self._said = True
            self._write(f"klavis: releasing {left} sandboxes; Ctrl-C leaves them to the keeper")
        self._left = left

    def _write(self, line: str) -> None:
        if self._reporter is not None:
            self._reporter.ensure_newline()
            self._reporter.write_line(line)


def _count(tally: Tally, record: RunRecord | None, left: list[Entry], pool: Pool) -> None:
    """What the ledger says wins: it knows also what those did who were killed."""
    if record is not None:
        tally.acquired, tally.released = record.acquired, record.released
        tally.seconds_held = record.seconds + sum(one.age for one in left if one.sandbox_id)
        tally.calls += record.calls
        tally.resets = record.resets
        tally.notes += record.notes
    tally.kept = [f"{one.sandbox_id} of {one.test}" for one in left if one.state == "kept"]
    tally.unknown = [f"{one.name} for {one.test}" for one in left if one.state in ("lost", "intent")]
    tally.suspects = [f"{one.name}, perhaps of {one.test}" for one in left if one.state == "suspect"]
    whose = "the keeper goes on" if pool.has_keeper() else "the next run or `pytest-klavis reap` releases it"
    tally.leaked += [_told(one, whose) for one in left if one.state in LEFT]
    if pool.trouble:
        tally.notes.append(f"there was no keeper: {pool.trouble}")


def _told(entry: Entry, whose: str) -> str:
    trouble = entry.will.get("trouble")
    return f"{entry.name} ({trouble})" if trouble else f"{entry.name} ({entry.state}; {whose})"
