"""The network and the sockets of the machine: what counts is whether anything arrives."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.embedded.escapes.support import Attack, Target, locked, shown
from tests.embedded.isolation_support import level_or_skip, make_box

ATTACKS = {
    "connect by TCP": Attack("socket.create_connection(('127.0.0.1', int(TCP)), 2); print('ESCAPED')"),
    "connect to every address of the machine": Attack(
        "socket.create_connection(('0.0.0.0', int(TCP)), 2); print('ESCAPED')"
    ),
    "connect by another loopback address": locked(
        "socket.create_connection(('127.9.8.7', int(TCP)), 2); print('ESCAPED')"
    ),
    "connect by name": Attack("socket.create_connection(('localhost', int(TCP)), 2); print('ESCAPED')"),
    "connect by IPv6": Attack(
        "s = socket.socket(socket.AF_INET6); s.connect((f'::ffff:127.0.0.1', int(TCP))); print('ESCAPED')"
    ),
    "connect by Multipath TCP": locked(
        "s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\n"
        "s.connect(('127.0.0.1', int(TCP))); print('ESCAPED')"
    ),
    "connect while sending": locked(
        "s = socket.socket(); s.sendto(b'x', 0x20000000, ('127.0.0.1', int(TCP))); print('ESCAPED')"
    ),
    "connect without waiting": Attack(
        "s = socket.socket(); s.setblocking(False); s.connect_ex(('127.0.0.1', int(TCP)))\n"
        "import select; select.select([], [s], [], 2); s.getpeername(); print('ESCAPED')"
    ),
    "connect to a socket file": Attack("socket.socket(socket.AF_UNIX).connect(STREAM); print('ESCAPED')"),
    "connect to a socket file by a link": Attack(
        "os.symlink(STREAM, 's'); socket.socket(socket.AF_UNIX).connect('s'); print('ESCAPED')"
    ),
    "connect to a socket file by a descriptor": Attack(
        "fd = os.open(STREAM, os.O_PATH)\n"
        "socket.socket(socket.AF_UNIX).connect(f'/proc/self/fd/{fd}'); print('ESCAPED')"
    ),
    "send to a socket file": Attack(
        "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', DATAGRAM); print('ESCAPED')"
    ),
    "send to a socket file from a pair": Attack(
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', DATAGRAM); print('ESCAPED')"
    ),
    "send to a socket file from a raw pair": Attack(
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW)[0].sendto(b'x', DATAGRAM); print('ESCAPED')"
    ),
    "list the machine's interfaces": Attack(
        "if {name for _, name in socket.if_nameindex()} - {'lo'}: print('ESCAPED')", ()
    ),
    "read the machine's connections": Attack(
        "if format(int(TCP), '04X') in open('/proc/net/tcp').read(): print('ESCAPED')"
    ),
    "read the machine's socket files": Attack("if STREAM in open('/proc/net/unix').read(): print('ESCAPED')"),
    "ask the kernel for its sockets": Attack(
        "s = socket.socket(16, socket.SOCK_RAW, 4)\n"
        "s.send(struct.pack('=IHHIIBBBxI48x', 72, 20, 0x301, 1, 0, 2, 6, 0, 0xFFFFFFFF))\n"
        "s.settimeout(1)\n"
        "while struct.pack('>H', int(TCP)) not in s.recv(1 << 20): pass\n"
        "print('ESCAPED')"
    ),
    "resolve a name": Attack(
        "socket.gethostbyname('example.org'); print('ESCAPED')",
        (),
    ),
    "name servers": Attack("print('ESCAPED', open('/etc/resolv.conf').read())"),
    "vsock": locked("socket.socket(40, socket.SOCK_STREAM); print('ESCAPED')"),
    "packet": locked("socket.socket(17, socket.SOCK_RAW, 768); print('ESCAPED')"),
    "raw": locked("socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); print('ESCAPED')"),
    "ping": locked(
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1).sendto(b'', ('127.0.0.1', 0)); print('ESCAPED')",
    ),
    "the kernel's ciphers": locked("socket.socket(38, socket.SOCK_SEQPACKET); print('ESCAPED')"),
    "bluetooth": locked("socket.socket(31, 3, 1); print('ESCAPED')"),
    "CAN": locked("socket.socket(29, 3, 1); print('ESCAPED')"),
    "XDP": locked("socket.socket(44, 3, 0); print('ESCAPED')"),
    "audit": locked("socket.socket(16, 3, 9).bind((0, 1)); print('ESCAPED')"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(target: Target, name: str) -> None:
    target.resists(ATTACKS[name])


@pytest.mark.parametrize("name", shown(ATTACKS))
def test_the_attack_works_without_isolation(unprotected: Target, name: str) -> None:
    unprotected.yields(ATTACKS[name])


DATAGRAMS = {
    "to the loopback": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', int(UDP)))",
    "to a name": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('localhost', int(UDP)))",
    "to any address": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('0.0.0.0', int(UDP)))",
    "by IPv6": "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b'x', ('::ffff:127.0.0.1', int(UDP)))",
    "connected": "s = socket.socket(type=socket.SOCK_DGRAM); s.connect(('127.0.0.1', int(UDP))); s.send(b'x')",
}


@pytest.mark.parametrize("how", DATAGRAMS)
def test_no_datagram_arrives(target: Target, how: str) -> None:
    target.attack(DATAGRAMS[how])
    target.udp.setblocking(False)
    with pytest.raises(BlockingIOError):  # the loopback delivers at once
        target.udp.recv(10)


@pytest.mark.parametrize("how", DATAGRAMS)
def test_a_datagram_arrives_without_isolation(unprotected: Target, how: str) -> None:
    unprotected.attack(DATAGRAMS[how])
    unprotected.udp.settimeout(5)
    assert unprotected.udp.recv(10) == b"x"


def _abstract(target: Target) -> str:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0klavis-test-{os.getpid()}")
        listener.listen()
        return target.attack(f"socket.socket(socket.AF_UNIX).connect({listener.getsockname()!r}); print('ESCAPED')")


def test_no_abstract_socket_is_reached(target: Target) -> None:
    assert "ESCAPED" not in _abstract(target)


def test_an_abstract_socket_is_reached_without_isolation(unprotected: Target) -> None:
    assert "ESCAPED" in _abstract(unprotected)


def test_nothing_outside_has_a_route_or_a_name(target: Target) -> None:
    said = target.attack(
        "for address in ('8.8.8.8', '169.254.169.254', '10.0.0.1'):\n"
        "    try: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect((address, 53)); print('ESCAPED')\n"
        "    except OSError: pass\n"
        "socket.getaddrinfo('example.org', 443); print('ESCAPED')"
    )
    assert "ESCAPED" not in said


def test_nobody_outside_can_be_served(target: Target) -> None:
    """A port that is opened inside is not open on the machine."""
    said = target.attack(
        "s = socket.create_server(('127.0.0.1', 0))\n"
        "port = s.getsockname()[1]\n"
        "print('LISTENS', format(port, '04X'), flush=True)"
    )
    if "LISTENS" in said:
        assert target.box.isolation.level == "strict"
    assert "ESCAPED" not in target.attack(
        "s = socket.socket(); s.bind(('127.0.0.1', int(TCP))); print('ESCAPED' if os.path.exists(SECRET) else '')"
    )


def test_other_kinds_of_sockets(target: Target) -> None:
    """vsock, for one, is not part of a network namespace: it leads to the machine below."""
    said = target.attack(
        "for family in range(3, 64):\n"
        "    if family in (10, 16): continue\n"  # IPv6 and netlink are of the namespace
        "    for kind in (1, 2, 3, 5):\n"
        "        try: socket.socket(family, kind, 0); print('ESCAPED', family)\n"
        "        except OSError: pass"
    )
    assert "ESCAPED" not in said


def test_strict_has_a_loopback_of_its_own(place: Path) -> None:
    box = make_box(level_or_skip("strict"), place)
    done = box.python(
        "import socket\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "client = socket.create_connection(server.getsockname()); print(server.accept()[1] == client.getsockname())"
    )
    assert done.stdout == b"True\n", done.stderr
