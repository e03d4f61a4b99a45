"""Whose processes the commands are: becoming the sandbox's user, and how many processes that user may have."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_klavis.embedded.isolation import syscalls
from pytest_klavis.embedded.isolation.model import IsolationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_klavis.limits import Limits

_SLACK = 64  # processes that the user may start elsewhere meanwhile
_FRESH = 5.0  # seconds for which a count holds
_counted: dict[int, tuple[float, int]] = {}


def become(uid: int | None) -> Callable[[], None]:
    """What turns the calling process into the sandbox's user, with no group and no capability left.

    Raises IsolationError when the server is root and the sandbox has no uid.
    """
    if os.geteuid() != 0:
        return lambda: None
    if not uid:
        raise IsolationError("a server that runs as root needs a uid of its own for each sandbox")

    def drop() -> None:  # forked child
        if syscalls.LINUX:
            syscalls.drop_bounding_set()
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)

    return drop


def process_limit(uid: int | None, limits: Limits) -> int:
    """RLIMIT_NPROC for a command that shares its user with other processes.

    The kernel counts all tasks of the user. The uid of a sandbox has no others. A plain user has: they are counted
    (at most every few seconds) and the limit is set above that.
    """
    if os.geteuid() == 0 and uid is not None:
        return limits.processes
    return _tasks_of(os.getuid()) + _SLACK + limits.processes


def _tasks_of(uid: int) -> int:
    when, count = _counted.get(uid, (0.0, 0))
    if when and time.monotonic() - when < _FRESH:
        return count
    count = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if entry.stat().st_uid == uid:
                count += int((entry / "stat").read_bytes().rpartition(b")")[2].split()[17])
        except OSError:
            continue
    _counted[uid] = (time.monotonic(), count)
    return count
