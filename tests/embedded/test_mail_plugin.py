"""Mail through the plugin: `data=` in, `dump()` out, evidence of a failure, credentials that nobody is told."""

from __future__ import annotations

import json

import pytest

from pytest_klavis.embedded.side import Missing, locate

MAIL = {
    "users": {
        "ann@mcp.com": {
            "emails": [{"subject": "Q3", "from_addr": "Boss <boss@example.com>", "to_addr": "ann@mcp.com"}],
            "password": "planted-own-password",
        },
        "bob@mcp.com": {"password": "planted-bobs-password"},
    }
}


@pytest.fixture(autouse=True)
def environment() -> None:
    found = locate()
    if isinstance(found, Missing):
        pytest.skip(f"mail needs the servers' environment: {found.reason}")


@pytest.mark.parametrize("workers", [[], ["-n2"]])
def test_mail_goes_in_and_comes_out(pytester: pytest.Pytester, workers: list[str]) -> None:
    (pytester.path / "mail.json").write_text(json.dumps(MAIL))
    pytester.makepyfile(
        f"""
        import imaplib, smtplib
        import pytest
        MAIL = {MAIL!r}

        @pytest.mark.klavis_benchmark("Toolathlon")
        @pytest.mark.local_sandbox(
            ["filesystem", "emails"], workspace={{"a.txt": "inside"}}, data={{"emails": "mail.json"}}
        )
        def test_declared(sandbox):
            assert "Subject: Q3" in sandbox.call_tool("get_emails").text
            sent = sandbox.call_tool(
                "send_email", {{"to": "bob@mcp.com", "subject": "s", "body": "b", "attachments": ["/data/a.txt"]}}
            )
            assert sent.text == "Email sent successfully to bob@mcp.com with 1 attachments"
            assert sent.data == {{"result": sent.text}}
            [got] = sandbox.dump("emails")["users"]["bob@mcp.com"]["emails"]
            assert got["attachments"][0]["filename"] == "a.txt"

            assert list(sandbox.servers["emails"].headers) == ["x-email-config"]
            assert sandbox.servers["filesystem"].headers == {{}}
            assert "x-email-config" in sandbox.mcp_config()["mcpServers"]["emails"]["headers"]

        @pytest.mark.parametrize("number", range(3))
        def test_by_factory(local_sandbox, number):
            box = local_sandbox("poste_email_toolathlon", data={{"poste_email_toolathlon": MAIL}})
            assert list(box.dump()["users"]) == ["ann@mcp.com", "bob@mcp.com"]
            access = box.auth_data["poste_email_toolathlon"]
            with smtplib.SMTP(access["smtp_server"], access["smtp_port"]) as smtp:
                smtp.login("bob@mcp.com", access["users"]["bob@mcp.com"]["password"])
                smtp.sendmail("bob@mcp.com", ["ann@mcp.com"], b"Subject: from outside\\r\\n\\r\\nhi")
            with imaplib.IMAP4(access["imap_server"], access["imap_port"]) as imap:
                imap.login(access["email"], access["password"])
                assert imap.select("INBOX") == ("OK", [b"2"])
            box.reset()
            assert box.dump() == {{"users": {{"agent@mcp.com": {{"emails": []}}}}}}
            box.initialize(MAIL)
            assert len(box.dump()["users"]["ann@mcp.com"]["emails"]) == 1
        """
    )
    pytester.runpytest_subprocess("-p", "no:randomly", *workers).assert_outcomes(passed=4)


def test_a_failure_keeps_the_mail_and_tells_no_password(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        f"""
        def test_it(local_sandbox):
            box = local_sandbox("poste_email_toolathlon", data={{"poste_email_toolathlon": {MAIL!r}}})
            access = dict(box.info()["auth_data"]["poste_email_toolathlon"])
            print("told:", access["password"], access["users"])
            print("bob's:", "planted-bobs-password")
            print("chosen:", "planted-own-password", box.servers["poste_email_toolathlon"].headers)
            box.call_tool("save_draft", {{"subject": "kept", "body": "b"}})
            assert access["password"] == "", access["password"]
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["the data of poste_email_toolathlon: data-poste_email_toolathlon.json"])
    [saved] = pytester.path.glob("klavis-artifacts/latest/*/attempt-1/local/data-poste_email_toolathlon.json")
    ann = json.loads(saved.read_text())["users"]["ann@mcp.com"]
    assert [one["subject"] for one in ann["emails"]] == ["Q3"]
    assert [one["subject"] for one in ann["drafts"]] == ["kept"]
    (told,) = (line for line in result.outlines if line.startswith("told: "))
    assert told.split()[1] == "<auth_data.password>", told
    for planted in ("planted-own-password", "planted-bobs-password"):
        assert planted not in result.stdout.str() + saved.read_text()
    assert "bob's: <password of the mail>" in result.outlines
    assert "chosen: <password of the mail> {'x-email-config': '<redacted>'}" in result.outlines
    assert "'ann@mcp.com': {'password': '<auth_data.password>'" in told


def test_mail_that_is_refused_is_an_error_that_says_where(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_it(local_sandbox):
            local_sandbox("poste_email_toolathlon", data={"poste_email_toolathlon": {"users": {"nobody": {}}}})
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*SeedError*data could not be put into it*422*nobody*an email address*"])


def test_a_mail_process_that_dies_is_no_failure_of_the_agent(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os, signal
        from pathlib import Path

        def test_it(local_sandbox):
            box = local_sandbox("poste_email_toolathlon")
            port = box.info()["auth_data"]["poste_email_toolathlon"]["imap_port"]
            for entry in Path("/proc").glob("[0-9]*"):
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\\0")
                    inodes = {os.readlink(one) for one in (entry / "fd").iterdir()}
                except OSError:
                    continue
                if any(word.endswith(b"embedded/mail") for word in words) and listens(port) & inodes:
                    os.kill(int(entry.name), signal.SIGKILL)
            while True:
                box.call_tool("get_folders")

        def listens(port):
            lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            return {f"socket:[{line[9]}]" for line in lines if line[1].endswith(f":{port:04X}") and line[3] == "0A"}
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*the mail of sandbox * is lost: the mail process ended (exit code -9)*"])
