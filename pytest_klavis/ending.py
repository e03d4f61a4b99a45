"""The end of a run on the cloud: the controller closes it, waits for the keeper, and counts what the ledger says."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from . import clock
from .errors import InfraError

if TYPE_CHECKING:
    from .pool.end import End, Ended
    from .pool.entries import Entry
    from .session import KlavisSession
    from .tally import Tally

__tracebackhide__ = True  # users read their own frames

GOING = ("held", "dirty", "cleaning", "idle", "releasing")
QUIET = 2.0
"""Seconds that the releases at the end may take before somebody is told."""


def close(session: KlavisSession) -> None:
    """The controller knows that all tests are over: what is idle can go while the workers end."""
    try:
        end = _end(session)
        if end is not None:
            end.begin()
            end.close()
    except (InfraError, OSError):
        return  # the end itself will tell


def end_run(session: KlavisSession, *, patience: float) -> None:
    """Nothing more is acquired for this run, and all of it is released within `patience` seconds. Once.

    What cannot be done is named in the summary.
    """
    try:
        _end_run(session, patience)
    except KeyboardInterrupt:  # it came outside of the wait, which it would have ended
        _end_run(session, 0.0)


def _end_run(session: KlavisSession, patience: float) -> None:
    try:
        end = _end(session)
        if end is None:
            return
        if session.desk is not None and session.desk.pool is not None:
            session.desk.pool.let_go()
        ended = end.wait(clock.monotonic() + patience, _Progress(session.config))
        session.ended = True
        end.close()
    except (InfraError, OSError) as error:
        session.ended = True
        session.tally.notes.append(f"what is left of this run is not known: {error}")
        return
    _count(session.tally, ended)


def _end(session: KlavisSession) -> End | None:
    if session.settings.backend != "cloud" or session.ended or session.pid != os.getpid():
        return None
    from . import cloud  # noqa: PLC0415  sqlite is for the cloud only

    return cloud.end_of(session.settings, session.run.id, session.desk.pool if session.desk is not None else None)


class _Progress:
    """Says what is waited for, once it takes long, on a line of its own; and what is left to others."""

    def __init__(self, config: pytest.Config) -> None:
        self._reporter = config.pluginmanager.get_plugin("terminalreporter")
        self._began = clock.monotonic()
        self._said = False

    def __call__(self, left: int, given_up: bool) -> None:
        what = f"{left} {'sandbox' if left == 1 else 'sandboxes'}"
        if given_up:
            self._write(f"klavis: {what} left to the keeper, which goes on to release")
        elif not self._said and clock.monotonic() - self._began > QUIET:
            self._said = True
            self._write(f"klavis: releasing {what}; Ctrl-C leaves them to the keeper")

    def _write(self, line: str) -> None:
        if self._reporter is not None:
            self._reporter.ensure_newline()
            self._reporter.write_line(line)


def _count(tally: Tally, ended: Ended) -> None:
    """What the ledger says wins: it knows also what those did who were killed."""
    record, left = ended.record, ended.left
    tally.acquired, tally.released, tally.resets = record.acquired, record.released, record.resets
    tally.seconds_held = record.seconds + sum(one.age for one in left if one.sandbox_id)
    tally.calls += record.calls
    tally.notes += dict.fromkeys(record.notes)
    tally.kept = [f"{one.sandbox_id} of {one.test}" for one in left if one.state == "kept"]
    tally.unknown = [f"{one.name} for {one.whose}" for one in left if one.state in ("lost", "intent")]
    tally.suspects = [f"{one.name}, perhaps of {one.whose}" for one in left if one.state == "suspect"]
    whose = "the keeper goes on" if ended.has_keeper else "the next run or `pytest-klavis reap` releases it"
    tally.leaked += [_told(one, whose) for one in left if one.state in GOING]


def _told(entry: Entry, whose: str) -> str:
    trouble = entry.will.get("trouble")
    return f"{entry.name} ({trouble})" if trouble else f"{entry.name} ({entry.state}; {whose})"
