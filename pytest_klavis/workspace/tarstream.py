"""The bytes of a tar.gz, read once and in order: one gzip member, tar headers, their extensions, the end marks.

It knows the format and what is damaged about it. What a member may be called and do is reader.py's.
Formats: V7, ustar, pax (POSIX.1-2001) and GNU long names; https://www.gnu.org/software/tar/manual/html_node/Standard.html
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, BinaryIO

from pytest_klavis.errors import ArchiveError
from pytest_klavis.redaction import redact

from .headers import BLOCK_DEVICE, CHARACTER_DEVICE, CHUNK, FIFO, RATIO_FROM, Header
from .names import decode, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512
MAX_EXTENSION = 1 << 20  # bytes of one pax header or long name
MAX_PADDING = 4 << 20  # zeros after the end marks: GNU tar's largest record is 1 MiB

SPARSE = "a sparse file"
EXTENSIONS = (b"x", b"g", b"L", b"K")
KINDS = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "hardlink",
    b"2": "link",
    b"3": CHARACTER_DEVICE,
    b"4": BLOCK_DEVICE,
    b"5": "dir",
    b"6": FIFO,
    b"S": SPARSE,
}


class Gunzip:
    """One gzip member as a stream: CRC and length checked by zlib, what follows it refused."""

    def __init__(self, stream: BinaryIO, head: bytes, ratio: int) -> None:
        """`head` is what has been read from the stream already."""
        self._stream = stream
        self._head = head
        self._ratio = ratio
        self._zlib = zlib.decompressobj(wbits=31)
        self._taken = 0  # compressed bytes
        self._given = 0  # unpacked bytes
        self._buffer = b""
        self._at = 0

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, b"" at the end."""
        if self._at == len(self._buffer):
            self._buffer, self._at = self._more(), 0
        piece = self._buffer[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def exactly(self, size: int, what: str) -> bytes:
        pieces = []
        while size:
            piece = self.read(size)
            if not piece:
                raise ArchiveError(f"the archive is cut short in {what}")
            pieces.append(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def finish(self) -> None:
        """Read the padding after the end marks, and refuse anything else."""
        left = MAX_PADDING
        while piece := self.read(CHUNK):
            left -= len(piece)
            if left < 0 or piece.count(0) != len(piece):
                raise ArchiveError("the archive goes on after its end marks; refused, because readers disagree on it")
        if self._zlib.unused_data or self._stream.read(1):
            extra = self._zlib.unused_data[:2]
            what = "a second gzip member" if extra == b"\x1f\x8b" else "bytes that belong to nothing"
            raise ArchiveError(f"{what} after the archive's end")

    def _more(self) -> bytes:
        while not self._zlib.eof:
            data = self._zlib.unconsumed_tail
            if not data:
                data = self._stream.read(CHUNK)
                if not self._taken:
                    data = self._head + data
                    _check_magic(data)
                self._taken += len(data)
            try:
                piece = self._zlib.decompress(data, CHUNK)
            except zlib.error as error:
                reason = str(error).rsplit(": ", 1)[-1]
                raise ArchiveError(f"the archive is damaged: gzip reports {reason}") from error
            if piece:
                self._given += len(piece)
                used = self._taken - len(self._zlib.unconsumed_tail)
                if self._given > RATIO_FROM and self._given > self._ratio * used:
                    raise ArchiveError(
                        f"the archive unpacks to more than {self._ratio} times its size: refused as a bomb"
                    )
                return piece
            if not data and not self._zlib.eof:
                raise ArchiveError(f"the archive is cut short: gzip's end is missing after {self._taken:,} bytes")
        return b""


def _check_magic(data: bytes) -> None:
    if not data:
        raise ArchiveError("the archive is empty (0 bytes); an empty tree is a tar.gz too")
    if data.startswith(b"\x1f\x8b"):
        return
    # An error page of a storage service lands here: its first words say more than "not gzip" does.
    raise ArchiveError(f"this is no gzip archive; it begins with {quoted(redact(decode(data[:2000])), 160)}")


class TarStream:
    """Iterates over the headers; `data()` gives the current member's bytes, unread ones are passed over."""

    def __init__(self, stream: BinaryIO, head: bytes = b"", *, ratio: int, budget: int) -> None:
        self._in = Gunzip(stream, head, ratio)
        self._budget = budget  # bytes of extension headers in the whole archive
        self._left = 0  # of the current member's data
        self._padding = 0

    def __iter__(self) -> Iterator[Header]:
        while True:
            for _ in self.data():
                pass
            header = self._next()
            if header is None:
                self._in.finish()
                return
            yield header

    def data(self) -> Iterator[bytes]:
        while self._left:
            piece = self._in.read(min(self._left, CHUNK))
            if not piece:
                raise ArchiveError("the archive is cut short inside a member's data")
            self._left -= len(piece)
            yield piece
        if self._padding:
            padding, self._padding = self._padding, 0
            self._in.exactly(padding, "a member's padding")

    def _expect(self, size: int) -> None:
        self._left, self._padding = size, -size % BLOCK

    def _next(self) -> Header | None:
        given: dict[str, bytes] = {}  # what extension headers say about the next member
        while True:
            block = self._block()
            if block is None:
                if given:
                    raise ArchiveError("the archive ends after an extension header: its member is missing")
                return None
            header = _parse(block)
            if (extension := block[156:157]) in EXTENSIONS:
                self._extension(extension, header.size, given)
                continue
            header.name = given.get("path", header.name)
            header.link = given.get("linkpath", header.link)
            if "size" in given:
                header.size = _decimal(given["size"], header.name)
            if "mtime" in given:
                header.mtime = _seconds(given["mtime"])
            if any(key.startswith("GNU.sparse.") for key in given):
                header.kind = SPARSE
            self._expect(header.size)
            return header

    def _block(self) -> bytes | None:
        """The next header block, or None at the two blocks of zeros that end an archive."""
        block = self._in.read(BLOCK)
        if block:
            block += self._in.exactly(BLOCK - len(block), "a header")
        if not block:
            raise ArchiveError("the archive is cut short: its two end marks are missing")
        if block.count(0) < BLOCK:
            return block
        if self._in.exactly(BLOCK, "its end marks").count(0) < BLOCK:
            raise ArchiveError("the archive is damaged: a single end mark between members")
        return None

    def _extension(self, kind: bytes, size: int, given: dict[str, bytes]) -> None:
        self._budget -= size
        if size > MAX_EXTENSION or self._budget < 0:
            raise ArchiveError(f"an extension header of {size:,} bytes is more than any name needs")
        self._expect(size)
        raw = b"".join(self.data())
        names = {b"L": "path", b"K": "linkpath"}
        found = {names[kind]: raw.rstrip(b"\0")} if kind in names else _pax(raw)
        if kind == b"g":
            # git archive writes a global comment. Names and sizes for all members at once have no honest use.
            if named := next((key for key in found if key in _OVERRIDES), None):
                raise ArchiveError(f"a global header sets {named!r} for all members")
            return
        if twice := next((key for key in found if key in given), None):
            raise ArchiveError(f"two extension headers set {twice!r} for one member")
        given.update(found)


_OVERRIDES = ("path", "linkpath", "size", "GNU.sparse.")


def _pax(raw: bytes) -> dict[str, bytes]:
    """The records `<length> <key>=<value>\\n` that concern us; xattrs, owners and comments are left out."""
    found: dict[str, bytes] = {}
    at = 0
    while at < len(raw):
        digits, space, _ = raw[at : at + 21].partition(b" ")
        if not space or not digits.isdigit():
            raise ArchiveError("the archive is damaged: a pax record without a length")
        record = raw[at : at + int(digits)]
        key, equals, value = record[len(digits) + 1 :].partition(b"=")
        if len(record) != int(digits) or not equals or not value.endswith(b"\n"):
            raise ArchiveError("the archive is damaged: a pax record with a wrong length")
        name = decode(key)
        if name in ("path", "linkpath", "size", "mtime") or name.startswith("GNU.sparse."):
            found[name] = value[:-1]
        at += int(digits)
    return found


def _parse(block: bytes) -> Header:
    blank = block[:148] + b" " * 8 + block[156:]
    surplus = sum(blank) - _number(block[148:156], "checksum")
    if surplus and surplus != 256 * sum(byte > 127 for byte in blank):  # old tars summed signed bytes
        raise ArchiveError("the archive is damaged: a header's checksum is wrong")
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
        name = prefix + b"/" + name
    kind = KINDS.get(block[156:157], f"of the unknown kind {block[156:157]!r}")
    size = _number(block[124:136], "size", name)
    if size < 0:
        raise ArchiveError(f"member {quoted(decode(name))} has a negative size")
    try:
        mtime = _number(block[136:148], "mtime", name)
    except ArchiveError:
        mtime = -1  # a date is worth nothing; it is not a reason to refuse a workspace
    return Header(name, kind, size, _number(block[100:108], "mode", name), mtime, _text(block[157:257]))


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _number(field: bytes, what: str, member: bytes = b"") -> int:
    if field[0] & 0x80:  # base-256, big-endian, two's complement
        return (
            int.from_bytes(field, "big", signed=True)
            if field[0] == 0xFF
            else int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big")
        )
    digits = _text(field).strip(b" ")
    if digits.strip(b"01234567"):
        where = f" of member {quoted(decode(member))}" if member else ""
        raise ArchiveError(f"the archive is damaged: the {what}{where} is no number")
    return int(digits or b"0", 8)


def _decimal(value: bytes, member: bytes) -> int:
    if not value.isdigit() or len(value) > 19:
        raise ArchiveError(f"member {quoted(decode(member))} has the size {quoted(decode(value), 40)}")
    return int(value)


def _seconds(value: bytes) -> int:
    whole = value.split(b".", 1)[0]
    return int(whole) if whole.isdigit() and len(whole) < 19 else -1
