"""Server-sent events, as far as MCP uses them: the data of each `message` event out of a stream of bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def messages(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The data of each event of type `message` that has any (html.spec.whatwg.org, 9.2.6), however it is cut up.

    An event that its blank line does not close is dropped, as the standard says.
    """
    kind, data = b"", list[bytes]()
    for line in _lines(chunks):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if any(data) and kind in (b"", b"message"):
                yield b"\n".join(data)
            kind, data = b"", []
        elif name == b"event":
            kind = value
        elif name == b"data":
            data.append(value)


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines that end in LF, CR LF or CR, as soon as they are known to be whole."""
    parts: list[bytes] = []  # of the line that is not ended: joined once, so that a long line is not copied per chunk
    after_cr = False
    first = True
    for chunk in chunks:
        text = chunk.removeprefix(b"\n") if after_cr else chunk  # a CR LF may be cut in two
        after_cr = chunk.endswith(b"\r")
        *whole, rest = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for end in whole:
            line = b"".join([*parts, end])
            yield line.removeprefix(b"\xef\xbb\xbf") if first else line
            parts, first = [], False
        if rest:
            parts.append(rest)
