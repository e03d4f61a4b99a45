"""The keeper's threads: one job at a time for each key, and a pause after one that failed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor

from pytest_klavis import clock, redaction
from pytest_klavis.errors import KlavisError

THREADS = 16
LONGEST = 30.0
"""Seconds that a job waits at most after it has failed again and again."""

log = logging.getLogger(__name__)


class Jobs:
    """What is being done. Started from one thread only."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, "chore")
        self._lock = threading.Lock()
        self._busy: set[Hashable] = set()
        self._failed: dict[Hashable, tuple[int, float]] = {}

    def __len__(self) -> int:
        """How many are being done."""
        with self._lock:
            return len(self._busy)

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._busy

    def start(self, key: Hashable, work: Callable[[], object]) -> bool:
        """Start a job, unless one of that key is being done, has just failed, or no thread is free; whether it began.

        Where `work` raises or gives False, it may be started again after a pause.
        """
        with self._lock:
            waits = self._failed.get(key, (0, 0.0))[1] > clock.monotonic()
            if key in self._busy or waits or len(self._busy) >= THREADS:
                return False
            self._busy.add(key)
        self._pool.submit(self._do, key, work)
        return True

    def close(self) -> None:
        """Wait until all is done."""
        self._pool.shutdown()

    def _do(self, key: Hashable, work: Callable[[], object]) -> None:
        done = False
        try:
            done = work() is not False
        except (KlavisError, OSError) as error:
            log.warning("%s", redaction.redact(str(error)))
        except Exception:
            log.exception("unexpected")
        finally:
            with self._lock:
                self._busy.discard(key)
                failures = self._failed.pop(key, (0, 0.0))[0]
                if not done:
                    pause = min(0.5 * 2.0**failures, LONGEST)
                    self._failed[key] = (failures + 1, clock.monotonic() + pause)
