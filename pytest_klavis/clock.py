"""The one home of time: our deadlines, waits and figures, out of reach of tests that freeze or patch the `time` module.

freezegun replaces `monotonic`, `perf_counter` and `time` wherever a module holds them, also by `from time import`; it
leaves `clock_gettime` alone. Tests also replace `time.sleep`; the one bound here is the one that pytest started with.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from time import CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, sleep

__all__ = ["boot_id", "left", "monotonic", "now", "since_boot", "sleep"]

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", CLOCK_MONOTONIC)  # macOS counts sleep in the latter


def monotonic() -> float:
    """Seconds on a clock that nobody sets; compare with its own values only."""
    return clock_gettime(CLOCK_MONOTONIC)


def left(until: float) -> float:
    """Seconds until then by `monotonic`, one at least: the call itself says that it was too late."""
    return max(until - monotonic(), 1.0)


def now() -> float:
    """Seconds since the epoch, by this machine."""
    return clock_gettime(CLOCK_REALTIME)


def since_boot() -> float:
    """Seconds since the machine started, sleep included: the same in all its processes and containers."""
    return clock_gettime(_BOOTTIME)


@cache
def boot_id() -> str:
    """Which start of the machine this is; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
