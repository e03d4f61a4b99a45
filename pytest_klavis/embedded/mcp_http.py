"""MCP over streamable HTTP at `/{server}/mcp/?local_sandbox_id=...`: eras, sessions, statuses. JSON answers only.

Routes take no key: whoever knows a sandbox's id may use it, as on the cloud.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from pytest_klavis.embedded import mcp_methods as rpc
from pytest_klavis.embedded.mcp_methods import Place, RpcError
from pytest_klavis.embedded.sandbox import SESSIONS, Session
from pytest_klavis.embedded.tools.base import text_part
from pytest_klavis.embedded.web import JSON_LIMIT, encode, encode_aside, parse, read_body, reply

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from starlette.requests import Request

    from pytest_klavis.embedded.sandbox import Sandbox
    from pytest_klavis.embedded.sandboxes import Sandboxes

BATCH = 100  # messages in one body
ANSWER_LIMIT = 16 << 20  # bytes of the JSON of one HTTP answer
_SHORT = 1_000  # bytes of an answer that may always be sent

log = logging.getLogger(__name__)

# Statuses of the stateless era; the session era answers JSON-RPC errors with 200, as its clients expect.
_STATUS = {
    rpc.PARSE_ERROR: 400,
    rpc.INVALID_REQUEST: 400,
    rpc.INVALID_PARAMS: 400,
    rpc.HEADER_MISMATCH: 400,
    rpc.UNSUPPORTED_VERSION: 400,
    rpc.METHOD_NOT_FOUND: 404,
}


class McpHttp:
    """The endpoint of every server in every sandbox; the URL says which."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    async def endpoint(self, request: Request) -> Response:
        body = await read_body(request, JSON_LIMIT) if request.method == "POST" else b""
        try:
            place = self._place(request)
        except RpcError as error:
            return reply(error.body(_id_in(body)), 404)
        version = request.headers.get("mcp-protocol-version")
        stateless = version is not None and version not in rpc.SESSION_VERSIONS
        if request.method == "POST":
            return await _posted(place, request, body, stateless=stateless)
        if request.method == "DELETE" and not stateless:
            return _end_session(place, request)
        text = "Method Not Allowed: this server sends nothing on its own; POST requests to it"
        return reply(RpcError(rpc.INVALID_REQUEST, text).body(None), 405, {"Allow": "POST, DELETE"})

    def _place(self, request: Request) -> Place:
        """Raises RpcError when the URL leads to nothing."""
        server, sandbox_id = request.path_params["server"], request.query_params.get("local_sandbox_id")
        if not sandbox_id:
            raise RpcError(rpc.NOT_FOUND, "the URL names no sandbox: it needs ?local_sandbox_id=...")
        sandbox = self._sandboxes.find(sandbox_id)
        if sandbox is None:
            raise RpcError(rpc.NOT_FOUND, f"Local sandbox {sandbox_id} not found: it never was, or it was released")
        if server not in sandbox.servers:
            listed = ", ".join(f"'{name}'" for name in sandbox.servers)
            why = sandbox.missing.get(server, "")
            text = f"sandbox {sandbox_id} has no server {server!r}; it has {listed}"
            raise RpcError(rpc.NOT_FOUND, f"{text} ({why})" if why else text)
        return Place(sandbox, server, request.headers)


async def _posted(place: Place, request: Request, body: bytes, *, stateless: bool) -> Response:
    if (problem := _media_problem(request.headers)) is not None:
        return problem
    try:
        message = parse(body)
    except ValueError as error:
        return reply(RpcError(rpc.PARSE_ERROR, f"Parse error: {error}").body(None), 400)
    if stateless:
        return await _stateless(place, request, message)
    return await _in_session(place, request, message)


def _id_in(body: bytes) -> str | int | None:
    try:
        return rpc.request_id_of(parse(body))
    except ValueError:
        return None


def _media_problem(headers: Mapping[str, str]) -> Response | None:
    kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        text = f"Unsupported Media Type: {kind!r}; send application/json"
        return reply(RpcError(rpc.INVALID_REQUEST, text).body(None), 415)
    accepted = headers.get("accept", "*/*").lower()
    if not any(kind in accepted for kind in ("application/json", "application/*", "*/*")):
        text = f"Not Acceptable: this server answers application/json, the client accepts {accepted!r}"
        return reply(RpcError(rpc.INVALID_REQUEST, text).body(None), 406)
    return None


# --- session era


async def _in_session(place: Place, request: Request, message: Any) -> Response:
    if isinstance(message, dict) and message.get("method") == "initialize":
        return _start_session(place, message)
    session_id = request.headers.get("mcp-session-id")
    session = _session(place, session_id)
    if session_id is not None and session is None:
        text = "Session not found: it never was or has ended; initialize again"
        return reply(RpcError(rpc.NOT_FOUND, text).body(rpc.request_id_of(message)), 404)
    if isinstance(message, list):
        return await _batch(place, session, message, request.headers.get("mcp-protocol-version"))
    answered = await _message(place, session, message)
    if answered is None:
        return Response(status_code=202)
    return reply(await _Budget().fit(answered), 400 if answered["id"] is None else 200)


def _start_session(place: Place, message: Mapping[str, Any]) -> Response:
    try:
        rpc.check_request(message)
        result = rpc.initialize(place, message)
    except RpcError as error:
        return reply(error.body(rpc.request_id_of(message)), 400)
    session_id = uuid.uuid4().hex
    sessions = place.sandbox.sessions
    sessions[session_id] = Session(place.server, result["protocolVersion"])
    while len(sessions) > SESSIONS:
        sessions.popitem(last=False)
    return reply({"jsonrpc": "2.0", "id": message["id"], "result": result}, headers={"Mcp-Session-Id": session_id})


def _session(place: Place, session_id: str | None) -> Session | None:
    """The live session; what was used last is dropped last."""
    session = place.sandbox.sessions.get(session_id or "")
    if session is None or session.server != place.server or session_id is None:
        return None
    place.sandbox.sessions.move_to_end(session_id)
    return session


def _end_session(place: Place, request: Request) -> Response:
    session_id = request.headers.get("mcp-session-id")
    session = _session(place, session_id)
    if session is None or session_id is None:
        text = "Session not found" if session_id else "the Mcp-Session-Id header says which session to end"
        return reply(RpcError(rpc.NOT_FOUND, text).body(None), 404 if session_id else 400)
    del place.sandbox.sessions[session_id]
    for request_id in session.calls:
        _give_up(place.sandbox, session, request_id, "its session was ended")
    return Response(status_code=200)


async def _batch(place: Place, session: Session | None, messages: list[Any], version: str | None) -> Response:
    spoken = session.version if session is not None else version or rpc.ASSUMED_VERSION
    if spoken not in rpc.BATCH_VERSIONS:
        text = f"Invalid Request: protocol version {spoken} has no batches; send one message"
        return reply(RpcError(rpc.INVALID_REQUEST, text).body(None), 400)
    if not 0 < len(messages) <= BATCH:
        text = f"Invalid Request: a batch holds 1 to {BATCH} messages, not {len(messages)}"
        return reply(RpcError(rpc.INVALID_REQUEST, text).body(None), 400)
    answers: list[bytes] = []
    budget = _Budget()
    for message in messages:  # one after the other, or all of their answers would be in memory at once
        answered = budget.refusal(message) or await _message(place, session, message)
        if answered is not None:
            answers.append(await budget.fit(answered))
    return reply(b"[" + b",".join(answers) + b"]") if answers else Response(status_code=202)


class _Budget:
    """What the answers in one HTTP answer may weigh together."""

    def __init__(self) -> None:
        self._left = ANSWER_LIMIT

    def refusal(self, message: Any) -> dict[str, Any] | None:
        """The answer to a request that is not carried out because there is no room for its answer."""
        if self._left >= 0 or (request_id := rpc.request_id_of(message)) is None:
            return None
        text = f"not carried out: the answers before it in this batch fill the {ANSWER_LIMIT} bytes of an HTTP answer"
        return RpcError(rpc.INTERNAL_ERROR, text).body(request_id)

    async def fit(self, answered: dict[str, Any]) -> bytes:
        """An answer as JSON; in place of one that is too large, what to do about it."""
        encoded = await encode_aside(answered)
        self._left -= len(encoded)
        if self._left >= 0 or len(encoded) <= _SHORT:
            return encoded
        text = (
            f"the answer of {len(encoded)} bytes does not fit: an HTTP answer holds at most {ANSWER_LIMIT}."
            " The call was carried out; ask for less (head, tail, a directory further down),"
            " or for fewer things in one batch"
        )
        result = answered.get("result", {})
        if "isError" not in result:
            return encode(RpcError(rpc.INTERNAL_ERROR, text).body(answered["id"]))
        shorter = {key: value for key, value in result.items() if key != "structuredContent"}
        return encode({**answered, "result": {**shorter, "content": [text_part(text)], "isError": True}})


async def _message(place: Place, session: Session | None, message: Any) -> dict[str, Any] | None:
    """The answer to one message; None for what gets none."""
    if isinstance(message, dict) and "method" not in message and ("result" in message or "error" in message):
        return None  # a response, though nothing was asked
    request_id = rpc.request_id_of(message)
    try:
        rpc.check_request(message)
        method, params = message["method"], message.get("params", {})
        if "id" not in message:
            _notified(place.sandbox, session, method, params)
            return None
        result = await _tracked(session, request_id, lambda started: rpc.answer(place, method, params, started))
    except RpcError as error:
        given_up = session is not None and request_id in session.unwanted
        return None if given_up else error.body(request_id)
    finally:
        if session is not None and request_id is not None:
            session.unwanted.discard(request_id)
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


async def _tracked(
    session: Session | None,
    request_id: str | int | None,
    work: Callable[[Callable[[asyncio.Task[Any]], None]], Coroutine[Any, Any, dict[str, Any]]],
) -> dict[str, Any]:
    """Run it so that a `notifications/cancelled` of the same session finds it."""

    def started(task: asyncio.Task[Any]) -> None:
        if session is not None and request_id is not None:
            session.calls[request_id] = task

    try:
        return await work(started)
    finally:
        if session is not None and request_id is not None:
            session.calls.pop(request_id, None)


def _notified(sandbox: Sandbox, session: Session | None, method: str, params: Mapping[str, Any]) -> None:
    if method != "notifications/cancelled" or session is None:
        return
    cancelled = params.get("requestId")
    if isinstance(cancelled, str | int) and cancelled in session.calls:
        _give_up(sandbox, session, cancelled, "its client cancelled it")


def _give_up(sandbox: Sandbox, session: Session, request_id: str | int, reason: str) -> None:
    """End a call whose answer is not waited for; the protocol wants none sent then."""
    session.unwanted.add(request_id)
    sandbox.end_call(session.calls[request_id], reason)


# --- stateless era


async def _stateless(place: Place, request: Request, message: Any) -> Response:
    request_id = rpc.request_id_of(message)
    try:
        rpc.check_request(message)
        if "id" not in message:
            # This era has no notifications of clients, but some send them: acknowledged and dropped.
            rpc.check_stateless_version(request.headers["mcp-protocol-version"])
            return Response(status_code=202)
        rpc.check_envelope(message, request.headers)
        result = await _unless_hung_up(
            place, request, lambda started: rpc.answer_stateless(place, message["method"], message["params"], started)
        )
    except RpcError as error:
        return reply(error.body(request_id), _STATUS.get(error.code, 200))
    return reply(await _Budget().fit({"jsonrpc": "2.0", "id": request_id, "result": result}))


async def _unless_hung_up(
    place: Place,
    request: Request,
    work: Callable[[Callable[[asyncio.Task[Any]], None]], Coroutine[Any, Any, dict[str, Any]]],
) -> dict[str, Any]:
    """Closing the connection is how this era cancels a request."""
    calls: list[asyncio.Task[Any]] = []

    async def listen() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        for call in calls:
            place.sandbox.end_call(call, "its client hung up")

    listener = asyncio.create_task(listen())
    try:
        return await work(calls.append)
    finally:
        listener.cancel()
