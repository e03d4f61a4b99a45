"""A small synchronous MCP client: lists a server's tools and calls them, over streamable HTTP and nothing else.

It speaks the sessions era of the protocol (2025-03-26 to 2025-11-25; its lifecycle and tools are in
modelcontextprotocol.io/specification/2025-11-25), which the Klavis servers and the embedded ones answer,
and it offers the server no capabilities: no sampling, no elicitation, no roots.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from pytest_klavis import errors
from pytest_klavis.api.connection import Deadline, Fault
from pytest_klavis.unescaped import encodable

from .channel import Channel, json_or_none

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__tracebackhide__ = True  # pytest shows an error of this module at the line of the test that called it

PROTOCOL = "2025-11-25"
_MAX_PAGES = 1_000
_BROKEN = (-32011, -32012)  # the embedded server has no isolation for the tool, or has lost the mail


@dataclass(frozen=True)
class ToolResult:
    """What a tool answered.

    `text` is its text blocks, one per line. `data` is its structured content, else what `text`
    says where that is JSON, else None. `content` is every block as it came. With `is_error` the
    tool, or the server on its behalf, refused: `text` says why.
    """

    text: str
    data: Any = None
    is_error: bool = False
    content: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class ToolInfo:
    """A tool as its server lists it; `input_schema` is a JSON schema."""

    name: str
    description: str = ""
    input_schema: dict[str, Any] = field(default_factory=dict)


class McpClient:
    """One MCP server, at one URL. The first call begins the session; threads that share a client take turns.

    `headers` go with every request. `timeout` is how many seconds a call may take in all: waiting,
    connecting, the handshake when there is no session yet, and every byte of the answer. `name` is the
    server's name in error texts; by default it is read from a path like `/filesystem/mcp/`.

    Every call raises errors.ApiError (by status) when the server answers with an HTTP error, and
    errors.TransportError when it does not answer, is late, or answers what is no MCP. The query of the
    URL is the key to the sandbox and is in none of these texts. A URL that is none, or arguments that
    are no JSON, are an errors.SpecError.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str] | None = None, *, timeout: float = 60.0, name: str = ""
    ) -> None:
        self._channel = Channel(url, headers or {}, name)
        self._timeout = timeout
        self._lock = threading.Lock()

    @property
    def label(self) -> str:
        """The server's name and host, as error texts give them."""
        return self._channel.label

    def __repr__(self) -> str:
        return f"<McpClient {self.label}>"

    def list_tools(self) -> list[ToolInfo]:
        """Every tool of the server, over all pages of its list."""
        found: list[ToolInfo] = []
        seen: set[str] = set()
        params: dict[str, Any] = {}
        with self._call("tools/list"):
            while True:
                page = self._result("tools/list", self._request("tools/list", params))
                found += [self._tool(item) for item in self._items(page, "tools")]
                cursor = page.get("nextCursor")
                if not cursor:
                    return found
                if not isinstance(cursor, str) or cursor in seen or len(seen) >= _MAX_PAGES:
                    raise errors.TransportError(f"{self.label} pages its tools without an end")
                seen.add(cursor)
                params = {"cursor": cursor}

    def call_tool(self, name: str, arguments: Mapping[str, Any] | None = None) -> ToolResult:
        """Call one tool.

        An unknown tool or arguments that it refuses are a result with `is_error`, whether the
        server says so in a result or as a JSON-RPC error: both are the caller's to read. What the embedded
        server says of itself, that it cannot run any tool, is a TransportError.
        """
        with self._call(f"tools/call of {name!r}"):
            answer = self._request("tools/call", {"name": name, "arguments": dict(arguments or {})})
            if "error" in answer:
                text = encodable(_error_text(answer["error"]))
                if isinstance(answer["error"], dict) and answer["error"].get("code") in _BROKEN:
                    raise errors.TransportError(f"{self.label}: {self._channel.clean(text)}")
                return ToolResult(text=text, is_error=True, content=({"type": "text", "text": text},))
            result = self._result("tools/call", answer)
            content = tuple(self._items(result, "content"))
        text = "\n".join(_texts(content))
        structured = result.get("structuredContent")
        return ToolResult(
            text=encodable(text) if result.get("isError") else text,  # an error's text ends up in a report
            data=json_or_none(text) if structured is None else structured,
            is_error=bool(result.get("isError")),
            content=content,
        )

    def close(self) -> None:
        """End the session at the server, as far as it can be reached. A later call would begin a new one."""
        with self._lock:
            self._channel.end_session()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _call(self, what: str) -> Iterator[None]:
        """One call: its deadline, its turn on the connection, and its words when HTTP fails."""
        clock = Deadline(self._timeout)
        if not self._lock.acquire(timeout=self._timeout):
            raise errors.TransportError(f"{self.label}: {what} waited {self._timeout:g} s for another call to end")
        try:
            self._channel.clock = clock
            yield
        except Fault as fault:
            if clock.left() <= 0:
                text = f"{self.label} did not finish {what} within {self._timeout:g} s"
            else:
                text = f"{self.label}: {what} failed: {self._channel.clean(fault.reason)}"
            raise errors.TransportError(text) from None
        finally:
            self._lock.release()

    def _request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request, after a handshake where there is no session or it turns out to be stale."""
        channel = self._channel
        if not channel.version:
            self._handshake()
        try:
            return channel.post(method, params)
        except errors.RequestRefusedError as error:
            # The transport's rule is 404, but servers on older SDKs answer 400 to a session they do not know.
            if error.status != 400 or not channel.session or "session" not in error.body.lower():
                raise
        except errors.NotFoundError as error:
            if error.status != 404 or not channel.session:
                raise
        channel.forget()
        self._handshake()
        return channel.post(method, params)

    def _handshake(self) -> None:
        info = {"name": "pytest-klavis", "version": "1"}
        params = {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": info}
        result = self._result("initialize", self._channel.post("initialize", params))
        self._channel.version = str(result.get("protocolVersion") or PROTOCOL)
        try:
            self._channel.post("notifications/initialized", None)
        except BaseException:
            self._channel.forget()
            raise

    def _result(self, method: str, answer: dict[str, Any]) -> dict[str, Any]:
        if "error" in answer:
            raise errors.TransportError(
                f"{self.label} refused {method}: {self._channel.clean(_error_text(answer['error']))}"
            )
        result = answer.get("result")
        if not isinstance(result, dict):
            raise errors.TransportError(f"{self.label} answered {method} with a result that is no object")
        return result

    def _items(self, result: dict[str, Any], key: str) -> list[dict[str, Any]]:
        items = result.get(key) or []
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise errors.TransportError(f"{self.label} answered with {key!r} that is no list of objects")
        return items

    def _tool(self, item: dict[str, Any]) -> ToolInfo:
        if not isinstance(item.get("name"), str):
            raise errors.TransportError(f"{self.label} lists a tool without a name")
        schema = item.get("inputSchema")
        return ToolInfo(item["name"], str(item.get("description") or ""), schema if isinstance(schema, dict) else {})


def _error_text(error: Any) -> str:
    if not isinstance(error, dict):
        return f"JSON-RPC error {error!r}"
    return f"{error.get('message') or 'no message'} (JSON-RPC error {error.get('code')})"


def _texts(content: tuple[dict[str, Any], ...]) -> Iterator[str]:
    for block in content:
        holder = block.get("resource") if block.get("type") == "resource" else block
        if isinstance(holder, dict) and isinstance(holder.get("text"), str):
            yield holder["text"]
