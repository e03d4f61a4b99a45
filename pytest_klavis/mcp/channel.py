"""One JSON-RPC message over HTTP and its answer: the streamable HTTP transport of MCP, as a client sees it.

The rules are those of modelcontextprotocol.io/specification/2025-11-25/basic/transports. What the messages
mean, and when a session begins, is the client's business.
"""

from __future__ import annotations

import itertools
import json
import re
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import httpx

from pytest_klavis import errors
from pytest_klavis.api.connection import Deadline, Fault, exchange
from pytest_klavis.redaction import redact

from .sse import messages

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import httpcore

__tracebackhide__ = True  # users read their own frames

__tracebackhide__ = True  # pytest shows an error of this module at the line of the test that called it

MAX_ANSWER = 64 << 20
"""Bytes of one answer that are read at most."""
_BEGINNING = 16_000  # bytes of an unwanted answer that are read for the error text
_REDIRECTS = 3
_CONNECT = 10.0  # seconds until a host that does not answer at all is given up
_GOODBYE = 2.0  # seconds for the DELETE of a session


class Channel:
    """One endpoint, with the session and protocol version that its headers carry once they are agreed.

    Set `clock` before each call: everything that is sent and read obeys it. Raises errors.ApiError by the
    status of an HTTP error, errors.TransportError for what is no MCP, and Fault for what the network does.
    """

    def __init__(self, url: str, headers: Mapping[str, str], name: str) -> None:
        self._url = _parsed(url)
        self.label = label(url, name)
        self.clock = Deadline(0)
        self.version = ""  # empty until the handshake
        self.session = ""  # may stay empty: a server need not issue one
        self._headers = httpx.Headers({"User-Agent": "pytest-klavis"} | dict(headers))
        keys = (url, self._url.query.decode(), *self._url.params.values(), *headers.values())
        self._secrets = [text for text in keys if len(text) > 7]  # shorter ones would garble more than they hide
        self._ids = itertools.count(1)

    def end_session(self) -> None:
        """Tell the server, as far as it can be reached, that the session is over."""
        if self.session:
            self.clock = Deadline(_GOODBYE)
            with suppress(Fault), self._exchange("DELETE", self._url):
                pass  # whatever it says: a server forgets an idle session by itself as well
        self.forget()

    def forget(self) -> None:
        self.version = self.session = ""

    def clean(self, text: str) -> str:
        """Foreign text without what opens the sandbox: servers and proxies quote the request's URL."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return redact(text)

    def post(self, method: str, params: dict[str, Any] | None) -> dict[str, Any]:
        """Send one message and return its answer, a JSON-RPC response with `result` or `error`.

        `params` of None makes it a notification, whose answer is empty. Raises SpecError for what is no JSON.
        """
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message |= {"id": next(self._ids), "params": params}
        try:
            body = json.dumps(message, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise errors.SpecError(f"the arguments of {method} are no JSON: {error}") from error
        url = self._url
        for _ in range(_REDIRECTS):
            with self._exchange("POST", url, body) as response:
                headers = httpx.Headers(response.headers)
                moved = self._moved(response.status, url, headers)
                if moved is None:
                    return self._received(method, response, headers, message.get("id"))
                url = moved
        raise errors.TransportError(f"{self.label} redirects {method} in a circle")

    @contextmanager
    def _exchange(self, verb: str, url: httpx.URL, body: bytes = b"") -> Iterator[httpcore.Response]:
        headers = {
            "Accept": "application/json, text/event-stream",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "MCP-Protocol-Version": self.version,
            "Mcp-Session-Id": self.session,
        }
        merged = httpx.Headers(self._headers)
        merged.update({name: value for name, value in headers.items() if value})
        with exchange(httpx.Request(verb, url, content=body, headers=merged), self.clock, _CONNECT) as response:
            yield response

    @staticmethod
    def _moved(status: int, url: httpx.URL, headers: httpx.Headers) -> httpx.URL | None:
        """Where to repeat the request: on the same origin only, as the URL is a key."""
        if status not in (307, 308) or "location" not in headers:
            return None
        try:
            target = url.join(headers["location"])
        except httpx.InvalidURL:
            return None
        same = (target.scheme, target.host, target.port) == (url.scheme, url.host, url.port)
        return target if same else None

    def _received(
        self, method: str, response: httpcore.Response, headers: httpx.Headers, request_id: int | None
    ) -> dict[str, Any]:
        if response.status >= 300:
            return self._refused(method, response, request_id)
        if request_id is None:
            return {}
        if method == "initialize":
            self.session = headers.get("mcp-session-id", "")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        return self._answer_in(method, response, kind, request_id)

    def _answer_in(self, method: str, response: httpcore.Response, kind: str, request_id: int) -> dict[str, Any]:
        if kind == "text/event-stream":
            for data in messages(self._chunks(response)):
                for message in _listed(self._parsed_json(method, data)):
                    if _answers(message, request_id):
                        return message
            raise errors.TransportError(f"{self.label} ended its stream without an answer to {method}")
        body = b"".join(self._chunks(response))
        if kind != "application/json":
            raise errors.TransportError(
                f"{self.label} answered {method} with HTTP {response.status} and {kind or 'no content type'}, "
                f"which is no MCP: {self._shown(body)}"
            )
        for message in _listed(self._parsed_json(method, body)):
            if _answers(message, request_id):
                return message
        raise errors.TransportError(f"{self.label} answered {method} with a message that is no answer to it")

    def _refused(self, method: str, response: httpcore.Response, request_id: int | None) -> dict[str, Any]:
        """An HTTP error raised by its status, unless it carries the JSON-RPC error of this very call."""
        status = response.status
        body = b"".join(self._chunks(response, _BEGINNING))
        if status in (400, 422) and method == "tools/call":
            for message in _listed(json_or_none(body.decode("utf-8", "replace"))):
                if _answers(message, request_id) and "error" in message:
                    return message
        kind = errors.ServerError if status >= 500 else _BY_STATUS.get(status, errors.RequestRefusedError)
        hint = "The sandbox may have been released, or its time is over." if kind is errors.NotFoundError else ""
        raise kind(f"{method} of {self.label}", status, self._shown(body, 2_000), hint)

    def _chunks(self, response: httpcore.Response, limit: int = 0) -> Iterator[bytes]:
        """The body as it comes; at `limit` bytes it is cut, without one too much of it is an error."""
        read = 0
        for chunk in response.iter_stream():
            read += len(chunk)
            if read > MAX_ANSWER:
                raise errors.TransportError(f"{self.label} sent an answer of more than {MAX_ANSWER >> 20} MiB")
            yield chunk
            if limit and read >= limit:
                return

    def _parsed_json(self, method: str, data: bytes) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise errors.TransportError(
                f"{self.label} answered {method} with broken JSON: {self._shown(data)}"
            ) from None

    def _shown(self, body: bytes, characters: int = 300) -> str:
        """The beginning of a body for an error text; cleaned before it is cut, as half a secret is not found."""
        return self.clean(body[:_BEGINNING].decode("utf-8", "replace"))[:characters].strip() or "(empty body)"


_BY_STATUS: dict[int, type[errors.ApiError]] = {
    401: errors.AuthError,
    403: errors.AuthError,
    404: errors.NotFoundError,
    410: errors.NotFoundError,
    429: errors.RateLimitError,
}


def label(url: str, name: str = "") -> str:
    """How texts name the server of `url`: by its name and host, never by the query or user of the URL."""
    parsed = _parsed(url)
    host = str(parsed.netloc, "ascii")
    named = re.fullmatch(r"/([A-Za-z0-9_.-]{1,40})/mcp/?", parsed.path)
    name = name or (named.group(1) if named else "")
    return f"MCP server {name!r} at {host}" if name else f"MCP server at {host}"


def _parsed(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise errors.SpecError("the URL of an MCP server is http(s)://host/path; this one is not (it is not shown)")
    return parsed


def _listed(message: Any) -> list[dict[str, Any]]:
    """One message, or the several of a 2025-03-26 batch."""
    several = message if isinstance(message, list) else [message]
    return [one for one in several if isinstance(one, dict)]


def _answers(message: dict[str, Any], request_id: int | None) -> bool:
    """Whether it is a response to our request; some servers turn the id into text."""
    return ("result" in message or "error" in message) and str(message.get("id")) == str(request_id)


def json_or_none(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return None


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is Python's, not JSON's")
