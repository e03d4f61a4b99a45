"""Tree to archive: always the same bytes for the same tree, in flat memory, whatever the tree does meanwhile.

Sorted by path bytes, mtime 2000-01-01, no owners, modes 0644 and 0755, pax headers only where a name needs one.
Compressed by isal where it is installed (the extra `fast`: the time falls to a third), else by zlib: the bytes of the
tar are the same with both, those of the tar.gz differ. Archives are always read with zlib, which is stricter.
"""

from __future__ import annotations

import importlib
import os
import stat
import tarfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol, cast

from pytest_klavis.errors import SeedError, SpecError

from .headers import CHUNK
from .names import NameRefusedError, encode, folded, split
from .scan import Item, Special, scan
from .tarstream import BLOCK
from .trees import DIRECTORY, READ, Walk, open_directory, open_locked_file, partial_name, unlock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__tracebackhide__ = True  # users read their own frames

MTIME = 946_684_800  # 2000-01-01T00:00:00Z
LEVEL = 3  # of zlib: half the time of 6 for a tenth more bytes
FAST_LEVEL = 2  # of isal: as small as zlib's 3 in a seventh of its time


@dataclass(frozen=True)
class Packed:
    """What went in: regular files, their bytes, and (path, why) of what was left out or changed while it was read."""

    files: int
    bytes: int
    skipped: tuple[tuple[str, str], ...]


def pack(
    root: Path,
    dest: Path | BinaryIO,
    *,
    special: Special = "refuse",
    limit: int | None = None,
    below: str = ".",
) -> Packed:
    """Pack the directory `root` into a tar.gz with members `./`, `./a.txt`, ..., or with all of it `below` a directory.

    `special` says what happens to what a seed should not hold: devices, FIFOs and sockets, what cannot be read,
    names that extraction refuses, links that lead outside, files that change while they are read. "refuse" raises
    SeedError with the path. "skip" goes on and lists it: links are kept as they are, a changed file is cut or padded
    with zeros to the size it had, all else is left out. `limit` caps the bytes of all files together: SeedError, or
    what does not fit is left out.
    """
    with _top(root, special) as top, _sink(dest) as sink:
        found = scan(top, root, special)
        found.fit(limit)
        writer = _Writer(sink, below)
        with Walk(top, _enter_as_is if special == "refuse" else open_directory) as walk:
            for item in found.items:
                if item.kind == "file":
                    try:
                        _add_file(item, walk, writer, limit, special)
                    except _LeftOutError as reason:
                        found.object(item.path, str(reason))
                    except OSError as error:
                        found.object(item.path, f"cannot be read any more: {error.strerror}")
                else:
                    writer.member(item)
        writer.close()
    return Packed(writer.files, writer.bytes, tuple(sorted(found.skipped.items())))


def pack_mapping(files: Mapping[str, str | bytes], dest: Path | BinaryIO, *, below: str = ".") -> Packed:
    """Pack a Mapping of relative path to text (UTF-8) or bytes, in the format of `pack`.

    A path that ends in `/` with nothing in it is an empty directory; a file that starts with `#!` is executable.
    Raises SpecError for a path that is absolute, leaves the root or is there twice, and for other values.
    """
    items = mapping_items(files)
    with _sink(dest) as sink:
        writer = _Writer(sink, below)
        for item, content in items:
            writer.member(item)
            if item.kind == "file":
                writer.data(content)
                writer.pad(item.size)
        writer.close()
    return Packed(writer.files, writer.bytes, ())


def mapping_items(files: Mapping[str, str | bytes]) -> list[tuple[Item, bytes]]:
    """The members of a Mapping in order, with the directories above them; SpecError for what cannot be one."""
    items: dict[tuple[str, ...], tuple[Item, bytes]] = {(): (Item((), "dir"), b"")}
    seen: dict[str, str] = {}
    for key, value in files.items():
        if not isinstance(key, str) or not isinstance(value, (str, bytes)):  # type: ignore[redundant-expr]
            raise SpecError(f"workspace[{key!r}] is of type {type(value).__name__}; give a path and its text or bytes")
        try:
            parts = split(encode(key))
        except NameRefusedError as error:
            raise SpecError(f"workspace[{key!r}] {error}; give a path relative to the workspace") from None
        content = value.encode() if isinstance(value, str) else value
        kind: Literal["file", "dir"] = "dir" if key.endswith("/") else "file"
        if not parts or (kind == "dir" and content):
            raise SpecError(f"workspace[{key!r}] names a directory, but has content")
        for depth in range(1, len(parts)):
            above = items.setdefault(parts[:depth], (Item(parts[:depth], "dir"), b""))
            if above[0].kind != "dir":
                raise SpecError(f"workspace[{key!r}] lies below {above[0].path!r}, which is a file")
        new = Item(parts, kind, len(content), 0o755 if content.startswith(b"#!") else 0o644)
        if items.setdefault(parts, (new, content))[0].kind != kind or (kind == "file" and items[parts][0] is not new):
            raise SpecError(f"workspace[{key!r}] is there twice")
    for parts in items:
        path = "/".join(parts)
        if (other := seen.setdefault(folded(path), path)) != path:
            raise SpecError(f"workspace[{path!r}] and {other!r} are one file where case or accents do not count")
    return [items[parts] for parts in sorted(items, key=lambda parts: encode("/".join(parts)))]


class _LeftOutError(Exception):
    """One file that cannot be packed as it is."""


def _add_file(item: Item, walk: Walk, writer: _Writer, limit: int | None, special: Special) -> None:
    enter = open_locked_file if special == "skip" else _open_as_is
    descriptor = enter(encode(item.parts[-1]), walk.directory(item.parts[:-1]))
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise _LeftOutError("is no regular file any more")
        if limit is not None and writer.bytes + before.st_size > limit:
            raise _LeftOutError(f"its {before.st_size:,} bytes do not fit into the limit of {limit:,}")
        writer.member(Item(item.parts, "file", before.st_size, before.st_mode))
        left = before.st_size
        while left and (chunk := _read(descriptor, min(left, CHUNK))):
            writer.data(chunk)
            left -= len(chunk)
        if left:
            writer.zeros(left)
        writer.pad(before.st_size)
        after = os.fstat(descriptor)
        if left or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise _LeftOutError(f"changed while it was packed ({before.st_size:,} bytes, then {after.st_size:,})")
    finally:
        os.close(descriptor)


def _read(descriptor: int, size: int) -> bytes:
    try:
        return os.read(descriptor, size)
    except OSError:  # the member's header is written: the file counts as shortened here
        return b""


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def _compressor() -> _Compressor:
    """One gzip member, whose header holds neither a time nor a name."""
    try:
        isal = importlib.import_module("isal.isal_zlib")
    except ImportError:
        return zlib.compressobj(LEVEL, zlib.DEFLATED, 31)
    return cast("_Compressor", isal.compressobj(FAST_LEVEL, zlib.DEFLATED, 31))


class _Writer:
    """A tar inside a gzip member."""

    def __init__(self, sink: BinaryIO, below: str) -> None:
        try:
            above = split(encode(below))
        except NameRefusedError as error:
            raise SpecError(f"{below!r} {error}; give a directory relative to the workspace") from None
        self._sink = sink
        self._gzip = _compressor()
        self._above: tuple[str, ...] = ()
        self.files = 0
        self.bytes = 0
        for part in above:
            self.member(Item((), "dir"))
            self._above += (part,)

    def member(self, item: Item) -> None:
        info = tarfile.TarInfo("./" + "/".join(self._above + item.parts))
        info.mtime = MTIME
        info.mode = 0o755 if item.mode & 0o111 or item.kind != "file" else 0o644
        if item.kind == "file":
            info.size = item.size
            self.files += 1
            self.bytes += item.size
        elif item.kind == "dir":
            info.type = tarfile.DIRTYPE
        else:
            info.type, info.linkname = tarfile.SYMTYPE, item.target
        self.data(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def data(self, chunk: bytes) -> None:
        self._emit(self._gzip.compress(chunk))

    def zeros(self, count: int) -> None:
        blank = bytes(CHUNK)
        while count:
            self.data(blank[: min(count, CHUNK)])
            count -= min(count, CHUNK)

    def pad(self, size: int) -> None:
        self.data(bytes(-size % BLOCK))

    def close(self) -> None:
        self.data(bytes(2 * BLOCK))
        self._emit(self._gzip.flush())

    def _emit(self, packed: bytes) -> None:
        try:
            self._sink.write(packed)
        except OSError as error:  # not to be taken for trouble with the file that is being read
            raise SeedError(f"cannot write the archive: {error.strerror or error}") from error


@contextmanager
def _top(root: Path, special: Special) -> Iterator[int]:
    try:
        if special == "skip":
            unlock(root)
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SeedError(f"cannot pack {root}: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _sink(dest: Path | BinaryIO) -> Iterator[BinaryIO]:
    """Where the bytes go. A path appears when the archive is complete, readable by us alone."""
    if not isinstance(dest, (str, os.PathLike)):
        yield dest
        return
    path = Path(dest)
    partial = path.with_name(partial_name(path.name))
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SeedError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
        partial.replace(path)
    except OSError as error:
        raise SeedError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _open_as_is(name: bytes, parent: int) -> int:
    return os.open(name, READ, dir_fd=parent)


def _enter_as_is(name: bytes, parent: int) -> int:
    """One step down in a tree that is the user's own: its modes are left alone."""
    return os.open(name, DIRECTORY, dir_fd=parent)
