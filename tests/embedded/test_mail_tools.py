"""The 25 tools of the mail server, each for real: over HTTP, against the mailboxes of the mail process."""

from __future__ import annotations

import base64
import json
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any

import pytest

from tests.embedded.mail_support import MailBox, ids, mail, new_mailbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.embedded.conftest import User


@pytest.fixture
def box(user: User) -> Iterator[MailBox]:
    """A sandbox whose agent is ann; bob has an account too."""
    made = new_mailbox(user)
    made.fill(ann=[], bob=[])
    yield made
    made.release()


def test_lists_are_paged_newest_first_with_their_attachments(box: MailBox) -> None:
    file = {"filename": "a.csv", "content_type": "text/csv", "content": base64.b64encode(b"1,2").decode()}
    box.fill(ann=[mail(f"Nr {number}", date="Wed, 10 Sep 2025 18:31:19 +0000") for number in range(1, 6)])
    box.fill(ann=[mail("With a file", attachments=[file, file])])
    date = box.emails("ann@mcp.com")[5]["date"]
    assert box.call("get_emails", page=1, page_size=2) == (
        "Folder: INBOX\nPage: 1/3\nTotal emails: 6\n\n"
        f"1. ID: 6\n   Subject: With a file\n   From: boss@example.com\n   Date: {date}\n"
        "   Attachments: 2 files\n\n"
        "2. ID: 5\n   Subject: Nr 5\n   From: boss@example.com\n   Date: Wed, 10 Sep 2025 18:31:19 +0000\n\n"
    )
    assert ids(box.call("get_emails", page=3, page_size=2)) == ["2", "1"]
    assert ids(box.call("get_emails", page=99, page_size=0)) == ["6", "5", "4", "3", "2", "1"]
    assert box.call("get_emails", folder="Trash") == "Folder 'Trash' is empty or page 1 is out of range"
    assert box.call("get_emails", folder="Nope") == (
        "Error getting emails: Failed to get emails: Error selecting folder 'Nope': Failed to select folder 'Nope': NO"
    )


def test_a_message_is_read_with_both_texts_and_its_headers(box: MailBox) -> None:
    box.fill(
        ann=[
            mail(
                "Grüße 会议",
                "plain wörld",
                body_html="<b>html</b>",
                cc_addr="Jörg <j@x.org>",
                message_id="<one@x.org>",
                date="Wed, 10 Sep 2025 18:31:19 +0000",
            )
        ]
    )
    assert box.call("read_email", email_id="1") == (
        "Email ID: 1\nSubject: Grüße 会议\nFrom: boss@example.com\nTo: ann@mcp.com\nCC: Jörg <j@x.org>\n"
        "Date: Wed, 10 Sep 2025 18:31:19 +0000\nMessage-ID: <one@x.org>\n\n"
        "Text Content:\nplain wörld\n\nHTML Content:\n<b>html</b>\n\n"
    )
    headers = box.call("get_email_headers", email_id="1")
    assert headers.startswith(f"Email Headers for ID: 1\n{'=' * 50}\n")
    assert "Message-ID: <one@x.org>\n" in headers
    assert "From: Boss <boss@example.com>\n" in headers
    for wrong in ("2", "0", "-1", "x", "1:*", "1\r\nA LOGOUT", ""):
        assert box.call("read_email", email_id=wrong).startswith(f"Error reading email: Failed to read email {wrong}:")
    assert box.call("get_email_headers", email_id="9").startswith("Error getting email headers: ")


def test_searches_find_what_is_encoded(box: MailBox) -> None:
    quoted = EmailMessage()
    quoted["Subject"], quoted["From"], quoted["To"] = "plain", "boss@example.com", "ann@mcp.com"
    quoted.set_content("Der Schlüssel liegt unter der Matte =)\n", cte="quoted-printable")
    encoded = EmailMessage()
    encoded["Subject"], encoded["From"], encoded["To"] = "Ärger im Büro", "Zoë <z@example.com>", "ann@mcp.com"
    encoded.set_content("The needle is in this base64 haystack\n", cte="base64")
    encoded.add_attachment(b"x", maintype="application", subtype="pdf", filename="Übersicht 会议.pdf")
    page = EmailMessage()
    page["Subject"], page["From"], page["To"] = "page", "boss@example.com", "ann@mcp.com"
    page.set_content("<p>caf&eacute; <b>cl</b>osed</p>", subtype="html", cte="base64")
    with box.smtp("bob@mcp.com") as connection:
        for message in (quoted, encoded, page):
            connection.send_message(message)
    found = {
        "needle is in": ["2"],
        "SCHLÜSSEL LIEGT": ["1"],
        "ärger im büro": ["2"],
        "zoë": ["2"],
        "übersicht 会议": ["2"],
        "café closed": ["3"],
        'quo"ted \\ and (brackets)': [],
        "boss@example.com": ["3", "1"],
        "c2NobMO8c3NlbA": [],
    }
    assert {query: ids(box.call("search_emails", query=query)) for query in found} == found
    with box.imap("ann@mcp.com") as connection:
        connection.select("INBOX")
        assert connection.search(None, "BODY", '"needle is"') == ("OK", [b"2"])
        for criterion, answer in (("BODY", b""), ("TEXT", b"2"), ("SUBJECT", b"2")):
            connection.literal = "Ärger".encode()  # type: ignore[assignment]
            assert connection.search("UTF-8", criterion) == ("OK", [answer])
    assert box.call("search_emails", query="needle", folder="Trash") == "No emails found matching query: needle"
    assert "Search query cannot be empty" in box.call("search_emails", query="  ")
    assert "too long" in box.call("search_emails", query="x" * 1001)
    listed = box.call("search_emails", query="needle")
    assert listed.startswith("Search query: needle\nFolder: INBOX\nPage: 1/1\nTotal results: 1\n\n1. ID: 2\n")


def test_what_is_sent_arrives_and_is_kept(box: MailBox) -> None:
    done = box.call(
        "send_email",
        to="bob@mcp.com, out@elsewhere.org",
        subject="Ünïcode\nBcc: victim@mcp.com",
        body="wörds",
        html_body="<i>wörds</i>",
        cc="ann@mcp.com",
        bcc="bob@mcp.com",
    )
    assert done == "Email sent successfully to bob@mcp.com, out@elsewhere.org"
    (got,) = box.emails("bob@mcp.com")
    (kept,) = box.emails("ann@mcp.com", "Sent")
    (copy,) = box.emails("ann@mcp.com")
    assert got["subject"] == kept["subject"] == "Ünïcode Bcc: victim@mcp.com"
    assert got["body_text"] == copy["body_text"] == "wörds"
    assert got["body_html"] == "<i>wörds</i>"
    assert got["message_id"] == kept["message_id"] == copy["message_id"] != ""
    assert got["date"]
    assert (got["is_read"], kept["is_read"], got["bcc_addr"], kept["bcc_addr"]) == (False, True, None, "bob@mcp.com")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"to": "nobody@mcp.com"}, "there is no such user here"),
        ({"to": "no address"}, "Invalid TO addresses: Invalid email addresses: no address"),
        ({"to": ""}, "Invalid TO addresses: Email list cannot be empty"),
        ({"to": "bob@mcp.com", "cc": "x@y"}, "Invalid CC addresses: Invalid email addresses: x@y"),
        ({"to": "bob@mcp.com", "bcc": "a..b@c.de"}, "Invalid BCC addresses"),
        ({"to": "bob@mcp.com", "attachments": ["gone.txt"]}, "Attachment error: File does not exist: gone.txt"),
        ({"to": "bob@mcp.com", "attachments": ["/etc/passwd"]}, "Attachment error: Access denied"),
        ({"to": "bob@mcp.com", "attachments": ["../../x"]}, "Attachment error: Access denied"),
    ],
)
def test_what_cannot_be_sent_is_said_and_not_kept(box: MailBox, arguments: dict[str, Any], words: str) -> None:
    said = box.call("send_email", subject="s", body="b", **arguments)
    assert said.startswith("Error sending email: Failed to send email: ")
    assert words in said
    assert box.emails("ann@mcp.com", "Sent") == box.emails("bob@mcp.com") == []


def test_replies_and_forwards_carry_the_original(box: MailBox) -> None:
    file = {"filename": "Bericht ä.txt", "content_type": "text/plain", "content": base64.b64encode(b"inside").decode()}
    date = "Wed, 10 Sep 2025 18:31:19 +0000"
    box.fill(ann=[mail("Q3", "numbers", from_addr="Bob <bob@mcp.com>", cc_addr="ann@mcp.com", date=date)])
    box.fill(ann=[mail("File", "see file", from_addr="Bob <bob@mcp.com>", attachments=[file], body_html="<p>see</p>")])
    box.call("get_emails")
    assert box.call("reply_email", email_id="1", body="thanks") == "Reply sent successfully to sender"
    (reply,) = box.emails("bob@mcp.com")
    assert reply["subject"] == "Re: Q3"
    assert reply["body_text"] == (
        f"thanks\n\n--- Original Message ---\nFrom: bob@mcp.com\nDate: {date}\nSubject: Q3\n\nnumbers"
    )
    said = box.call("reply_email", email_id="1", body="all", html_body="<b>all</b>", reply_all=True, cc="bob@mcp.com")
    assert said == "Reply sent successfully to all recipients"
    assert "<b>Original Message:</b>" in box.emails("bob@mcp.com")[1]["body_html"]
    assert box.call("forward_email", email_id="2", to="bob@mcp.com") == "Email forwarded successfully to bob@mcp.com"
    forwarded = box.emails("bob@mcp.com")[2]
    assert forwarded["subject"] == "Fwd: File"
    (carried,) = forwarded["attachments"]
    assert (carried["filename"], base64.b64decode(carried["content"])) == ("Bericht ä.txt", b"inside")
    assert "--- Forwarded Message ---\nFrom: bob@mcp.com\nTo: ann@mcp.com\n" in forwarded["body_text"]
    assert "Failed to forward email" in box.call("forward_email", email_id="9", to="bob@mcp.com")
    assert "Failed to reply to email" in box.call("reply_email", email_id="9", body="x")
    assert len(box.emails("ann@mcp.com", "Sent")) == 3


def test_marking_moving_and_deleting(box: MailBox) -> None:
    box.fill(ann=[mail(f"Nr {number}") for number in range(1, 7)])
    assert box.call("mark_emails", email_ids=["1", "9"], status="important") == (
        "Successfully marked 1/2 emails as important"
    )
    assert box.call("mark_emails", email_ids=["1", "2"], status="read") == "Successfully marked 2/2 emails as read"
    assert box.call("mark_emails", email_ids=["2"], status="unread") == "Successfully marked 1/1 emails as unread"
    flags = [(one["subject"], one["is_read"], one["is_important"]) for one in box.emails("ann@mcp.com")][:3]
    assert flags == [("Nr 1", True, True), ("Nr 2", False, False), ("Nr 3", False, False)]
    box.call("mark_emails", email_ids=["1"], status="not_important")
    assert box.emails("ann@mcp.com")[0]["is_important"] is False
    assert "Status must be" in box.call("mark_emails", email_ids=["1"], status="spam")
    assert box.call("move_email", email_id="1", target_folder="Trash") == "Email 1 moved to Trash successfully"
    assert box.call("move_email", email_id="1", target_folder="Nope").startswith("Error moving email: Failed to move")
    assert box.call("delete_email", email_id="1") == "Email 1 deleted successfully"
    assert box.call("delete_email", email_id="77").startswith("Error deleting email: Failed to delete email: ")
    assert box.call("move_emails", email_ids=["1", "3", "x"], target_folder="Junk") == (
        "Successfully moved 2/3 emails to Junk (1 failed: x)"
    )
    assert [one["subject"] for one in box.emails("ann@mcp.com")] == ["Nr 4", "Nr 6"]
    assert [one["subject"] for one in box.emails("ann@mcp.com", "Junk")] == ["Nr 5", "Nr 3"]
    assert box.call("delete_emails", email_ids=["2", "1", "3"]) == "Successfully deleted 2/3 emails (1 failed: 3)"
    assert box.emails("ann@mcp.com") == []


def test_ids_count_in_the_folder_that_was_listed_last_over_calls(box: MailBox) -> None:
    box.fill(ann=[mail("In the inbox"), mail("In the trash", folder="Trash")])
    box.call("get_emails", folder="Trash")
    assert "Subject: In the trash" in box.call("read_email", email_id="1")
    box.call("get_folders")
    assert "Subject: In the trash" in box.call("read_email", email_id="1")
    box.call("search_emails", query="inbox")
    assert "Subject: In the inbox" in box.call("read_email", email_id="1")


def test_folders_in_any_alphabet(box: MailBox) -> None:
    box.fill(ann=[mail("a"), mail("b", is_read=True), mail("c", folder="Projekt & Größe")])
    for name in ("Plain", "With space", "会议 & Co", "Ordner's (1)"):
        assert box.call("create_folder", folder_name=name) == f"Folder '{name}' created successfully"
    assert box.call("get_folders") == (
        "Available folders:\n1. INBOX (2 total, 1 unread)\n2. Drafts (0 total, 0 unread)\n3. Junk (0 total, 0 unread)\n"
        "4. Sent (0 total, 0 unread)\n5. Trash (0 total, 0 unread)\n6. Projekt & Größe (1 total, 1 unread)\n"
        "7. Plain (0 total, 0 unread)\n8. With space (0 total, 0 unread)\n9. 会议 & Co (0 total, 0 unread)\n"
        "10. Ordner's (1) (0 total, 0 unread)\n"
    )
    assert box.call("get_unread_count") == "Total unread messages: 2"
    assert box.call("get_unread_count", folder_name="INBOX") == "Unread messages in 'INBOX': 1"
    stats = box.call("get_mailbox_stats", folder_name="Projekt & Größe")
    assert stats == "Folder Statistics for 'Projekt & Größe':\nTotal messages: 1\nUnread messages: 1\n"
    assert box.call("get_mailbox_stats").endswith("\nOverall Total: 3 messages, 2 unread\n")
    assert "Cannot delete system folder" in box.call("delete_folder", folder_name="Sent")
    assert "invalid character: /" in box.call("create_folder", folder_name="a/b")
    assert "cannot be empty" in box.call("create_folder", folder_name="")
    assert "ALREADYEXISTS" in box.call("create_folder", folder_name="Plain")
    assert box.call("delete_folder", folder_name="Projekt & Größe") == "Folder 'Projekt & Größe' deleted successfully"
    assert "Failed to delete folder" in box.call("delete_folder", folder_name="Projekt & Größe")
    assert "Projekt" not in box.call("get_folders")


def test_the_connection_is_checked(box: MailBox) -> None:
    assert box.call("check_connection") == (
        "Connection Status:\nIMAP: ✓ Connected\nSMTP: ✓ Connected\n\nAll connections are working properly"
    )


def test_drafts_live_beside_the_folders(box: MailBox) -> None:
    assert box.call("get_drafts") == "No drafts found"
    assert box.call("save_draft", subject="One", body="b") == "Draft saved successfully with ID: draft_1"
    assert box.call("save_draft", subject="Two", body="b", to="bob@mcp.com") == (
        "Draft saved successfully with ID: draft_2"
    )
    assert box.call("update_draft", draft_id="draft_1", subject="Changed") == "Draft draft_1 updated successfully"
    assert ids(box.call("get_drafts")) == ["draft_1", "draft_2"]
    listed = box.call("get_drafts", page=9, page_size=1)
    assert listed.startswith("Drafts (Page 2/2):\nTotal drafts: 2\n\n2. ID: draft_2\n   Subject: Two\n   To: bob@")
    assert "Draft not found: draft_7" in box.call("update_draft", draft_id="draft_7")
    assert [one["subject"] for one in box.dump()["users"]["ann@mcp.com"]["drafts"]] == ["Changed", "Two"]
    assert box.as_user("bob@mcp.com").call("get_drafts") == "No drafts found"
    assert box.call("delete_draft", draft_id="draft_1") == "Draft draft_1 deleted successfully"
    assert "Draft not found: draft_1" in box.call("delete_draft", draft_id="draft_1")
    assert box.call("save_draft", subject="Three", body="b") == "Draft saved successfully with ID: draft_3"


def test_an_export_comes_back_by_an_import(box: MailBox) -> None:
    content = base64.b64encode(bytes(range(256))).decode()
    file = {"filename": "b ü.bin", "content_type": "application/x-b", "content": content}
    box.fill(
        ann=[
            mail("Erste ä", "täxt", date="Wed, 10 Sep 2025 18:31:19 +0000", message_id="<1@x>", attachments=[file]),
            mail("Zweite", folder="Archiv ö", is_read=True),
        ]
    )
    said = box.call("export_emails", export_all_folders=True)
    assert said.startswith("Successfully exported 2 emails to /data/all_folders_export_")
    assert said.endswith("- Archiv ö: 1 emails")
    name = said.splitlines()[0].rpartition("/")[2]
    exported = json.loads(box.user.download(box.id)[name])
    assert exported["total_emails"] == 2
    assert exported["emails"][0]["subject"] == "Erste ä"
    assert exported["emails"][0]["attachments"] == [{**file, "size": 256}]
    bob = box.as_user("bob@mcp.com")
    assert bob.call("import_emails", import_path=f"/data/{name}") == (
        "Successfully imported 2/2 emails\n\nImport breakdown by folder:\n  - INBOX: 1 emails\n  - Archiv ö: 1 emails"
    )
    (first,) = box.emails("bob@mcp.com")
    assert (first["subject"], first["body_text"], first["message_id"]) == ("Erste ä", "täxt", "<1@x>")
    assert first["attachments"] == [{**file, "size": 256}]
    assert bob.call("import_emails", import_path=name, preserve_folders=False, target_folder="Trash") == (
        "Successfully imported 2/2 emails to Trash"
    )
    only = box.call("export_emails", folder="INBOX", max_emails=1)
    assert only.startswith("Successfully exported 1 emails to /data/INBOX_export_")
    assert box.call("export_emails", folder="Junk") == "No emails found to export from Junk"
    assert "Cannot specify both" in box.call("export_emails", folder="Junk", export_all_folders=True)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.json", None, "Invalid import path: File does not exist: none.json"),
        ("../none.json", None, "Invalid import path: Access denied"),
        ("x.txt", "x", "Unsupported import format: .txt"),
        ("x.json", "{", "Import failed: "),
        ("x.json", "[" * 100_000, "Import failed: "),
        ("x.json", "[]", "missing 'emails' key"),
        ("x.json", '{"emails": [{"email_id": "1"}]}', "Missing required field in JSON: 'subject'"),
        ("x.json", '{"emails": []}', "No emails found in import file x.json"),
    ],
)
def test_imports_that_cannot_be(box: MailBox, name: str, content: str | None, words: str) -> None:
    if content is not None:
        assert box.user.upload(box.id, {name: content}).status_code == 200
    assert words in box.call("import_emails", import_path=name)


def test_a_raw_message_is_imported_as_it_is(box: MailBox) -> None:
    raw = "Subject: =?utf-8?b?R3LDvMOfZQ==?=\r\nFrom: x@y.org\r\n\r\nhi\r\n"
    box.user.upload(box.id, {"note.eml": raw, "odd.eml": "\x00\x01 no header at all"})
    assert box.call("import_emails", import_path="note.eml") == "Successfully imported 1/1 emails to INBOX"
    assert box.call("import_emails", import_path="odd.eml").startswith("Successfully imported ")
    assert box.emails("ann@mcp.com")[0]["subject"] == "Grüße"


def test_attachments_go_both_ways(box: MailBox) -> None:
    big = "line\n" * 2_000_000
    box.user.upload(box.id, {"big.txt": big, "sub/Bericht ü (1).txt": "inside"})
    paths = ["big.txt", "/data/sub/Bericht ü (1).txt"]
    said = box.call("send_email", to="bob@mcp.com", subject="Files", body="see", attachments=paths)
    assert said == "Email sent successfully to bob@mcp.com with 2 attachments"
    bob = box.as_user("bob@mcp.com")
    shown = bob.call("read_email", email_id="1")
    assert "Attachments:\n1. big.txt (text/plain, 10000000 bytes)\n2. Bericht ü (1).txt (text/plain, 6 bytes)" in shown
    for expected in ("big(1).txt", "big(2).txt"):
        assert bob.call("download_attachment", email_id="1", attachment_filename="big.txt") == (
            f"Attachment 'big.txt' saved to: /data/{expected}"
        )
    bob.call("download_attachment", email_id="1", attachment_filename="Bericht ü (1).txt")
    files = box.user.download(box.id)
    assert files["big(1).txt"] == big
    assert files["Bericht ü (1).txt"] == "inside"
    assert "not found in email 1" in bob.call("download_attachment", email_id="1", attachment_filename="other")


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("../../../etc/cron.d/evil", "evil"),
        ("/etc/passwd", "passwd"),
        ("..", "attachment"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("new\nline\x1b[31m.txt", None),
        ("x" * 300 + ".txt", "x" * 200),
    ],
)
def test_hostile_names_of_attachments_stay_in_the_workspace(box: MailBox, name: str, saved: str | None) -> None:
    raw = (
        b"Subject: s\r\nFrom: evil@example.com\r\nMIME-Version: 1.0\r\n"
        b"Content-Type: multipart/mixed; boundary=B\r\n\r\n--B\r\n"
        b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n"
        b"Content-Disposition: attachment; filename*=utf-8''"
        + "".join(f"%{byte:02x}" for byte in name.encode()).encode()
        + b"\r\n\r\naGVsbG8=\r\n--B--\r\n"
    )
    with box.smtp("bob@mcp.com") as connection:
        connection.sendmail("evil@example.com", ["ann@mcp.com"], raw)
    said = box.call("download_attachment", email_id="1", attachment_filename=name)
    (written,) = box.user.download(box.id)
    assert said.endswith(f"saved to: /data/{written}"), said
    assert "/" not in written
    assert written.isprintable()
    if saved is not None:
        assert written == saved


def test_a_link_in_the_workspace_leads_no_attachment_out(box: MailBox) -> None:
    made = box.user.run(box.id, "ln", "-s", "/etc/passwd", "notes.txt")
    assert made["exit_code"] == 0
    said = box.call("send_email", to="bob@mcp.com", subject="s", body="b", attachments=["notes.txt"])
    assert said.startswith("Error sending email: ")
    assert "root:" not in said
    assert box.emails("bob@mcp.com") == []


def test_wrong_arguments_are_named(box: MailBox) -> None:
    assert "email_id: Field required" in box.failure("read_email")
    said = box.failure("send_email", to="a@b.de", subject="s", body="b", cc=None)
    assert "cc: Input should be a valid string" in said
    listed = box.call("mark_emails", email_ids='["1"]', status="read")  # as servers of the Python SDK take lists
    assert listed == "Successfully marked 0/1 emails as read"
