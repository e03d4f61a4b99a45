"""A message as people read it, and its parts: what the tools show and what a dump holds. Read as emails-mcp does."""

from __future__ import annotations

import email
from dataclasses import dataclass, field
from email.header import decode_header
from email.utils import parseaddr
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from email.message import Message

    from pytest_klavis.embedded.mail.client import Fetched

_CHARSETS = ("utf-8", "gb2312", "gbk", "big5", "iso-8859-1")


@dataclass(frozen=True)
class Attachment:
    """A file in a message."""

    filename: str
    content_type: str
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Letter:
    """One message. `sender` and `recipient` are bare addresses, the headers have names too."""

    email_id: str
    message: Message = field(repr=False)
    subject: str
    sender: str
    recipient: str
    cc: str | None
    date: str
    message_id: str
    text: str
    html: str
    attachments: tuple[Attachment, ...]
    is_read: bool
    is_important: bool


def letter_of(fetched: Fetched) -> Letter:
    """Of whatever was sent: parts that cannot be read are left out."""
    message = email.message_from_bytes(fetched.raw)
    text, html = _bodies(message)
    return Letter(
        email_id=fetched.id,
        message=message,
        subject=header(message, "Subject"),
        sender=_address(message, "From"),
        recipient=_address(message, "To"),
        cc=header(message, "Cc") or None,
        date=str(message.get("Date", "")),
        message_id=str(message.get("Message-ID", "")),
        text=text,
        html=html,
        attachments=_attachments(message),
        is_read="\\Seen" in fetched.flags,
        is_important="\\Flagged" in fetched.flags,
    )


def header(message: Message, name: str) -> str:
    """A header with its encoded words as text; empty where there is none."""
    return decoded(str(message.get(name, "")))


def decoded(value: str) -> str:
    """Encoded words (RFC 2047) as text."""
    try:
        parts = decode_header(value.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
    except Exception:  # noqa: BLE001 - whatever was sent
        return value
    return "".join(part if isinstance(part, str) else _text(part, charset) for part, charset in parts).strip()


def _address(message: Message, name: str) -> str:
    """Of the first one in the header; the header as it is where none can be read."""
    found = header(message, name)
    try:
        return parseaddr(found)[1].strip()
    except (ValueError, RecursionError, IndexError):
        return found


def _text(data: bytes, charset: str | None) -> str:
    for candidate in (charset, *_CHARSETS):
        try:
            return data.decode(candidate or "utf-8")
        except (ValueError, LookupError):  # idna and punycode have their own
            continue
    return data.decode("utf-8", "replace")


def _bodies(message: Message) -> tuple[str, str]:
    """The first plain text and the first HTML that are no attachments."""
    text = html = ""
    for part in message.walk():
        if message.is_multipart() and "attachment" in str(part.get("Content-Disposition", "")):
            continue
        payload = _payload(part)
        if not payload:
            continue
        content = _text(payload, _charset(part))
        if part.get_content_type() == "text/html":
            html = html or content
        elif part.get_content_type() == "text/plain" or not message.is_multipart():
            text = text or content
    return text, html


def _attachments(message: Message) -> tuple[Attachment, ...]:
    if not message.is_multipart():
        return ()
    found = []
    for part in message.walk():
        name = _filename(part)
        if name and "attachment" in str(part.get("Content-Disposition", "")):
            found.append(Attachment(decoded(name), part.get_content_type(), _payload(part)))
    return tuple(found)


def _payload(part: Message) -> bytes:
    try:
        payload = part.get_payload(decode=True)
    except (ValueError, LookupError):
        payload = None
    return payload if isinstance(payload, bytes) else b""


def _charset(part: Message) -> str | None:
    try:
        return part.get_content_charset()
    except (ValueError, LookupError):
        return None


def _filename(part: Message) -> str | None:
    try:
        return part.get_filename()
    except (ValueError, LookupError):
        return None
