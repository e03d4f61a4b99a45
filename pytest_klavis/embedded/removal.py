"""Removing trees that others made: however deep, whatever their permissions, and without following a link."""

from __future__ import annotations

import os
import secrets
import stat

from pytest_klavis.embedded.rooted import DIRECTORY, LISTING


def remove(directory: int, name: str) -> None:
    """Remove `name`. Directories found inside are first moved up into a pit, so depth costs neither stack nor fds."""
    os.lstat(name, dir_fd=directory)  # that it is not there is an error here, and none further down
    if _unlinked(directory, name):
        return
    pit_name = f".klavis-{secrets.token_hex(8)}.rm"
    os.mkdir(pit_name, 0o700, dir_fd=directory)
    pit = os.open(pit_name, DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    try:
        todo, count = [_sink(directory, name, pit, "0")], 1
        while todo:
            current = todo.pop()
            fd = os.open(current, DIRECTORY | os.O_NOFOLLOW, dir_fd=pit)
            try:
                for inner in names(fd):
                    if not _unlinked(fd, inner):
                        todo.append(_sink(fd, inner, pit, str(count)))
                        count += 1
            finally:
                os.close(fd)
            os.rmdir(current, dir_fd=pit)
    finally:
        os.close(pit)
    os.rmdir(pit_name, dir_fd=directory)


def names(directory: int) -> list[str]:
    fd = os.open(".", LISTING, dir_fd=directory)  # an O_PATH descriptor cannot be listed
    try:
        return os.listdir(fd)  # noqa: PTH208 - pathlib knows no descriptors
    finally:
        os.close(fd)


def _unlinked(directory: int, name: str) -> bool:
    """Unlink `name`; False when it is a directory."""
    try:
        os.unlink(name, dir_fd=directory)
    except (IsADirectoryError, PermissionError):  # EISDIR on Linux, EPERM on macOS
        if not stat.S_ISDIR(os.lstat(name, dir_fd=directory).st_mode):
            raise
        return False
    except FileNotFoundError:
        pass  # someone else was faster
    return True


def _sink(directory: int, name: str, pit: int, new: str) -> str:
    """Move a directory into the pit, with rights enough to move and empty it."""
    fd = os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    try:
        grant(fd)
    finally:
        os.close(fd)
    os.rename(name, new, src_dir_fd=directory, dst_dir_fd=pit)
    return new


def grant(directory: int) -> None:
    """u+rwx on a directory, which an agent may have taken away. An O_PATH descriptor is changed by its /proc name."""
    if stat.S_IMODE(os.fstat(directory).st_mode) & 0o700 == 0o700:
        return
    target = f"/proc/self/fd/{directory}" if hasattr(os, "O_PATH") else directory
    os.chmod(target, 0o700)  # noqa: PTH101 - a descriptor, or the name of one
