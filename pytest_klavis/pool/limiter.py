"""One account's limit of requests, shared by all processes of this machine: whose turn it is, and when.

Each request takes a number and sleeps until it is due; what the processes share is a file of 28 bytes, locked for
microseconds. Requests go at least a twentieth more than 1 / rate apart, so that no window of the API's holds too many.

pyrate-limiter 4.5 (SQLite, and the file lock that its processes need) has no order, no second class and no penalty: of
8 processes that send 4 requests each at 2/s, one waits three times as long in a row as here, and 429s come through.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from pytest_klavis import clock
from pytest_klavis.api.answers import LONGEST_RETRY_AFTER
from pytest_klavis.api.pace import NoTurnError

from .locks import locked

__tracebackhide__ = True  # users read their own frames

MARGIN: Final = 1.05
"""How much further apart than the rate says: answers and requests take different times on their way."""
PATIENCE = 5.0
"""Seconds after which a patient request stands in line like all others."""
PENALTY: Final = 1.0
"""Seconds of a 429 that names none."""
_NAP = 1.0
"""Seconds after which one that waits looks again, though nothing should have changed: the machine may have slept."""
_LOCK_PATIENCE = 1.0
"""Seconds for a lock that is held for microseconds; a process that was stopped just then must not stop the others."""
_LONGEST_LINE = 10_000
_FURTHEST = 2 * LONGEST_RETRY_AFTER

_T = TypeVar("_T")

log = logging.getLogger(__name__)


@dataclass
class Request:
    """One that waits. `hurries_at` is when its patience ends, by clock.since_boot; None where it has none."""

    hurries_at: float | None = None
    number: int | None = None


@dataclass
class Line:
    """Numbers from `head`, which is served next, up to `tail`, which is given out next."""

    head: int = 0
    tail: int = 0

    def __len__(self) -> int:
        return self.tail - self.head

    def before(self, request: Request) -> int:
        """How many are served before it. Who has no number of this line is given one."""
        if request.number is None or (request.number >= self.tail and not len(self)):  # the latter: the book is new
            request.number = self.tail
            self.tail += 1
        request.number = min(request.number, self.tail - 1)  # others have left
        if request.number < self.head:  # its process slept too long, and was overtaken: it goes next
            request.number = self.head = self.head - 1
        return request.number - self.head

    def serve(self, request: Request) -> None:
        """It goes, and with it the numbers before it whose holders did not come."""
        if request.number is not None:
            self.head = max(self.head, request.number + 1)
        self.tail = max(self.head, self.tail)
        request.number = None

    def leave(self, request: Request) -> None:
        """It goes without having been served. Its gap closes at the end: two may get the same number, in any order."""
        if request.number is not None and self.head <= request.number and self.head < self.tail:
            self.tail -= 1
        request.number = None


@dataclass
class Book:
    """What is shared: nobody goes before `free`, by clock.since_boot; then one per interval, the urgent ones first."""

    free: float = 0.0
    urgent: Line = field(default_factory=Line)
    patient: Line = field(default_factory=Line)

    LAYOUT = struct.Struct("<d5I")

    def pack(self) -> bytes:
        lines = (self.urgent.head, self.urgent.tail, self.patient.head, self.patient.tail)
        return self.LAYOUT.pack(self.free, _boot(), *lines)

    @classmethod
    def unpack(cls, content: bytes, now: float, interval: float) -> Book:
        """The book, a new one where the content is none, is of before a restart, or damaged."""
        if len(content) != cls.LAYOUT.size:
            return cls()
        free, boot, *ends = cls.LAYOUT.unpack(content)
        book = cls(free, Line(*ends[:2]), Line(*ends[2:]))
        sane = 0 <= free <= now + _FURTHEST + interval and all(
            0 <= len(range(line.head, line.tail)) <= _LONGEST_LINE and line.head <= line.tail < 1 << 31
            for line in (book.urgent, book.patient)
        )
        return book if sane and boot == _boot() else cls()

    def ahead(self, request: Request, now: float) -> int:
        """How many go before this request, which is given its place where it has none."""
        if request.hurries_at is not None:
            if now < request.hurries_at:
                return len(self.urgent) + self.patient.before(request)
            self.patient.serve(request)  # those before it have hurried before it
            request.hurries_at = None
        return self.urgent.before(request)

    def serve(self, request: Request, now: float, interval: float) -> None:
        """It goes now. Spaced from here, not from when it was due, or one that is late would be close to the next."""
        if request.hurries_at is not None:
            self.patient.serve(request)
            self.urgent.head = self.urgent.tail  # they were due before, and did not come
        else:
            self.urgent.serve(request)
        self.free = now + interval

    def leave(self, request: Request) -> None:
        (self.urgent if request.hurries_at is None else self.patient).leave(request)


class Limiter:
    """The pace (`api.pace.Pace`) of one account: at most `rate` requests per second, None for as many as are wanted.

    `path` is the file that its processes share; where it cannot be used, each of them paces itself. A 429 that one of
    them got holds up all, whatever the rate. Usable from several threads and after a fork.
    """

    def __init__(self, path: Path, rate: float | None) -> None:
        self.rate = rate
        self._path = path
        self._interval = MARGIN / rate if rate else 0.0
        self._alone: Book | None = None
        self._alone_lock, self._pid = threading.Lock(), os.getpid()

    def __repr__(self) -> str:
        return f"Limiter({str(self._path)!r}, {self.rate})"

    def turn(self, *, patient: bool, until: float) -> float:
        """See Pace. Requests go in the order in which they came, the patient ones when nobody else waits."""
        began = clock.monotonic()
        request = Request(clock.since_boot() + PATIENCE if patient else None)

        def look(book: Book, now: float) -> tuple[float, str]:
            return self._look(book, request, now, until)

        wait, too_late = self._change(look)
        try:
            while wait > 0:
                clock.sleep(min(wait, _NAP))
                wait, too_late = self._change(look)
        except BaseException:
            self._change(lambda book, _: book.leave(request), patience=0.05)
            raise
        waited = clock.monotonic() - began
        if too_late:
            raise NoTurnError(too_late, waited=waited)
        return waited

    def is_busy(self) -> bool:
        """Whether requests stand in line: the API's limit is what all wait for."""
        return bool(self.rate) and self._change(lambda book, now: bool(book.urgent or book.patient) or book.free > now)

    def refused(self, asked: float | None) -> None:
        """See Pace; at most a minute is believed."""
        pause = min(asked, LONGEST_RETRY_AFTER) if asked is not None and asked > 0 else PENALTY

        def hold(book: Book, now: float) -> None:
            book.free = max(book.free, now + pause)

        self._change(hold)

    def _look(self, book: Book, request: Request, now: float, until: float) -> tuple[float, str]:
        """Return the seconds to wait, none when it is this request's turn, and why there is no use in it, if so."""
        ahead = book.ahead(request, now) if self.rate else 0
        due = book.free + ahead * self._interval
        left = until - clock.monotonic()
        if max(due, now) - now > left:
            book.leave(request)
            return 0.0, self._too_late(ahead, due - now, book.free - now)
        if due > now:
            # Before its patience ends as well: from then on it counts where it stands.
            return min(due, request.hurries_at or due) - now, ""
        if self.rate:
            book.serve(request, now, self._interval)
        return 0.0, ""

    def _too_late(self, ahead: int, wait: float, pause: float) -> str:
        when = f"its turn would have come in {max(wait, 0):.1f} s, after its deadline"
        if pause > self._interval:
            when += f"; the API answered 429, and nothing is sent to it for {pause:.1f} s"
        if not self.rate:
            return when
        return (
            f"{when}.\n{ahead} other requests were in line: all processes of this machine share the account's limit of "
            f"{self.rate:g} requests per second (--klavis-rate)"
        )

    def _change(self, step: Callable[[Book, float], _T], *, patience: float | None = None) -> _T:
        """Take a step in the shared book, or, where that cannot be used, in this process's own."""
        try:
            with locked(self._path, _LOCK_PATIENCE if patience is None else patience) as descriptor:
                content = os.pread(descriptor, Book.LAYOUT.size + 1, 0)
                now = clock.since_boot()
                book = Book.unpack(content, now, self._interval)
                result = step(book, now)
                if book.pack() != content:
                    os.pwrite(descriptor, book.pack(), 0)
                    if len(content) > Book.LAYOUT.size:
                        os.ftruncate(descriptor, Book.LAYOUT.size)
                return result
        except OSError as error:
            if self._alone is None:
                log.warning("%s cannot be used, so this process paces itself: %s", self._path, error)
        if self._pid != os.getpid():  # another thread may have held it at the fork
            self._alone_lock, self._pid = threading.Lock(), os.getpid()
        with self._alone_lock:
            self._alone = self._alone or Book()
            return step(self._alone, clock.since_boot())


def _boot() -> int:
    return zlib.crc32(clock.boot_id().encode())
