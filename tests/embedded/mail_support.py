"""Sandboxes with mail on a real embedded server: their tools over HTTP, their mailboxes by imaplib and smtplib."""

from __future__ import annotations

import base64
import imaplib
import json
import smtplib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.embedded.conftest import User

SERVER = "poste_email_toolathlon"


@dataclass
class MailBox:
    """One sandbox with mail."""

    user: User
    id: str
    server_id: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)

    def reply(self, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The whole JSON-RPC answer of a call."""
        asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
        found: dict[str, Any] = httpx.post(self.url, json=asked, headers=self.headers, timeout=120).json()
        return found

    def call(self, tool: str, /, **arguments: Any) -> str:
        """The text of an answer that is none of the protocol's errors; both of its shapes say the same."""
        answer = self.reply(tool, arguments)
        assert "result" in answer, answer
        result = answer["result"]
        text = str(result["content"][0]["text"])
        assert not result["isError"], text
        assert result["structuredContent"] == {"result": text}
        return text

    def failure(self, tool: str, /, **arguments: Any) -> str:
        """What a call says that the protocol marks as an error of the tool."""
        result = self.reply(tool, arguments)["result"]
        assert result["isError"], result
        return str(result["content"][0]["text"])

    def as_user(self, email: str, password: str | None = None, **more: str) -> MailBox:
        """The same sandbox, for an agent that sends the header."""
        own = self.access["users"].get(email, {}).get("password", "")
        config = {"email": email, "password": own if password is None else password, **more}
        header = base64.b64encode(json.dumps(config).encode()).decode()
        return MailBox(self.user, self.id, self.server_id, self.url, {"x-email-config": header})

    @property
    def access(self) -> dict[str, Any]:
        """What the details of the sandbox tell a mail program."""
        (item,) = (one for one in self._details()["servers"] if one["server_name"] == SERVER)
        return dict(item["auth_data"])

    def _details(self) -> dict[str, Any]:
        answer = self.user.api.get(f"/local-sandbox/{self.id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def initialize(self, users: Mapping[str, Any]) -> httpx.Response:
        return self.user.api.post(f"/local-sandbox/{SERVER}/{self.server_id}/initialize", json={"users": users})

    def fill(self, **mails: Iterable[Mapping[str, Any]]) -> None:
        """Give `name`@mcp.com these emails."""
        answer = self.initialize({f"{name}@mcp.com": {"emails": list(entries)} for name, entries in mails.items()})
        assert answer.status_code == 200, answer.text

    def dump(self) -> dict[str, Any]:
        answer = self.user.api.get(f"/local-sandbox/{SERVER}/{self.id}/dump")
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["data"])

    def emails(self, email: str, folder: str = "INBOX") -> list[dict[str, Any]]:
        """What a dump has in one folder."""
        return [one for one in self.dump()["users"][email]["emails"] if one["folder"] == folder]

    def imap(self, email: str | None = None) -> imaplib.IMAP4:
        """A mail program from outside, logged in."""
        access = self.access
        who = email or access["email"]
        connection = imaplib.IMAP4(access["imap_server"], access["imap_port"], timeout=30)
        connection.login(who, access["users"][who]["password"])
        return connection

    def smtp(self, email: str | None = None) -> smtplib.SMTP:
        access = self.access
        who = email or access["email"]
        connection = smtplib.SMTP(access["smtp_server"], access["smtp_port"], timeout=30)
        connection.login(who, access["users"][who]["password"])
        return connection

    def reset(self) -> None:
        answer = self.user.api.post(f"/local-sandbox/{self.id}/reset")
        assert answer.status_code == 200, answer.text

    def release(self) -> None:
        self.user.api.delete(f"/local-sandbox/{self.id}")


def new_mailbox(user: User, *more: str) -> MailBox:
    """A new sandbox with mail; skips the test where the servers' environment is missing."""
    answer = user.api.post("/local-sandbox", json={"server_names": [SERVER, *more]})
    if answer.status_code == 409 and "servers install" in answer.text:
        pytest.skip(f"mail needs the servers' environment: {answer.json()['detail']}")
    assert answer.status_code == 201, answer.text
    found = answer.json()
    item = next(one for one in found["servers"] if one["server_name"] == SERVER)
    return MailBox(user, found["local_sandbox_id"], item["id"], item["mcp_server_url"])


def mail(subject: str = "Hello", body: str = "text", **more: Any) -> dict[str, Any]:
    """An email to put into a mailbox."""
    return {
        "subject": subject,
        "from_addr": "Boss <boss@example.com>",
        "to_addr": "ann@mcp.com",
        "body_text": body,
        **more,
    }


def ids(listed: str) -> list[str]:
    """The ids in a list of emails or drafts, as it shows them."""
    return [line.partition("ID: ")[2] for line in listed.splitlines() if ". ID: " in line]
