"""The ASGI application: which route leads where, who may come in, and what an error looks like."""

from __future__ import annotations

import hmac
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route

from pytest_klavis.embedded.mail.office import SERVER as MAIL
from pytest_klavis.embedded.mail.rest import MailRest
from pytest_klavis.embedded.mcp_http import McpHttp
from pytest_klavis.embedded.rest import Rest
from pytest_klavis.embedded.signing import Signer
from pytest_klavis.embedded.storage import Storage
from pytest_klavis.embedded.web import Refusal, reply
from pytest_klavis.errors import InfraError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from pytest_klavis.embedded.sandboxes import Sandboxes

    Handler = Callable[[Request], Awaitable[Response]]

log = logging.getLogger(__name__)
_MCP_METHODS = ["GET", "POST", "DELETE"]
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Doors:
    """Who may come in: the key of the REST calls, and the host names this server answers to."""

    key: str
    hosts: frozenset[str]


def build(sandboxes: Sandboxes, doors: Doors) -> ASGIApp:
    """The embedded Klavis over these sandboxes."""
    storage = Storage(sandboxes, Signer())
    rest = Rest(sandboxes, storage)

    def keyed(path: str, **handlers: Handler) -> Route:
        async def checked(request: Request) -> Response:
            _check_key(request, doors.key)
            return await handlers[request.method](request)

        return _route(path, checked, handlers)

    remote, local = "/sandbox/{server_name}/{sandbox_id}", "/local-sandbox/{local_sandbox_id}"
    mail = f"/local-sandbox/{MAIL}/{{sandbox_id}}"
    mcp = McpHttp(sandboxes).endpoint
    routes = [
        keyed("/sandbox", GET=rest.list_remote),
        keyed("/sandbox/{server_name}", POST=rest.acquire_remote),
        keyed(remote, GET=rest.no_remote, DELETE=rest.no_remote),
        keyed(f"{remote}/reset", POST=rest.no_remote),
        keyed(f"{remote}/initialize", POST=rest.no_remote),
        keyed(f"{remote}/dump", GET=rest.no_remote),
        keyed("/local-sandbox", POST=rest.acquire, GET=rest.list),
        keyed(local, GET=rest.get, DELETE=rest.release),
        keyed(f"{local}/reset", POST=rest.reset),
        keyed(f"{local}/upload-url", POST=rest.upload_url),
        keyed(f"{local}/initialize", POST=rest.initialize),
        keyed(f"{local}/dump", GET=rest.dump),
        keyed(f"{local}/run", POST=rest.run),
        keyed(f"{mail}/initialize", POST=MailRest(sandboxes).initialize),
        keyed(f"{mail}/dump", GET=MailRest(sandboxes).dump),
        _route("/storage/{sandbox_id}/uploads/{name}", storage.put, ["PUT"]),
        _route("/storage/{sandbox_id}/dumps/{name}", storage.get, ["GET"]),
        _route("/openapi.json", _openapi, ["GET"]),
        Route("/{server}/mcp", mcp, methods=_MCP_METHODS),
        Route("/{server}/mcp/", mcp, methods=_MCP_METHODS),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={
            Refusal: _refusal,
            HTTPException: _http_error,
            InfraError: _broken,
            ClientDisconnect: _hung_up,
            Exception: _bug,
        },
    )
    app.router.redirect_slashes = False
    return Guard(app, doors.hosts)


def _route(path: str, handler: Handler, methods: Iterable[str]) -> Route:
    """All methods of a path in one route, so that a 405 names them all; HEAD only where it is said."""
    route = Route(path, handler, methods=list(methods))
    assert route.methods is not None
    route.methods.intersection_update(methods)
    return route


async def _openapi(_: Request) -> Response:
    from pytest_klavis.embedded import openapi  # noqa: PLC0415 - seldom asked for

    return reply(openapi.document())


def _check_key(request: Request, key: str) -> None:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        raise Refusal(401, "Not authenticated: send 'Authorization: Bearer <key>'", {"WWW-Authenticate": "Bearer"})
    if not hmac.compare_digest(given.strip().encode(), key.encode()):
        raise Refusal(403, "Invalid API key")


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)  # how Starlette types its handlers
    return reply({"detail": error.detail}, error.status, error.headers)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return reply({"detail": error.detail}, error.status_code, error.headers)


async def _broken(_: Request, error: Exception) -> Response:
    """An archive that is refused, a workspace that cannot be read: its text is made for the user."""
    return reply({"detail": str(error)}, 400)


async def _hung_up(_: Request, __: Exception) -> Response:
    return reply({"detail": "the client closed the connection within its request"}, 400)


async def _bug(_: Request, __: Exception) -> Response:
    """Starlette raises it again after this: uvicorn logs the traceback and hangs up."""
    told = {"detail": "Internal Server Error: the traceback is in the server's log"}
    return reply(told, 500, {"Connection": "close"})


class Guard:
    """Before everything: Host and Origin, against pages in a browser. After everything: a log line per failure."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        status = 0
        said = b""

        async def watched(message: Message) -> None:
            nonlocal status, said
            if message["type"] == "http.response.start":
                status = message["status"]
            elif status >= 400 and len(said) < 500:
                said += message.get("body", b"")
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            if (problem := self._problem(headers)) is not None:
                await reply({"detail": problem}, 403)(scope, receive, watched)
            else:
                await self._app(scope, receive, watched)
        finally:
            if status >= 400 and status != 405:  # MCP clients ask by GET for a stream, and go without
                text = said[:500].decode(errors="replace").replace("\n", " ")
                log.warning("%s %s -> %d %s", scope["method"], repr(scope["path"]), status, text)

    def _problem(self, headers: Mapping[str, str]) -> str | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        allowed = ", ".join(sorted(self._hosts))
        if _hostname(f"//{host}") not in self._hosts:
            return f"Host {host!r} is not allowed: this server answers to {allowed} (serve --allow-host adds a name)"
        if origin is not None and _hostname(origin) not in self._hosts:
            return f"Origin {origin!r} is not allowed: this server answers to {allowed}"
        return None


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def loopback_and(*names: str) -> frozenset[str]:
    """The host names of this machine and these."""
    return frozenset(name.lower() for name in (*LOOPBACK, *names))
