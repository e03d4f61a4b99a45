"""The typed routes of the mail server: what a sandbox's mailboxes are filled with, and what they hold."""

from __future__ import annotations

import asyncio
import functools
import re
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from pytest_klavis.embedded import bodies, fields
from pytest_klavis.embedded.mail import transfer
from pytest_klavis.embedded.mail.client import FolderError
from pytest_klavis.embedded.mail.office import SERVER, MailError
from pytest_klavis.embedded.sandboxes import now
from pytest_klavis.embedded.web import Refusal, encode_aside, invalid, read_object, refuse_invalid, reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from pytest_klavis.embedded.mail.office import Account, Mail
    from pytest_klavis.embedded.sandboxes import Sandbox, Sandboxes

LIMIT = 192 << 20  # bytes of a body: a full mailbox with its attachments as base64
USERS = 500
_ADDRESS = re.compile(r"[^\s@<>(),;:\"\\\x00-\x1f]{1,64}@[^\s@<>(),;:\"\\\x00-\x1f]{1,255}")


class MailRest:
    """Handlers, one per operation."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    async def initialize(self, request: Request) -> Response:
        sandbox, mail = self._find(request)
        if request.query_params.get("init_default_data", "").lower() in {"true", "1", "yes", "on"}:
            text = "this backend has no default mail: send what the mailboxes should hold as the body"
            refuse_invalid(invalid(["query", "init_default_data"], text, "value_error", True))
        users = (await _order(request)).get("users") or {}
        async with sandbox.gate:
            if sandbox.gone:
                raise fields.unknown_sandbox(sandbox.id)
            try:
                count = await _fill(mail, users)
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
                users = {account.email: await _held(mail, account) for account in mail.accounts.values()}
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


async def _fill(mail: Mail, users: Mapping[str, bodies.PosteEmailUserData]) -> int:
    mail.check()
    await mail.add({email: (user.get("name") or "", user.get("password")) for email, user in users.items()})
    count = 0
    for email, user in users.items():
        entries = list(user.get("emails") or ())
        count += await asyncio.to_thread(transfer.put_in, mail, mail.accounts[email.lower()], entries)
    return count


async def _held(mail: Mail, account: Account) -> dict[str, Any]:
    held: dict[str, Any] = {"emails": await asyncio.to_thread(transfer.take_out, mail, account)}
    drafts = mail.drafts.get(account.email.lower())
    if drafts is not None and drafts.kept:
        held["drafts"] = [dict(one) for one in drafts.kept.values()]
    return held
