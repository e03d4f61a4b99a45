"""The server's side of mail: its one mail process, and what each sandbox has in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_klavis.embedded.side.environment import COMMAND, Missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_klavis.embedded.bodies import MailAccess
    from pytest_klavis.embedded.side.first_use import FirstUse
    from pytest_klavis.embedded.uids import Uids

SERVER = "poste_email_toolathlon"
HOST = "127.0.0.1"
DEFAULT_EMAIL = "agent@mcp.com"
DEFAULT_NAME = "Agent"
START = 30.0  # seconds that the process may take to start
OBEY = 20.0  # seconds that it may take to do what it is told
_BOOT = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module('process', run_name='__main__', alter_sys=True)"
)

log = logging.getLogger(__name__)


class MailError(Exception):
    """Mail cannot be had: nothing that an agent did. The text says why and what to do."""


@dataclass(frozen=True)
class Account:
    """One address of one sandbox.

    `password` is what IMAP and SMTP ask for; it is random, so that it tells sandboxes with the same addresses apart.
    `chosen` is the one that the seed gave the account: the tools take it too.
    """

    email: str
    name: str
    password: str = field(repr=False)
    chosen: str | None = field(default=None, repr=False)

    def takes(self, password: str) -> bool:
        return any(
            secrets.compare_digest(password.encode("utf-8", "surrogatepass"), own.encode("utf-8", "surrogatepass"))
            for own in (self.password, self.chosen)
            if own is not None
        )


@dataclass
class Drafts:
    """What the tools keep as drafts of one account: beside the folders, as emails-mcp does."""

    count: int = 0  # of all that there ever were
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(eq=False)
class Mail:
    """The mail of one sandbox: its accounts, the default one first, and where they are reached."""

    house: str
    office: Office = field(repr=False)
    accounts: dict[str, Account] = field(default_factory=dict)  # by address in lower case
    drafts: dict[str, Drafts] = field(default_factory=dict)  # by address in lower case
    lost: str = ""  # why what it held is gone, and what brings it back

    @property
    def primary(self) -> Account:
        """Whose mail the tools show when nobody is named: the seed's first user, without one the default account."""
        accounts = list(self.accounts.values())
        return accounts[1] if len(accounts) > 1 else accounts[0]

    @property
    def imap(self) -> tuple[str, int]:
        return HOST, self.office.ports[0]

    @property
    def smtp(self) -> tuple[str, int]:
        return HOST, self.office.ports[1]

    def check(self) -> None:
        """Raises MailError when the mail of this sandbox is lost."""
        if self.lost:
            raise MailError(self.lost)

    async def add(self, users: Mapping[str, tuple[str, str | None]]) -> None:
        """Give these addresses accounts, each with a name and, where one was chosen, a password; known ones keep
        theirs. Raises MailError."""
        new = {
            email.lower(): Account(email, name, secrets.token_urlsafe(18), chosen)
            for email, (name, chosen) in users.items()
            if email.lower() not in self.accounts
        }
        await self.office.tell({"add": self.house, "users": {one.email: one.password for one in new.values()}})
        self.accounts |= new

    async def renew(self) -> None:
        """An empty default account is all that is there from now on. Raises MailError."""
        await self.office.renew(self)

    async def close(self) -> None:
        await self.office.close(self)

    def auth_data(self) -> MailAccess:
        """How a mail program gets in; the names are those of emails-mcp's configuration file."""
        one = self.primary
        return {
            "email": one.email,
            "password": one.password,
            "name": one.name,
            "imap_server": HOST,
            "imap_port": self.imap[1],
            "smtp_server": HOST,
            "smtp_port": self.smtp[1],
            "use_ssl": False,
            "use_starttls": False,
            "users": {each.email: {"password": each.password, "name": each.name} for each in self.accounts.values()},
        }


class Office:
    """The mail process of this server: started for the first sandbox with mail, ended with the server.

    Its sockets are made here and stay when it is started anew, so addresses hold as long as the server lives.
    """

    def __init__(self, uids: Uids, side: FirstUse) -> None:
        self._uids = uids
        self._side = side
        self._sockets: list[socket.socket] = []
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._houses: set[Mail] = set()
        self._starting = asyncio.Lock()
        self._telling = asyncio.Lock()

    @property
    def ports(self) -> tuple[int, int]:
        """Of IMAP and SMTP."""
        imap, smtp = (one.getsockname()[1] for one in self._sockets)
        return imap, smtp

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def absence(self) -> str | None:
        """Why there is no mail on this machine; None where there is. Raises BeingInstalledError."""
        found = None if self._process is not None else await self._side.ready()
        return found.reason if isinstance(found, Missing) else None

    async def open(self, house: str) -> Mail:
        """Mail for a sandbox: one empty account. Raises MailError."""
        mail = Mail(house, self)
        await self.renew(mail)
        return mail

    async def renew(self, mail: Mail) -> None:
        """Empty the sandbox's mail, or begin it anew after it was lost. Raises MailError."""
        await self._start()
        default = next(iter(mail.accounts.values()), None)  # stays as it was told at the acquire
        default = default or Account(DEFAULT_EMAIL, DEFAULT_NAME, secrets.token_urlsafe(18))
        await self.tell({"remove": mail.house})
        await self.tell({"add": mail.house, "users": {default.email: default.password}})
        mail.accounts = {default.email: default}
        mail.drafts.clear()
        mail.lost = ""
        self._houses.add(mail)

    async def close(self, mail: Mail) -> None:
        """Forget the sandbox's mail. Whoever is connected to it is disconnected."""
        self._houses.discard(mail)
        mail.lost = f"the mail of sandbox {mail.house} is gone: the sandbox was released"
        with contextlib.suppress(MailError):  # then it is gone anyhow
            await self.tell({"remove": mail.house})

    async def end(self) -> None:
        """End the process."""
        self._houses.clear()
        process, watch = self._process, self._watch
        if process is not None and watch is not None:
            if process.stdin is not None:
                process.stdin.close()
            try:
                await asyncio.wait_for(asyncio.shield(watch), 3)
            except TimeoutError:
                process.kill()
                await watch
        for one in self._sockets:
            one.close()
        self._sockets.clear()

    async def tell(self, order: Mapping[str, Any]) -> None:
        """Let the process do something, and return when it has. Raises MailError."""
        await asyncio.shield(asyncio.ensure_future(self._tell(order)))  # an order without its answer shifts all others

    async def _tell(self, order: Mapping[str, Any]) -> None:
        async with self._telling:
            process = self._process
            if process is None:
                raise MailError("the mail process is not running: reset the sandbox, or acquire another")
            assert process.stdin is not None
            assert process.stdout is not None
            answer = b""
            try:
                async with asyncio.timeout(OBEY):
                    process.stdin.write(json.dumps(order).encode() + b"\n")
                    await process.stdin.drain()
                    answer = await process.stdout.readline()
            except TimeoutError:
                log.warning("the mail process did nothing for %.0f s and is killed", OBEY)
                process.kill()
                assert self._watch is not None
                await asyncio.shield(self._watch)  # whoever has mail is told; the next sandbox starts it anew
            except OSError:
                pass
            if not answer:
                raise MailError("the mail process ended while it was told something: the server's log has more")

    async def _start(self) -> None:
        async with self._starting:
            if self._process is not None:
                return
            found = await self._side.ready()
            if isinstance(found, Missing):
                raise MailError(found.reason)
            if not self._sockets:
                self._sockets = [_listening(), _listening()]
            uid = self._uids.take()
            try:
                process = await self._spawn(str(found.python), uid)
            except BaseException:
                self._uids.give_back(uid)
                raise
            self._process = process
            self._watch = asyncio.create_task(self._watched(process, uid))

    async def _spawn(self, python: str, uid: int | None) -> asyncio.subprocess.Process:
        handed = [one.fileno() for one in self._sockets]
        process = await asyncio.create_subprocess_exec(
            *(python, "-I", "-c", _BOOT, str(Path(__file__).parent), *map(str, handed), str(uid or 0)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=handed,
            env={"LANG": "C.UTF-8", **{name: os.environ[name] for name in ("TZ",) if name in os.environ}},
            cwd="/",
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            said = await asyncio.wait_for(process.stdout.readline(), START)
        except TimeoutError:
            said = b""
        except BaseException:  # nobody waits for it any more, and its user is about to be somebody else's
            process.kill()
            raise
        if not said:
            if process.returncode is None:
                process.kill()
            code = await process.wait()
            raise MailError(
                f"the mail process did not start (exit code {code}; the server's log says why): {COMMAND} makes "
                "its environment anew"
            )
        return process

    async def _watched(self, process: asyncio.subprocess.Process, uid: int | None) -> None:
        """When the process ends, what it held is lost, and whoever had mail there is told so."""
        code = await process.wait()
        self._process = None
        self._uids.give_back(uid)
        for mail in self._houses:
            mail.lost = (
                f"the mail of sandbox {mail.house} is lost: the mail process ended (exit code {code}). "
                "A reset of the sandbox begins with an empty mailbox; seed it again, or acquire another sandbox."
            )
        if self._houses:
            log.error(
                "the mail process ended (exit code %s): the mail of %d sandboxes is lost", code, len(self._houses)
            )


def _listening() -> socket.socket:
    made = socket.socket()
    made.bind((HOST, 0))
    made.listen(128)
    return made
