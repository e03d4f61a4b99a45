"""The members of a zip in the order of their data, with their bytes: stored or deflated, counted and summed."""

from __future__ import annotations

import stat
import zlib
from typing import TYPE_CHECKING, BinaryIO

from pytest_klavis.errors import ArchiveError

from .headers import BLOCK_DEVICE, CHARACTER_DEVICE, CHUNK, FIFO, RATIO_FROM, SOCKET, Header
from .names import MAX_PATH
from .ziprecords import ENCRYPTED, UTF8, Record, Source, directory, enter, leave

if TYPE_CHECKING:
    from collections.abc import Iterator

STORED, DEFLATED = 0, 8
METHODS = {9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 99: "AES encryption"}
FOLDER = 0x10  # the DOS attribute of a directory
KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: CHARACTER_DEVICE,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFIFO: FIFO,
    stat.S_IFSOCK: SOCKET,
}


class ZipStream:
    """Iterates over the headers; `data()` gives the current member's bytes, unread ones are passed over."""

    def __init__(self, stream: BinaryIO, start: int, *, ratio: int, members: int) -> None:
        """`stream` can seek; the zip begins at its position `start`."""
        self._source = Source(stream, start)
        self._ratio = ratio
        self._members = members
        self._given = 0  # unpacked bytes of all members
        self._current: Iterator[bytes] = iter(())

    def __iter__(self) -> Iterator[Header]:
        records, end = directory(self._source, self._members)
        self._source.at = 0
        for number, record in enumerate(records):
            following = records[number + 1].offset if number + 1 < len(records) else end
            self._current = self._contents(record, following)
            yield self._header(record)
            for _ in self._current:
                pass
        if self._source.at != end:
            raise ArchiveError("the archive has bytes before its directory that belong to nothing")

    def data(self) -> Iterator[bytes]:
        return self._current

    def _header(self, record: Record) -> Header:
        if record.flags & UTF8:
            try:
                record.name.decode()
            except UnicodeDecodeError:
                raise ArchiveError(f"member {record.shown} claims a name in UTF-8 that is none") from None
        if record.flags & ENCRYPTED:
            raise ArchiveError(f"member {record.shown} is encrypted")
        if record.method not in (STORED, DEFLATED):
            what = METHODS.get(record.method, "one that is not known")
            raise ArchiveError(
                f"member {record.shown} is packed with method {record.method} ({what}); "
                "only stored and deflated members are taken"
            )
        kind, mode = _kind(record)
        header = Header(record.name, kind, record.size, mode, record.mtime, b"")
        if kind == "link":
            if record.size > MAX_PATH:
                raise ArchiveError(f"member {record.shown} is a link with a target of {record.size:,} bytes")
            header.link, header.size = b"".join(self._current), 0
        return header

    def _contents(self, record: Record, following: int) -> Iterator[bytes]:
        """The member's bytes; at their end everything that is said about them has been checked."""
        later = enter(self._source, record)
        crc = size = 0
        for piece in self._stored(record) if record.method == STORED else self._inflated(record):
            crc = zlib.crc32(piece, crc)
            size += len(piece)
            self._given += len(piece)
            if size > record.size:
                raise ArchiveError(f"member {record.shown} has more than the {record.size:,} bytes that it claims")
            if self._given > RATIO_FROM and self._given > self._ratio * self._source.at:
                raise ArchiveError(f"the archive unpacks to more than {self._ratio} times its size: refused as a bomb")
            yield piece
        if size != record.size:
            raise ArchiveError(f"member {record.shown} has {size:,} bytes and claims {record.size:,}")
        if crc != record.crc:
            raise ArchiveError(f"member {record.shown} is damaged: its checksum is wrong")
        if later:
            leave(self._source, record, following)

    def _stored(self, record: Record) -> Iterator[bytes]:
        left = record.packed
        while left:
            piece = self._source.read(min(left, CHUNK))
            if not piece:
                raise ArchiveError(f"the archive is cut short in member {record.shown}")
            left -= len(piece)
            yield piece

    def _inflated(self, record: Record) -> Iterator[bytes]:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        stop = self._source.at + record.packed
        try:
            for packed in self._stored(record):
                if unpacker.eof:
                    break
                todo = packed
                while todo and not unpacker.eof:
                    if piece := unpacker.decompress(todo, CHUNK):
                        yield piece
                    todo = unpacker.unconsumed_tail
            while not unpacker.eof and (piece := unpacker.decompress(b"", CHUNK)):
                yield piece
        except zlib.error as error:
            reason = str(error).rsplit(": ", 1)[-1]
            raise ArchiveError(f"member {record.shown} is damaged: deflate reports {reason}") from error
        if not unpacker.eof:
            raise ArchiveError(f"member {record.shown} is cut short: deflate's end is missing")
        if unpacker.unused_data or self._source.at != stop:
            raise ArchiveError(f"member {record.shown} goes on after deflate's end")


def _kind(record: Record) -> tuple[str, int]:
    """What the attributes and the name say together, and the permission bits (0644 or 0755 where none are given)."""
    mode = record.attributes >> 16
    named = "dir" if record.name.endswith(b"/") else "file"
    kind = KINDS.get(stat.S_IFMT(mode), f"of the unknown kind {stat.S_IFMT(mode):#o}") if stat.S_IFMT(mode) else named
    if kind == "file" and record.attributes & FOLDER:
        kind = "dir"
    if kind in ("file", "dir", "link") and (kind == "dir") != (named == "dir"):
        raise ArchiveError(f"member {record.shown} is a {kind} by its attributes and a {named} by its name")
    return kind, stat.S_IMODE(mode) or (0o755 if kind == "dir" else 0o644)
