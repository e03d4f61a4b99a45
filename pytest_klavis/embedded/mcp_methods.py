"""The MCP methods of one server in one sandbox, for both eras of the protocol; no HTTP.

Session era (2024-11-05 to 2025-11-25): `initialize` settles the version, then plain results.
Stateless era (2026-07-28): every request names version and capabilities in `params._meta`, `server/discover` says
what there is, and each result carries `resultType` and the server's name.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_klavis.embedded import bridge, tools
from pytest_klavis.embedded.isolation import IsolationError
from pytest_klavis.embedded.mail.office import MailError
from pytest_klavis.embedded.sandbox import CallEnded

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from pytest_klavis.embedded.sandbox import Sandbox
    from pytest_klavis.embedded.tools import Tool

T = TypeVar("T")
SESSION_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
STATELESS_VERSIONS = ("2026-07-28",)
BATCH_VERSIONS = ("2024-11-05", "2025-03-26")
ASSUMED_VERSION = "2025-03-26"  # of a client that names none, says the specification

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
NOT_FOUND = -32001  # no such sandbox, server or session
HEADER_MISMATCH = -32020
UNSUPPORTED_VERSION = -32022
CALL_ENDED = -32010
NO_ISOLATION = -32011
NO_MAIL = -32012

_TOOLS_ARE_GOOD_FOR = 3_600_000  # ms; they do not change while a sandbox lives
_META = "io.modelcontextprotocol/"

log = logging.getLogger(__name__)


class RpcError(Exception):
    """Answered as a JSON-RPC error."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def body(self, request_id: Any) -> dict[str, Any]:
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.data is not None:
            error["data"] = self.data
        return {"jsonrpc": "2.0", "id": request_id, "error": error}


@dataclass(frozen=True)
class Place:
    """Where a request is answered: a server in a sandbox."""

    sandbox: Sandbox
    server: str
    headers: Mapping[str, str] = field(default_factory=dict)  # of the HTTP request

    @property
    def info(self) -> dict[str, str]:
        return {"name": f"klavis-{self.server}", "version": "embedded"}


def request_id_of(message: Any) -> str | int | None:
    """The id of a JSON-RPC request, None when it has none that may be answered."""
    found = message.get("id") if isinstance(message, dict) else None
    return found if isinstance(found, str | int) and not isinstance(found, bool) else None


def check_request(message: Any) -> None:
    """Raises RpcError for what is neither a request nor a notification of JSON-RPC 2.0."""
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0" or not isinstance(message.get("method"), str):
        raise RpcError(INVALID_REQUEST, "Invalid Request: expected a JSON-RPC 2.0 request or notification object")
    if "id" in message and request_id_of(message) is None:
        raise RpcError(INVALID_REQUEST, "Invalid Request: id must be a string or an integer")
    if not isinstance(message.get("params", {}), dict):
        raise RpcError(INVALID_PARAMS, "Invalid params: params must be an object")


async def answer(
    place: Place, method: str, params: Mapping[str, Any], started: Callable[[asyncio.Task[Any]], None] | None = None
) -> dict[str, Any]:
    """The result of a session era request, `initialize` apart. Raises RpcError."""
    if method == "ping":
        return {}
    if method == "tools/list":
        return {"tools": await _tool_list(place, params)}
    if method == "tools/call":
        return await _call(place, params, started)
    if method == "initialize":
        raise RpcError(INVALID_REQUEST, "Invalid Request: initialize begins a session and cannot be part of a batch")
    raise RpcError(METHOD_NOT_FOUND, f"Method not found: {method}")


def initialize(place: Place, message: Mapping[str, Any]) -> dict[str, Any]:
    """The result of `initialize`: the version the client asked for if it is known here, else the newest with sessions.

    Raises RpcError when it comes as a notification.
    """
    if "id" not in message:
        raise RpcError(INVALID_REQUEST, "Invalid Request: initialize needs an id")
    asked = message.get("params", {}).get("protocolVersion")
    version = asked if asked in SESSION_VERSIONS else SESSION_VERSIONS[-1]
    return {"protocolVersion": version, "capabilities": {"tools": {"listChanged": False}}, "serverInfo": place.info}


async def answer_stateless(
    place: Place, method: str, params: Mapping[str, Any], started: Callable[[asyncio.Task[Any]], None] | None = None
) -> dict[str, Any]:
    """The result of a stateless era request. Raises RpcError."""
    cacheable: dict[str, Any] = {"ttlMs": _TOOLS_ARE_GOOD_FOR, "cacheScope": "private"}
    if method == "server/discover":
        result: dict[str, Any] = {
            "supportedVersions": [*STATELESS_VERSIONS],
            "capabilities": {"tools": {}},
            **cacheable,
        }
    elif method == "tools/list":
        result = {"tools": await _tool_list(place, params), **cacheable}
    elif method == "tools/call":
        result = await _call(place, params, started)
    else:
        raise RpcError(METHOD_NOT_FOUND, f"Method not found: {method}")
    return {**result, "resultType": "complete", "_meta": {f"{_META}serverInfo": place.info}}


def check_envelope(message: Mapping[str, Any], headers: Mapping[str, str]) -> None:
    """The stateless era's rules for a request and its headers, in the order of the reference server.

    Raises RpcError: the envelope in `params._meta`, then headers that say the same as the body, then the version.
    """
    params = message.get("params", {})
    meta = params.get("_meta")
    if not isinstance(meta, dict):
        text = f"params._meta must be an object with {_META}protocolVersion and {_META}clientCapabilities"
        raise RpcError(INVALID_PARAMS, text)
    for key in ("protocolVersion", "clientCapabilities"):
        if _META + key not in meta:
            raise RpcError(INVALID_PARAMS, f"params._meta is missing the required key {_META}{key}")
    version = meta[f"{_META}protocolVersion"]
    if headers.get("mcp-protocol-version") != version:
        raise RpcError(HEADER_MISMATCH, "the MCP-Protocol-Version header and params._meta name different versions")
    if headers.get("mcp-method") != message["method"]:
        raise RpcError(HEADER_MISMATCH, "the Mcp-Method header does not match the method of the body")
    if message["method"] == "tools/call" and isinstance(name := params.get("name"), str):
        given = headers.get("mcp-name", "")
        # Names with other than plain letters come encoded; our tools have none of those.
        if given != name and not given.startswith("=?base64?"):
            raise RpcError(HEADER_MISMATCH, "the Mcp-Name header does not match the tool's name in the body")
    check_stateless_version(version)


def check_stateless_version(version: Any) -> None:
    if version not in STATELESS_VERSIONS:
        raise RpcError(
            UNSUPPORTED_VERSION,
            f"Unsupported protocol version: {version!r}",
            {"supported": [*STATELESS_VERSIONS], "requested": version},
        )


def _tools(place: Place) -> Mapping[str, Tool]:
    return tools.tools(place.server, place.sandbox.benchmark)


async def _tool_list(place: Place, params: Mapping[str, Any]) -> list[dict[str, Any]]:
    if params.get("cursor") is not None:
        raise RpcError(INVALID_PARAMS, "Invalid cursor: the list has one page")
    if place.server in bridge.SERVERS:
        return await _of_sandbox(place, "tools/list", lambda: place.sandbox.children.list(place.server))
    return [_listed(tool) for tool in _tools(place).values()]


def _listed(tool: Tool) -> dict[str, Any]:
    listed: dict[str, Any] = {
        "name": tool.name,
        "description": tool.description,
        "inputSchema": tool.input_schema,
    }
    if tool.output_schema is not None:
        listed["outputSchema"] = tool.output_schema
    if tool.annotations is not None:
        listed["annotations"] = tool.annotations
    return listed


async def _call(
    place: Place, params: Mapping[str, Any], started: Callable[[asyncio.Task[Any]], None] | None
) -> dict[str, Any]:
    name, arguments = params.get("name"), params.get("arguments")
    if not isinstance(name, str):
        raise RpcError(INVALID_PARAMS, "Invalid params: name must be the name of a tool")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise RpcError(INVALID_PARAMS, "Invalid params: arguments must be an object")
    if place.server in bridge.SERVERS:
        return await _bridged_call(place, name, arguments, started)
    known = _tools(place)
    _check_name(place, name, known)
    sandbox = place.sandbox
    done = await _of_sandbox(
        place, name, lambda: known[name].call(sandbox.context(place.server, place.headers), arguments), started
    )
    result: dict[str, Any] = {"content": done.content, "isError": done.is_error}
    if done.structured is not None:
        result["structuredContent"] = done.structured
    return result


async def _bridged_call(
    place: Place, name: str, arguments: dict[str, Any], started: Callable[[asyncio.Task[Any]], None] | None
) -> dict[str, Any]:
    children = place.sandbox.children

    async def work() -> dict[str, Any]:
        _check_name(place, name, [tool["name"] for tool in await children.list(place.server)])
        return await children.call(place.server, name, arguments)

    return await _of_sandbox(place, name, work, started)


def _check_name(place: Place, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise RpcError(INVALID_PARAMS, f"Unknown tool: {name} (server {place.server!r} has {', '.join(known)})")


async def _of_sandbox(
    place: Place,
    what: str,
    work: Callable[[], Coroutine[Any, Any, T]],
    started: Callable[[asyncio.Task[Any]], None] | None = None,
) -> T:
    """Run it as a call of the sandbox. `what` names it in errors. Raises RpcError."""
    try:
        return await place.sandbox.call(work, started)
    except CallEnded as ended:
        raise RpcError(CALL_ENDED, f"the call of {what} was ended: {ended}") from None
    except IsolationError as error:
        raise RpcError(NO_ISOLATION, f"{what} could not be run: {error}") from error
    except MailError as error:
        raise RpcError(NO_MAIL, f"{what} could not be run: {error}") from error
    except bridge.RefusedError as refused:
        raise RpcError(refused.code, refused.message, refused.data) from None
    except RpcError:
        raise
    except Exception as error:
        log.exception("%s of %s failed", what, place.server)
        raise RpcError(INTERNAL_ERROR, f"Internal error in {what}; the server's log has the traceback") from error
