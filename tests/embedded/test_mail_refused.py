"""What mailboxes do not take: lines in headers, imports without end, and mail when others have filled the process."""

from __future__ import annotations

import json
import os
import smtplib
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_klavis.embedded.mail import office
from pytest_klavis.embedded.mail.client import FolderError, mailbox, send
from pytest_klavis.embedded.mail.composing import compose
from pytest_klavis.embedded.mail.office import Account, Mail, MailError
from pytest_klavis.embedded.side import Missing, locate
from pytest_klavis.embedded.side.environment import RECORD, folder, read_lock
from tests.embedded.mail_support import SERVER, MailBox, mail, new_mailbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.embedded.conftest import User


@pytest.fixture
def box(user: User) -> Iterator[MailBox]:
    made = new_mailbox(user)
    made.fill(ann=[])
    yield made
    made.release()


def imported(box: MailBox, *entries: dict[str, Any]) -> str:
    box.user.upload(box.id, {"in.json": json.dumps({"emails": [{"email_id": "1", **entry} for entry in entries]})})
    return box.call("import_emails", import_path="in.json")


@pytest.mark.parametrize("key", ["subject", "from_addr", "message_id", "date", "content_type"])
def test_no_field_brings_another_line_into_a_header(box: MailBox, key: str) -> None:
    for mark in ("\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\x00"):
        value = f"text/plain{mark}X-Evil: 1"
        file = {"filename": "f", "content_type": value, "content": "aGk="}
        entry = mail(attachments=[file]) if key == "content_type" else mail() | {key: value}
        answer = box.initialize({"ann@mcp.com": {"emails": [entry]}})
        assert answer.status_code == 422, answer.text
        assert f"{key} must be one line" in answer.json()["detail"][0]["msg"]
        assert f"{key} must be one line" in imported(box, entry)
    assert box.emails("ann@mcp.com") == []


def test_tabs_wide_blanks_and_joined_emoji_are_no_lines(box: MailBox) -> None:
    box.fill(ann=[mail("a\tb\u3000c\xa0d 👩\u200d💻")])
    assert [one["subject"] for one in box.emails("ann@mcp.com")] == ["a\tb\u3000c\xa0d 👩\u200d💻"]


def test_a_folder_that_is_no_text_is_named_by_it(box: MailBox) -> None:
    assert imported(box, mail(folder={"a": 1})).startswith("Successfully imported 1/1 emails")


def test_an_import_makes_no_more_objects_than_it_may(box: MailBox) -> None:
    entry = mail(attachments=[{"filename": "f", "content": "aGkh" * (2 << 20)}])
    assert imported(box, entry) == "Successfully imported 1/1 emails to INBOX"
    bombs = {"[[]" + ",[]" * 300_000 + "]": "more than 250000 lists", os.urandom(9 << 20).hex(): "larger than 16777216"}
    for bomb, words in bombs.items():
        assert box.user.upload(box.id, {"in.json": bomb}).status_code == 200
        said = box.call("import_emails", import_path="in.json")
        assert said.startswith("Error importing emails: ")
        assert words in said


@pytest.fixture
def crowded() -> Iterator[Mail]:
    """A mailbox in a mail process that has room for 200 kB of everybody."""
    found = locate()
    if isinstance(found, Missing):
        pytest.skip(f"mail needs the servers' environment: {found.reason}")
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    handed = [one.fileno() for one in sockets]
    boot = office._BOOT.replace(
        "runpy.run_module", "import process.houses as h; h.EVERYTHING = 200_000; runpy.run_module"
    )
    process = subprocess.Popen(
        [found.python, "-I", "-c", boot, str(Path(office.__file__).parent), *map(str, handed), "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=handed,
        cwd="/",
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert "ready" in process.stdout.readline()
    process.stdin.write(json.dumps({"add": "mine", "users": {"ann@mcp.com": "secret"}}) + "\n")
    process.stdin.flush()
    process.stdout.readline()
    ports = tuple(one.getsockname()[1] for one in sockets)
    yield Mail("mine", cast("office.Office", SimpleNamespace(ports=ports)))
    process.stdin.close()
    process.wait(30)
    process.stdout.close()
    for one in sockets:
        one.close()


def test_what_others_have_filled_is_no_failure_of_the_agent(crowded: Mail) -> None:
    ann = Account("ann@mcp.com", "Ann", "secret")
    with mailbox(crowded, ann) as box:
        box.append("INBOX", b"Subject: first\r\n\r\n" + b"x" * 150_000)
        box.select("INBOX")
        with pytest.raises(MailError, match=r"full of other sandboxes' mail.*takes \d+ of 200000"):
            box.append("INBOX", b"Subject: second\r\n\r\n" + b"x" * 150_000)
        with pytest.raises(MailError, match="full of other sandboxes' mail"):
            box.copy("1", "Trash")
        with pytest.raises(FolderError, match="nested more than"):
            box.append("INBOX", b"".join(b"\nContent-Type: a/b; boundary=b%d\n" % number for number in range(60)))
    with pytest.raises(MailError, match="full of other sandboxes' mail"):
        send(crowded, ann, compose(ann, "ann@mcp.com", "s", "x" * 150_000), ["ann@mcp.com"])
    with pytest.raises(smtplib.SMTPException, match="no such user"):
        send(crowded, ann, compose(ann, "bob@mcp.com", "s", "b"), ["bob@mcp.com"])


def test_all_servers_come_without_mail_where_its_process_does_not_start(
    start: Callable[..., User], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KLAVIS_SERVERS_DIR", str(tmp_path))
    prefix = folder() / read_lock().key
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "python").symlink_to("/bin/false")
    (prefix / RECORD).write_text("{}")
    user = start()
    answer = user.api.post("/local-sandbox", json={"server_names": "ALL"})
    assert answer.status_code == 201, answer.text
    items = {one["server_name"]: one for one in answer.json()["servers"]}
    assert items[SERVER]["status"] == "error"
    assert "did not start" in items[SERVER]["metadata"]["reason"]
    assert items["filesystem"]["status"] == "occupied"
