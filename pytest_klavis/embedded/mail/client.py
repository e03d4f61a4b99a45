"""A mail program of our own: IMAP and SMTP to the mail process, with the standard library, in a thread."""

from __future__ import annotations

import contextlib
import imaplib
import re
import smtplib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_klavis.embedded.mail.office import Account, Mail, MailError
from pytest_klavis.embedded.mail.utf7 import decode, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message

PATIENCE = 30.0  # seconds that the mail process may take to answer
_FLAGS = re.compile(rb"FLAGS \(([^)]*)\)")
_LISTED = re.compile(rb'\(([^)]*)\) (?:"[^"]*"|NIL) (.*)', re.DOTALL)
_IDS = re.compile(r"[0-9]{1,9}")


class FolderError(Exception):
    """IMAP said no; the text is for the agent."""


@dataclass(frozen=True)
class Fetched:
    """One message as it lies in a folder."""

    id: str
    raw: bytes
    flags: frozenset[str]


class Mailbox:
    """One account's IMAP connection. A message's id is its number in the selected folder, as emails-mcp has it."""

    def __init__(self, connection: imaplib.IMAP4) -> None:
        self._imap = connection
        self._total = 0

    def select(self, folder: str) -> tuple[int, int]:
        """How many messages the folder holds, and how many of them are unread. Raises FolderError."""
        try:
            status, data = self._imap.select(quoted(folder.strip()))
        except imaplib.IMAP4.abort:
            raise
        except imaplib.IMAP4.error as error:
            raise FolderError(f"Error selecting folder '{folder}': {error}") from error
        if status != "OK":
            raise FolderError(f"Error selecting folder '{folder}': Failed to select folder '{folder}': {status}")
        self._total = int(data[0] or 0)
        return self._total, len(self.search("UNSEEN"))

    def search(self, criterion: str, text: str | None = None) -> list[str]:
        """The ids that match, oldest first. `text` goes behind the criterion, in any alphabet."""
        if text is not None:
            self._imap.literal = text.encode("utf-8", "replace")  # type: ignore[assignment]
        status, data = self._imap.search("UTF-8" if text is not None else None, criterion)
        if status != "OK":
            raise FolderError(f"Search failed: {status}")
        return [number.decode() for number in (data[0] or b"").split()]

    def fetch(self, email_id: str, *, peek: bool = False) -> Fetched:
        """A message with its flags. It counts as read from then on, unless `peek`. Raises FolderError."""
        self.require(email_id, "FETCH")
        status, data = self._imap.fetch(email_id, "(BODY.PEEK[] FLAGS)" if peek else "(RFC822 FLAGS)")
        if status != "OK":
            raise FolderError(f"Failed to fetch email content {email_id}: {status}")
        raw = next((item[1] for item in data if isinstance(item, tuple)), None)
        if not isinstance(raw, bytes):
            raise FolderError(f"No email content found for email {email_id}")
        found = _FLAGS.search(b" ".join(item if isinstance(item, bytes) else item[0] for item in data if item))
        return Fetched(email_id, raw, frozenset(found[1].decode().split()) if found else frozenset())

    def flag(self, email_id: str, flag: str, *, on: bool) -> None:
        """Raises FolderError."""
        self.require(email_id, "STORE")
        status, data = self._imap.store(email_id, "+FLAGS" if on else "-FLAGS", flag)
        if status != "OK":
            raise FolderError(f"STORE failed: {data}")

    def copy(self, email_id: str, folder: str) -> None:
        """Raises FolderError, and MailError where other sandboxes have taken all the room."""
        self.require(email_id, "COPY")
        status, data = self._imap.copy(email_id, quoted(folder.strip()))
        _check_room(data)
        if status != "OK":
            raise FolderError(f"Failed to copy email to {folder}: {data}")

    def remove(self, email_id: str) -> None:
        """Delete a message for good; later ones move up. Raises FolderError."""
        self.flag(email_id, "\\Deleted", on=True)
        self._imap.expunge()
        self._total -= 1

    def append(self, folder: str, raw: bytes, flags: str = "", when: float | None = None) -> None:
        """Put a message into a folder; `when` it came, in seconds since 1970. Raises FolderError, and MailError where
        other sandboxes have taken all the room."""
        date = None if when is None else imaplib.Time2Internaldate(when)
        status, data = self._imap.append(quoted(folder.strip()), flags, date, raw)
        _check_room(data)
        if status != "OK":
            raise FolderError(f"APPEND to '{folder}' failed: {_said(data)}")

    def folders(self) -> list[tuple[str, bool]]:
        """Names of folders, and whether each can be selected."""
        status, lines = self._imap.list()
        if status != "OK":
            raise FolderError(f"Failed to list folders: {status}")
        found = []
        for line in lines:
            head, name = (line[0], line[1]) if isinstance(line, tuple) else (line, b"")
            match = _LISTED.fullmatch(head or b"")
            if match is None:
                continue
            raw = name or re.sub(rb"\\(.)", rb"\1", match[2].removeprefix(b'"').removesuffix(b'"'))
            found.append((decode(raw), b"\\Noselect" not in match[1]))
        return found

    def create(self, folder: str) -> None:
        """Raises FolderError, also where there is one."""
        status, data = self._imap.create(quoted(folder.strip()))
        if status != "OK":
            raise FolderError(f"Server returned: {status} {_said(data)}")

    def delete(self, folder: str) -> None:
        """Raises FolderError."""
        status, _ = self._imap.delete(quoted(folder.strip()))
        if status != "OK":
            raise FolderError(f"Failed to delete folder '{folder}': {status}")

    def has(self, email_id: str) -> bool:
        return bool(_IDS.fullmatch(email_id)) and 1 <= int(email_id) <= self._total

    def require(self, email_id: str, command: str) -> None:
        """Dovecot refuses ids that are not there; pymap says OK to them."""
        if not self.has(email_id):
            raise FolderError(f"{command} command error: BAD [Invalid messageset: there is no email {email_id!r} here]")


@contextlib.contextmanager
def mailbox(mail: Mail, account: Account) -> Iterator[Mailbox]:
    """A connection that is logged in. Raises MailError when the mail process cannot be reached."""
    mail.check()
    with _reached(mail):
        connection = imaplib.IMAP4(*mail.imap, timeout=PATIENCE)
        with connection:
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.login(account.email, account.password)
            yield Mailbox(connection)


@contextlib.contextmanager
def outgoing(mail: Mail, account: Account) -> Iterator[smtplib.SMTP]:
    """A connection that is logged in. Raises MailError when the mail process cannot be reached."""
    mail.check()
    with _reached(mail), smtplib.SMTP(*mail.smtp, local_hostname="localhost", timeout=PATIENCE) as connection:
        connection.login(account.email, account.password)
        yield connection


def send(mail: Mail, account: Account, message: Message, recipients: list[str]) -> None:
    """Raises smtplib.SMTPException, MailError."""
    with outgoing(mail, account) as connection:
        try:
            connection.send_message(message, from_addr=account.email, to_addrs=recipients)
        except smtplib.SMTPDataError as error:
            if (error.smtp_code, error.smtp_error[:6]) == (452, b"4.3.1 "):
                raise MailError(f"{_FULL}: {_said(error.smtp_error)}") from error
            raise


_FULL = "the mail process of this server is full of other sandboxes' mail: release or reset some"
_BROKEN = (ConnectionError, TimeoutError, imaplib.IMAP4.abort, smtplib.SMTPServerDisconnected, smtplib.SMTPConnectError)


@contextlib.contextmanager
def _reached(mail: Mail) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        mail.check()
        raise MailError(f"the mail process of this server broke off: {error}") from error
    except (imaplib.IMAP4.error, smtplib.SMTPAuthenticationError):
        mail.check()  # a new process, which has taken over who waited for the old one, knows none of its accounts
        raise


def _check_room(data: object) -> None:
    """Raises MailError where an answer says that the process is full, not the sandbox's mailbox."""
    if "[UNAVAILABLE]" in (said := _said(data)):
        raise MailError(f"{_FULL}: {said}")


def _said(data: list[bytes] | object) -> str:
    found = data[0] if isinstance(data, list) and data else data
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)
