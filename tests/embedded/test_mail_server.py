"""Mailboxes of sandboxes: apart from each other, in reach of mail programs, bounded, and gone when they should be."""

from __future__ import annotations

import base64
import imaplib
import json
import os
import signal
import smtplib
import socket
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from email.mime.multipart import MIMEMultipart
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.embedded.conftest import alive, processes_with, wait_until
from tests.embedded.mail_support import SERVER, MailBox, ids, mail, new_mailbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.embedded.conftest import User

IN_PARTS = (
    b"Content-Type: multipart/mixed; boundary=B\r\n\r\n--B\r\n%s"
    + b"\r\n ;;;;;;;;;;" * 100
    + b"\r\n\r\nhello\r\n--B--\r\n"
)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def box(user: User) -> Iterator[MailBox]:
    made = new_mailbox(user)
    yield made
    made.release()


@pytest.fixture
def other(user: User) -> Iterator[MailBox]:
    made = new_mailbox(user)
    yield made
    made.release()


def mail_process(user: User) -> int:
    """The pid of the server's mail process."""
    (pid,) = (pid for pid in processes_with("embedded/mail\0") if parent(pid) == user.server_pid)
    return pid


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_new_mailbox_is_one_empty_account_that_a_mail_program_can_use(box: MailBox) -> None:
    access = box.access
    assert (access["email"], access["imap_server"], access["smtp_server"]) == (
        "agent@mcp.com",
        "127.0.0.1",
        "127.0.0.1",
    )
    assert box.dump() == {"users": {"agent@mcp.com": {"emails": []}}}
    message = EmailMessage()
    message["Subject"], message["To"] = "From outside", "agent@mcp.com"
    message.set_content("hi")
    with box.smtp() as connection:
        connection.send_message(message, from_addr="anybody@elsewhere.org", to_addrs=["agent@mcp.com"])
    assert "Subject: From outside" in box.call("get_emails")
    with box.imap() as connection:
        assert connection.select("INBOX") == ("OK", [b"1"])
        _, data = connection.fetch("1", "(RFC822)")
        assert isinstance(data[0], tuple)
        assert b"\r\nMessage-ID: <" in data[0][1]
        assert b"Date: " in data[0][1]
        assert connection.append("Drafts", "", "", b"Subject: mine\r\n\r\nx")[0] == "OK"
    assert [one["folder"] for one in box.dump()["users"]["agent@mcp.com"]["emails"]] == ["INBOX", "Drafts"]


def test_the_seed_is_there_for_the_first_user_of_it(box: MailBox) -> None:
    seed = json.loads((ROOT / "tests" / "embedded" / "mail_seed.json").read_text())
    answer = box.initialize(seed["users"])
    assert answer.status_code == 200, answer.text
    assert answer.json()["sandbox_id"] == box.server_id
    assert answer.json()["message"] == "Put 3 emails into the mailboxes of 2 users"
    held = box.dump()
    assert list(held["users"]) == list(seed["users"])
    for email, user in seed["users"].items():
        for given, found in zip(user["emails"], held["users"][email]["emails"], strict=True):
            assert {key: found[key] for key in given} == given
    assert ids(box.call("get_emails")) == ["1"]
    assert "Subject: Zahlen für Q3 📈" in box.call("get_emails")
    assert box.initialize({"ann@mcp.com": {"emails": [mail("One more")]}}).status_code == 200
    assert len(box.emails("ann@mcp.com")) == 2


def test_looking_at_a_dump_marks_nothing_as_read_and_it_fills_another_sandbox(box: MailBox, other: MailBox) -> None:
    file = {"filename": "ä.bin", "content_type": "application/pdf", "content": base64.b64encode(b"pdf").decode()}
    box.fill(ann=[mail("a", attachments=[file], body_html="<p>a</p>"), mail("b", is_read=True, is_important=True)])
    held = box.dump()
    assert [one["is_read"] for one in box.emails("ann@mcp.com")] == [False, True]
    assert other.initialize(held["users"]).status_code == 200
    assert other.dump() == held


@pytest.mark.parametrize(
    ("body", "where", "words"),
    [
        ({"users": {"ann@mcp.com": {"emails": [{"subject": "x"}]}}}, "from_addr", "Field required"),
        ({"users": {"ann@mcp.com": {"emails": [mail(is_read="perhaps")]}}}, "is_read", "boolean"),
        ({"users": {"ann": {}}}, "ann", "an email address"),
        ({"users": {"a b@mcp.com\r\n": {}}}, "a b@mcp.com\r\n", "an email address"),
        ({"users": {"a{5}@mcp.com": {}}}, "a{5}@mcp.com", "an email address"),
        ({"users": {"ann@ü{5}.com": {}}}, "ann@ü{5}.com", "an email address"),
        ({"users": []}, "users", "dictionary"),
        ({"users": {"ann@mcp.com": {"emails": [mail("two\nlines")]}}}, "users", "subject must be one line"),
        (
            {"users": {"ann@mcp.com": {"emails": [mail(attachments=[{"filename": "x", "content": "?"}])]}}},
            "users",
            "no base64",
        ),
    ],
)
def test_data_that_cannot_be_is_refused_with_the_place(box: MailBox, body: Any, where: str, words: str) -> None:
    answer = box.user.api.post(f"/local-sandbox/{SERVER}/{box.id}/initialize", json=body)
    assert answer.status_code == 422, answer.text
    problem = answer.json()["detail"][0]
    assert where in problem["loc"]
    assert words in problem["msg"]


def test_the_routes_say_what_they_do_not_know(user: User, box: MailBox) -> None:
    route = f"/local-sandbox/{SERVER}"
    assert user.api.post(f"{route}/{box.id}/initialize").status_code == 200
    for value, status in {
        "true": 422,
        "false": 200,
        "7": 422,
        "foo": 422,
        "": 422,
        "false&init_default_data=7": 422,
    }.items():
        assert user.api.post(f"{route}/{box.id}/initialize?init_default_data={value}").status_code == status, value
    assert user.api.get(f"{route}/nobody/dump").status_code == 404
    without = user.acquire("filesystem")["local_sandbox_id"]
    answer = user.api.get(f"{route}/{without}/dump")
    assert (answer.status_code, "acquired without it" in answer.text) == (404, True)
    assert user.api.get(f"{route}/{box.id}/dump", headers={"Authorization": ""}).status_code == 401
    assert user.api.get(f"/local-sandbox/canvas/{box.id}/dump").status_code in {404, 405}


def test_two_sandboxes_with_the_same_addresses_never_meet(box: MailBox, other: MailBox) -> None:
    for one, word in ((box, "mine"), (other, "theirs")):
        one.fill(ann=[mail(word)], bob=[])
    with box.smtp("ann@mcp.com") as connection:
        connection.sendmail("ann@mcp.com", ["bob@mcp.com"], b"Subject: to my bob\r\n\r\nx")
    assert box.call("send_email", to="bob@mcp.com", subject="again", body="x").startswith("Email sent")
    assert len(box.emails("bob@mcp.com")) == 2
    assert other.emails("bob@mcp.com") == []
    assert "Subject: mine" in box.call("get_emails")
    assert "Subject: theirs" in other.call("get_emails")
    mine, theirs = box.access["users"]["ann@mcp.com"], other.access["users"]["ann@mcp.com"]
    assert mine["password"] != theirs["password"]
    with other.imap("ann@mcp.com") as outside:
        outside.select("INBOX")
        _, data = outside.fetch("1", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
        assert isinstance(data[0], tuple)
        assert b"theirs" in data[0][1]
    other.fill(only=[])
    assert "no such user" in box.call("send_email", to="only@mcp.com", subject="s", body="b")
    failed = box.as_user("ann@mcp.com", theirs["password"]).failure("get_emails")
    assert failed.startswith("Authentication failed for ann@mcp.com")
    assert theirs["password"] not in failed


def test_nobody_gets_in_without_the_right_password(box: MailBox) -> None:
    box.fill(ann=[], bob=[])
    access = box.access
    bobs = access["users"]["bob@mcp.com"]["password"]
    for email, password in (("ann@mcp.com", bobs), ("ann@mcp.com", ""), ("", bobs), ("nobody@mcp.com", bobs)):
        connection = imaplib.IMAP4(access["imap_server"], access["imap_port"], timeout=30)
        with pytest.raises(imaplib.IMAP4.error):
            connection.login(email or '""', password or '""')
        connection.shutdown()
        with smtplib.SMTP(access["smtp_server"], access["smtp_port"], timeout=30) as smtp:
            with pytest.raises(smtplib.SMTPException):
                smtp.login(email or "x", password)
            with pytest.raises(smtplib.SMTPException):
                smtp.sendmail("ann@mcp.com", ["bob@mcp.com"], b"Subject: x\r\n\r\n")
    assert box.emails("bob@mcp.com") == []


def test_the_header_says_whose_mail_is_meant(box: MailBox) -> None:
    users = {"ann@mcp.com": {"emails": [mail("for ann")], "password": "chosen by the task", "name": "Ann Ä"}}
    assert box.initialize(users | {"bob@mcp.com": {"emails": [mail("for bob")]}}).status_code == 200
    assert "for ann" in box.call("get_emails")
    assert "for bob" in box.as_user("Bob@mcp.com", box.access["users"]["bob@mcp.com"]["password"]).call("get_emails")
    ann = box.as_user("ann@mcp.com", "chosen by the task", name="Another Name")
    assert ann.call("send_email", to="bob@mcp.com", subject="s", body="b").startswith("Email sent")
    assert box.emails("bob@mcp.com")[1]["from_addr"] == "Another Name <ann@mcp.com>"
    for email, password in (("ann@mcp.com", "wrong"), ("carl@mcp.com", "chosen by the task"), ("bob@mcp.com", "")):
        for tool in ("get_emails", "save_draft", "check_connection"):
            arguments = {"subject": "s", "body": "b"} if tool == "save_draft" else {}
            failed = box.as_user(email, password).failure(tool, **arguments)
            assert failed.startswith(f"Authentication failed for {email}")
            assert "Its accounts: agent@mcp.com, ann@mcp.com, bob@mcp.com" in failed
    for header in ("not base64!", base64.b64encode(b"[]").decode(), base64.b64encode(b'{"email": 1}').decode(), ""):
        broken = MailBox(box.user, box.id, box.server_id, box.url, {"x-email-config": header})
        assert "x-email-config must be base64 of a JSON object" in broken.failure("get_folders")


def test_a_reset_leaves_one_empty_account_and_ends_connections(box: MailBox) -> None:
    box.fill(ann=[mail("old")])
    box.call("save_draft", subject="s", body="b")
    box.call("get_emails", folder="Trash")
    old = box.access["users"]
    connection = box.imap("ann@mcp.com")
    box.reset()
    with pytest.raises((imaplib.IMAP4.error, OSError)):
        connection.select("INBOX")
    connection.shutdown()
    assert box.dump() == {"users": {"agent@mcp.com": {"emails": []}}}
    assert list(box.access["users"]) == ["agent@mcp.com"]
    assert box.access["password"] == old["agent@mcp.com"]["password"]  # who was told it goes on
    assert box.as_user("ann@mcp.com", old["ann@mcp.com"]["password"]).failure("get_emails")
    assert box.call("get_drafts") == "No drafts found"
    box.fill(ann=[mail("new")])
    assert [one["subject"] for one in box.emails("ann@mcp.com")] == ["new"]


def test_a_release_ends_connections_and_forgets(box: MailBox) -> None:
    box.fill(ann=[mail("old")])
    access, connection = box.access, box.imap("ann@mcp.com")
    box.release()
    with pytest.raises((imaplib.IMAP4.error, OSError)):
        wait_until(lambda: connection.noop()[0] == "never")
    connection.shutdown()
    again = imaplib.IMAP4(access["imap_server"], access["imap_port"], timeout=30)
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        again.login("ann@mcp.com", access["users"]["ann@mcp.com"]["password"])
    again.shutdown()


def test_a_message_of_ten_megabytes_goes_through_and_one_of_forty_does_not(box: MailBox) -> None:
    message = MIMEMultipart()
    message["Subject"] = "large"
    body = base64.encodebytes(os.urandom(10 << 20))
    raw = b"Subject: large\r\nContent-Transfer-Encoding: base64\r\n\r\n" + body.replace(b"\n", b"\r\n")
    with box.smtp() as connection:
        connection.sendmail("agent@mcp.com", ["agent@mcp.com"], raw)
        with pytest.raises(smtplib.SMTPException):
            connection.sendmail("agent@mcp.com", ["agent@mcp.com"], raw * 4)
    with box.imap() as imap:
        imap.select("INBOX")
        _, data = imap.fetch("1", "(RFC822)")
        assert isinstance(data[0], tuple)
        assert len(data[0][1]) > len(raw)
    assert "Subject: large" in box.call("search_emails", query="large")


def test_a_flood_fills_its_own_mailbox_only(box: MailBox, other: MailBox) -> None:
    raw = b"Subject: flood\r\n\r\n" + (b"x" * 998 + b"\r\n") * (8 << 10)
    refusal: Exception | None = None
    with box.smtp() as connection:
        for _ in range(40):
            try:
                connection.sendmail("agent@mcp.com", ["agent@mcp.com"], raw)
            except smtplib.SMTPException as error:
                refusal = error
                break
    assert refusal is not None, "it took everything"
    assert "bytes" in str(refusal)
    with box.imap() as imap:
        status, data = imap.append("INBOX", "", "", raw)
        assert (status, b"OVERQUOTA" in data[0]) == ("NO", True)
        imap.select("INBOX")
        assert imap.copy("1", "Trash")[0] == "NO"
    said = box.call("send_email", to="agent@mcp.com", subject="s", body="x" * 8_000_000)
    assert said.startswith("Error sending email: ")
    assert other.call("send_email", to="agent@mcp.com", subject="s", body="b").startswith("Email sent successfully")
    many = [str(number) for number in range(1, 17)]
    assert box.call("delete_emails", email_ids=many).startswith("Successfully deleted ")
    assert box.call("send_email", to="agent@mcp.com", subject="s", body="b").startswith("Email sent successfully")


def test_connections_are_counted(box: MailBox, other: MailBox) -> None:
    open_ones = []
    access = box.access
    for _ in range(60):
        connection = imaplib.IMAP4(access["imap_server"], access["imap_port"], timeout=30)
        open_ones.append(connection)
        try:
            connection.login(access["email"], access["password"])
        except imaplib.IMAP4.error as error:
            assert "too many connections" in str(error)  # noqa: PT017
            break
    else:
        pytest.fail("sixty connections of one sandbox were taken")
    assert other.call("get_emails").startswith("Folder 'INBOX' is empty")
    for connection in open_ones:
        connection.shutdown()
    wait_until(lambda: "empty" in box.call("get_emails"))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00\xff" * 100,
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\n" + b"--x\r\n" * 2_000,
        b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(2_000)),
        b"Subject: =?utf-8?b?!!!!?=\r\nContent-Type: text/plain; charset=nonsense\r\n\r\n\xff\xfe",
        b"Content-Type: text/plain; charset=idna\r\nContent-Transfer-Encoding: base64\r\n\r\n====",
        b"From: " + b"a" * 900 + b"\r\nTo: <<<>>>,,,\r\nDate: never\r\nMessage-ID: \r\n\r\n",
        b"Subject: " + b"=?utf-8?q?" * 90 + b"\r\n\r\n",
        b"".join(b"From: " + b"(" * 900 + b"\r\n" for _ in range(20)) + b"\r\n",
        b"From: \r\n " + b"((((\r\n " * 900 + b"\r\n\r\n",
    ],
)
def test_what_is_no_message_breaks_nothing(box: MailBox, raw: bytes) -> None:
    with box.smtp() as connection:
        try:
            connection.sendmail("agent@mcp.com", ["agent@mcp.com"], raw)
        except smtplib.SMTPServerDisconnected:
            raise
        except smtplib.SMTPException:
            pass  # refused is fine
        connection.sendmail("agent@mcp.com", ["agent@mcp.com"], b"Subject: after\r\n\r\nneedle")
    count = len(ids(box.call("get_emails")))
    assert count in {1, 2}
    for number in range(1, count + 1):
        assert box.call("read_email", email_id=str(number))
        assert box.call("get_email_headers", email_id=str(number))
    assert ids(box.call("search_emails", query="needle")) == [str(count)]
    assert box.dump()["users"]["agent@mcp.com"]["emails"][-1]["subject"] == "after"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"Content-Type: multipart/mixed; boundary=x\r\n\r\n" + b"--x\r\n" * 400, "more than 300 parts"),
        (
            b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(60)),
            "nested more than 50 times",
        ),
        (b"Subject: a\r\n" + b" b\r\n" * 20_000 + b"\r\n", "header is longer than"),
        (b'Content-Type: text/plain; a="' + b";" * 900 + b"\r\n\r\n", "says of its parts is too long"),
        (b"Subject: a\r\ncontent-type\t:" + b"\r\n a" * 2_000 + b"\r\n\r\n", "says of its parts is too long"),
        (IN_PARTS % b'Content-Type: text/plain; a="; b', "says of its parts is too long"),
        (IN_PARTS % b'X: y\rCONTENT-Disposition: attachment; filename="\\"', "says of its parts is too long"),
        (b"Subject: a\r\n\r\n" + (b"Content-Type: a/" + b"a" * 900 + b"\r\n") * 150, "says of its parts is too long"),
    ],
)
def test_what_keeps_parsers_busy_is_not_taken(box: MailBox, raw: bytes, words: str) -> None:
    with box.smtp() as connection, pytest.raises(smtplib.SMTPException, match=words):
        connection.sendmail("agent@mcp.com", ["agent@mcp.com"], raw)
    with box.imap() as imap:
        status, data = imap.append("INBOX", "", "", raw)
    assert (status, words in str(data)) == ("NO", True)
    box.user.upload(box.id, {"x.eml": raw.decode()})
    assert words in box.call("import_emails", import_path="x.eml")
    assert box.emails("agent@mcp.com") == []


def test_a_client_that_talks_nonsense_bothers_nobody(box: MailBox) -> None:
    access = box.access
    literals = (b"a1 LOGIN {999999999999}\r\n", b"a1 LOGIN {99999999+}\r\nx")
    for port in (access["imap_port"], access["smtp_port"]):
        for said in (b"\x00" * 70_000, b"GET / HTTP/1.1\r\n\r\n", *literals):
            with socket.create_connection((access["imap_server"], port), timeout=30) as connection:
                try:
                    connection.sendall(said)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65_536):
                        pass
                except ConnectionError:
                    pass
    assert box.call("check_connection").endswith("All connections are working properly")


def test_sixteen_agents_at_once(user: User) -> None:
    boxes = [new_mailbox(user) for _ in range(16)]

    def work(number: int) -> list[str]:
        box = boxes[number]
        box.fill(ann=[mail(f"seed {number}")], bob=[])
        for turn in range(3):
            said = box.call("send_email", to="bob@mcp.com", subject=f"{number}/{turn}", body="b")
            assert said == "Email sent successfully to bob@mcp.com"
            box.call("search_emails", query="seed")
        return [one["subject"] for one in box.emails("bob@mcp.com")]

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(work, range(16)))
    assert found == [[f"{number}/{turn}" for turn in range(3)] for number in range(16)]
    for box in boxes:
        box.release()


def test_many_calls_at_once_in_one_sandbox(box: MailBox) -> None:
    def work(number: int) -> str:
        return box.call("send_email", to="agent@mcp.com", subject=str(number), body="b")

    with ThreadPoolExecutor(16) as pool:
        said = list(pool.map(work, range(32)))
    assert set(said) == {"Email sent successfully to agent@mcp.com"}
    assert sorted(int(one["subject"]) for one in box.emails("agent@mcp.com")) == list(range(32))


def test_the_process_starts_with_the_first_mailbox_and_ends_with_the_server(start: Callable[..., User]) -> None:
    user = start()
    user.acquire("filesystem")
    assert [pid for pid in processes_with("embedded/mail\0") if parent(pid) == user.server_pid] == []
    new_mailbox(user)
    pid = mail_process(user)
    new_mailbox(user)
    assert mail_process(user) == pid
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert {entry.partition(b"=")[0] for entry in environment} <= {b"LANG", b"TZ", b"LC_CTYPE", b""}
    if os.geteuid() == 0:
        owners = Path(f"/proc/{pid}/status").read_text().partition("Uid:")[2].split()[:4]
        assert len(set(owners)) == 1
        assert int(owners[0]) >= 40_000
    user.say("close")
    wait_until(lambda: not alive(pid))


def test_the_process_does_not_outlive_a_server_that_is_killed(start: Callable[..., User]) -> None:
    user = start()
    new_mailbox(user)
    pid = mail_process(user)
    os.kill(user.server_pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid))


def test_a_killed_process_is_an_error_of_ours_until_the_reset(start: Callable[..., User]) -> None:
    user = start()
    box, other = new_mailbox(user), new_mailbox(user)
    box.fill(ann=[mail("lost")])
    os.kill(mail_process(user), signal.SIGKILL)
    wait_until(lambda: "error" in box.reply("get_emails", {}))
    error = box.reply("get_emails", {})["error"]
    assert error["code"] == -32012
    assert f"the mail of sandbox {box.id} is lost: the mail process ended (exit code -9)" in error["message"]
    for lost in (user.api.get(f"/local-sandbox/{SERVER}/{box.id}/dump"), box.initialize({"ann@mcp.com": {}})):
        assert lost.status_code == 409
        assert "is lost: the mail process ended" in lost.json()["detail"]
    ports = (box.access["imap_port"], box.access["smtp_port"])
    fresh = new_mailbox(user)
    assert fresh.call("send_email", to="agent@mcp.com", subject="s", body="b").startswith("Email sent")
    assert "is lost" in box.reply("get_emails", {})["error"]["message"]
    box.reset()
    assert box.call("get_emails").startswith("Folder 'INBOX' is empty")
    assert (box.access["imap_port"], box.access["smtp_port"]) == ports
    with box.imap() as connection:
        assert connection.select("INBOX") == ("OK", [b"0"])
    other.release()
    box.release()


def test_without_its_environment_mail_is_refused_with_the_command(
    start: Callable[..., User], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KLAVIS_SERVERS_DIR", str(tmp_path))
    user = start()
    answer = user.api.post("/local-sandbox", json={"server_names": ["filesystem", SERVER]})
    assert answer.status_code == 409
    assert f"{SERVER} cannot be served: the servers are not installed" in answer.json()["detail"]
    assert "pytest-klavis servers install" in answer.json()["detail"]
    answer = user.api.post("/local-sandbox", json={"server_names": "ALL"})
    assert answer.status_code == 201
    (item,) = (one for one in answer.json()["servers"] if one["server_name"] == SERVER)
    assert item["status"] == "error"
    assert "pytest-klavis servers install" in item["metadata"]["reason"]
    assert "auth_data" not in item


def test_all_servers_have_mail_among_them(box: MailBox) -> None:
    answer = box.user.api.post("/local-sandbox", json={"server_names": "ALL"})
    (item,) = (one for one in answer.json()["servers"] if one["server_name"] == SERVER)
    assert (item["status"], item["auth_data"]["email"]) == ("occupied", "agent@mcp.com")
