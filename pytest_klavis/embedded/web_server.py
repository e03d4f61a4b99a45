"""The web side of the process: a listening socket and uvicorn on it. Everything that is slow to import hangs here."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import uvicorn

from pytest_klavis.embedded import app
from pytest_klavis.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_klavis.embedded.sandboxes import Sandboxes

WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # what listens everywhere, and how it is reached from here
_KEEP_ALIVE = 120  # seconds; longer than clients keep idle connections, or a reused one is closed under a request


class _Uvicorn(uvicorn.Server):
    """Signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class WebServer:
    """uvicorn on one listening socket."""

    def __init__(self, sock: socket.socket, sandboxes: Sandboxes, doors: app.Doors) -> None:
        config = uvicorn.Config(
            app.build(sandboxes, doors),
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=3,
        )
        self._server = _Uvicorn(config)
        self._task = asyncio.create_task(self._server.serve([sock]))

    async def started(self) -> None:
        while not self._server.started:
            if self._task.done():
                await self._task
                raise BackendError("the web server ended as it started")
            await asyncio.sleep(0.001)

    async def stop(self) -> None:
        self._server.should_exit = True
        await self._task


def listen(host: str, port: int) -> tuple[socket.socket, str]:
    """A listening socket and its URL as this machine reaches it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise BackendError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    # asyncio does this only where it sees IPPROTO_TCP, which create_server leaves out; 40 ms per answer otherwise.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    shown = WILDCARDS.get(host, f"[{host}]" if ":" in host else host)
    return sock, f"http://{shown}:{sock.getsockname()[1]}"
