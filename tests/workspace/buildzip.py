"""Builds zips record by record, also those that no zip program would write."""

from __future__ import annotations

import stat
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

REGULAR = stat.S_IFREG | 0o644
DAY = 45 << 9 | 1 << 5 | 1  # 2025-01-01
LATER, UTF8 = 0x8, 0x800


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


@dataclass
class Member:
    """One member. `here` and `there` override single fields of its own header and of the directory's entry."""

    name: bytes
    packed: bytes
    values: dict[str, Any]
    extra: bytes = b""
    after: bytes = b""  # a data descriptor
    here: dict[str, Any] = field(default_factory=dict)
    there: dict[str, Any] = field(default_factory=dict)
    comment: bytes = b""

    def local(self) -> bytes:
        v = {**self.values, "name": self.name, "extra": self.extra, "signature": b"PK\x03\x04", **self.here}
        fields = (v["signature"], 20, v["flags"], v["method"], 0, DAY, v["crc"], v["packed"], v["size"])
        return bytes(struct.pack("<4s5H3L2H", *fields, len(v["name"]), len(v["extra"])) + v["name"] + v["extra"])

    def entry(self, offset: int) -> bytes:
        v = {**self.values, "name": self.name, "extra": self.extra, "signature": b"PK\x01\x02", "disk": 0}
        v |= {"offset": offset, "comment": self.comment, **self.there}
        fields = (v["signature"], 30, v["system"], 20, 0, v["flags"], v["method"], 0, DAY, v["crc"], v["packed"])
        lengths = (v["size"], len(v["name"]), len(v["extra"]), len(v["comment"]))
        numbers = (v["disk"], 0, v["attributes"], v["offset"])
        raw = struct.pack("<4s4B4H3L5H2L", *fields, *lengths, *numbers)
        return bytes(raw + v["name"] + v["extra"] + v["comment"])


def member(
    name: bytes | str, data: bytes = b"x", mode: int = REGULAR, *, packed: bytes | None = None, **fields: Any
) -> Member:
    """`fields` are Member's (extra, after, here, there, comment) or values of both records."""
    name = name.encode() if isinstance(name, str) else name
    method = fields.pop("method", 8)
    packed = packed if packed is not None else deflate(data) if method == 8 else data
    values = {"flags": 0, "method": method, "crc": zlib.crc32(data), "packed": len(packed), "size": len(data)}
    values |= {"system": 3, "attributes": mode << 16}
    kept = {key: fields.pop(key) for key in ("extra", "after", "here", "there", "comment") if key in fields}
    return Member(name, packed, values | fields, **kept)


def folder(name: bytes | str, **fields: Any) -> Member:
    return member(name, b"", stat.S_IFDIR | 0o755, method=0, **fields)


def symlink(name: bytes | str, target: bytes | str, **fields: Any) -> Member:
    return member(name, target.encode() if isinstance(target, str) else target, stat.S_IFLNK | 0o777, **fields)


def streamed(name: str, data: bytes, *, signed: bool = True, wide: bool = False, **fields: Any) -> Member:
    """As a writer that cannot seek does it: nothing in the header, a descriptor after the data."""
    packed = fields.pop("packed", deflate(data))
    values = fields.pop("says", (zlib.crc32(data), len(packed), len(data)))
    after = b"PK\x07\x08" * signed + struct.pack("<LQQ" if wide else "<LLL", *values)
    return member(
        name, data, packed=packed, flags=LATER, after=after, here={"crc": 0, "packed": 0, "size": 0}, **fields
    )


def extra(key: int, data: bytes) -> bytes:
    return struct.pack("<HH", key, len(data)) + data


def wide(name: str, data: bytes) -> Member:
    """Small, but with zip64 fields in both records."""
    numbers = struct.pack("<QQ", len(data), len(deflate(data)))
    return member(name, data, packed=deflate(data), extra=extra(1, numbers), here=ABSENT, there=ABSENT)


ABSENT = {"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF}


def archive(
    *members: Member,
    before: bytes = b"",
    between: bytes = b"",
    comment: bytes = b"",
    after: bytes = b"",
    zip64: bool = False,
    shift: int = 0,
    **end: Any,
) -> bytes:
    """All members, the directory, the end. `shift` is added to all offsets; `end` overrides the end record."""
    out, entries = bytearray(before), b""
    for one in members:
        entries += one.entry(len(out) + shift)
        out += one.local() + one.packed + one.after
    out += between
    v = {"disk": 0, "first": 0, "here": len(members), "count": len(members)}
    v |= {"size": len(entries), "offset": len(out) + shift, "comment": len(comment), **end}
    out += entries
    if zip64:
        at = len(out)
        numbers = (v["here"], v["count"], v["size"], v["offset"])
        out += struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, *numbers)
        out += struct.pack("<4sLQL", b"PK\x06\x07", 0, end.get("locator", at), end.get("disks", 1))
        v |= {"here": 0xFFFF, "count": 0xFFFF, "size": 0xFFFFFFFF, "offset": 0xFFFFFFFF, **end.get("narrow", {})}
    numbers32 = (v["disk"], v["first"], v["here"], v["count"], v["size"], v["offset"], v["comment"])
    return bytes(out) + struct.pack("<4s4H2LH", b"PK\x05\x06", *numbers32) + comment + after


def overlapping(count: int, size: int) -> bytes:
    """Entries with names of their own and one header and deflate stream for all."""
    kernel = deflate(bytes(size))
    out = member("z0", bytes(size), packed=kernel).local() + kernel
    entries = b"".join(member(f"z{n}", bytes(size), packed=kernel).entry(0) for n in range(count))
    return out + entries + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(entries), len(out), 0)


def quoted(count: int, size: int) -> bytes:
    """Each member begins with a stored block that quotes the next one's header (Fifield, "A better zip bomb")."""
    kernel, crc_data = deflate(bytes(size)), bytes(size)
    blocks: list[tuple[Member, bytes]] = [(member("last", crc_data, packed=kernel), kernel)]
    for number in range(count - 1):
        inner, stream = blocks[0]
        header = inner.local()
        packed = b"\0" + struct.pack("<HH", len(header), len(header) ^ 0xFFFF) + header + stream
        crc_data = header + crc_data
        blocks.insert(0, (member(f"f{number}", crc_data, packed=packed), packed))
    out = blocks[0][0].local() + blocks[0][1]
    entries, at = b"", 0
    for one, _ in blocks:
        entries += one.entry(at)
        at += len(one.local()) + 5
    return out + entries + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(entries), len(out), 0)
