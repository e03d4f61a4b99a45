"""Folders of a mailbox, and how many messages are in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_klavis.embedded.mail.client import FolderError, mailbox
from pytest_klavis.embedded.tools.base import ToolContext
from pytest_klavis.embedded.tools.mail.account import NOTHING, Desk, desk, named, tool

if TYPE_CHECKING:
    from pytest_klavis.embedded.mail.client import Mailbox

_NOT_IN_NAMES = ("/", "\\", "..", "<", ">", ":", '"', "|", "?", "*")
_SYSTEM = ("INBOX", "Sent", "Drafts", "Trash", "Spam")


@dataclass(frozen=True)
class _Folder:
    name: str
    total: int
    unread: int
    can_select: bool


@tool("Error getting folders")
def get_folders(context: ToolContext) -> str:
    """Get list of available email folders"""
    folders = _folders(desk(context))
    output = "Available folders:\n"
    for position, one in enumerate(folders, 1):
        what = f"({one.total} total, {one.unread} unread)" if one.can_select else "(cannot select)"
        output += f"{position}. {one.name} {what}\n"
    return output


@tool("Error creating folder")
def create_folder(context: ToolContext, folder_name: str) -> str:
    """Create new email folder"""
    here = desk(context)
    _check(folder_name)
    with mailbox(here.mail, here.account) as box:
        create(box, folder_name)
    return f"Folder '{folder_name}' created successfully"


@tool("Error deleting folder")
def delete_folder(context: ToolContext, folder_name: str) -> str:
    """Delete email folder"""
    here = desk(context)
    _check(folder_name)
    if folder_name.strip() in _SYSTEM:
        raise FolderError(f"Cannot delete system folder: {folder_name}")
    with named("Failed to delete folder"), mailbox(here.mail, here.account) as box:
        box.delete(folder_name)
    if here.folder == folder_name:
        here.folder = "INBOX"
    return f"Folder '{folder_name}' deleted successfully"


@tool("Error getting mailbox stats")
def get_mailbox_stats(context: ToolContext, folder_name: str = NOTHING) -> str:
    """Get mailbox statistics"""
    here = desk(context)
    if folder_name:
        with named("Failed to get folder stats"), here.open(folder_name) as box:
            total, unread = box.select(folder_name)
        return f"Folder Statistics for '{folder_name}':\nTotal messages: {total}\nUnread messages: {unread}\n"
    folders = [one for one in _folders(here) if one.can_select]
    output = "Mailbox Statistics:\n"
    output += "".join(f"  {one.name}: {one.total} total, {one.unread} unread\n" for one in folders)
    total, unread = sum(one.total for one in folders), sum(one.unread for one in folders)
    return f"{output}\nOverall Total: {total} messages, {unread} unread\n"


@tool("Error getting unread count")
def get_unread_count(context: ToolContext, folder_name: str = NOTHING) -> str:
    """Get unread message count"""
    here = desk(context)
    if folder_name:
        with named("Failed to get unread count"), here.open(folder_name) as box:
            _, unread = box.select(folder_name)
        return f"Unread messages in '{folder_name}': {unread}"
    return f"Total unread messages: {sum(one.unread for one in _folders(here))}"


def create(box: Mailbox, name: str) -> None:
    """Make a folder. Raises FolderError, in emails-mcp's words."""
    try:
        box.create(name)
    except FolderError as error:
        text = f"Failed to create folder '{name}' with any naming convention. Last error: {error}"
        raise FolderError(text) from error


def _folders(here: Desk) -> list[_Folder]:
    with named("Failed to get folders"), mailbox(here.mail, here.account) as box:
        return [
            _Folder(name, *(box.select(name) if can_select else (0, 0)), can_select)
            for name, can_select in box.folders()
        ]


def _check(name: str) -> None:
    if not name:
        raise FolderError("Folder name cannot be empty")
    for wrong in _NOT_IN_NAMES:
        if wrong in name:
            raise FolderError(f"Folder name contains invalid character: {wrong}")
    if len(name) > 255:
        raise FolderError("Folder name too long (max 255 characters)")
