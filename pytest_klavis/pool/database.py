"""The ledger's file: one SQLite database per account, one connection per process, each change a transaction."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from pytest_klavis import clock
from pytest_klavis.errors import BackendError

from .damage import is_damage, set_aside

__tracebackhide__ = True  # users read their own frames

SCHEMA = 1
"""In the file's name: a newer plugin has a file of its own, and only releases what is on an older one."""
FILE = f"ledger-{SCHEMA}.sqlite3"
BUSY = 30.0
"""Seconds that a change waits for those of others, which take milliseconds."""
_SHORTEST, _LONGEST = 0.0002, 0.001
"""Seconds between two tries. SQLite's own waits get a hundred times as long, so that who waits is overtaken."""

_TABLES = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, begun REAL NOT NULL, closed INTEGER NOT NULL DEFAULT 0, budget INTEGER,
    acquired INTEGER NOT NULL DEFAULT 0, released INTEGER NOT NULL DEFAULT 0, resets INTEGER NOT NULL DEFAULT 0,
    seconds REAL NOT NULL DEFAULT 0, calls INTEGER NOT NULL DEFAULT 0, waited REAL NOT NULL DEFAULT 0,
    refusal TEXT, refused TEXT NOT NULL DEFAULT '[]', notes TEXT NOT NULL DEFAULT '[]'
);
CREATE TABLE IF NOT EXISTS entries (
    number INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, owner TEXT, state TEXT NOT NULL, spec TEXT NOT NULL,
    nonce TEXT NOT NULL, ttl INTEGER, born REAL NOT NULL, boot TEXT NOT NULL, born_at REAL NOT NULL,
    since REAL NOT NULL, test TEXT NOT NULL, sandbox_id TEXT, instance TEXT, reusable INTEGER NOT NULL DEFAULT 1,
    save INTEGER NOT NULL DEFAULT 0, seed TEXT, will TEXT NOT NULL DEFAULT '{}', place TEXT UNIQUE
);
CREATE TABLE IF NOT EXISTS tickets (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, owner TEXT NOT NULL, wants TEXT NOT NULL,
    cap INTEGER
);
CREATE TABLE IF NOT EXISTS wishes (
    number INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, owner TEXT NOT NULL, want TEXT NOT NULL,
    workspace TEXT
);
CREATE TABLE IF NOT EXISTS dry (spec TEXT PRIMARY KEY, tries INTEGER NOT NULL, until REAL NOT NULL);
"""


class LedgerError(BackendError):
    """The ledger cannot be read or written, so nothing may be acquired."""


_T = TypeVar("_T")
_jitter = random.Random()  # noqa: S311  the tests' own random numbers stay as they are
_serial = count()


@dataclass
class _Connection:
    lock: Any = field(default_factory=threading.RLock)
    sqlite: sqlite3.Connection | None = None
    depth: int = 0
    file: tuple[int, int] = (0, 0)
    """Device and inode."""
    serial: int = 0


class Database:
    """The file `ledger-1.sqlite3` in a directory, which is made on first use. Knows no table's meaning.

    Usable from several threads, whose transactions take turns, and after a fork: connections are closed before it, so
    neither process sees the other's. Every other process may do the same at the same time, and may die at any moment:
    a transaction is on the disk when `changing` is left, or never was.

    Everything raises LedgerError where the file cannot be used; it names the file. A damaged one is set aside when it
    is opened while no owner of the account lives; `damage` says so from then on, in the process that did it.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE
        self.damage = ""
        self._by_pid: dict[int, _Connection] = {}
        _databases.add(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of the body, or nothing of it. Within another one it is a part of that."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def looking(self) -> Iterator[None]:
        """What the body reads is of one moment. It must change nothing."""
        with self._transaction("BEGIN"):
            yield

    def read(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """All rows of a query."""
        with self._connected() as own:
            connection = self._open(own)
            return _patiently(lambda: connection.execute(query, values).fetchall())

    @property
    def version(self) -> tuple[int, ...]:
        """Another one whenever somebody has changed something."""
        with self._connected() as own:
            connection = self._open(own)
            seen = _patiently(lambda: connection.execute("PRAGMA data_version").fetchone()[0])
            return own.serial, seen, connection.total_changes

    def close(self) -> None:
        """Close this process's connection; the next call opens another one."""
        own = self._by_pid.pop(os.getpid(), None)
        if own is not None:
            with own.lock:
                _close(own)

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._connected() as own:
            connection = self._open(own)
            if own.depth:
                yield connection
                return
            try:
                if connection.in_transaction:  # an interrupt came between two lines
                    connection.execute("ROLLBACK")
                own.depth = 1
                _patiently(lambda: connection.execute(begin))
                yield connection
                connection.execute("COMMIT")
            finally:
                own.depth = 0
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextmanager
    def _connected(self) -> Iterator[_Connection]:
        own = self._by_pid.setdefault(os.getpid(), _Connection())
        with own.lock:
            try:
                yield own
            except sqlite3.Error as error:
                raise LedgerError(_told(self.path, error)) from error

    def _open(self, own: _Connection) -> sqlite3.Connection:
        if own.sqlite is not None and not own.depth and _inode(self.path) != own.file:
            _close(own)  # it was set aside, or removed
        if own.sqlite is None:
            try:
                own.sqlite = self._opened()
            except OSError as error:
                raise LedgerError(_told(self.path, error)) from error
            own.file, own.serial = _inode(self.path), next(_serial)
        return own.sqlite

    def _opened(self) -> sqlite3.Connection:
        try:
            return _opened(self.path)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
        with set_aside(self.path, lambda: _is_damaged(self.path)) as what:
            self.damage = what or self.damage
            return _opened(self.path)

    def _before_fork(self) -> bool:
        own = self._by_pid.get(os.getpid())
        if own is None or not own.lock.acquire(timeout=_FORK_PATIENCE):
            return False
        if not own.depth:
            _close(own)
        return True

    def _after_fork(self) -> None:
        self._by_pid[os.getpid()].lock.release()


_FORK_PATIENCE = 5.0
"""Seconds that a fork waits for another thread's transaction."""
_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_closed: list[Database] = []
"""Those that a fork in progress has closed."""


def _close_before_fork() -> None:
    """SQLite must not be carried over a fork: the child would believe in locks that only its parent has.

    https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_
    """
    _closed.extend(one for one in list(_databases) if one._before_fork())  # noqa: SLF001  our own


def _go_on_after_fork() -> None:
    while _closed:
        _closed.pop()._after_fork()  # noqa: SLF001  our own


os.register_at_fork(before=_close_before_fork, after_in_parent=_go_on_after_fork, after_in_child=_closed.clear)


def _close(own: _Connection) -> None:
    connection, own.sqlite, own.depth = own.sqlite, None, 0
    if connection is not None:
        with suppress(sqlite3.Error):
            connection.close()


def _opened(path: Path) -> sqlite3.Connection:
    if not path.exists():
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.fchmod(descriptor, 0o600)  # whatever the umask; its companions get the same mode
        finally:
            os.close(descriptor)
    return _patiently(lambda: _ready(path))


def _ready(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(f"database disk image is malformed: {found}")  # noqa: TRY301
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'dry'").fetchone():
            connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")
    except BaseException:
        connection.close()
        raise
    return connection


def _patiently(step: Callable[[], _T]) -> _T:
    """Take a step, again and again while others are at it."""
    end, pause = clock.monotonic() + BUSY, _SHORTEST
    while True:
        try:
            return step()
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY or clock.monotonic() > end:
                raise
        clock.sleep(pause * _jitter.uniform(0.5, 1.5))
        pause = min(1.5 * pause, _LONGEST)


def _is_damaged(path: Path) -> str:
    """What SQLite says of a damaged file; empty where it is none (any more)."""
    try:
        _opened(path).close()
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return str(error)
        raise
    return ""


def _inode(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_dev, found.st_ino


def _told(path: Path, error: Exception) -> str:
    what = f"the ledger of this machine's cloud sandboxes cannot be used: {path}: {error}\n"
    if isinstance(error, sqlite3.DatabaseError) and is_damage(error):
        return (
            f"{what}It is set aside as soon as it is opened while nobody uses it: end the runs of this account, and "
            "begin another one. What it held: `pytest-klavis reap --account` lists what the account has."
        )
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
        return f"{what}Another process has been at it for {BUSY:.0f} s: perhaps one is stopped."
    return (
        f"{what}Nothing is acquired that could not be written down. Make room there, or set KLAVIS_STATE_DIR to "
        "another directory on a local disk."
    )
