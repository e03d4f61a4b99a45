"""What becomes of a ledger that SQLite cannot read any more: it is set aside while nobody uses it, never removed."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pytest_klavis import clock

from .locks import locked
from .owners import Owners

__tracebackhide__ = True  # users read their own frames

PATIENCE = 15.0
"""Seconds for another process to finish setting it aside."""


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is to blame, rather than its disk, its mode or another process."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return "malformed" in str(error)
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@contextmanager
def set_aside(path: Path, damaged: Callable[[], str]) -> Iterator[str]:
    """Rename a damaged ledger, so that the body can begin another one; no other process does so meanwhile.

    Gives a text for people, which is empty where another process has been faster, by `damaged`, which says what is
    wrong. Raises DatabaseError while an owner of the account lives, who may be writing to it.
    """
    with locked(path.with_name(f"{path.stem}.lock"), PATIENCE):
        trouble = damaged()
        if not trouble:
            yield ""
            return
        living = sorted(Owners(path.parent / "owners").living())
        if living:
            raise _still_used(trouble, living)
        moved = _free_name(path)
        for end in ("-shm", "-wal", ""):  # a journal without its file first: it must not meet the next one
            with suppress(FileNotFoundError):
                path.with_name(path.name + end).rename(moved.with_name(moved.name + end))
        yield (
            f"the ledger was damaged ({trouble}) and is now {moved}: which sandboxes it held is not known any more; "
            "`pytest-klavis reap --account` lists what the account has"
        )


def _still_used(trouble: str, living: list[str]) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(f"{trouble}; it is malformed, and in use by {', '.join(living)}")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _free_name(path: Path) -> Path:
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(clock.now()))
    name, number = f"{path.stem}.damaged-{moment}", 1
    while path.with_name(name).exists():
        number += 1
        name = f"{path.stem}.damaged-{moment}-{number}"
    return path.with_name(name)
