"""The process: serves the sockets that it was handed, and does what it is told on standard input, until that ends.

Lines of JSON, each answered by one: {"add": house, "users": {address: password}}, {"remove": house}.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.mime
import encodings
import importlib
import json
import logging
import os
import pkgutil
import resource
import socket
import sys
import warnings
from typing import Any

import pymap.parsing

from .houses import Houses
from .imap import Imap
from .smtp import Smtp

MEMORY = 3 << 30  # bytes of address space
LINE = 16 << 20  # bytes of one order


def main() -> None:
    """`python -m process IMAP-FD SMTP-FD UID`; a UID of 0 means to stay who one is."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s mail %(levelname)s %(name)s: %(message)s")
    warnings.filterwarnings("ignore", message="Requiring AUTH while not requiring TLS")  # it is loopback
    logging.getLogger("mail.log").setLevel(logging.ERROR)  # aiosmtpd's own, which tells what is in messages
    imap, smtp, uid = (int(argument) for argument in sys.argv[1:4])
    houses = Houses()
    answering = Imap(houses)
    if uid:
        _become(uid)
    _limit()
    asyncio.run(_serve(houses, answering, socket.socket(fileno=imap), socket.socket(fileno=smtp)))


def _become(uid: int) -> None:
    """Everything that may be imported later is imported before: the folders may not be that user's to read."""
    packages = (asyncio, email, email.mime, encodings, pymap.parsing)
    names = [f"{one.__name__}.{module.name}" for one in packages for module in pkgutil.iter_modules(one.__path__)]
    for name in (*names, "_strptime", "quopri", "calendar", "locale", "traceback", "stringprep"):
        with contextlib.suppress(ImportError):  # those of other systems
            importlib.import_module(name)
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def _limit() -> None:
    for kind, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 1 << 30),  # the log
        (resource.RLIMIT_NOFILE, 1024),
    ):
        hard = resource.getrlimit(kind)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS has no RLIMIT_AS to speak of
            resource.setrlimit(kind, (value, value))


async def _serve(houses: Houses, answering: Imap, imap: socket.socket, smtp: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    servers = (
        await asyncio.start_server(answering, sock=imap),
        await loop.create_server(lambda: Smtp(houses), sock=smtp),
    )
    orders = asyncio.StreamReader(limit=LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    _say({"ready": os.getpid()})
    while line := await orders.readline():
        _say(_obey(houses, json.loads(line)))
    for server in servers:
        server.close()
    os._exit(0)  # no wait for whoever is still connected


def _obey(houses: Houses, order: dict[str, Any]) -> dict[str, Any]:
    if "add" in order:
        houses.add(order["add"], order["users"])
    else:
        houses.remove(order["remove"])
    return {}


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


main()
