"""pytest-timeout's timer stands still while we wait for the backend; our own deadlines rule there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from . import clock

__tracebackhide__ = True  # users read their own frames


@dataclass
class Timer:
    """The timer that pytest-timeout runs for an item."""

    settings: Any
    started: float
    running: bool = True
    waits: int = 0
    """Waits that go on now: the tasks of an async test can wait at once."""


TIMER = pytest.StashKey[Timer]()


def started(item: pytest.Item, settings: Any) -> None:
    """pytest-timeout set a timer for `item`."""
    item.stash[TIMER] = Timer(settings, clock.monotonic())


def cancelled(item: pytest.Item) -> None:
    """pytest-timeout cancelled the timer of `item`."""
    if TIMER in item.stash:
        item.stash[TIMER].running = False


@contextmanager
def paused(item: pytest.Item) -> Iterator[None]:
    """Stop the timer of `item` for the body; afterwards it has as much left as before."""
    timer = item.stash.get(TIMER, None)
    # Signals can only be set in the main thread; a factory awaited by an async test runs in another.
    if timer is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    rest = timer.settings.timeout - (clock.monotonic() - timer.started)
    if not timer.waits and not (timer.running and rest > 0):  # it has fired, or nobody waits for it
        yield
        return
    if not timer.waits:
        timer.settings = timer.settings._replace(timeout=round(rest, 3))
        item.config.hook.pytest_timeout_cancel_timer(item=item)
    timer.waits += 1
    try:
        yield
    finally:
        timer.waits -= 1
        if not timer.waits:
            left = timer.settings._replace(timeout=max(timer.settings.timeout, 0.01))
            item.config.hook.pytest_timeout_set_timer(item=item, settings=left)
