"""IMAP: pymap over the accounts of the houses. Plain text on loopback; the passwords are one sandbox's own."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from argparse import Namespace
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from proxyprotocol.sock import SocketInfoLocal
from proxyprotocol.version import ProxyProtocolVersion
from pymap.backend.session import BaseSession
from pymap.concurrent import Subsystem
from pymap.config import BackendCapability, IMAPConfig
from pymap.exceptions import InvalidAuth
from pymap.imap import IMAPConnection, IMAPServer
from pymap.search import BodySearchCriteria, SearchCriteria
from pysasl import SASLAuth
from pysasl.hashing import BuiltinHash
from pysasl.identity import ClearIdentity

from .houses import CONNECTIONS, HOUSE_CONNECTIONS, MESSAGE
from .mailboxes import Folders, LoadedLetter

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import AsyncIterator

    from pymap.parsing.specials import SearchKey
    from pymap.search import SearchParams
    from pysasl.creds.server import ServerCredentials

    from .houses import Account, Houses

_BUSY = b"* BYE [UNAVAILABLE] too many connections: at most %d at once\r\n"


class Config(IMAPConfig):
    """How pymap serves: no TLS, no threads, literals as long as a message may be."""

    def __init__(self) -> None:
        super().__init__(
            Namespace(passlib_cfg=None),
            host=None,
            port=0,
            ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
            tls_enabled=False,
            hash_context=BuiltinHash(),
            cpu_subsystem=Subsystem.for_asyncio(),
            proxy_protocol=ProxyProtocolVersion.get("noop"),
            invalid_user_sleep=0.0,
            reject_dnsbl=False,
            max_append_len=MESSAGE,
        )
        self._auth = SASLAuth.defaults()  # pymap would look for it among all installed packages at each connection

    @property
    def initial_auth(self) -> SASLAuth:
        return self._auth

    @property
    def tls_auth(self) -> SASLAuth:
        return self._auth

    @property
    def backend_capability(self) -> BackendCapability:
        return BackendCapability(idle=True, object_id=True, multi_append=True)

    @property
    def greeting(self) -> bytes:
        return b"Klavis mail is ready"


class Session(BaseSession[Any]):
    """One connection that is logged in."""

    def __init__(self, account: Account, config: Config) -> None:
        super().__init__(account.email)
        self._account = account
        self._config = config

    @property
    def config(self) -> Config:
        return self._config

    @property
    def mailbox_set(self) -> Folders:
        return folders_of(self._account)


class Identity:
    """Who has proved to be the account's owner."""

    def __init__(self, account: Account, config: Config) -> None:
        self._account = account
        self._config = config
        self.name = account.email

    @asynccontextmanager
    async def new_session(self) -> AsyncIterator[Session]:
        connections = self._account.house.connections
        if len(connections) >= HOUSE_CONNECTIONS:
            raise InvalidAuth(f"too many connections: a sandbox has at most {HOUSE_CONNECTIONS} at once")
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            yield Session(self._account, self._config)
        finally:
            connections.discard(task)


class Login:
    """Who may come in."""

    def __init__(self, houses: Houses, config: Config) -> None:
        self._houses = houses
        self._config = config

    async def authenticate(self, credentials: ServerCredentials) -> Identity:
        name = credentials.authcid
        account = self._houses.login(name, lambda one: credentials.verify(ClearIdentity(name, one.password)))
        if account is None:
            raise InvalidAuth
        return Identity(account, self._config)

    async def authorize(self, authenticated: Identity, authzid: str) -> Identity:
        if authzid != authenticated.name and authzid.lower() != authenticated.name.lower():
            raise InvalidAuth
        return authenticated


class Imap:
    """Answers connections, up to so many at once."""

    def __init__(self, houses: Houses) -> None:
        config = Config()
        config.apply_context()
        SearchCriteria.of = classmethod(_criterion)
        IMAPConnection.read_continuation = _bounded(IMAPConnection.read_continuation)
        self._server = IMAPServer(Login(houses, config), config)
        self._room = houses.room

    async def __call__(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self._room.connections >= CONNECTIONS:
            writer.write(_BUSY % CONNECTIONS)
            writer.close()
            return
        self._room.connections += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._server(reader, writer, SocketInfoLocal(writer))
        finally:
            self._room.connections -= 1
            writer.close()


def folders_of(account: Account) -> Folders:
    """The account's folders, made when they are first looked at."""
    if account.folders is None:
        account.folders = Folders(account.house)
    return account.folders


class _BodyOnly(BodySearchCriteria):
    def matches(self, msg_seq: int, msg: Any, loaded_msg: Any) -> bool:
        if isinstance(loaded_msg, LoadedLetter):
            return loaded_msg.body_contains(self.value)
        return bool(super().matches(msg_seq, msg, loaded_msg))


_pymaps = SearchCriteria.of.__func__


def _criterion(cls: type[SearchCriteria], key: SearchKey, params: SearchParams) -> SearchCriteria:
    """BODY looks at the body alone. pymap takes it for TEXT, and makes its criteria in one closed function."""
    if key.value == b"BODY" and not key.inverse:
        return _BodyOnly(key.filter_str, params)
    return _pymaps(cls, key, params)


def _bounded(pymaps: Any) -> Any:
    """pymap reads as much as a client announces, before it looks at what that is for."""

    async def read_continuation(self: IMAPConnection, literal_length: int) -> memoryview:
        if literal_length > MESSAGE:
            raise EOFError
        found: memoryview = await pymaps(self, literal_length)
        return found

    return read_continuation
