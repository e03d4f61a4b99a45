"""Builds tar.gz archives byte by byte, also those that no tar program would write."""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

END = bytes(1024)
PEAK = r'''
import re, resource, sys
from pathlib import Path
from pytest_klavis.workspace.archive import extract, pack

def peak():
    """Bytes. On Linux ru_maxrss begins with the parent's, which would hide all that this process needs."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
'''


def octal(value: int, width: int) -> bytes:
    return f"{value:0{width - 1}o}".encode() + b"\0"


def base256(value: int, width: int = 12) -> bytes:
    raw = value.to_bytes(width, "big", signed=True)
    return raw if value < 0 else bytes((raw[0] | 0x80,)) + raw[1:]


def header(
    name: bytes | str,
    kind: bytes = b"0",
    *,
    size: int = 0,
    size_field: bytes | None = None,
    mode: int = 0o644,
    link: bytes | str = b"",
    mtime: bytes = b"07000000000\0",
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    uid: int = 0,
    spoil: bool = False,
) -> bytes:
    name = name.encode() if isinstance(name, str) else name
    link = link.encode() if isinstance(link, str) else link
    block = bytearray(512)
    block[0 : len(name)] = name[:100]
    block[100:108] = octal(mode, 8)
    block[108:116] = block[116:124] = octal(uid, 8)
    block[124:136] = size_field or octal(size, 12)
    block[136:148] = mtime
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[157 : 157 + len(link)] = link[:100]
    block[257:265] = magic
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = f"{sum(block) + spoil:06o}\0 ".encode()
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def file(name: bytes | str, data: bytes = b"x", **fields: object) -> bytes:
    return header(name, size=len(data), **fields) + padded(data)  # type: ignore[arg-type]


def folder(name: bytes | str, **fields: object) -> bytes:
    return header(name, b"5", **{"mode": 0o755, **fields})  # type: ignore[arg-type]


def symlink(name: bytes | str, target: bytes | str) -> bytes:
    return header(name, b"2", link=target, mode=0o777)


def hardlink(name: bytes | str, target: bytes | str) -> bytes:
    return header(name, b"1", link=target)


def extension(kind: bytes, data: bytes) -> bytes:
    return header("././@Ext", kind, size=len(data)) + padded(data)


def pax(kind: bytes = b"x", **records: bytes | str) -> bytes:
    body = b""
    for key, value in records.items():
        raw = value.encode() if isinstance(value, str) else value
        record = key.replace("__", ".").encode() + b"=" + raw + b"\n"
        length = len(record) + 2
        while len(f"{length} ") + len(record) != length:
            length = len(f"{length} ") + len(record)
        body += f"{length} ".encode() + record
    return extension(kind, body)


def targz(*members: bytes, end: bytes = END) -> bytes:
    return gzip.compress(b"".join(members) + end, 6, mtime=0)


def zeros(name: str, size: int) -> bytes:
    """A tar.gz with one member of zeros, made without holding them in memory."""
    out = io.BytesIO()
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    out.write(packer.compress(header(name, size=size)))
    block = bytes(1 << 20)
    for _ in range(size >> 20):
        out.write(packer.compress(block))
    out.write(packer.compress(END) + packer.flush())
    return out.getvalue()


@dataclass(frozen=True)
class Fact:
    """What must not change about a file outside."""

    kind: int
    mode: int
    links: int
    content: bytes


def facts(root: Path, *, without: Path | None = None) -> dict[str, Fact]:
    """Every path below `root` with all that an archive could change about it."""
    return {str(path.relative_to(root)): _fact(path) for path in _walk(root) if path != without}


def names(folder_: Path) -> list[str]:
    """What is in a directory, sorted."""
    return sorted(path.name for path in folder_.iterdir())


def _walk(root: Path) -> Iterator[Path]:
    for folder_, directories, names in os.walk(root):
        for name in (*directories, *names):
            yield Path(folder_, name)


def _fact(path: Path) -> Fact:
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        content = os.fsencode(path.readlink())
    else:
        content = path.read_bytes() if stat.S_ISREG(info.st_mode) else b""
    links = info.st_nlink if stat.S_ISREG(info.st_mode) else 1
    return Fact(stat.S_IFMT(info.st_mode), stat.S_IMODE(info.st_mode), links, content)
