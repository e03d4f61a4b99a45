"""Laying one tree over another that may be hostile and changing, and taking it off again.

Everything is a rename between directories that are held open: no link is followed, no file is seen half
written, and what was in the way is kept until it is put back or dropped.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from pytest_klavis.errors import ArchiveError

from .names import decode, encode, printable
from .trees import NOT_A_DIRECTORY, Walk, make_directory, move_aside, open_directory, opened_directory

ATTEMPTS = 20  # renames of one name against someone who keeps putting things there


class Layer:
    """What was laid over a tree, in order, with the name under which each thing in the way was kept."""

    def __init__(self, root: int, aside: int, owner: int | None) -> None:
        """Descriptors of the tree and of an empty directory on the same file system; both stay the caller's."""
        self._root = root
        self._aside = aside
        self._owner = owner
        self._laid: list[tuple[tuple[str, ...], bytes | None]] = []

    def lay(self, source: int, target: int | None = None, parts: tuple[str, ...] = ()) -> None:
        """Move everything in the directory `source` into the tree. Directories merge, all else replaces."""
        target = self._root if target is None else target
        for name in sorted(map(os.fsencode, os.listdir(source))):
            here = (*parts, decode(name))
            inner = None
            if stat.S_ISDIR(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode):
                inner = _existing_directory(name, target)
            if inner is None:
                self._put(name, source, target, here)
                continue
            try:
                with opened_directory(name, source) as outer:
                    self.lay(outer, inner, here)
            finally:
                os.close(inner)

    def undo(self) -> None:
        """Take off what was laid, whatever became of it, and put back what was there."""
        with Walk(self._root, self._enter) as walk:
            while self._laid:
                parts, kept = self._laid.pop()
                parent = walk.directory(parts[:-1])
                name = encode(parts[-1])
                with suppress(FileNotFoundError):
                    move_aside(name, parent, self._aside)
                if kept is not None:
                    os.rename(kept, name, src_dir_fd=self._aside, dst_dir_fd=parent)

    def _put(self, name: bytes, source: int, target: int, parts: tuple[str, ...]) -> None:
        kept = None
        for _ in range(ATTEMPTS):
            with suppress(FileNotFoundError):
                moved = move_aside(name, target, self._aside)
                kept = kept or moved  # the first is what was there; later ones were put there against us
            try:
                os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
            except PermissionError:
                os.fchmod(target, 0o700)
                continue
            except OSError as error:
                if error.errno not in (errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST):
                    raise
                continue
            self._laid.append((parts, kept))
            return
        raise ArchiveError(f"'{printable('/'.join(parts))}' could not be put in its place: something keeps taking it")

    def _enter(self, name: bytes, parent: int) -> int:
        """One step down on the way back: a directory that was there is made again if the run removed it."""
        try:
            return open_directory(name, parent)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in NOT_A_DIRECTORY:
                raise
            move_aside(name, parent, self._aside)
        return make_directory(name, parent, self._owner)


def _existing_directory(name: bytes, parent: int) -> int | None:
    try:
        return open_directory(name, parent)
    except OSError as error:
        if error.errno in (errno.ENOENT, *NOT_A_DIRECTORY):
            return None
        raise
