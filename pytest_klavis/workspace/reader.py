"""The members of an archive in order, each checked against the limits and against those before it.

Nothing is written here: extraction, listing and verification see the same members and refuse the same ones.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, cast, get_args

from pytest_klavis.errors import ArchiveError

from .headers import Header, Kind, Members
from .names import MAX_DEPTH, MAX_NAMES, MAX_PATH, NameRefusedError, decode, folded, held, quoted, split
from .tarstream import TarStream
from .zipstream import ZipStream

if TYPE_CHECKING:
    from collections.abc import Iterator

Format = Literal["tar.gz", "zip"]
KINDS = get_args(Kind)


@dataclass(frozen=True)
class Limits:
    """How much an archive may hold. All sizes in bytes, unpacked.

    `ratio` is unpacked to packed, looked at after the first 10 MB. `portable` also refuses what other systems
    read differently: backslashes, control and bidi characters, names that differ only in case or accents.
    `formats` are the kinds of archive that are taken.
    """

    members: int = 200_000
    total: int = 4 << 30
    member: int = 2 << 30
    ratio: int = 1000
    depth: int = MAX_DEPTH
    portable: bool = True
    formats: tuple[Format, ...] = ("tar.gz", "zip")


@dataclass(frozen=True, slots=True)
class Entry:
    """One member. `path` is relative without `./` (the root is ""); `target` is a link's."""

    path: str
    kind: Kind
    size: int
    mode: int
    mtime: int
    target: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.path.split("/")) if self.path else ()


class Reader:
    """Iterates over the entries of a tar.gz or zip; raises ArchiveError, naming the member, for what it refuses."""

    def __init__(self, stream: BinaryIO, limits: Limits) -> None:
        self._limits = limits
        self._members = _members(stream, limits)
        self._kinds: dict[str, Kind] = {"": "dir"}
        self._folded: dict[str, str] = {}  # only of paths that differ from what they fold to
        self._names = 0  # bytes of the names and link targets that are held here
        self._total = 0
        self._rooted = False  # whether the archive has an entry for its own root
        self._links: dict[str, str] = {}

    def __iter__(self) -> Iterator[Entry]:
        for header in self._members:
            yield self._entry(header)

    def data(self) -> Iterator[bytes]:
        """The bytes of the entry that was given last; once."""
        return self._members.data()

    def charge(self, size: int, path: str) -> None:
        """Count bytes that the tree gains, also those of a copy that the archive does not carry."""
        self._total += size
        if self._total > self._limits.total:
            raise ArchiveError(f"the archive unpacks to more than {self._limits.total:,} bytes (at {quoted(path)})")

    def wrapping(self, packed_from: str) -> str:
        """The directory with everything in it, when it is `packed_from` or its last steps; else "".

        To be asked when all entries have been read. An archive with an entry for its own root was packed from inside.
        """
        steps = [step for step in packed_from.split("/") if step not in ("", ".")]
        for first in range(0 if not self._rooted else len(steps), len(steps)):
            wrap = "/".join(steps[first:])
            inside = sum(path == wrap or path.startswith(f"{wrap}/") for path in self._kinds)
            if self._kinds.get(wrap) == "dir" and inside + len(steps) - first == len(self._kinds):
                return wrap
        return ""

    def links_below(self, top: str = "") -> dict[str, str]:
        """The links' targets by path, from the directory `top`, which has all of them in it."""
        start = len(top) + 1 if top else 0
        return {path[start:]: target for path, target in self._links.items()}

    def _entry(self, header: Header) -> Entry:
        name = decode(header.name)
        try:
            parts = split(header.name, portable=self._limits.portable, depth=self._limits.depth)
        except NameRefusedError as error:
            raise ArchiveError(f"member {quoted(name)} {error}") from None
        path = "/".join(parts)
        self._rooted |= not parts
        kind = self._kind(header, name)
        self._place(path, kind, name)
        entry = Entry(path, kind, header.size, header.mode, header.mtime, decode(header.link))
        if kind == "file":
            if header.size > self._limits.member:
                raise ArchiveError(
                    f"member {quoted(name)} has {header.size:,} bytes; the limit for one is {self._limits.member:,}"
                )
            self.charge(header.size, path)
        elif header.size:
            raise ArchiveError(f"member {quoted(name)} is no file but claims {header.size:,} bytes of data")
        if kind == "hardlink":
            original = self._original(header.link, path, name)
            if original not in self._links:
                return Entry(path, kind, 0, header.mode, header.mtime, original)
            # A second name of a link (`cp -al` makes them) is a link with the same target.
            self._kinds[path] = "link"
            entry = Entry(path, "link", 0, header.mode, header.mtime, self._links[original])
        elif kind == "link":
            self._check_target(header.link, name)
        if entry.kind == "link":
            self._hold(entry.target)
            self._links[path] = entry.target
        return entry

    def _kind(self, header: Header, name: str) -> Kind:
        if header.kind not in KINDS:
            raise ArchiveError(f"member {quoted(name)} is {header.kind}; only files, directories and links are taken")
        if header.kind == "file" and header.name.endswith((b"/", b"/.")):
            raise ArchiveError(f"member {quoted(name)} is a file whose name ends like a directory's")
        return cast("Kind", header.kind)

    def _place(self, path: str, kind: Kind, name: str) -> None:
        """Record what is at `path`, and the directories above it, or refuse what is there twice."""
        known = self._kinds.get(path)
        if known is None:
            parent = path.rpartition("/")[0]
            if self._kinds.get(parent) != "dir":
                if parent in self._kinds:
                    raise ArchiveError(f"member {quoted(name)} lies below {quoted(parent)}, which is no directory")
                self._place(parent, "dir", name)
            self._collide(path, name)
            self._hold(path)
            self._kinds[path] = kind
            if len(self._kinds) > self._limits.members + 1:
                raise ArchiveError(f"the archive has more than {self._limits.members:,} members")
        elif known != "dir" or kind != "dir":
            # Two entries for one directory say the same thing. Anything else depends on who reads it.
            raise ArchiveError(f"member {quoted(name)} is there twice (a {known}, then a {kind})")

    def _collide(self, path: str, name: str) -> None:
        if not self._limits.portable:
            return
        fold = folded(path)
        other = fold if fold in self._kinds else self._folded.get(fold)
        if fold != path and other is None:
            self._hold(fold)
            self._folded[fold] = path
        if other is not None:
            raise ArchiveError(
                f"members {quoted(other)} and {quoted(name)} are one file where case or accents do not count"
            )

    def _hold(self, text: str) -> None:
        """Count what is kept in memory to the end: few packed bytes can name many long directories."""
        self._names += held(text)
        if self._names > MAX_NAMES:
            raise ArchiveError(f"the archive's names alone have more than {MAX_NAMES:,} bytes")

    def _original(self, link: bytes, path: str, name: str) -> str:
        try:
            target = "/".join(split(link, portable=self._limits.portable, depth=self._limits.depth))
        except NameRefusedError as error:
            raise ArchiveError(f"member {quoted(name)} is a hard link whose target {error}") from None
        if self._kinds.get(target) not in ("file", "hardlink", "link") or target == path:
            raise ArchiveError(
                f"member {quoted(name)} is a hard link to {quoted(decode(link))}, which is no file before it"
            )
        return target

    def _check_target(self, link: bytes, name: str) -> None:
        if not link or len(link) > MAX_PATH or b"\0" in link:
            raise ArchiveError(f"member {quoted(name)} is a link with the target {quoted(decode(link))}")


def _members(stream: BinaryIO, limits: Limits) -> Members:
    """The archive's own members, by what it begins with."""
    head = b""
    while len(head) < 2 and (piece := stream.read(2 - len(head))):
        head += piece
    if head != b"PK" or "zip" not in limits.formats:
        return TarStream(stream, head, ratio=limits.ratio, budget=min(limits.total, 256 << 20))
    if not stream.seekable():
        raise ArchiveError("a zip can only be read from a file: its directory is at its end")
    return ZipStream(stream, stream.tell() - len(head), ratio=limits.ratio, members=limits.members)


@contextmanager
def opened(archive: Path | BinaryIO) -> Iterator[BinaryIO]:
    """The archive as a stream; a path has to be a regular file (a FIFO would wait for ever)."""
    if not isinstance(archive, (str, os.PathLike)):
        yield archive
        return
    path = Path(archive)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ArchiveError(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ArchiveError(f"cannot read {path}: it is no regular file")
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        yield stream
