"""SMTP: aiosmtpd that delivers to the accounts of the sender's own sandbox, and lets nothing out."""

from __future__ import annotations

import asyncio
import hmac
from datetime import UTC, datetime
from email.parser import BytesHeaderParser
from email.utils import format_datetime, make_msgid
from typing import TYPE_CHECKING, Any

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
from pymap.parsing.message import AppendMessage

from .houses import CONNECTIONS, MESSAGE
from .imap import folders_of
from .mailboxes import ALL_FULL, RefusedError

if TYPE_CHECKING:
    from aiosmtpd.smtp import Envelope, Session

    from .houses import Account, Houses


class Handler:
    """What SMTP does with senders, recipients and messages."""

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        house = session.auth_data.house
        if house.knows(address.lower().rpartition("@")[2]) and address.lower() not in house.accounts:
            return f"550 5.1.1 <{address}>: Recipient address rejected: there is no such user here"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 OK"

    async def handle_DATA(self, _: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        sender: Account = session.auth_data
        content = envelope.content
        assert isinstance(content, bytes)
        message = completed(content, sender.email)
        known = {address.lower() for address in envelope.rcpt_tos} & sender.house.accounts.keys()
        for address in sorted(known):
            inbox = await folders_of(sender.house.accounts[address]).get_mailbox("INBOX")
            try:
                await inbox.append(AppendMessage(message, datetime.now(UTC)), recent=True)
            except RefusedError as error:
                if error.code == ALL_FULL:
                    return f"452 4.3.1 {error}"
                return f"552 5.2.2 <{address}>: {error}"
        return "250 2.0.0 OK: accepted"


class Smtp(SMTP):
    """One connection; the server is told which sandbox it belongs to as soon as that is known."""

    def __init__(self, houses: Houses) -> None:
        super().__init__(
            Handler(),
            data_size_limit=MESSAGE,
            enable_SMTPUTF8=True,
            hostname="localhost",
            ident="Klavis mail",
            auth_required=True,
            auth_require_tls=False,
            authenticator=self._login,
            loop=asyncio.get_running_loop(),
        )
        self._houses = houses
        self._counted = False

    def connection_made(self, transport: Any) -> None:
        room = self._houses.room
        if room.connections >= CONNECTIONS:
            transport.write(b"421 4.3.2 too many connections\r\n")
            transport.close()
            return
        room.connections += 1
        self._counted = True
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._counted:
            self._counted = False
            self._houses.room.connections -= 1
            super().connection_lost(error)

    def _login(self, _: SMTP, __: Session, ___: Envelope, ____: str, data: Any) -> AuthResult:
        account = None
        if isinstance(data, LoginPassword):
            password = data.password
            name = data.login.decode("utf-8", "replace")
            account = self._houses.login(name, lambda one: hmac.compare_digest(one.password.encode(), password))
        if account is None:
            return AuthResult(success=False, handled=False)
        task = self._handler_coroutine
        if task is not None:
            account.house.connections.add(task)
            task.add_done_callback(account.house.connections.discard)
        return AuthResult(success=True, auth_data=account)


def completed(content: bytes, sender: str) -> bytes:
    """The message with the Date and Message-ID that it lacks."""
    headers = BytesHeaderParser().parsebytes(content)
    added = b""
    if "Date" not in headers:
        added += f"Date: {format_datetime(datetime.now(UTC))}\r\n".encode()
    if "Message-ID" not in headers:
        domain = sender.rpartition("@")[2].encode("ascii", "ignore").decode() or "localhost"
        added += f"Message-ID: {make_msgid(domain=domain)}\r\n".encode()
    return added + content
