"""A door to our SMTP server for emails-mcp, which without STARTTLS never says who it is: the relay says it instead."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def relay(host: str, port: int, user: str, password: str) -> Iterator[int]:
    """Listen on a loopback port, which is given; what comes there goes to the server as from this user."""
    token = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):  # closed: the end
                while True:
                    client, _ = listener.accept()
                    server = socket.create_connection((host, port))
                    _begin(server, token)
                    client.sendall(b"220 relay\r\n")
                    threading.Thread(target=_connect, args=(client, server), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept


def _begin(server: socket.socket, token: str) -> None:
    _answer(server)
    for command in ("EHLO relay", f"AUTH PLAIN {token}"):
        server.sendall(f"{command}\r\n".encode())
        answer = _answer(server)
        assert answer.startswith("2"), answer


def _answer(server: socket.socket) -> str:
    received = b""
    while not received.endswith(b"\r\n") or received.splitlines()[-1][3:4] == b"-":
        received += server.recv(4096)
    return received.decode()


def _connect(client: socket.socket, server: socket.socket) -> None:
    """Pass on what either side says until both are done."""
    with client, server:
        back = threading.Thread(target=_pass, args=(server, client), daemon=True)
        back.start()
        _pass(client, server)
        back.join()


def _pass(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
