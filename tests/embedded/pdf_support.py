"""PDF files for the tests, made by hand: what is in them, and what is wrong with them, is then known."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence


def pdf(
    texts: Sequence[str] = ("Hello",), *, info: Mapping[str, str] | None = None, size: tuple[int, int] = (612, 792)
) -> bytes:
    """A page for each text; each line of it is a line on the page."""
    pages = [3 + 2 * number for number in range(len(texts))]
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(texts), b" ".join(b"%d 0 R" % page for page in pages)),
    }
    resources = b"/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
    for page, text in zip(pages, texts, strict=True):
        lines = b" T* ".join(b"(%s) Tj" % _literal(line) for line in text.split("\n"))
        objects[page] = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %d %d] /Contents %d 0 R %s >>" % (
            *size,
            page + 1,
            resources,
        )
        objects[page + 1] = stream(b"BT /F1 12 Tf 14 TL 72 700 Td %s ET" % lines)
    trailer = b""
    if info is not None:
        number = 3 + 2 * len(texts)
        items = b" ".join(b"/%s (%s)" % (key.encode(), _literal(value)) for key, value in info.items())
        objects[number] = b"<< %s >>" % items
        trailer = b"/Info %d 0 R" % number
    return assemble(objects, trailer)


def stream(data: bytes, *, more: bytes = b"", packed: bool = False) -> bytes:
    """A stream object; `more` goes into its dictionary."""
    if packed:
        data, more = zlib.compress(data, 9), more + b" /Filter /FlateDecode"
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(data), more, data)


def assemble(objects: Mapping[int, bytes], trailer: bytes = b"") -> bytes:
    """The file: objects by number, then the table that finds them. Object 1 is the root."""
    out = bytearray(b"%PDF-1.4\n")
    offsets = {}
    for number, body in objects.items():
        offsets[number] = len(out)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = len(out)
    size = max(objects) + 1
    out += b"xref\n0 %d\n0000000000 65535 f \n" % size
    for number in range(1, size):
        out += b"%010d 00000 %s \n" % (offsets.get(number, 0), b"n" if number in offsets else b"f")
    out += b"trailer << /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (size, trailer, table)
    return bytes(out)


def page_tree(kids: bytes, count: int, **more: bytes) -> bytes:
    """A file whose page tree says what it is told to; `more` are objects, as o5=..."""
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Count %d /Kids [%s] >>" % (count, kids),
        3: b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 10 10] >>",
    }
    return assemble(objects | {int(name[1:]): body for name, body in more.items()})


def _literal(text: str) -> bytes:
    data = text.encode("latin-1")
    for special in (b"\\", b"(", b")"):
        data = data.replace(special, b"\\" + special)
    return data
