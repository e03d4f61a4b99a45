"""Rooted file access: what the file tools and the server do inside one sandbox's workspace.

A path is a str relative to the workspace. Links are followed as far as they stay inside (rooted.py); FIFOs, sockets
and devices are named as such and never opened.
"""

from __future__ import annotations

import ctypes
import errno
import os
import posixpath
import secrets
import stat
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Literal

from pytest_klavis.embedded.isolation.disk import measure
from pytest_klavis.embedded.isolation.places import DATA
from pytest_klavis.embedded.rooted import LIBC, LISTING, AccessDeniedError, Root

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = [
    "AccessDeniedError",
    "ClosedError",
    "DiskFullError",
    "Entry",
    "ForeignPathError",
    "NotAFileError",
    "TooLargeError",
    "WorkspaceFiles",
    "agent_path",
]

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FRESH = 1.0  # seconds for which a measured disk usage counts
_RENAME_NOREPLACE = 1


class ForeignPathError(AccessDeniedError):
    """A path in the form of another system."""


class ClosedError(OSError):
    """The sandbox was reset or released since; whoever still works with its old files is late."""


class DiskFullError(OSError):
    """The write would take the workspace over its disk budget."""


class NotAFileError(OSError):
    """A FIFO, a socket or a device where a regular file is needed."""


class TooLargeError(OSError):
    """The file is larger than the reader allows."""


@dataclass(frozen=True)
class Entry:
    """One entry of a directory, as lstat(2) sees it. `size` is in bytes."""

    name: str
    kind: Literal["dir", "file", "link", "other"]
    size: int


def agent_path(text: str, roots: Sequence[str]) -> str:
    """The path inside the workspace that an agent means by `text`: normalised, relative, "." for the root.

    `roots` are the absolute names of the workspace; a relative path counts from the first.
    Raises AccessDeniedError for a path that is, by its name alone, outside.
    """
    if text[1:2] == ":" and text[:1].isalpha() and (len(text) == 2 or text[2] in "\\/"):
        raise ForeignPathError(f"Access denied - Windows-style path received on a POSIX host: {text}")
    whole = posixpath.normpath(f"/{text}" if text.startswith("/") else f"{roots[0]}/{text}")
    whole = f"/{whole.lstrip('/')}"  # POSIX keeps two leading slashes
    if _usable(text):
        for root in roots:
            if whole == root:
                return "."
            if whole.startswith(f"{root}/"):
                return whole[len(root) + 1 :]
    raise AccessDeniedError(f"Access denied - path outside allowed directories: {whole if _usable(text) else text}")


def _usable(text: str) -> bool:
    """No home directory, no NUL, no half surrogates: nothing that cannot name a file here."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return "\0" not in text and text != "~" and not text.startswith("~/")


class WorkspaceFiles:
    """The files of one workspace.

    `owner` is the uid that everything made here belongs to (None: this process's own); `disk` is the budget in bytes
    of the whole workspace. Usable from several threads; hold `lock` around a read and the write that builds on it.
    After `close` nothing is changed any more, and walks end.
    """

    def __init__(
        self, root: Path, owner: int | None = None, disk: int = 1 << 30, *, openat2: bool | None = None
    ) -> None:
        self.root = root.resolve()
        self.owner = owner
        self.disk = disk
        self.lock = threading.RLock()
        self.closed = False
        self._at = Root(self.root, (DATA, str(self.root)), openat2=openat2)
        self._used = 0
        self._measured = float("-inf")

    def close(self) -> None:
        """Refuse all changes from now on. Returns when one that is under way is done."""
        self.closed = True
        with self.lock:
            pass

    @contextmanager
    def _changing(self, path: str) -> Iterator[None]:
        with self.lock:
            self._require_open(path)
            yield

    def _require_open(self, path: str) -> None:
        if self.closed:
            raise ClosedError(errno.ESTALE, "the sandbox was reset or released", path)

    def open_read(self, path: str) -> BinaryIO:
        """A regular file, opened for reading.

        Raises IsADirectoryError, NotAFileError, AccessDeniedError and other OSErrors.
        """
        with self._at.place(path) as (directory, name):
            _require_regular(os.lstat(name, dir_fd=directory), path)
            fd = os.open(name, _READ, dir_fd=directory)
        try:
            _require_regular(os.fstat(fd), path)  # it may have become something else meanwhile
            return os.fdopen(fd, "rb")
        except OSError:
            os.close(fd)
            raise

    def read_bytes(self, path: str, limit: int) -> bytes:
        """All bytes of a file. Raises TooLargeError when it holds more than `limit`."""
        with self.open_read(path) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise TooLargeError(errno.EFBIG, f"file is larger than {limit} bytes", path)
        return data

    def write_bytes(self, path: str, data: bytes, *, parents: bool = False) -> None:
        """Make or replace a file, all at once; an existing one keeps its permissions.

        `parents` makes missing directories. Raises DiskFullError, AccessDeniedError, OSError.
        """
        if parents and "/" in path:
            self.mkdir(posixpath.dirname(path))
        with self._changing(path), self._at.place(path) as (directory, name):
            mode = 0o644
            before = 0
            try:
                old = os.lstat(name, dir_fd=directory)
            except FileNotFoundError:
                pass
            else:
                _require_regular(old, path)
                mode, before = stat.S_IMODE(old.st_mode) & 0o777, old.st_size
            self._reserve(len(data) - before, path)
            temporary = f".klavis-{secrets.token_hex(8)}.tmp"
            fd = os.open(temporary, _CREATE, 0o600, dir_fd=directory)
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(data)
                    self._give(file.fileno())
                    os.fchmod(file.fileno(), mode)
                os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                os.unlink(temporary, dir_fd=directory)
                raise

    def mkdir(self, path: str) -> None:
        """Make a directory and its parents; one that is there is fine. Raises FileExistsError where a file is there."""
        parts = [part for part in path.split("/") if part not in {"", "."}]
        for count in range(1, len(parts) + 1):
            with self._changing(path), self._at.place("/".join(parts[:count])) as (directory, name):
                try:
                    os.mkdir(name, 0o755, dir_fd=directory)
                except FileExistsError:
                    if count == len(parts) and not stat.S_ISDIR(os.lstat(name, dir_fd=directory).st_mode):
                        raise
                    continue
                fd = os.open(name, LISTING, dir_fd=directory)
                try:
                    self._give(fd)
                finally:
                    os.close(fd)

    def scan(self, path: str = ".") -> list[Entry]:
        """The entries of a directory, sorted by the bytes of their names."""
        with self._at.place(path) as (directory, name):
            fd = os.open(name, LISTING, dir_fd=directory)
        try:
            with os.scandir(fd) as entries:
                found = [entry for item in entries if (entry := _entry(item)) is not None]
        finally:
            os.close(fd)
        return sorted(found, key=lambda entry: os.fsencode(entry.name))

    def listdir(self, path: str = ".") -> list[str]:
        """The names in a directory, sorted."""
        return [entry.name for entry in self.scan(path)]

    def walk(self, path: str = ".") -> Iterator[tuple[str, Entry]]:
        """Yield (path, entry) of all that is below `path`, a directory before what it holds; follows no links.

        What disappears meanwhile, and what lies too deep for the system to name, is left out. Raises ClosedError.
        """
        todo = [(_join(path, entry.name), entry) for entry in reversed(self.scan(path))]
        while todo:
            here, entry = todo.pop()
            self._require_open(path)
            yield here, entry
            if entry.kind == "dir":
                try:
                    below = self.scan(here)
                except OSError as error:
                    if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENAMETOOLONG}:
                        raise
                    continue
                todo.extend((_join(here, inner.name), inner) for inner in reversed(below))

    def stat(self, path: str, *, follow: bool = True) -> os.stat_result:
        """stat(2) of `path`; of the link itself where `follow` is off."""
        with self._at.place(path, follow=follow) as (directory, name):
            return os.lstat(name, dir_fd=directory)

    def exists(self, path: str, *, follow: bool = True) -> bool:
        """True when something is there (with `follow`: inside the workspace, at the end of all links)."""
        try:
            self.stat(path, follow=follow)
        except OSError:
            return False
        return True

    def rename(self, source: str, destination: str, *, replace: bool = False) -> None:
        """Move an entry, a link as such. Raises FileExistsError where `destination` is taken, unless `replace`."""
        with (
            self._changing(source),
            self._at.place(source, follow=False) as (from_directory, from_name),
            self._at.place(destination, follow=False) as (to_directory, to_name),
        ):
            if replace:
                os.rename(from_name, to_name, src_dir_fd=from_directory, dst_dir_fd=to_directory)
            else:
                _rename_new(from_directory, from_name, to_directory, to_name)

    def usage(self) -> int:
        """Bytes that the files of the workspace hold. Raises OSError when an agent keeps it from being measured."""
        return sum(found.st_size for found in measure(self.root) if stat.S_ISREG(found.st_mode))

    def _reserve(self, size: int, path: str) -> None:
        """Count `size` more bytes, or refuse. Processes write too, so what was measured counts for a moment only."""
        if size <= 0:
            return
        now = time.monotonic()
        if now - self._measured > _FRESH or self._used + size > self.disk:
            self._used, self._measured = self.usage(), now
        if self._used + size > self.disk:
            text = f"no space left: the workspace holds {self._used} of its {self.disk} bytes, {size} more do not fit"
            raise DiskFullError(errno.ENOSPC, text, path)
        self._used += size

    def _give(self, fd: int) -> None:
        if self.owner is not None:
            os.fchown(fd, self.owner, self.owner)


def _require_regular(found: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    if not stat.S_ISREG(found.st_mode):
        kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
        kind = kinds.get(stat.S_IFMT(found.st_mode), "something else")
        raise NotAFileError(errno.EINVAL, f"not a regular file but {kind}", path)


def _entry(item: os.DirEntry[str]) -> Entry | None:
    try:
        found = item.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    kinds: dict[int, Literal["dir", "file", "link"]] = {stat.S_IFDIR: "dir", stat.S_IFREG: "file", stat.S_IFLNK: "link"}
    return Entry(item.name, kinds.get(stat.S_IFMT(found.st_mode), "other"), found.st_size)


def _join(directory: str, name: str) -> str:
    return name if directory == "." else f"{directory}/{name}"


def _rename_new(from_directory: int, from_name: str, to_directory: int, to_name: str) -> None:
    """rename(2) that never replaces; in one step where the system can, else after a look."""
    renameat2 = getattr(LIBC, "renameat2", None)
    if renameat2 is not None:
        old, new = os.fsencode(from_name), os.fsencode(to_name)
        if renameat2(from_directory, old, to_directory, new, _RENAME_NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
        if code not in {errno.ENOSYS, errno.EINVAL, errno.EPERM}:  # what file systems and filters without it answer
            raise OSError(code, os.strerror(code), from_name, None, to_name)
    try:
        os.lstat(to_name, dir_fd=to_directory)
    except FileNotFoundError:
        os.rename(from_name, to_name, src_dir_fd=from_directory, dst_dir_fd=to_directory)
    else:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), to_name)
