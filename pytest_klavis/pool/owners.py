"""Who answers for an entry of the ledger: a process that holds the lock of its owner file, alive as long as it does.

The kernel keeps these locks (`fcntl.lockf`): they end with the process, however it ends, no fork inherits them, and
they are seen from every container that shares the directory. No process id is ever asked.

A process loses its lock when it closes any descriptor of the file, so nothing here opens a file that this process
owns: its inode is remembered. One thread at a time has files open, for the same reason.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import threading
from pathlib import Path

from pytest_klavis import clock, rundir

__tracebackhide__ = True  # users read their own frames

# The bytes of an owner file that are locked. The owner locks them all; who looks shares the first for a moment, so
# that no two who look take each other for an owner; who removes a dead owner's file locks the second meanwhile.
_LIFE, _REMOVAL = 0, 1
_PATIENCE = 2.0  # seconds for others to finish removing a dead owner's file
_YOUNG = 60.0  # seconds in which a file without a name may still get it

_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")

_guard = threading.Lock()
_mine: set[tuple[int, int]] = set()  # device and inode of what this process owns; under the guard


def _own_nothing() -> None:  # forked child
    global _guard  # noqa: PLW0603 - a thread of the parent may have held it
    _guard = threading.Lock()
    _mine.clear()


os.register_at_fork(after_in_child=_own_nothing)


class OwnerTaken(FileExistsError):  # noqa: N818 - an answer, not an accident
    """A live process owns this name."""


class Owner:
    """This process's claim to be alive, until it ends or closes it. `id` names it in the ledger.

    Args:
        directory: where the owner files are.
        name: of the file; None is one that nobody else has. The name of a dead owner is taken over.

    Raises:
        OwnerTaken: a live process has the name, be it this one; or one has been removing it for 2 s.
        OSError: the file cannot be made or locked.
    """

    def __init__(self, directory: Path, name: str | None = None) -> None:
        self.pid = os.getpid()
        self.id = name or f"{self.pid}-{secrets.token_hex(8)}"
        self.path = _file(directory, self.id)
        self._descriptor = _claim(self.path) if name else _create(self.path, unique=True)

    def is_mine(self) -> bool:
        """Whether it is still open, and this process made it: no forked child of it did."""
        return self._descriptor >= 0 and os.getpid() == self.pid

    def close(self) -> None:
        """Be gone for everyone, without a file left. A second call, or that of a forked child, does nothing."""
        if os.getpid() != self.pid:
            return
        with _guard:
            if self._descriptor < 0:
                return
            descriptor, self._descriptor = self._descriptor, -1
            try:
                with contextlib.suppress(OSError):  # a file that stays is a dead owner's
                    if _is_file(self.path, descriptor):
                        self.path.unlink()
            finally:
                _mine.discard(_inode(descriptor))
                os.close(descriptor)


class Owners:
    """All owners of an account's directory, alive or dead, in this process and in others."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def alive(self, owner_id: str, own: Owner | None = None) -> bool:
        """Whether the owner lives; one without a file does not. `own` is the caller's, and lives.

        A file that cannot be opened or asked counts as a live owner's: nobody knows better.
        """
        path = _file(self._directory, owner_id)
        return (own is not None and own.is_mine() and own.path == path) or bool(_held(path))

    def living(self, own: Owner | None = None) -> set[str]:
        """The ids of all that live, with `own`."""
        found = {name for name in self._names() if not name.startswith(rundir.UNNAMED) and self.alive(name, own)}
        return found | {own.id} if own is not None and own.is_mine() else found

    def dead(self) -> set[str]:
        """The ids of all that died without closing, and what those left who died while they began: to be buried."""
        return {name for name in self._names() if not self._may_begin(name) and _held(self._directory / name) is False}

    def bury(self, owner_id: str) -> bool:
        """Remove the file of a dead owner; whether there is none (more). That of a live one stays.

        False, too, while another process removes it. Raises OSError when it cannot be removed.
        """
        return _bury(_file(self._directory, owner_id))

    def _names(self) -> list[str]:
        try:
            return [entry.name for entry in self._directory.iterdir() if _NAME.fullmatch(entry.name)]
        except FileNotFoundError:
            return []

    def _may_begin(self, name: str) -> bool:
        if not name.startswith(rundir.UNNAMED):
            return False
        try:
            return clock.now() - (self._directory / name).lstat().st_mtime < _YOUNG
        except FileNotFoundError:
            return True


def _file(directory: Path, owner_id: str) -> Path:
    if not _NAME.fullmatch(owner_id) or owner_id in {".", ".."}:
        raise ValueError(f"{owner_id!r} names no owner: use letters, digits, '.', '_' and '-', at most 200 of them")
    return directory / owner_id


def _create(path: Path, *, unique: bool) -> int:
    with _guard:
        descriptor = rundir.create_locked(path, unique=unique)
        _mine.add(_inode(descriptor))
        return descriptor


def _claim(path: Path) -> int:
    """A new locked file of this name. A dead owner's goes first; whoever then links the name first has it."""
    end = clock.monotonic() + _PATIENCE
    while True:
        try:
            return _create(path, unique=False)
        except FileExistsError:
            held = _held(path)
        if held or (not _bury(path) and clock.monotonic() > end):
            raise OwnerTaken(errno.EEXIST, "a live process owns this name", str(path))
        clock.sleep(0.001)


def _held(path: Path) -> bool | None:
    """Whether the owner of the file lives; None when there is no file."""
    with _guard:
        while not _is_mine(path):
            try:
                descriptor = _open(path)
                try:
                    if not _lock(descriptor, fcntl.LOCK_SH, _LIFE):
                        return True
                    if _is_file(path, descriptor):
                        return False  # else its owner closed it meanwhile, and another may have taken the name
                finally:
                    os.close(descriptor)
            except FileNotFoundError:
                return None
            except OSError:
                return True
        return True


def _bury(path: Path) -> bool:
    with _guard:
        if _is_mine(path):
            return False
        try:
            descriptor = _open(path)
        except FileNotFoundError:
            return True
        try:
            if not (_lock(descriptor, fcntl.LOCK_EX, _REMOVAL) and _lock(descriptor, fcntl.LOCK_SH, _LIFE)):
                return False
            with contextlib.suppress(FileNotFoundError):
                if not _is_file(path, descriptor):
                    return False  # it was removed, and the name has been taken since
                path.unlink()
            return True
        finally:
            os.close(descriptor)


def _is_mine(path: Path) -> bool:
    try:
        return _inode(path) in _mine
    except OSError:
        return False


def _inode(file: Path | int) -> tuple[int, int]:
    found = file.lstat() if isinstance(file, Path) else os.fstat(file)
    return found.st_dev, found.st_ino


def _is_file(path: Path, descriptor: int) -> bool:
    return _inode(path) == _inode(descriptor)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)


def _lock(descriptor: int, kind: int, byte: int) -> bool:
    try:
        fcntl.lockf(descriptor, kind | fcntl.LOCK_NB, 1, byte)
    except OSError as error:
        if error.errno in {errno.EACCES, errno.EAGAIN}:
            return False
        raise
    return True
