"""New messages: headers in any alphabet, texts, attachments."""

from __future__ import annotations

import mimetypes
from datetime import UTC, datetime
from email import encoders
from email.header import Header
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.utils import format_datetime, formataddr, make_msgid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from email.message import Message

    from pytest_klavis.embedded.mail.messages import Attachment
    from pytest_klavis.embedded.mail.office import Account

LONGEST = 20_000  # characters of one header


def compose(
    sender: Account,
    to: str,
    subject: str,
    body: str,
    *,
    html: str | None = None,
    cc: str | None = None,
    bcc: str | None = None,
    attachments: Sequence[Attachment] = (),
) -> Message:
    """A message as emails-mcp builds it, with a Date and a Message-ID. Raises ValueError."""
    message = with_parts(body, html, attachments)
    message["Subject"] = Header(_line(subject), "utf-8").encode()
    message["From"] = formataddr((_line(sender.name), sender.email)) if sender.name else sender.email
    for name, value in (("To", to), ("Cc", cc), ("Bcc", bcc)):
        if value:
            message[name] = _line(value)
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = make_msgid(domain=sender.email.rpartition("@")[2])
    return message


def with_parts(body: str, html: str | None, attachments: Sequence[Attachment]) -> Message:
    """The texts and files of a message, without headers."""
    plain = MIMEText(_clean(body), "plain", "utf-8")
    if not html and not attachments:
        return plain
    message = MIMEMultipart("alternative" if html and not attachments else "mixed")
    texts = message
    if html and attachments:
        texts = MIMEMultipart("alternative")
        message.attach(texts)
    texts.attach(plain)
    if html:
        texts.attach(MIMEText(_clean(html), "html", "utf-8"))
    for one in attachments:
        message.attach(_file(one))
    return message


def file_name(text: str) -> str:
    """A name that is one entry of a directory, without control characters."""
    name = "".join(letter if letter.isprintable() else "_" for letter in text.replace("\\", "/").rpartition("/")[2])
    name = name.encode("utf-8", "replace").decode()[:200]
    return name if name not in {"", ".", ".."} else "attachment"


def _file(one: Attachment) -> Message:
    main, _, sub = one.content_type.partition("/")
    if not sub or main in {"multipart", "message"}:
        main, sub = "application", "octet-stream"
    part = MIMEBase(main, sub)
    part.set_payload(one.content)
    encoders.encode_base64(part)
    part.add_header("Content-Disposition", "attachment", filename=file_name(one.filename))
    return part


def type_of(name: str) -> str:
    """The content type that a file's name suggests."""
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def _line(text: str) -> str:
    return fitting(_clean(" ".join(text.splitlines()).strip()))


def fitting(value: str) -> str:
    """Raises ValueError for a header that is too long."""
    if len(value) > LONGEST:
        raise ValueError(f"a header of {len(value)} characters is too long: at most {LONGEST} are taken")
    return value


def _clean(text: str) -> str:
    """Half surrogates, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()
