"""Looking at mail: lists, messages, searches, headers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_klavis.embedded.mail.client import FolderError, outgoing
from pytest_klavis.embedded.mail.office import MailError
from pytest_klavis.embedded.tools.base import ToolContext
from pytest_klavis.embedded.tools.mail.account import Desk, desk, named, tool

if TYPE_CHECKING:
    from pytest_klavis.embedded.mail.client import Mailbox
    from pytest_klavis.embedded.mail.messages import Letter

LARGEST_PAGE = 50
QUERY = 1000  # characters


@tool("Error getting emails")
def get_emails(context: ToolContext, folder: str = "INBOX", page: int = 1, page_size: int = 20) -> str:
    """Get paginated list of emails from specified folder"""
    here = desk(context)
    with named("Failed to get emails"), here.open(folder) as box:
        ids = list(reversed(box.search("ALL")))
        shown, letters = _page(here, box, ids, page, page_size)
    if not letters:
        return f"Folder '{folder}' is empty or page {page} is out of range"
    lines = [f"Folder: {folder}", f"Page: {shown.number}/{shown.count}", f"Total emails: {len(ids)}", ""]
    for position, letter in enumerate(letters, shown.start + 1):
        lines += _summary(position, letter)
        if letter.attachments:
            lines.append(f"   Attachments: {len(letter.attachments)} files")
        lines.append("")
    return "\n".join(lines) + "\n"


@tool("Error reading email")
def read_email(context: ToolContext, email_id: str) -> str:
    """Read full content of a specific email"""
    here = desk(context)
    with named(f"Failed to read email {email_id}"), here.open() as box:
        letter = here.letter(box, email_id)
    output = f"Email ID: {letter.email_id}\nSubject: {letter.subject}\nFrom: {letter.sender}\nTo: {letter.recipient}\n"
    if letter.cc:
        output += f"CC: {letter.cc}\n"
    output += f"Date: {letter.date}\nMessage-ID: {letter.message_id}\n\n"
    if letter.text:
        output += f"Text Content:\n{letter.text}\n\n"
    if letter.html:
        output += f"HTML Content:\n{letter.html}\n\n"
    if letter.attachments:
        output += "Attachments:\n"
        for position, one in enumerate(letter.attachments, 1):
            output += f"{position}. {one.filename} ({one.content_type}, {len(one.content)} bytes)\n"
    return output


@tool("Error searching emails")
def search_emails(context: ToolContext, query: str, folder: str = "INBOX", page: int = 1, page_size: int = 20) -> str:
    """Search emails with query string (sorted by date descending)"""
    here = desk(context)
    with named("Failed to search emails"):
        if not query.strip():
            raise FolderError("Search query cannot be empty")
        if len(query) > QUERY:
            raise FolderError(f"Search query too long (max {QUERY} characters)")
        with here.open(folder or "INBOX") as box:
            ids = list(reversed(box.search("TEXT", query)))
            shown, letters = _page(here, box, ids, page, page_size)
    if not letters:
        return f"No emails found matching query: {query}"
    lines = [
        f"Search query: {query}",
        f"Folder: {folder or 'current'}",
        f"Page: {shown.number}/{shown.count}",
        f"Total results: {len(ids)}",
        "",
    ]
    for position, letter in enumerate(letters, shown.start + 1):
        lines += [*_summary(position, letter), ""]
    return "\n".join(lines) + "\n"


@tool("Error getting email headers")
def get_email_headers(context: ToolContext, email_id: str) -> str:
    """Get complete email headers for technical analysis"""
    here = desk(context)
    with here.open() as box:
        letter = here.letter(box, email_id)
    lines = [f"Email Headers for ID: {email_id}", "=" * 50, *(f"{name}: {value}" for name, value in _headers(letter))]
    return "\n".join(lines) + "\n"


@tool("Error checking connection")
def check_connection(context: ToolContext) -> str:
    """Check email server connection status"""
    here = desk(context)
    with here.open("INBOX") as box:
        box.search("ALL")
    with outgoing(here.mail, here.account) as connection:
        if connection.noop()[0] != 250:
            raise MailError("SMTP does not answer NOOP with 250")
    return "Connection Status:\nIMAP: ✓ Connected\nSMTP: ✓ Connected\n\nAll connections are working properly"


class _Page:
    """A page of a list, its number brought to what there is, as emails-mcp does."""

    def __init__(self, total: int, number: int, size: int) -> None:
        self.size = 20 if size < 1 else min(size, LARGEST_PAGE)
        self.count = max(1, -(-total // self.size))
        self.number = min(max(number, 1), self.count)
        self.start = (self.number - 1) * self.size


def _page(here: Desk, box: Mailbox, ids: list[str], number: int, size: int) -> tuple[_Page, list[Letter]]:
    page = _Page(len(ids), number, size)
    return page, [here.letter(box, one) for one in ids[page.start : page.start + page.size]]


def _summary(position: int, letter: Letter) -> list[str]:
    return [
        f"{position}. ID: {letter.email_id}",
        f"   Subject: {letter.subject}",
        f"   From: {letter.sender}",
        f"   Date: {letter.date}",
    ]


def _headers(letter: Letter) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in letter.message.items()]
