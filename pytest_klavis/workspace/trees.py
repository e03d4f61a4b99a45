"""Directories reached step by step from a descriptor, so that no link that appears in between is followed."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self

from pytest_klavis.errors import ArchiveError

from .names import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NOT_A_DIRECTORY = (errno.ELOOP, errno.ENOTDIR)  # what O_DIRECTORY|O_NOFOLLOW says to a link or a file


def open_directory(name: bytes, parent: int) -> int:
    """Open a directory below `parent`, also one that its owner, which we may be, has locked with chmod."""
    try:
        return os.open(name, DIRECTORY, dir_fd=parent)
    except PermissionError:
        if not hasattr(os, "O_PATH"):  # macOS: no way to chmod without following a link
            raise
    pinned = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{pinned}", 0o700)  # noqa: PTH101  (a descriptor, not a path)
        return os.open(name, DIRECTORY, dir_fd=parent)
    finally:
        os.close(pinned)


def open_locked_file(name: bytes, parent: int) -> int:
    """Open a file for reading, also one that its owner, which we may be, has locked with chmod."""
    try:
        return os.open(name, READ, dir_fd=parent)
    except PermissionError:
        if not hasattr(os, "O_PATH"):
            raise
    pinned = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        mode = os.fstat(pinned).st_mode
        if stat.S_ISREG(mode):
            os.chmod(f"/proc/self/fd/{pinned}", stat.S_IMODE(mode) | 0o400)  # noqa: PTH101  (a descriptor)
        return os.open(name, READ, dir_fd=parent)
    finally:
        os.close(pinned)


def unlock(root: Path) -> None:
    """Undo it where an agent has closed the top of its workspace; the way to it must be nobody else's."""
    mode = root.lstat().st_mode
    if stat.S_ISDIR(mode) and mode & 0o700 != 0o700:
        root.chmod(stat.S_IMODE(mode) | 0o700)


@contextmanager
def opened_directory(name: bytes, parent: int | None) -> Iterator[int]:
    """A directory, open for the time of a block."""
    descriptor = os.open(name, DIRECTORY, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def make_directory(name: bytes, parent: int, owner: int | None) -> int:
    """Make and open a directory, mode 0755 whatever the umask, given to `owner`."""
    os.mkdir(name, 0o700, dir_fd=parent)
    descriptor = os.open(name, DIRECTORY, dir_fd=parent)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():  # ours, not one that was put in its place
            os.fchmod(descriptor, 0o755)
            if owner is not None:
                os.fchown(descriptor, owner, owner)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def partial_name(name: str) -> str:
    """A hidden name, taken by nothing, for what becomes `name`; short enough in bytes for every file system."""
    short = encode(name)[:100].decode("utf-8", "ignore")  # macOS takes no character that is cut
    return f".{short}.{secrets.token_hex(6)}.partial"


@contextmanager
def staging(where: Path, prefix: str) -> Iterator[int]:
    """A private directory in `where` as a descriptor; emptied and removed at the end, whatever happened."""
    parent = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    name = encode(partial_name(prefix))
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
        try:
            with opened_directory(name, parent) as descriptor:
                info = os.fstat(descriptor)
                if info.st_uid != os.geteuid() or stat.S_IMODE(info.st_mode) != 0o700:
                    raise ArchiveError(f"the working directory in {where} was replaced by somebody else")
                try:
                    yield descriptor
                finally:
                    clear_directory(descriptor)
        finally:
            with suppress(FileNotFoundError, NotADirectoryError):
                os.rmdir(name, dir_fd=parent)
    finally:
        os.close(parent)


class Walk:
    """Descriptors of the directory that was visited last and of those above it; few are reopened in sorted order."""

    def __init__(self, root: int, enter: Callable[[bytes, int], int] = open_directory) -> None:
        """`root` stays the caller's. `enter(name, parent)` opens one step down."""
        self._root = root
        self._enter = enter
        self._stack: list[tuple[str, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cut(0)

    def directory(self, parts: tuple[str, ...]) -> int:
        """A descriptor of the directory at `parts`, valid until the next call."""
        same = 0
        for (name, _), part in zip(self._stack, parts, strict=False):
            if name != part:
                break
            same += 1
        self._cut(same)
        for part in parts[same:]:
            parent = self._stack[-1][1] if self._stack else self._root
            self._stack.append((part, self._enter(encode(part), parent)))
        return self._stack[-1][1] if self._stack else self._root

    def _cut(self, length: int) -> None:
        while len(self._stack) > length:
            os.close(self._stack.pop()[1])


def move_aside(name: bytes, parent: int, aside: int) -> bytes:
    """Move whatever is called `name` into the directory `aside`; return what it is called there."""
    there = secrets.token_hex(8).encode()
    try:
        os.rename(name, there, src_dir_fd=parent, dst_dir_fd=aside)
    except PermissionError:  # a directory changes its `..`, so it has to be writable itself
        for descriptor in (os.dup(parent), open_directory(name, parent)):
            try:
                os.fchmod(descriptor, 0o700)
            finally:
                os.close(descriptor)
        os.rename(name, there, src_dir_fd=parent, dst_dir_fd=aside)
    return there


def clear_directory(root: int) -> None:
    """Remove everything in the directory `root`, however deep and whatever its modes.

    Each directory is emptied by moving its subdirectories up into `root` first: no recursion and three
    descriptors, where shutil.rmtree runs out of both on a tree that was made deep on purpose.
    """
    while names := os.listdir(root):
        for name in map(os.fsencode, names):
            try:
                os.unlink(name, dir_fd=root)
                continue
            except OSError as error:
                if error.errno not in (errno.EISDIR, errno.EPERM):  # Linux, macOS
                    raise
            inner = open_directory(name, root)
            try:
                _empty_into(inner, root)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=root)


def _empty_into(directory: int, root: int) -> None:
    names = os.listdir(directory)
    if names:
        os.fchmod(directory, 0o700)
    for name in map(os.fsencode, names):
        try:
            os.unlink(name, dir_fd=directory)
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.EPERM):
                raise
            move_aside(name, directory, root)
