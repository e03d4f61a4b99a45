"""Marking, moving and deleting messages, one or many."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pytest_klavis.embedded.mail.client import Mailbox
from pytest_klavis.embedded.tools.base import ToolContext
from pytest_klavis.embedded.tools.mail.account import Errors, desk, named, tool

_STATUSES = {
    "read": ("\\Seen", True),
    "unread": ("\\Seen", False),
    "important": ("\\Flagged", True),
    "not_important": ("\\Flagged", False),
}


@tool("Error deleting email")
def delete_email(context: ToolContext, email_id: str) -> str:
    """Delete an email"""
    here = desk(context)
    with named("Failed to delete email"), here.open() as box, named("Failed to delete email"):
        box.remove(email_id)
    return f"Email {email_id} deleted successfully"


@tool("Error moving email")
def move_email(context: ToolContext, email_id: str, target_folder: str) -> str:
    """Move email to another folder"""
    here = desk(context)
    with named("Failed to move email"), here.open() as box, named("Failed to move email"):
        _move(box, email_id, target_folder)
    return f"Email {email_id} moved to {target_folder} successfully"


@tool("Error marking emails")
def mark_emails(context: ToolContext, email_ids: list[str], status: str) -> str:
    """Mark multiple emails with status (read/unread/important/not_important)"""
    if status not in _STATUSES:
        return "Error: Status must be 'read', 'unread', 'important', or 'not_important'"
    flag, on = _STATUSES[status]
    here = desk(context)
    with here.open() as box:
        failed = _each(email_ids, lambda one: box.flag(one, flag, on=on))
    return f"Successfully marked {len(email_ids) - len(failed)}/{len(email_ids)} emails as {status}"


@tool("Error moving emails")
def move_emails(context: ToolContext, email_ids: list[str], target_folder: str) -> str:
    """Move multiple emails to another folder with improved ID synchronization"""
    here = desk(context)
    with here.open() as box:
        failed = _each(_last_first(email_ids), lambda one: _move(box, one, target_folder))
    done = f"Successfully moved {len(email_ids) - len(failed)}/{len(email_ids)} emails to {target_folder}"
    return done + _listed(failed)


@tool("Error deleting emails")
def delete_emails(context: ToolContext, email_ids: list[str]) -> str:
    """Delete multiple emails with improved ID synchronization"""
    here = desk(context)
    with here.open() as box:
        failed = _each(_last_first(email_ids), box.remove)
    return f"Successfully deleted {len(email_ids) - len(failed)}/{len(email_ids)} emails" + _listed(failed)


def _move(box: Mailbox, email_id: str, folder: str) -> None:
    box.copy(email_id, folder)
    box.remove(email_id)


def _each(ids: Sequence[str], work: Callable[[str], None]) -> list[str]:
    """The ids for which it failed."""
    failed = []
    for one in ids:
        try:
            work(one)
        except Errors:
            failed.append(one)
    return failed


def _last_first(ids: Sequence[str]) -> list[str]:
    """So that those that move up when one goes have been dealt with."""
    return sorted(ids, key=lambda one: int(one) if one.isdecimal() else 0, reverse=True)


def _listed(failed: Sequence[str]) -> str:
    if not failed:
        return ""
    more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
    return f" ({len(failed)} failed: {', '.join(failed[:5])}{more})"
