"""Drafts: kept beside the folders, as emails-mcp does; a dump shows them as `drafts` of their account."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pytest_klavis.embedded.mail.client import FolderError
from pytest_klavis.embedded.mail.office import Drafts
from pytest_klavis.embedded.tools.base import ToolContext
from pytest_klavis.embedded.tools.mail.account import NOTHING, desk, named, tool

MOST = 1_000  # drafts of an account
LARGEST = 1 << 20  # characters of one draft


@tool("Error saving draft")
def save_draft(
    context: ToolContext,
    *,
    subject: str,
    body: str,
    html_body: str = NOTHING,
    to: str = NOTHING,
    cc: str = NOTHING,
    bcc: str = NOTHING,
) -> str:
    """Save email draft"""
    drafts = _drafts(context)
    fields = {"subject": subject, "body": body, "html_body": html_body, "to": to, "cc": cc, "bcc": bcc}
    with named("Failed to save draft"):
        if len(drafts.kept) >= MOST:
            raise FolderError(f"there are {MOST} drafts already, and no more are kept")
        _check(fields)
    drafts.count += 1
    number, moment = f"draft_{drafts.count}", _now()
    drafts.kept[number] = {"draft_id": number, **fields, "created_at": moment, "updated_at": moment}
    return f"Draft saved successfully with ID: {number}"


@tool("Error getting drafts")
def get_drafts(context: ToolContext, page: int = 1, page_size: int = 20) -> str:
    """Get list of saved drafts"""
    found = sorted(_drafts(context).kept.values(), key=lambda one: str(one["updated_at"]), reverse=True)
    if not found:
        return "No drafts found"
    with named("Failed to get drafts"):
        if page_size < 1:
            raise FolderError("page_size must be at least 1")
    count = -(-len(found) // page_size)
    page = min(max(page, 1), count)
    start = (page - 1) * page_size
    output = f"Drafts (Page {page}/{count}):\nTotal drafts: {len(found)}\n\n"
    for position, one in enumerate(found[start : start + page_size], start + 1):
        output += f"{position}. ID: {one['draft_id']}\n   Subject: {one['subject']}\n"
        output += f"   To: {one['to']}\n   Updated: {one['updated_at']}\n\n"
    return output


@tool("Error updating draft")
def update_draft(
    context: ToolContext,
    *,
    draft_id: str,
    subject: str = NOTHING,
    body: str = NOTHING,
    html_body: str = NOTHING,
    to: str = NOTHING,
    cc: str = NOTHING,
    bcc: str = NOTHING,
) -> str:
    """Update existing draft"""
    draft = _draft(context, draft_id)
    fields: dict[str, Any] = {"subject": subject, "body": body, "html_body": html_body, "to": to, "cc": cc, "bcc": bcc}
    given = {name: value for name, value in fields.items() if value is not None}
    _check(given)
    draft.update(given, updated_at=_now())
    return f"Draft {draft_id} updated successfully"


@tool("Error deleting draft")
def delete_draft(context: ToolContext, draft_id: str) -> str:
    """Delete draft"""
    _draft(context, draft_id)
    _drafts(context).kept.pop(draft_id, None)
    return f"Draft {draft_id} deleted successfully"


def _drafts(context: ToolContext) -> Drafts:
    here = desk(context)
    return here.mail.drafts.setdefault(here.account.email.lower(), Drafts())


def _draft(context: ToolContext, number: str) -> dict[str, Any]:
    found = _drafts(context).kept.get(number)
    if found is None:
        raise FolderError(f"Draft not found: {number}")
    return found


def _check(fields: dict[str, str]) -> None:
    if sum(len(value) for value in fields.values() if value) > LARGEST:
        raise FolderError(f"a draft may have at most {LARGEST} characters")


def _now() -> str:
    return datetime.now(UTC).replace(tzinfo=None).isoformat()
