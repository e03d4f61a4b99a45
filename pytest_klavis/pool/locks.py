"""A file that one process or thread at a time has: for what takes moments. Who lives is a matter of `owners`."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pytest_klavis import clock

__tracebackhide__ = True  # users read their own frames


@contextmanager
def locked(path: Path, patience: float) -> Iterator[int]:
    """The file, made if needed, while no other process or thread has it so. Raises OSError, TimeoutError if not soon.

    `flock` belongs to the opened file: it keeps threads apart too, and is let go of by name because a child forked at
    this moment has a copy of the descriptor.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _flock(descriptor, clock.monotonic() + patience)
        try:
            yield descriptor
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _flock(descriptor: int, until: float) -> None:
    pause = 0.0005
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if clock.monotonic() >= until:
            raise TimeoutError("another process has held its lock for too long")
        clock.sleep(pause)
        pause = min(2 * pause, 0.01)
