"""One dump as a tree on this machine: complete, safe to read, and the same however often it is asked."""

from __future__ import annotations

import difflib
import os
import shutil
import tempfile
import weakref
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Self

from pytest_klavis.errors import SpecError

from .archive import Limits, extract
from .names import printable

if TYPE_CHECKING:
    from types import TracebackType

__tracebackhide__ = True  # users read their own frames

# An agent may call its files what Linux allows, and is judged by them: no name of its choice is an ERROR here.
LIMITS = Limits(portable=False)


class Snapshot:
    """The files of one dump in a private temporary directory, until `close()` or the end of a `with`.

    `path` is that directory. `skipped` lists (path, why) of links that were left out because they lead outside.
    The directory lies outside of the test tree: nothing in it is collected or imported by accident.
    """

    def __init__(self, archive: Path | BinaryIO, folder: Path | None = None, *, limits: Limits = LIMITS) -> None:
        """Unpack into a new directory in `folder` (default: the system's temporary directory).

        Raises ArchiveError for a dump that is damaged, hostile or larger than `limits`.
        """
        # resolved: on macOS the temporary directory is behind a link, and paths are compared below
        home = Path(tempfile.mkdtemp(prefix="pytest-klavis-snapshot-", dir=folder)).resolve()
        self._close = weakref.finalize(self, _remove, home, os.getpid())
        self.path = home / "workspace"
        try:
            extracted = extract(archive, self.path, limits=limits)
        except BaseException:
            self.close()
            raise
        self.skipped = extracted.skipped
        self.files = self._list_files()

    @classmethod
    def of(cls, archive: Path | BinaryIO, folder: Path | None = None) -> Self:
        """The snapshot of an archive, unpacked in `folder`."""
        return cls(archive, folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Snapshot of {len(self.files):,} files in {self.path}>"

    def close(self) -> None:
        """Remove the directory; more than once is fine."""
        self._close()

    def read_text(self, path: str, encoding: str = "utf-8") -> str:
        """A file's text. FileNotFoundError names the nearest path; SpecError for a path that leaves the workspace."""
        return self.read_bytes(path).decode(encoding)

    def read_bytes(self, path: str) -> bytes:
        """A file's bytes; errors as for `read_text`."""
        place = self._inside(path)
        if not place.is_file():
            near = difflib.get_close_matches(path, self.files, n=3, cutoff=0.5)
            hint = f"; there is {', '.join(map(printable, near))}" if near else f"; it has {len(self.files):,} files"
            what = "is a directory" if place.is_dir() else "is not there"
            raise FileNotFoundError(f"{printable(path)} {what} in the workspace{hint}")
        return place.read_bytes()

    def glob(self, pattern: str) -> list[str]:
        """The files that match, sorted; `**` goes down, names with a dot are included, directories are not."""
        if not pattern or PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts:
            raise SpecError(f"the pattern {pattern!r} has to be relative to the workspace, without '..'")
        found = (place for place in self.path.glob(pattern) if place.is_file() or place.is_symlink())
        return sorted(place.relative_to(self.path).as_posix() for place in found)

    def _inside(self, path: str) -> Path:
        relative = PurePosixPath(path)
        if relative.is_absolute() or ".." in relative.parts:
            raise SpecError(f"the path {path!r} has to be relative to the workspace, without '..'")
        return self.path / relative

    def _list_files(self) -> list[str]:
        found = []
        for folder, directories, names in os.walk(self.path):
            links = [name for name in directories if os.path.islink(os.path.join(folder, name))]  # noqa: PTH114, PTH118
            found += [Path(folder, name).relative_to(self.path).as_posix() for name in (*names, *links)]
        return sorted(found)


def _remove(home: Path, process: int) -> None:
    if os.getpid() == process:  # a fork's copy of the object must not take the parent's files away
        shutil.rmtree(home, ignore_errors=True)
