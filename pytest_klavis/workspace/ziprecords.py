"""A zip's records: its end, its directory, and the header before each member, held against each other.

Only a zip that reads the same from the front and from the back is taken: members lie one after the other from the first
byte to the directory, and each header says what the directory says. That leaves no room for overlapping, hidden,
prepended or appended data. Python's zipfile reads what it can of all these, differently from release to release.
Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT (section numbers below).
"""

from __future__ import annotations

import calendar
import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from pytest_klavis.errors import ArchiveError

from .headers import CHUNK
from .names import MAX_NAMES, MAX_PATH, decode, quoted

END, END64, LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
MEMBER, ENTRY, DESCRIPTOR = b"PK\x03\x04", b"PK\x01\x02", b"PK\x07\x08"
LATER, UTF8 = 0x8, 0x800  # flags: sizes follow the data; the name is UTF-8
ENCRYPTED = 0x1 | 0x40 | 0x2000
ABSENT = 0xFFFF_FFFF  # the value is in the zip64 field
UNIX = (3, 19)  # systems on which a name is bytes


@dataclass(slots=True)
class Record:
    """One member as the directory describes it; `raw` is its name as written, `name` as meant."""

    raw: bytes
    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int
    attributes: int
    mtime: int

    @property
    def shown(self) -> str:
        return quoted(decode(self.name))


class Source:
    """The archive's bytes by position, through one buffer; `at` is where the next read begins."""

    def __init__(self, stream: BinaryIO, start: int) -> None:
        self._stream = stream
        self._start = start
        self._buffer = b""
        self._from = 0
        self.size = stream.seek(0, 2) - start
        self.at = 0

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, b"" at the end."""
        skip = self.at - self._from
        if not 0 <= skip < len(self._buffer):
            self._stream.seek(self._start + self.at)
            self._buffer, self._from, skip = self._stream.read(CHUNK), self.at, 0
        piece = self._buffer[skip : skip + size]
        self.at += len(piece)
        return piece

    def exactly(self, size: int, what: str) -> bytes:
        pieces = []
        while size:
            piece = self.read(size)
            if not piece:
                raise ArchiveError(f"the archive is cut short in {what}")
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)


class _End(NamedTuple):
    """Where the directory lies and how many entries it has."""

    entries: int
    size: int
    offset: int


def directory(source: Source, members: int) -> tuple[list[Record], int]:
    """The members in the order of their data, at most `members`, and where the directory begins."""
    end = _end(source)
    if end.entries > members:
        raise ArchiveError(f"the archive has more than {members:,} members")
    source.at = end.offset
    records: list[Record] = []
    names = 0
    for _ in range(end.entries):
        records.append(_entry(source))
        names += max(len(records[-1].raw), len(records[-1].name))
        if names > MAX_NAMES:
            raise ArchiveError(f"the archive's names alone have more than {MAX_NAMES:,} bytes")
    if source.at != end.offset + end.size:
        raise ArchiveError("the archive is damaged: its directory has another size than its end record says")
    records.sort(key=lambda record: record.offset)
    return records, end.offset


def enter(source: Source, record: Record) -> bool:
    """Read the header before a member's data and hold it against the directory; whether a descriptor follows."""
    if source.at != record.offset:
        what = "overlaps another one" if record.offset < source.at else "has bytes before it that belong to nothing"
        raise ArchiveError(f"member {record.shown} {what}")
    fields = struct.unpack("<4s5H3L2H", source.exactly(30, "a header"))
    signature, _, flags, method, _, _, crc, packed, size, name_size, extra_size = fields
    if signature != MEMBER:
        raise ArchiveError(f"the archive is damaged: no header before member {record.shown}")
    raw, extra = source.exactly(name_size, "a name"), _extra(source.exactly(extra_size, "a header"))
    name = _name(raw, flags, extra, UNIX[0])
    if raw != record.raw or (extra.get(0x7075) and name != record.name):
        raise ArchiveError(f"member {record.shown} is called {quoted(decode(name))} in its own header")
    size, packed, _ = _sizes(size, packed, 0, extra, name)
    said, meant = (method, crc, packed, size), (record.method, record.crc, record.packed, record.size)
    later = bool(flags & LATER)
    same = all(
        one == other or (later and n and not one) for n, (one, other) in enumerate(zip(said, meant, strict=True))
    )
    if not same or (flags ^ record.flags) & (ENCRYPTED | UTF8):
        raise ArchiveError(f"member {record.shown} is described in two ways, by its header and by the directory")
    return later


def leave(source: Source, record: Record, following: int) -> None:
    """Read the descriptor between a member's data and `following` (4.3.9: signed or not, of 4 or 8 bytes)."""
    raw = source.exactly(max(0, min(following - source.at, 25)), "a data descriptor")
    values = (record.crc, record.packed, record.size)
    forms = [struct.pack(form, *values) for form in ("<LLL", "<LQQ") if form == "<LQQ" or max(values) < 1 << 32]
    if raw not in (*forms, *(DESCRIPTOR + form for form in forms)):
        raise ArchiveError(f"member {record.shown} is described in two ways, by the directory and after its data")


def _end(source: Source) -> _End:
    """The end record (4.3.16), and the zip64 one before it (4.3.14, 4.3.15) where there is one."""
    source.at = start = max(0, source.size - 22 - 0xFFFF)
    tail = source.exactly(source.size - start, "its end")
    found = tail.rfind(END)
    if found < 0 or len(tail) - found < 22:
        raise ArchiveError("the archive is cut short: a zip's end record is missing")
    at = start + found
    _, disk, first, here, count, size, offset, comment = struct.unpack("<4s4H2LH", tail[found : found + 22])
    if at + 22 + comment != source.size:
        what = "is cut short in its comment" if at + 22 + comment > source.size else "has bytes after its end"
        raise ArchiveError(f"the archive {what}")
    given = _End(count, size, offset)
    found64 = _end64(source, at) if at >= 20 else None
    if found64 is None:
        end, stop = given, at
    else:
        end, stop = found64
        absent = _End(0xFFFF, ABSENT, ABSENT)
        if any(one not in (other, none) for one, other, none in zip(given, end, absent, strict=True)):
            raise ArchiveError("the archive is damaged: its two end records disagree")
    if disk not in (0, 0xFFFF) or first not in (0, 0xFFFF) or here != count:
        raise ArchiveError("the archive is one part of a zip of several disks")
    if end.offset + end.size != stop:
        raise ArchiveError(
            "the archive's directory is not where its end record says: there is data that is not the zip's"
        )
    return end


def _end64(source: Source, at: int) -> tuple[_End, int] | None:
    source.at = at - 20
    signature, disk, offset, disks = struct.unpack("<4sLQL", source.exactly(20, "its end"))
    if signature != LOCATOR64:
        return None
    if offset != at - 76:
        raise ArchiveError("the archive is damaged: its zip64 end record is not where it should be")
    source.at = offset
    fields = struct.unpack("<4sQ2H2L4Q", source.exactly(56, "its end"))
    signature, size, _, _, here, first, count_here, count, directory_size, directory_offset = fields
    if signature != END64 or size != 44:
        raise ArchiveError("the archive is damaged: its zip64 end record is not where it should be")
    if disk or here or first or disks > 1 or count_here != count:
        raise ArchiveError("the archive is one part of a zip of several disks")
    return _End(count, directory_size, directory_offset), offset


def _entry(source: Source) -> Record:
    """One entry of the directory (4.3.12)."""
    fields = struct.unpack("<4s4B4H3L5H2L", source.exactly(46, "its directory"))
    signature, _, system, _, _, flags, method, clock, date, crc, packed, size = fields[:12]
    name_size, extra_size, comment_size, disk, _, attributes, offset = fields[12:]
    if signature != ENTRY:
        raise ArchiveError("the archive is damaged: its directory has something in it that is no entry")
    raw = source.exactly(name_size, "its directory")
    if len(raw) > MAX_PATH:
        raise ArchiveError(f"member {quoted(decode(raw))} has a path of {len(raw):,} bytes; the limit is {MAX_PATH:,}")
    extra = _extra(source.exactly(extra_size, "its directory"))
    source.exactly(comment_size, "its directory")
    name = _name(raw, flags, extra, system)
    size, packed, offset = _sizes(size, packed, offset, extra, name)
    if disk not in (0, 0xFFFF):
        raise ArchiveError(f"member {quoted(decode(name))} is on another disk")
    return Record(raw, name, flags, method, crc, packed, size, offset, attributes, _mtime(date, clock, extra))


def _extra(raw: bytes) -> dict[int, bytes]:
    """The fields of 4.5 by their id; a tail that is too short for a field is the padding of some writers."""
    found: dict[int, bytes] = {}
    at = 0
    while len(raw) - at >= 4:
        key, size = struct.unpack_from("<HH", raw, at)
        at += 4
        if at + size > len(raw) or (key in found and key in (0x0001, 0x7075)):
            raise ArchiveError("the archive is damaged: an extra field is there twice or has a wrong length")
        found[key] = raw[at : at + size]
        at += size
    return found


def _name(raw: bytes, flags: int, extra: dict[int, bytes], system: int) -> bytes:
    """The name's bytes: UTF-8 where it says so (4.4.4, 4.6.9), else as they are on Unix and code page 437 elsewhere."""
    if flags & UTF8:
        return raw
    other = extra.get(0x7075, b"")
    if len(other) > 5 and other[0] == 1 and int.from_bytes(other[1:5], "little") == zlib.crc32(raw):
        return other[5:]
    return raw if system in UNIX or raw.isascii() else raw.decode("cp437").encode()


def _sizes(size: int, packed: int, offset: int, extra: dict[int, bytes], name: bytes) -> tuple[int, int, int]:
    """The three numbers, from the zip64 field (4.5.3) where they are not in the record itself."""
    field, at = extra.get(0x0001, b""), 0
    values = [size, packed, offset]
    for number, value in enumerate(values):
        if value != ABSENT:
            continue
        if at + 8 > len(field):
            raise ArchiveError(f"member {quoted(decode(name))} has no size: its zip64 field is missing or cut short")
        values[number] = int.from_bytes(field[at : at + 8], "little")
        at += 8
    return values[0], values[1], values[2]


def _mtime(date: int, clock: int, extra: dict[int, bytes]) -> int:
    """Seconds since 1970; a zip's own date has no time zone and is taken for UTC. -1 for one that cannot be."""
    stamp = extra.get(0x5455, b"")
    if len(stamp) >= 5 and stamp[0] & 1:
        return int.from_bytes(stamp[1:5], "little", signed=True)
    year, month, day = (date >> 9) + 1980, date >> 5 & 15, date & 31
    if not 1 <= month <= 12 or not day:
        return -1
    return calendar.timegm((year, month, day, clock >> 11, clock >> 5 & 63, (clock & 31) * 2))
