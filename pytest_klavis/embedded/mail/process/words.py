"""What of a message can be searched for: its headers and texts as a person reads them, decoded, in lower case."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from email.header import decode_header
from email.parser import BytesHeaderParser
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from email.message import Message

    from pymap.mime import MessageContent

_LONGEST = 4 << 20  # bytes of one part that are looked at
_FALLBACKS = ("utf-8", "gb18030", "latin-1")  # the last one never fails
_TAG = re.compile(r"<[^<>]*>")


@dataclass(frozen=True)
class Words:
    """The searchable text of one message, folded."""

    header: str
    body: str


def words_of(content: MessageContent) -> Words:
    """Of what cannot be parsed, the bytes as they are."""
    try:
        parts = [(part, _head(part)) for part in content.walk()]
        header = "\n".join(f"{name}: {decoded(str(value))}" for name, value in parts[0][1].items())
        body = "\n".join(text for part, head in parts for text in _texts(part, head))
    except Exception:  # noqa: BLE001 - whatever an agent sent
        header, body = _text(bytes(content.header), None), _text(bytes(content.body)[:_LONGEST], None)
    return Words(folded(header), folded(body))


def folded(text: str) -> str:
    """Case and the length of blanks make no difference to a search."""
    return " ".join(text.casefold().split())


def decoded(value: str) -> str:
    """A header's value with its encoded words (RFC 2047) as text."""
    pieces = []
    try:
        parts = decode_header(value.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
    except Exception:  # noqa: BLE001 - whatever an agent sent
        return value
    for piece, charset in parts:
        pieces.append(_text(piece, charset) if isinstance(piece, bytes) else piece)
    return "".join(pieces)


def _head(part: MessageContent) -> Message:
    return BytesHeaderParser().parsebytes(bytes(part.header))


def _texts(part: MessageContent, head: Message) -> list[str]:
    """The text of a part and the name of an attachment; HTML both as it is and without its tags."""
    name = head.get_filename()
    found = [decoded(name)] if name else []
    if part.body.has_nested or head.get_content_maintype() != "text":
        return found
    head.set_payload(bytes(part.body)[:_LONGEST].decode("ascii", "surrogateescape"))
    payload = head.get_payload(decode=True)
    assert isinstance(payload, bytes)
    text = _text(payload, head.get_content_charset())
    found.append(text)
    if head.get_content_subtype() == "html":
        found.append(html.unescape(_TAG.sub("", text)))
    return found


def _text(data: bytes, charset: str | None) -> str:
    for candidate in (charset, *_FALLBACKS):
        try:
            return data.decode(candidate or "ascii")
        except (ValueError, LookupError):
            continue
    return data.decode("latin-1")
