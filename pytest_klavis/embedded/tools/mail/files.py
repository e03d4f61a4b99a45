"""Mail to and from the workspace: exports, imports, attachments."""

from __future__ import annotations

import json
import posixpath
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pytest_klavis.embedded.mail.client import FolderError, mailbox
from pytest_klavis.embedded.mail.composing import file_name
from pytest_klavis.embedded.mail.messages import letter_of
from pytest_klavis.embedded.mail.transfer import Parcel, entry_of, message_of
from pytest_klavis.embedded.tools.base import ToolContext, ToolFailureError, explained
from pytest_klavis.embedded.tools.mail.account import NOTHING, bytes_of, desk, named, tool
from pytest_klavis.embedded.tools.mail.folders import create

if TYPE_CHECKING:
    from pytest_klavis.embedded.mail.client import Mailbox

LARGEST = 64 << 20  # bytes of a message that is imported, or of an export
JSON = 16 << 20  # bytes of a JSON file that is imported
PIECES = 250_000  # of what JSON makes objects of


@tool("Error exporting emails")
def export_emails(
    context: ToolContext,
    folder: str = NOTHING,
    export_path: str = "emails_export.json",  # noqa: ARG001 - emails-mcp names the file itself, whatever is asked for
    max_emails: int = NOTHING,
    export_all_folders: bool = False,
) -> str:
    """Export emails to file for backup"""
    if export_all_folders and folder:
        return "Error: Cannot specify both 'folder' and 'export_all_folders=True'"
    here = desk(context)
    entries: list[dict[str, Any]] = []
    counts: dict[str, int] = {}
    size = 0
    with mailbox(here.mail, here.account) as box:
        names = (
            [name for name, can_select in box.folders() if can_select] if export_all_folders else [folder or "INBOX"]
        )
        for name in names:
            counts[name] = 0
            if not _has(box, name):
                continue
            for one in reversed(box.search("ALL")):
                if max_emails and len(entries) >= max_emails:
                    break
                fetched = box.fetch(one)
                size += len(fetched.raw)
                if size > LARGEST:
                    raise FolderError(f"Export failed: it would hold more than {LARGEST} bytes; use max_emails")
                entries.append(entry_of(letter_of(fetched), name))
                counts[name] += 1
    if not entries:
        return f"No emails found to export from {'all folders' if export_all_folders else names[0]}"
    moment = datetime.now(UTC)
    stem = "all_folders" if export_all_folders else file_name(names[0].replace("/", "_"))
    content = {"export_date": moment.isoformat(), "total_emails": len(entries), "emails": entries}
    data = json.dumps(content, indent=2, ensure_ascii=False).encode("utf-8", "replace")
    shown = _save(context, f"{stem}_export_{moment:%Y%m%d_%H%M%S}.json", data)
    result = f"Successfully exported {len(entries)} emails to {shown}\n"
    if export_all_folders:
        result += "Export breakdown by folder:\n"
        result += "".join(f"  - {name}: {count} emails\n" for name, count in counts.items())
    return result.rstrip()


@tool("Error importing emails")
def import_emails(
    context: ToolContext, import_path: str, target_folder: str = NOTHING, preserve_folders: bool = True
) -> str:
    """Import emails from backup file to IMAP server"""
    here = desk(context)
    parcels = _parcels(context, import_path)
    if not parcels:
        return f"No emails found in import file {import_path}"
    counts: dict[str, int] = {}
    failed: list[str] = []
    with mailbox(here.mail, here.account) as box:
        for number, parcel in parcels:
            name = parcel.folder if preserve_folders and parcel.folder else target_folder or "INBOX"
            try:
                name = _folder(box, name, make=preserve_folders and bool(parcel.folder))
                box.append(name, parcel.raw, "\\Seen" if parcel.is_read else "")
            except FolderError as error:
                failed.append(f"Email {number}: {error}")
            else:
                counts[name] = counts.get(name, 0) + 1
    result = f"Successfully imported {sum(counts.values())}/{len(parcels)} emails"
    if preserve_folders and len(counts) > 1:
        result += "\n\nImport breakdown by folder:"
        result += "".join(f"\n  - {name}: {count} emails" for name, count in counts.items())
    elif counts:
        result += f" to {next(iter(counts))}"
    if failed:
        result += f"\n\n{len(failed)} emails failed to import:"
        result += "".join(f"\n  - {reason}" for reason in failed[:5])
        result += f"\n  ... and {len(failed) - 5} more" if len(failed) > 5 else ""
    return result


@tool("Error downloading attachment")
def download_attachment(context: ToolContext, email_id: str, attachment_filename: str) -> str:
    """Download email attachment to configured download path"""
    here = desk(context)
    with here.open() as box:
        letter = here.letter(box, email_id)
    found = next((one for one in letter.attachments if one.filename == attachment_filename), None)
    if found is None:
        return f"Attachment '{attachment_filename}' not found in email {email_id}"
    if not found.content:
        return f"Could not extract attachment data for '{attachment_filename}'"
    shown = _save(context, file_name(found.filename), found.content)
    return f"Attachment '{attachment_filename}' saved to: {shown}"


def _has(box: Mailbox, folder: str) -> bool:
    """Select the folder if it is there."""
    try:
        box.select(folder)
    except FolderError:
        return False
    return True


def _save(context: ToolContext, name: str, data: bytes) -> str:
    """Write a file into the workspace under a name that is free; the path as the agent has it. Raises FolderError."""
    stem, extension = posixpath.splitext(name)
    free, count = name, 0
    try:
        with context.files.lock:
            while context.files.exists(free, follow=False):
                count += 1
                free = f"{stem}({count}){extension}"
            with explained(context, "open", free):
                context.files.write_bytes(free, data)
    except ToolFailureError as error:
        raise FolderError(f"Failed to save: {error}") from error
    return context.shown(free)


def _parcels(context: ToolContext, path: str) -> list[tuple[str, Parcel]]:
    """What a file holds, by the ids that it gives, oldest first. Raises FolderError, ValueError."""
    name, suffix = posixpath.splitext(posixpath.basename(path))
    suffix = suffix.lower()
    with named("Invalid import path"):
        data = bytes_of(context, path, JSON if suffix == ".json" else LARGEST)
    if suffix == ".eml":
        number = name
        return [(number, Parcel(data, None))]
    if suffix != ".json":
        raise FolderError(f"Import failed: Unsupported import format: {suffix}")
    if sum(map(data.count, (b",", b"[", b"{"))) > PIECES:
        raise FolderError(f"Import failed: the file has more than {PIECES} lists, objects and commas")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FolderError(f"Import failed: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("emails"), list):
        raise FolderError("Import failed: Invalid JSON format: missing 'emails' key")
    found = [(str(one.get("email_id", "")), _parcel(one)) for one in content["emails"] if isinstance(one, dict)]
    return sorted(found, key=lambda item: int(item[0]) if item[0].isdecimal() else 0)


def _parcel(entry: dict[str, Any]) -> Parcel:
    for needed in ("email_id", "subject", "from_addr", "to_addr"):
        if needed not in entry:
            raise FolderError(f"Import failed: Missing required field in JSON: '{needed}'")
    try:
        return message_of(entry)
    except (ValueError, TypeError, AttributeError) as error:
        raise FolderError(f"Import failed: {error}") from error


def _folder(box: Mailbox, name: str, *, make: bool) -> str:
    """The folder to import into: made where it is missing, INBOX where that cannot be. Raises FolderError."""
    try:
        box.select(name)
    except FolderError as error:
        if not make or name in {"INBOX", "SENT", "DRAFTS", "TRASH"}:
            raise FolderError(f"Cannot access folder '{name}': {error}") from error
        try:
            create(box, name)
            box.select(name)
        except FolderError:
            return "INBOX"
    return name
