"""How much a sandbox holds on disk, measured so that its agent cannot hide anything from it."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import stat
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_klavis.embedded.isolation.supervisor import descendants
from pytest_klavis.workspace.trees import DIRECTORY, open_directory, unlock

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from pytest_klavis.embedded.isolation.model import Jail
    from pytest_klavis.limits import Limits

SCRAP = 4096  # bytes that a file may hold where there is no room; bubblewrap has to write /etc/passwd
WALK_SHARE = 20  # looking takes at most a twentieth of the time
LONGEST_PAUSE = 5.0  # seconds between two looks
_FIRST_LOOK = 0.1  # seconds until the first look
_NAME = 4096  # bytes: empty files take inodes, of which a disk has fewer than bytes
_ENTRIES_AT_ONCE = 500
_HOPELESS = 4  # times as many names as the limit allows: nobody walks them all to see whether they become fewer
_OPEN = 64  # descriptors that one walk holds at most
_VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # or has become something else
_measured: dict[Path, float] = {}  # workspaces that were not full, and until when that is believed


class _Level:
    """A directory on the way down: a descriptor, unless it had to be closed, and what of it is still to be visited."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        found = os.fstat(fd)
        self.identity = (found.st_dev, found.st_ino)
        self.ours = found.st_uid == os.geteuid()
        if self.ours and found.st_mode & 0o500 != 0o500:
            os.fchmod(fd, stat.S_IMODE(found.st_mode) | 0o700)
        self.todo: list[str] = []


def measure(top: Path) -> Generator[os.stat_result]:
    """Yield the lstat(2) of all that is below `top`, however deep and however closed to its owner, who we may be.

    What vanishes meanwhile is left out. Raises OSError for what cannot be measured: a directory that is closed again
    as fast as it is opened, or is moved away while the walk is far below it.
    """
    levels: list[_Level] = []
    try:
        with suppress(FileNotFoundError):
            unlock(top)
            levels.append(_Level(os.open(top, DIRECTORY)))
            yield from _entries(levels[-1])
        while levels:
            here = levels[-1]
            if not here.todo:
                levels.pop()
                if levels and levels[-1].fd < 0:
                    levels[-1].fd = _parent(here.fd, levels[-1].identity)
                os.close(here.fd)
                continue
            fd = _enter(here.todo.pop(), here.fd)
            if fd is None:
                continue
            levels.append(_Level(fd))
            if len(levels) > _OPEN:
                far = levels[-1 - _OPEN]
                os.close(far.fd)
                far.fd = -1
            yield from _entries(levels[-1])
    finally:
        for level in levels:
            if level.fd >= 0:
                os.close(level.fd)


def _entries(level: _Level) -> Iterator[os.stat_result]:
    with os.scandir(level.fd) as entries:
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            except PermissionError:
                if level.ours:
                    raise
                continue
            if stat.S_ISDIR(found.st_mode):
                level.todo.append(entry.name)
            yield found


def _enter(name: str, parent: int) -> int | None:
    """Open a directory. None when it has gone, or is somebody else's and closed to us: no agent can make such a one."""
    try:
        return open_directory(os.fsencode(name), parent)
    except OSError as error:
        if error.errno in _VANISHED:
            return None
        if isinstance(error, PermissionError):
            with suppress(FileNotFoundError):
                if os.lstat(name, dir_fd=parent).st_uid != os.geteuid():
                    return None
        raise


def _parent(fd: int, identity: tuple[int, int]) -> int:
    """The directory above, if it still is the one that the walk came by."""
    above = os.open("..", DIRECTORY, dir_fd=fd)
    found = os.fstat(above)
    if (found.st_dev, found.st_ino) != identity:
        os.close(above)
        raise OSError(errno.EBUSY, "directories are moved around too fast for their size to be measured")
    return above


async def usage(*tops: Path, names: float = math.inf) -> float:
    """Bytes on disk below the directories, a name counting as a block at least; infinite when that cannot be measured.

    names: where there are more, that is infinite too. Gives way to other coroutines.
    """
    total = seen = 0
    try:
        for top in tops:
            with closing(measure(top)) as entries:
                for found in entries:
                    total += max(found.st_blocks * 512, _NAME)
                    seen += 1
                    if seen % _ENTRIES_AT_ONCE == 0:
                        await asyncio.sleep(0)
                    if seen > names:
                        return math.inf
    except OSError:
        return math.inf
    return total


async def within_room(jail: Jail, limits: Limits) -> Limits:
    """The limits for the next run: where the sandbox is over its limit already, files may only be removed."""
    return limits if await has_room(jail, limits) else replace(limits, file_size=SCRAP)


async def has_room(jail: Jail, limits: Limits) -> bool:
    """Is the sandbox within its limit?

    Looking before each of many short runs takes no larger share of the time than looking during a long one.
    """
    now, began = time.monotonic(), time.thread_time()
    if _measured.get(jail.workspace, 0.0) > now:
        return True
    if await usage(jail.workspace, jail.scratch, names=limits.disk / _NAME) > limits.disk:
        return False
    for old in [workspace for workspace, until in _measured.items() if until < now]:
        del _measured[old]
    _measured[jail.workspace] = time.monotonic() + min(WALK_SHARE * (time.thread_time() - began), LONGEST_PAUSE)
    return True


class Watch:
    """What a run adds to the disk, seen from its start on: files by their names, and those that have none any more."""

    def __init__(self, tops: Sequence[Path], limit: int) -> None:
        self._tops, self._limit = tops, limit
        self._system = os.statvfs(tops[0]).f_fsid
        self._free = self._free_now()
        self._before: float | None = None

    async def overflow(self, *pids: int) -> None:
        """Returns when there is more than the limit.

        Looks now and then, at most a twentieth of the time; sooner when the limit would be met by then, as fast as what
        is there has been growing.
        """
        pause = _FIRST_LOOK
        last, when = 0.0, time.monotonic()
        while True:
            await asyncio.sleep(pause)
            looking = time.monotonic()
            if await self.full(*pids):
                return
            pause = min(WALK_SHARE * (time.monotonic() - looking), LONGEST_PAUSE)
            used = self._before or 0.0
            if used > self._limit:
                pause = 0
            elif used > last:
                pause = min(pause, (self._limit - used) / (used - last) * (looking - when))
            pause = max(pause, _FIRST_LOOK)
            last, when = used, looking

    async def full(self, *pids: int) -> bool:
        """Is there more than the limit, and no less than at the last look? Else an agent may be cleaning up.

        pids: the processes that everything of the run is a descendant of.
        """
        used = await usage(*self._tops, names=_HOPELESS * self._limit / _NAME)
        # Only where the file system has lost more than what is left of the limit can it be for nameless files.
        if used <= self._limit < used + self._free - self._free_now():
            used += nameless(self._system, *pids)
        before, self._before = self._before, used
        return used > self._limit and before is not None and used >= before

    def _free_now(self) -> int:
        try:
            found = os.statvfs(self._tops[0])
        except FileNotFoundError:  # removed meanwhile
            return 0
        return found.f_bfree * found.f_frsize


def nameless(system: int, *pids: int) -> float:
    """Bytes of the files that processes or their descendants have open and nobody can name any more.

    system: f_fsid of the file system that counts (st_dev is not the same for all files of an overlay).

    Infinite when one of these processes keeps us from looking. 0 where there is no /proc.
    """
    found: dict[int, int] = {}
    for process in (each for pid in pids for each in (pid, *descendants(pid))):
        try:
            descriptors = os.listdir(f"/proc/{process}/fd")  # noqa: PTH208
        except (FileNotFoundError, ProcessLookupError):
            continue
        except PermissionError:
            if _holds_memory(process):  # what has ended is hidden too, but holds nothing
                return math.inf
            continue
        for descriptor in descriptors:
            with suppress(OSError):
                link = f"/proc/{process}/fd/{descriptor}"
                file = os.stat(link)  # noqa: PTH116
                if stat.S_ISREG(file.st_mode) and file.st_nlink == 0 and os.statvfs(link).f_fsid == system:
                    found[file.st_ino] = file.st_blocks * 512
    return sum(found.values())


def _holds_memory(process: int) -> bool:
    try:
        return int(Path(f"/proc/{process}/statm").read_bytes().split()[0]) > 0
    except (OSError, ProcessLookupError):
        return False
