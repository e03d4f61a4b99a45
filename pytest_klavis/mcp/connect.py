"""An MCP `ClientSession` for async tests, on either line of the `mcp` package and under asyncio and trio."""

from __future__ import annotations

import importlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from pytest_klavis import errors
from pytest_klavis.redaction import redact

from .channel import label

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from mcp import ClientSession

__tracebackhide__ = True  # users read their own frames

__tracebackhide__ = True  # pytest shows an error of this module at the line of the test that called it

_READ = 300.0  # seconds without a byte of an answer, as in the package's own clients


def connect(
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    timeout: float = 30.0,  # of the handshake alone, not of what is done with the session
    name: str = "",
    on_error: Callable[[errors.InfraError], None] | None = None,
) -> AbstractAsyncContextManager[ClientSession]:
    """An async context manager whose value is an initialised `mcp.ClientSession`.

    Works with mcp 1.24 and later and with mcp 2, under asyncio and trio; enter and leave it in the same
    task. `timeout` is how many seconds connecting and the handshake may take. `name` is the server's
    name in error texts. `on_error` is told of the TransportError before it is raised.

    What the body of the `async with` raises arrives as itself, not inside an ExceptionGroup. When the
    server cannot be reached, refuses the handshake, or breaks the connection later, that is an
    errors.TransportError naming server and host. Without a fitting `mcp` package: errors.SpecError, at
    the call.
    """
    mcp, transport, http = _packages()
    return _connected(mcp, transport, http, (url, dict(headers or {}), timeout, label(url, name), on_error))


@asynccontextmanager
async def _connected(
    mcp: Any,
    transport: Any,
    http: Any,
    target: tuple[str, dict[str, str], float, str, Callable[[errors.InfraError], None] | None],
) -> AsyncIterator[Any]:
    url, headers, timeout, server, on_error = target
    # The task groups of the package wrap whatever passes through them in a group. So an exception of the
    # body waits in `held` until they are left in peace; only a cancellation has to pass, being their own.
    held: BaseException | None = None
    trouble: BaseException | None = None
    connected = False
    host = http.URL(url).host
    client = http.AsyncClient(
        headers=headers,
        timeout=http.Timeout(timeout, read=_READ),
        trust_env=not (host in ("localhost", "::1") or host.startswith("127.")),  # no proxy reaches the embedded server
    )
    try:
        async with (
            client,
            transport.streamable_http_client(url, http_client=client) as streams,
            mcp.ClientSession(streams[0], streams[1]) as session,
        ):
            try:
                with anyio.fail_after(timeout):
                    await session.initialize()
                connected = True
                yield session
            except (anyio.get_cancelled_exc_class(), GeneratorExit):
                raise
            except BaseException as error:  # noqa: BLE001  raised again below
                held = error
    except BaseExceptionGroup as group:
        trouble = group
    if held is not None and (connected or not isinstance(held, Exception)):
        try:
            raise held
        finally:
            del held  # its traceback holds this frame
    trouble = held or trouble
    if trouble is not None:
        stopped = next((leaf for leaf in _leaves(trouble) if not isinstance(leaf, Exception)), None)
        if stopped is not None:
            raise stopped
        failure = errors.TransportError(_story(trouble, server, timeout, connected=connected))
        if on_error is not None:
            on_error(failure)
        raise failure from None  # the causes name the URL, which is a key


def _packages() -> tuple[Any, Any, Any]:
    """`mcp`, its streamable HTTP module, and the HTTP library that module is written with: httpx or httpx2."""
    needed = "connect() needs the `mcp` package, 1.24 or later: pip install 'pytest-klavis[mcp]'"
    try:
        mcp = importlib.import_module("mcp")
        transport = importlib.import_module("mcp.client.streamable_http")
    except ImportError as error:
        raise errors.SpecError(f"{needed} ({error})") from error
    if not hasattr(transport, "streamable_http_client"):
        raise errors.SpecError(f"{needed} (the installed one is older)")
    return mcp, transport, transport.httpx2 if hasattr(transport, "httpx2") else transport.httpx


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _story(trouble: BaseException, server: str, timeout: float, *, connected: bool) -> str:
    leaves = list(_leaves(trouble))
    if not connected and any(isinstance(leaf, TimeoutError) for leaf in leaves):
        return f"{server} did not finish the MCP handshake within {timeout:g} s"
    what = "lost the connection" if connected else "could not be connected to"
    return f"{server} {what}: {'; '.join(_words(leaf) for leaf in leaves)}"


def _words(error: BaseException) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:  # the text of httpx's HTTPStatusError quotes the whole URL
        return f"it answered with HTTP {status}"
    return redact(str(error)) or type(error).__name__
