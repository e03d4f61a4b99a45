"""Sending, replying, forwarding. What is sent is kept in Sent."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from pytest_klavis.embedded.mail.client import FolderError, mailbox, send
from pytest_klavis.embedded.mail.composing import compose, type_of
from pytest_klavis.embedded.mail.messages import Attachment
from pytest_klavis.embedded.tools.base import ToolContext
from pytest_klavis.embedded.tools.mail.account import NOTHING, Desk, bytes_of, desk, named, tool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_klavis.embedded.mail.messages import Letter

LARGEST = 24 << 20  # bytes of all attachments of a message; base64 makes 32 MB of them
_LOCAL = re.compile(r"[a-zA-Z0-9._%+-]{1,64}")
_LABEL = re.compile(r"[a-zA-Z0-9\u00a1-\uffff-]{1,63}")


@tool("Error sending email")
def send_email(
    context: ToolContext,
    *,
    to: str,
    subject: str,
    body: str,
    html_body: str = NOTHING,
    cc: str = NOTHING,
    bcc: str = NOTHING,
    attachments: list[str] = NOTHING,
) -> str:
    """Send an email with optional HTML body, CC, BCC, and attachments"""
    here = desk(context)
    with named("Failed to send email"):
        _check(to, cc, bcc)
        files = _files(context, attachments or [])
        _send(here, to, subject, body, html=html_body, cc=cc, bcc=bcc, attachments=files)
    return f"Email sent successfully to {to}" + (f" with {len(attachments)} attachments" if attachments else "")


@tool("Error replying to email")
def reply_email(
    context: ToolContext,
    *,
    email_id: str,
    body: str,
    html_body: str = NOTHING,
    cc: str = NOTHING,
    bcc: str = NOTHING,
    reply_all: bool = False,
) -> str:
    """Reply to an email"""
    here = desk(context)
    with named("Failed to reply to email"):
        original = _original(here, email_id)
        copies = cc
        if reply_all:
            others = [one.strip() for line in (original.recipient, original.cc) if line for one in line.split(",")]
            copies = ",".join(one for one in others if here.account.email.lower() not in one.lower()) or cc
        subject = original.subject if original.subject.startswith("Re:") else f"Re: {original.subject}"
        about = ("From", original.sender), ("Date", original.date), ("Subject", original.subject)
        text = _quoting(body, "Original", about, original.text)
        html = html_body and _quoting_html(html_body, "Original", about, original.html or original.text)
        with named("Failed to send email"):
            _check(original.sender, copies, bcc)
            _send(here, original.sender, subject, text, html=html, cc=copies, bcc=bcc)
    return f"Reply sent successfully to {'all recipients' if reply_all else 'sender'}"


@tool("Error forwarding email")
def forward_email(
    context: ToolContext,
    *,
    email_id: str,
    to: str,
    body: str = NOTHING,
    html_body: str = NOTHING,
    cc: str = NOTHING,
    bcc: str = NOTHING,
) -> str:
    """Forward an email to other recipients"""
    here = desk(context)
    with named("Failed to forward email"):
        original = _original(here, email_id)
        subject = original.subject if original.subject.startswith("Fwd:") else f"Fwd: {original.subject}"
        about = (
            ("From", original.sender),
            ("To", original.recipient),
            ("Date", original.date),
            ("Subject", original.subject),
        )
        text = _quoting(body or "", "Forwarded", about, original.text)
        html = None
        if html_body or original.html:
            html = _quoting_html(html_body or "", "Forwarded", about, original.html or original.text)
        with named("Failed to send email"):
            _check(to, cc, bcc)
            files = [one for one in original.attachments if one.content]
            _send(here, to, subject, text, html=html, cc=cc, bcc=bcc, attachments=files)
    return f"Email forwarded successfully to {to}"


def _original(here: Desk, email_id: str) -> Letter:
    with here.open() as box:
        return here.letter(box, email_id)


def _send(
    here: Desk,
    to: str,
    subject: str,
    body: str,
    *,
    html: str | None,
    cc: str | None,
    bcc: str | None,
    attachments: Sequence[Attachment] = (),
) -> None:
    with named("Failed to send email"):
        message = compose(here.account, to, subject, body, html=html, cc=cc, bcc=bcc, attachments=attachments)
        recipients = [one.strip() for line in (to, cc, bcc) if line for one in line.split(",")]
        send(here.mail, here.account, message, recipients)
    with named("The email was sent, but could not be kept in Sent"), mailbox(here.mail, here.account) as box:
        box.append("Sent", message.as_bytes(), "\\Seen")


def _quoting(body: str, kind: str, about: Sequence[tuple[str, str]], original: str) -> str:
    lines = "".join(f"{name}: {value}\n" for name, value in about)
    return f"{body}\n\n--- {kind} Message ---\n{lines}\n{original}"


def _quoting_html(body: str, kind: str, about: Sequence[tuple[str, str]], original: str) -> str:
    lines = "".join(f"{name}: {value}<br>" for name, value in about)
    return f"{body}<br><br><hr><b>{kind} Message:</b><br>{lines}<br>{original}"


def _files(context: ToolContext, paths: Sequence[str]) -> list[Attachment]:
    """The files of the workspace that are to be attached. Raises FolderError."""
    found: list[Attachment] = []
    left = LARGEST
    for path in paths:
        with named("Failed to send email: Attachment error"):
            content = bytes_of(context, path, left)
        left -= len(content)
        name = posixpath.basename(path)
        found.append(Attachment(name, type_of(name), content))
    return found


def _check(to: str, cc: str | None, bcc: str | None) -> None:
    """The addresses must look like addresses. Raises FolderError."""
    for kind, line in (("TO", to), ("CC", cc), ("BCC", bcc)):
        if kind == "TO" and not line:
            raise FolderError("Invalid TO addresses: Email list cannot be empty")
        wrong = [one.strip() for one in (line or "").split(",") if not _is_address(one.strip())] if line else []
        if wrong:
            raise FolderError(f"Invalid {kind} addresses: Invalid email addresses: {', '.join(wrong)}")


def _is_address(text: str) -> bool:
    """As emails-mcp sees it: plain letters before the @, a domain of at least two labels after it."""
    local, at, domain = text.rpartition("@")
    if not at or not _LOCAL.fullmatch(local) or local.startswith(".") or local.endswith(".") or ".." in local:
        return False
    labels = domain.split(".")
    return len(domain) <= 255 and len(labels) > 1 and all(map(_LABEL.fullmatch, labels)) and len(labels[-1]) > 1
