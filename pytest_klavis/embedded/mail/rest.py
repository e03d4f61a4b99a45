"""The typed routes of the mail server: what a sandbox's mailboxes are filled with, and what they hold."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import imaplib
import re
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from pytest_klavis.embedded import bodies, fields
from pytest_klavis.embedded.mail import transfer
from pytest_klavis.embedded.mail.client import FolderError
from pytest_klavis.embedded.mail.office import SERVER, MailError
from pytest_klavis.embedded.sandbox import now
from pytest_klavis.embedded.web import Refusal, encode_aside, invalid, read_object, refuse_invalid, reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from pytest_klavis.embedded.mail.office import Account, Mail
    from pytest_klavis.embedded.sandbox import Sandbox
    from pytest_klavis.embedded.sandboxes import Sandboxes
    from pytest_klavis.embedded.threads import Threads

LIMIT = 192 << 20  # bytes of a body: a full mailbox with its attachments as base64
USERS = 500
PATIENCE = 120.0  # seconds that filling the mailboxes of a sandbox, or reading them, may take
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$&'+/=?^_~-]{1,64}@[A-Za-z0-9._-]{1,255}")  # what IMAP logs in with as it is


class MailRest:
    """Handlers, one per operation."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    async def initialize(self, request: Request) -> Response:
        sandbox, mail = self._find(request)
        _check_default_data(request.query_params.getlist("init_default_data"))
        users = (await _order(request)).get("users") or {}
        async with sandbox.gate:
            if sandbox.gone:
                raise fields.unknown_sandbox(sandbox.id)
            try:
                async with _patience("filled"):
                    count = await _fill(sandbox.context(SERVER).threads, mail, users)
            except MailError as error:
                raise Refusal(409, str(error)) from error
            except FolderError as error:
                raise Refusal(413, f"the mail does not fit: {error}") from error
            except ValueError as error:
                refuse_invalid(invalid(["body", "users"], str(error), "value_error"))
            sandbox.touch()
        answer: bodies.InitializeSandboxResponse = {
            "sandbox_id": request.path_params["sandbox_id"],
            "status": "occupied",
            "message": f"Put {count} emails into the mailboxes of {len(users)} users",
        }
        return reply(answer)

    async def dump(self, request: Request) -> Response:
        sandbox, mail = self._find(request)
        async with sandbox.gate:
            if sandbox.gone:
                raise fields.unknown_sandbox(sandbox.id)
            try:
                async with _patience("read"):
                    threads = sandbox.context(SERVER).threads
                    users = {account.email: await _held(threads, mail, account) for account in mail.accounts.values()}
            except MailError as error:
                raise Refusal(409, str(error)) from error
        first, *others = users
        if others and not any(users[first].values()):
            del users[first]  # the default account, which nobody asked for and nobody used
        answer: bodies.DumpPosteEmailResponse = {
            "sandbox_id": request.path_params["sandbox_id"],
            "server_name": SERVER,
            "dumped_at": now(),
            "data": {"users": users},
        }
        return reply(await encode_aside(answer))

    def _find(self, request: Request) -> tuple[Sandbox, Mail]:
        """By the sandbox's id or by that of its mail server: the API reference does not say which is meant."""
        given = request.path_params["sandbox_id"]
        sandbox = self._sandboxes.find(given) or next(
            (one for one in self._sandboxes if one.servers.get(SERVER) == given), None
        )
        if sandbox is None:
            raise fields.unknown_sandbox(given)
        if sandbox.mail is None:
            raise Refusal(404, f"Local sandbox {given} has no server {SERVER!r}: it was acquired without it")
        return sandbox, sandbox.mail


async def _order(request: Request) -> bodies.PosteEmailData:
    """Raises Refusal 413 and 422."""
    given = await read_object(request, LIMIT, required=False)
    try:
        order = await asyncio.to_thread(_checker().validate_python, given)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        refuse_invalid(*(invalid(["body", *one["loc"]], one["msg"], one["type"], one["input"]) for one in found[:50]))
    users = order.get("users") or {}
    wrong = [address for address in users if not _ADDRESS.fullmatch(address)]
    if wrong:
        text = "Input should be an email address, such as 'ann@example.com'"
        refuse_invalid(*(invalid(["body", "users", one], text, "value_error", one) for one in wrong[:50]))
    if len(users) > USERS:
        refuse_invalid(invalid(["body", "users"], f"Input should have at most {USERS} users", "too_long"))
    return order


@functools.cache
def _checker() -> TypeAdapter[bodies.PosteEmailData]:
    return TypeAdapter(bodies.PosteEmailData)


def _check_default_data(given: list[str]) -> None:
    """Raises Refusal 422 for all but false."""
    for value in given:
        if value.lower() not in {"true", "false"}:
            text = "Input should be a valid boolean: 'true' or 'false'"
            refuse_invalid(invalid(["query", "init_default_data"], text, "bool_parsing", value))
        if value.lower() == "true":
            text = "this backend has no default mail: send what the mailboxes should hold as the body"
            refuse_invalid(invalid(["query", "init_default_data"], text, "value_error", True))


@contextlib.asynccontextmanager
async def _patience(what: str) -> AsyncIterator[None]:
    """Raises MailError where it takes too long, or IMAP lets nobody in."""
    try:
        async with asyncio.timeout(PATIENCE):
            yield
    except TimeoutError:
        raise MailError(f"the mailboxes could not be {what} within {PATIENCE:.0f} seconds") from None
    except imaplib.IMAP4.error as error:
        raise MailError(f"the mailboxes could not be {what}: {error}") from error


async def _fill(threads: Threads, mail: Mail, users: Mapping[str, bodies.PosteEmailUserData]) -> int:
    mail.check()
    await mail.add({email: (user.get("name") or "", user.get("password")) for email, user in users.items()})
    count = 0
    for email, user in users.items():
        entries = list(user.get("emails") or ())
        count += await threads.run(transfer.put_in, mail, mail.accounts[email.lower()], entries)
    return count


async def _held(threads: Threads, mail: Mail, account: Account) -> dict[str, Any]:
    held: dict[str, Any] = {"emails": await threads.run(transfer.take_out, mail, account)}
    drafts = mail.drafts.get(account.email.lower())
    if drafts is not None and drafts.kept:
        held["drafts"] = [dict(one) for one in drafts.kept.values()]
    return held
