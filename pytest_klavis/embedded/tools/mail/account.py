"""Whose mail a call is about, and how what goes wrong is said."""

from __future__ import annotations

import base64
import functools
import imaplib
import json
import smtplib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pytest_klavis.embedded.mail.client import FolderError, Mailbox, mailbox
from pytest_klavis.embedded.mail.messages import Letter, letter_of
from pytest_klavis.embedded.mail.office import Account, Mail, MailError
from pytest_klavis.embedded.tools.base import ToolContext, ToolFailureError, ToolResult, explained, readable, text_part

HEADER = "x-email-config"
NOTHING: Any = None
"""The default of an argument that may be left out, but is a string where it is given."""
Errors = (FolderError, ValueError, smtplib.SMTPException, imaplib.IMAP4.error, ArithmeticError)
"""What is told to the agent as the tool's answer, as emails-mcp does."""


@dataclass
class Desk:
    """One account of the sandbox, as the tools use it."""

    mail: Mail
    account: Account
    state: dict[str, Any]

    @property
    def folder(self) -> str:
        """The folder that ids are meant in: the one that was listed or searched last."""
        return str(self.state.get(f"folder of {self.account.email.lower()}", "INBOX"))

    @folder.setter
    def folder(self, name: str) -> None:
        self.state[f"folder of {self.account.email.lower()}"] = name

    @contextmanager
    def open(self, folder: str | None = None) -> Iterator[Mailbox]:
        """The mailbox, with this folder selected, or the one that was used last."""
        with mailbox(self.mail, self.account) as box:
            box.select(folder if folder is not None else self.folder)
            if folder is not None:
                self.folder = folder
            yield box

    def letter(self, box: Mailbox, email_id: str) -> Letter:
        return letter_of(box.fetch(email_id))


def desk(context: ToolContext) -> Desk:
    """The account that the header names, else the sandbox's first one. Raises ToolFailureError, MailError."""
    mail = context.mail
    if mail is None:
        raise MailError("this sandbox was acquired without poste_email_toolathlon")
    mail.check()
    headers = {name.lower(): value for name, value in context.headers.items()}
    given = headers.get(HEADER)
    account = mail.primary if given is None else _named(mail, given)
    return Desk(mail, account, context.state)


def _named(mail: Mail, given: str) -> Account:
    wanted = "base64 of a JSON object with 'email' and 'password' (and, if you like, 'name')"
    try:
        config = json.loads(base64.b64decode(given, validate=True))
    except (ValueError, RecursionError):
        raise ToolFailureError(f"Authentication failed: the header {HEADER} must be {wanted}") from None
    email, password = (config.get(key) if isinstance(config, dict) else None for key in ("email", "password"))
    if not isinstance(email, str) or not isinstance(password, str):
        raise ToolFailureError(f"Authentication failed: the header {HEADER} must be {wanted}")
    account = mail.accounts.get(email.lower())
    if account is None or not account.takes(password):
        raise ToolFailureError(
            f"Authentication failed for {readable(email)}: this sandbox has no such account, or it has another "
            f"password. Its accounts: {', '.join(one.email for one in mail.accounts.values())}"
        )
    name = config.get("name")
    return Account(account.email, name, account.password) if isinstance(name, str) and name else account


def tool(failure: str) -> Callable[[Callable[..., str]], Callable[..., ToolResult]]:
    """A tool whose answer is text in the shape of the Python SDK. What goes wrong begins with `failure`."""

    def made(function: Callable[..., str]) -> Callable[..., ToolResult]:
        @functools.wraps(function)
        def call(context: ToolContext, **arguments: Any) -> ToolResult:
            try:
                text = function(context, **arguments)
            except Errors as error:
                text = f"{failure}: {error}"
            text = readable(text)
            return ToolResult([text_part(text)], {"result": text})

        return call

    return made


def bytes_of(context: ToolContext, path: str, limit: int) -> bytes:
    """A file of the workspace. Raises FolderError, in emails-mcp's words where it has any."""
    try:
        inner = context.relative(path)
        with explained(context, "open", inner):
            try:
                return context.files.read_bytes(inner, limit)
            except FileNotFoundError as error:
                raise FolderError(f"File does not exist: {path}") from error
            except IsADirectoryError as error:
                raise FolderError(f"Path is not a file: {path}") from error
    except ToolFailureError as error:
        raise FolderError(str(error)) from error


@contextmanager
def named(what: str) -> Iterator[None]:
    """Put in front of an error what failed."""
    try:
        yield
    except Errors as error:
        raise FolderError(f"{what}: {error}") from error
