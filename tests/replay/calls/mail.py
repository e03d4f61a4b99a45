"""poste_email_toolathlon: against emails-mcp, which speaks to a mailbox of our own mail server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..playing import Table
from ..scenario import Folder, Scenario, call

if TYPE_CHECKING:
    from ..scenario import Call

ME = "agent@mcp.com"
FILES = {
    "notes.txt": "notes to attach\n",
    "data/bytes.bin": bytes(range(256)),
    "grüße.txt": "Grüße\n",
    "folder": Folder,
    "import.json": '{"emails": [{"subject": "Imported", "from_addr": "x@mcp.com", "to_addr": "agent@mcp.com",'
    ' "body_text": "from a file", "date": "2024-03-01T12:00:00", "folder": "INBOX"}]}',
    "no.json": "this is no JSON",
}


def send(subject: str, body: str = "a body", **more: object) -> Call:
    return call("send_email", **({"to": ME, "subject": subject, "body": body} | more))


SENT = {
    "a letter": send("Hello", "hello body\n"),
    "a letter with umlauts": send("Grüße 🌍", "Schöne Grüße aus Köln\n"),
    "a letter in HTML": send("Fancy", "plain words", html_body="<p>fancy <b>words</b></p>"),
    "a letter with a file": send("Files", "see the file", attachments=["{root}/notes.txt"]),
}

SENDING = Scenario(
    "sending",
    seed=FILES,
    calls={"connection": call("check_connection")}
    | SENT
    | {
        "two files": send("Two files", attachments=["{root}/data/bytes.bin", "{root}/grüße.txt"]),
        "copies": send("Copies", cc=ME, bcc=ME),
        "to two": send("To two", to=f"{ME}, other@mcp.com"),
        "to another host": send("Far", to="someone@example.org"),
        "to no address": send("Nobody", to="nobody"),
        "to nothing": send("Nothing", to=""),
        "without a subject": send(""),
        "without a body": send("Empty", ""),
        "a missing file": send("Missing", attachments=["{root}/absent.txt"]),
        "a folder": send("Folder", attachments=["{root}/folder"]),
        "no arguments": call("send_email"),
        "inbox": call("get_emails"),
        "sent": call("get_emails", folder="Sent"),
        "reply": call("reply_email", email_id="1", body="thanks"),
        "reply to all": call("reply_email", email_id="6", body="thanks", reply_all=True, cc=ME),
        "reply in HTML": call("reply_email", email_id="2", body="danke ü", html_body="<i>danke</i>"),
        "reply to nothing": call("reply_email", email_id="999", body="x"),
        "reply without a body": call("reply_email", email_id="1"),
        "forward": call("forward_email", email_id="1", to=ME, body="see below"),
        "forward with files": call("forward_email", email_id="4", to=ME),
        "forward to nobody": call("forward_email", email_id="1", to="nobody"),
        "forward nothing": call("forward_email", email_id="999", to=ME),
        "inbox at the end": call("get_emails", page_size=50),
        "connection with an argument": call("check_connection", x=1),
        "connection again": call("check_connection"),
        "a file outside": send("Outside", attachments=["/etc/hostname"]),
        "unknown tool": call("fax"),
    },
)

READING = Scenario(
    "reading",
    seed=FILES,
    calls=SENT
    | {
        "inbox": call("get_emails"),
        "a page": call("get_emails", page=2, page_size=2),
        "beyond the pages": call("get_emails", page=9, page_size=2),
        "page 0": call("get_emails", page=0),
        "no page size": call("get_emails", page_size=0),
        "a missing folder": call("get_emails", folder="Nowhere"),
        "page as text": call("get_emails", page="x"),
        "inbox again": call("get_emails"),
        "read": call("read_email", email_id="1"),
        "read umlauts": call("read_email", email_id="2"),
        "read HTML": call("read_email", email_id="3"),
        "read files": call("read_email", email_id="4"),
        "read nothing": call("read_email", email_id="999"),
        "read a word": call("read_email", email_id="first"),
        "read without an id": call("read_email"),
        "headers": call("get_email_headers", email_id="1"),
        "headers with umlauts": call("get_email_headers", email_id="2"),
        "headers of nothing": call("get_email_headers", email_id="999"),
        "search a subject": call("search_emails", query="Hello"),
        "search a body": call("search_emails", query="fancy"),
        "search an encoded body": call("search_emails", query="Köln"),
        "search a sender": call("search_emails", query=ME, page_size=2),
        "search nothing known": call("search_emails", query="zebra"),
        "search nothing": call("search_emails", query=""),
        "search in a folder": call("search_emails", query="Hello", folder="Sent"),
        "search in a missing folder": call("search_emails", query="Hello", folder="Nowhere"),
        "search without a query": call("search_emails"),
        "inbox once more": call("get_emails"),
        "attachment": call("download_attachment", email_id="4", attachment_filename="notes.txt"),
        "attachment again": call("download_attachment", email_id="4", attachment_filename="notes.txt"),
        "a missing attachment": call("download_attachment", email_id="4", attachment_filename="x.txt"),
        "an attachment of nothing": call("download_attachment", email_id="999", attachment_filename="notes.txt"),
        "unread": call("get_unread_count"),
        "unread in a folder": call("get_unread_count", folder_name="Sent"),
        "unread in a missing folder": call("get_unread_count", folder_name="Nowhere"),
        "statistics": call("get_mailbox_stats"),
        "statistics of a folder": call("get_mailbox_stats", folder_name="INBOX"),
        "statistics of a missing folder": call("get_mailbox_stats", folder_name="Nowhere"),
    },
)

KEEPING = Scenario(
    "keeping",
    seed=FILES,
    calls=SENT
    | {
        "folders": call("get_folders"),
        "a folder": call("create_folder", folder_name="Work"),
        "a folder in a folder": call("create_folder", folder_name="Work/Sub"),
        "an umlaut": call("create_folder", folder_name="Übersicht"),
        "the same folder": call("create_folder", folder_name="Work"),
        "no folder": call("create_folder", folder_name=""),
        "folders now": call("get_folders"),
        "inbox": call("get_emails"),
        "mark read": call("mark_emails", email_ids=["1", "2"], status="read"),
        "mark unread": call("mark_emails", email_ids=["1"], status="unread"),
        "mark important": call("mark_emails", email_ids=["1"], status="important"),
        "mark oddly": call("mark_emails", email_ids=["1"], status="blue"),
        "mark nothing": call("mark_emails", email_ids=[], status="read"),
        "mark what is missing": call("mark_emails", email_ids=["999"], status="read"),
        "move": call("move_email", email_id="1", target_folder="Work"),
        "move to a missing folder": call("move_email", email_id="2", target_folder="Nowhere"),
        "move what is missing": call("move_email", email_id="999", target_folder="Work"),
        "move several": call("move_emails", email_ids=["2", "3"], target_folder="Work"),
        "move several to a missing folder": call("move_emails", email_ids=["4"], target_folder="Nowhere"),
        "move none": call("move_emails", email_ids=[], target_folder="Work"),
        "work": call("get_emails", folder="Work"),
        "delete": call("delete_email", email_id="1"),
        "delete again": call("delete_email", email_id="1"),
        "delete several": call("delete_emails", email_ids=["2", "999"]),
        "delete none": call("delete_emails", email_ids=[]),
        "work after that": call("get_emails", folder="Work"),
        "trash": call("get_emails", folder="Trash"),
        "delete a folder": call("delete_folder", folder_name="Work/Sub"),
        "delete a missing folder": call("delete_folder", folder_name="Nowhere"),
        "delete the inbox": call("delete_folder", folder_name="INBOX"),
        "folders at the end": call("get_folders"),
    },
)

DRAFTS = Scenario(
    "drafts and files",
    seed=FILES,
    calls=SENT
    | {
        "no drafts": call("get_drafts"),
        "save": call("save_draft", subject="Draft ü", body="to be written", to=ME),
        "save another": call("save_draft", subject="Second", body="b", html_body="<p>b</p>", cc=ME),
        "save without a body": call("save_draft", subject="x"),
        "drafts": call("get_drafts"),
        "a page of drafts": call("get_drafts", page=2, page_size=1),
        "update": call("update_draft", draft_id="1", subject="Draft, changed"),
        "update what is missing": call("update_draft", draft_id="999", subject="x"),
        "update nothing": call("update_draft", draft_id="2"),
        "drafts now": call("get_drafts"),
        "delete": call("delete_draft", draft_id="2"),
        "delete again": call("delete_draft", draft_id="2"),
        "delete without an id": call("delete_draft"),
        "drafts at the end": call("get_drafts"),
        "export": call("export_emails", folder="INBOX", export_path="export.json"),
        "export one": call("export_emails", folder="INBOX", export_path="one.json", max_emails=1),
        "export a missing folder": call("export_emails", folder="Nowhere", export_path="none.json"),
        "export to outside": call("export_emails", folder="INBOX", export_path="/etc/mail.json"),
        "import": call("import_emails", import_path="{root}/import.json"),
        "import no JSON": call("import_emails", import_path="{root}/no.json"),
        "import what is missing": call("import_emails", import_path="{root}/absent.json"),
        "inbox at the end": call("get_emails"),
    },
)

TABLE = Table(
    name="mail",
    server="poste_email_toolathlon",
    benchmark="Toolathlon",
    upstream="mail",
    scenarios=(SENDING, READING, KEEPING, DRAFTS),
)
