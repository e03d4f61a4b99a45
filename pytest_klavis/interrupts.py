"""Signals that end the run: SIGTERM and SIGHUP become KeyboardInterrupt, and one that comes at a bad moment waits."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__tracebackhide__ = True  # users read their own frames

_PROCESS = os.getpid()
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 4.0
"""Seconds that an interrupt waits at most; xdist interrupts a worker again after five."""


class Termination:
    """SIGTERM and SIGHUP end in the ordinary teardown, as Ctrl-C does, unless somebody handles them."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def become_interrupts(self) -> None:
        """From now on. Does nothing outside of the main thread."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                self._before[number] = signal.signal(number, _interrupt)

    def restore(self) -> None:
        """As it was before."""
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """Let the first interrupt wait until the body is over: an answer on its way names what has to be released.

    It waits four seconds at most, and a second one is not held. Outside of the main thread nothing is held, as
    interrupts do not come there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in _ENDING}
    came: list[int] = []

    def later(number: int, frame: FrameType | None) -> None:
        if came or not _wake_after(PATIENCE):
            handlers[number](number, frame)
        came.append(number)

    held_back = [number for number, handler in handlers.items() if callable(handler)]
    for number in held_back:
        signal.signal(number, later)
    try:
        yield
    except KeyboardInterrupt:  # it has waited long enough, or another one came
        if not came:
            raise
        first = signal.Signals(came[0]).name
        came.clear()
        raise KeyboardInterrupt(f"received {first}") from None
    finally:
        for number in held_back:
            signal.signal(number, handlers[number])
        _wake_never()
        if came:
            handlers[came[0]](came[0], None)


def _wake_after(seconds: float) -> bool:
    """Raise KeyboardInterrupt after a while; False where the process's alarm clock is in use."""
    if signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL or signal.getitimer(signal.ITIMER_REAL)[0]:
        return False
    signal.signal(signal.SIGALRM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    return True


def _wake_never() -> None:
    if signal.getsignal(signal.SIGALRM) is _interrupt:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    if os.getpid() != _PROCESS:  # a forked child ends as it would have without us
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    raise KeyboardInterrupt(f"received {signal.Signals(number).name}")
