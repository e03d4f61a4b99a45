"""Mail in and out as JSON: the entries of `PosteEmailData` and of emails-mcp's exports, which are the same."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.errors import MessageError
from email.utils import format_datetime, formataddr, getaddresses, parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from pytest_klavis.embedded.mail.client import mailbox
from pytest_klavis.embedded.mail.composing import file_name, fitting, type_of, with_parts
from pytest_klavis.embedded.mail.messages import Attachment, Letter, header, letter_of

if TYPE_CHECKING:
    from pytest_klavis.embedded.mail.office import Account, Mail

_BREAK = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True)
class Parcel:
    """A message on its way into a folder; `when` it came, in seconds since 1970."""

    raw: bytes
    folder: str | None
    is_read: bool = False
    is_important: bool = False
    when: float | None = None

    @property
    def flags(self) -> str:
        marks = {"\\Seen": self.is_read, "\\Flagged": self.is_important, "\\Draft": self.folder == "Drafts"}
        return " ".join(flag for flag, is_on in marks.items() if is_on)


def message_of(entry: Mapping[str, Any]) -> Parcel:
    """The message that an entry describes. Raises ValueError for what cannot be in a message."""
    attachments = [_attachment(one) for one in entry.get("attachments") or ()]
    message = with_parts(str(entry.get("body_text") or ""), entry.get("body_html") or None, attachments)
    for name, key in {"Subject": "subject", "Message-ID": "message_id"}.items():
        if value := entry.get(key):
            message[name] = _line(str(value), key)
    for name, key in {"From": "from_addr", "To": "to_addr", "Cc": "cc_addr", "Bcc": "bcc_addr"}.items():
        if value := entry.get(key):
            message[name] = _addresses(_line(str(value), key))
    date = entry.get("date")
    message["Date"] = _line(str(date), "date") if date else format_datetime(datetime.now(UTC))
    try:
        raw = message.as_bytes()
    except MessageError as error:
        raise ValueError(f"the message cannot be written: {error}") from error
    return Parcel(
        raw,
        str(entry.get("folder") or "") or None,
        bool(entry.get("is_read")),
        bool(entry.get("is_important")),
        _moment(str(date)) if date else None,
    )


def entry_of(letter: Letter, folder: str) -> dict[str, Any]:
    """A message as an entry. Addresses are bare, as emails-mcp has them."""
    return {
        "email_id": letter.email_id,
        "subject": letter.subject,
        "from_addr": letter.sender,
        "to_addr": letter.recipient,
        "cc_addr": letter.cc,
        "bcc_addr": None,
        "date": letter.date,
        "message_id": letter.message_id,
        "body_text": letter.text,
        "body_html": letter.html,
        "is_read": letter.is_read,
        "is_important": letter.is_important,
        "folder": folder,
        "attachments": [
            {
                "filename": one.filename,
                "content_type": one.content_type,
                "size": len(one.content),
                "content": base64.b64encode(one.content).decode() if one.content else None,
            }
            for one in letter.attachments
        ],
    }


def put_in(mail: Mail, account: Account, entries: Sequence[Mapping[str, Any]]) -> int:
    """Put messages into an account's folders, which are made where they are missing: how many. In a thread.

    Raises FolderError where they do not fit, ValueError, MailError.
    """
    parcels = [message_of(entry) for entry in entries]
    with mailbox(mail, account) as box:
        known = {name for name, _ in box.folders()}
        for parcel in parcels:
            folder = parcel.folder or "INBOX"
            if folder not in known and folder.upper() != "INBOX":
                box.create(folder)
                known.add(folder)
            box.append(folder, parcel.raw, parcel.flags, parcel.when)
    return len(parcels)


def take_out(mail: Mail, account: Account) -> list[dict[str, Any]]:
    """All messages of an account, folder by folder, oldest first; addresses as the headers have them. In a thread.

    Nothing is marked as read. Raises MailError.
    """
    found = []
    with mailbox(mail, account) as box:
        for folder, can_select in box.folders():
            if not can_select:
                continue
            box.select(folder)
            for one in box.search("ALL"):
                letter = letter_of(box.fetch(one, peek=True))
                named = {"from_addr": "From", "to_addr": "To", "bcc_addr": "Bcc"}
                whole = {key: header(letter.message, name) or None for key, name in named.items()}
                found.append({**entry_of(letter, folder), **whole})
    return found


def _attachment(entry: Mapping[str, Any]) -> Attachment:
    name = file_name(str(entry.get("filename") or ""))
    try:
        content = base64.b64decode(entry.get("content") or "", validate=True)
    except (binascii.Error, TypeError) as error:
        raise ValueError(f"the content of attachment {name!r} is no base64: {error}") from error
    return Attachment(name, _line(str(entry.get("content_type") or type_of(name)), "content_type"), content)


def _addresses(value: str) -> str:
    """With names in other alphabets encoded apart from the addresses."""
    try:
        pairs = getaddresses([value])
        return ", ".join(formataddr(pair) for pair in pairs) if all(address for _, address in pairs) else value
    except (ValueError, RecursionError):
        return value


def _line(value: str, key: str) -> str:
    if _BREAK.search(value):
        raise ValueError(f"{key} must be one line without control characters")
    return fitting(value.encode("utf-8", "replace").decode())


def _moment(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError, OSError):
        return None
