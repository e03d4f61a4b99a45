"""Opening a place below a directory so that no symlink, `..` or race leads out of it; what is done there is files.py's.

Two ways, the same answers: `openat2(RESOLVE_BENEATH)` where the kernel has it, and a walk of one
`openat(O_NOFOLLOW)` per name, which reads links itself. The walk also takes over where a link is absolute,
since what an agent calls `/data/x` lies elsewhere on the host.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import sys
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATH_MAX = 4096  # bytes, as the kernel has it
MAX_LINKS = 40  # as the kernel has it
MAX_STEPS = 2_000  # of all walks to one place; a link may hold a thousand `..`, each of which starts the walk again

_PATH_ONLY = getattr(os, "O_PATH", os.O_RDONLY)  # needs no right to read the directory; macOS has no such flag
DIRECTORY = _PATH_ONLY | os.O_DIRECTORY | os.O_CLOEXEC  # to go through, not to list
LISTING = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

LIBC = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
_OPENAT2 = 437  # the same on every architecture (linux/arch/*/entry/syscalls)
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08


class AccessDeniedError(PermissionError):
    """A path that leads, or whose link leads, outside the workspace. The text is meant for the agent."""


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _openat2(directory: int, path: str, flags: int) -> int:
    how = _OpenHow(flags=flags, mode=0, resolve=_RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    while True:
        fd = int(LIBC.syscall(_OPENAT2, directory, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how)))
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code), path)


@functools.cache
def has_openat2() -> bool:
    """True when the kernel (5.6 and later) and its seccomp policy let this process use openat2."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        os.close(_openat2(_AT_FDCWD, ".", DIRECTORY))
    except OSError:
        return False
    return True


class Root:
    """A directory and the names it goes by. Every path given to it is relative to it.

    `names` are the absolute paths that mean this directory to whoever made the links in it.
    `openat2` chooses the way; None asks the kernel once.
    """

    def __init__(self, path: Path, names: tuple[str, ...], *, openat2: bool | None = None) -> None:
        self.path = path
        self.names = names
        self.openat2 = has_openat2() if openat2 is None else openat2

    @contextmanager
    def place(self, path: str, *, follow: bool = True) -> Iterator[tuple[int, str]]:
        """Yield (fd of the directory, name in it) of `path`; the name is "." where a directory is meant as a whole.

        With `follow` a link in the last place is resolved; the name may have become a link again by the time it
        is used, so use it with O_NOFOLLOW. Raises AccessDeniedError and the errors of open(2).
        """
        if "\0" in path or path.startswith("/"):
            raise ValueError(f"a path inside the workspace is relative and holds no NUL, not {path!r}")
        if len(os.fsencode(path)) >= PATH_MAX:  # the walk has no such limit of itself, and takes time by the square
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path[:80])
        root = os.open(self.path, DIRECTORY | os.O_NOFOLLOW)
        steps = iter(range(MAX_STEPS))
        try:
            for _ in range(MAX_LINKS):
                directory, name = self._parent(root, path, steps)
                try:
                    target = _link(directory, name) if follow else None
                    if target is None:
                        yield directory, name
                        return
                finally:
                    os.close(directory)
                head = path.rstrip("/").rpartition("/")[0]
                path = self._inside(target) if target.startswith("/") else f"{head or '.'}/{target}"
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        finally:
            os.close(root)

    def _parent(self, root: int, path: str, steps: Iterator[int]) -> tuple[int, str]:
        head, _, name = path.rstrip("/").rpartition("/")
        if name in {"", ".", ".."}:
            head, name = path, "."
        return self._directory(root, head or ".", steps), name

    def _directory(self, root: int, path: str, steps: Iterator[int]) -> int:
        if self.openat2:
            try:
                return _openat2(root, path, DIRECTORY)
            except OSError as error:
                # EXDEV: an absolute link or one that climbs out; EAGAIN: a rename under way. The walk tells which.
                if error.errno not in {errno.EXDEV, errno.EAGAIN}:
                    raise
        return self._walk(root, path, steps)

    def _walk(self, root: int, path: str, steps: Iterator[int]) -> int:
        todo = deque(part for part in path.split("/") if part not in {"", "."})
        walked: list[str] = []
        here = os.dup(root)
        links = 0
        try:
            for _ in steps:
                if not todo:
                    here, found = -1, here
                    return found
                part = todo.popleft()
                try:
                    deeper = -1 if part == ".." else os.open(part, DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
                except OSError as error:
                    links += 1
                    todo.extendleft(reversed(self._after_link(here, part, walked, error)))
                else:
                    if deeper >= 0:
                        walked.append(part)
                        here = _swap(here, deeper)
                        continue
                    # `..` of a directory that is moved meanwhile could lead anywhere, so not by way of it.
                    if not walked:
                        raise _leads_out(path)
                    todo.extendleft(reversed(walked[:-1]))
                # From the top again by the real names, none of which may be a link by now.
                walked = []
                here = _swap(here, os.dup(root))
                if links > MAX_LINKS:
                    break
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        finally:
            if here >= 0:
                os.close(here)

    def _after_link(self, here: int, part: str, walked: list[str], error: OSError) -> list[str]:
        """Where the link `part` leads, from the root; raises `error`, its being opened, when it is no link."""
        target = _link(here, part) if error.errno in {errno.ENOTDIR, errno.ELOOP} else None
        if target is None:
            raise error
        if target.startswith("/"):
            walked, target = [], self._inside(target)
        return [*walked, *(name for name in target.split("/") if name not in {"", "."})]

    def _inside(self, target: str) -> str:
        """What an absolute link target means below this root."""
        for name in self.names:
            if target == name or target.startswith(f"{name}/"):
                return target[len(name) :].lstrip("/") or "."
        raise _leads_out(target)


def _leads_out(target: str) -> AccessDeniedError:
    return AccessDeniedError(f"Access denied - symlink target outside allowed directories: {target}")


def _link(directory: int, name: str) -> str | None:
    """The target of the link `name`, or None when it is no link (or is not there)."""
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno in {errno.EINVAL, errno.ENOENT, errno.ENOTDIR}:
            return None
        raise


def _swap(old: int, new: int) -> int:
    os.close(old)
    return new
