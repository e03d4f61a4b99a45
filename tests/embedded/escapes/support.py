"""Attacks as data: programs that print ESCAPED when they get through, and everything worth reaching for.

Each runs at every level of the machine, and at "none" too, where it must get through: a test that cannot fail proves
nothing. An attack that a level is known not to stop says so, and is held to that as well.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.embedded.isolation_support import AS_ROOT, Box, level_or_skip, make_box

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TOKEN = "KLAVIS-TOKEN-THAT-NOBODY-MAY-READ"
WHO = "root" if AS_ROOT else "user"

# What every attack finds in its module: the addresses of the target by name, and a few helpers.
PREAMBLE = """
import ctypes, errno, fcntl, glob, os, signal, socket, struct, subprocess, sys, threading, time
globals().update(os.environ)
VICTIM, SERVER = int(VICTIM), int(SERVER)
libc = ctypes.CDLL(None, use_errno=True)
def call(x86, arm, *arguments):
    "A system call by its number on either processor; raises OSError."
    number = x86 if os.uname().machine == "x86_64" else arm
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def reached(x86, arm, *arguments):
    "Does the kernel take this call at all? What is refused fails with EPERM or ENOSYS, whatever the arguments."
    try: call(x86, arm, *arguments)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS): return
    print("ESCAPED")
"""


@dataclass(frozen=True)
class Attack:
    """A program in Python that prints ESCAPED when it gets through.

    shown_as: as whom ("root": the sandbox's own uid of a server that is root; "user": the plain user of the server)
    it gets through at the level "none"; nobody where another lock of the machine is in the way.
    gaps: levels that are known not to stop it, as "landlock" or, for one of the two, "landlock as user".
    """

    program: str
    shown_as: tuple[str, ...] = ("root", "user")
    gaps: tuple[str, ...] = ()

    def is_gap(self, level: str) -> bool:
        return level in self.gaps or f"{level} as {WHO}" in self.gaps


def locked(program: str, *gaps: str) -> Attack:
    """An attack that other locks of many machines stop even without isolation."""
    return Attack(program, (), gaps)


def shown(attacks: Mapping[str, Attack]) -> list[str]:
    """The names of those that must get through at "none"."""
    return [name for name, attack in attacks.items() if WHO in attack.shown_as]


@dataclass
class Target:
    """Things outside of a sandbox that are worth something."""

    box: Box
    other: Box
    place: Path
    tcp: socket.socket
    udp: socket.socket
    stream: Path
    datagram: socket.socket
    victim: subprocess.Popen[bytes]

    @property
    def secret(self) -> Path:
        return self.place / "secret.txt"

    @property
    def open_folder(self) -> Path:
        return self.place / "open"

    @property
    def loose(self) -> Path:
        """A file that everybody may write."""
        return self.place / "loose" / "file.txt"

    def names(self) -> dict[str, str]:
        """The addresses of everything. The token is written backwards: it must not be found by looking at oneself."""
        return {
            name: str(value)
            for name, value in {
                "SECRET": self.secret,
                "FOLDER": self.open_folder,
                "LOOSE": self.loose,
                "TOOL": self.place / "tool",
                "LINK": self.place / "link",
                "TCP": self.tcp.getsockname()[1],
                "UDP": self.udp.getsockname()[1],
                "STREAM": self.stream,
                "DATAGRAM": self.datagram.getsockname(),
                "VICTIM": self.victim.pid,
                "SERVER": os.getpid(),
                "OTHER": self.other.workspace,
                "TOKEN": TOKEN[::-1],
            }.items()
        }

    def attack(self, program: str, **options: object) -> str:
        """Run an attack; what it printed."""
        code = PREAMBLE + program.replace("ESCAPED", r"ESC\u0041PED")  # Python 3.13 quotes it in its tracebacks
        done = self.box.run(["python", "-c", code], env=self.names(), **options)
        return done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")

    def resists(self, attack: Attack) -> None:
        """Fail the test when the attack gets through at this level (or, where that is known, does not)."""
        said = self.attack(attack.program)
        if attack.is_gap(self.box.isolation.level):
            assert "ESCAPED" in said, "this gap is closed: say so"
            return
        assert "ESCAPED" not in said
        assert TOKEN not in said
        self.is_untouched()

    def yields(self, attack: Attack) -> None:
        """Fail the test when the attack does not get through."""
        assert "ESCAPED" in self.attack(attack.program)

    def is_untouched(self) -> None:
        assert self.victim.poll() is None
        assert list(self.open_folder.iterdir()) == []
        assert (self.other.workspace / "answer.txt").read_text() == TOKEN
        assert self.loose.read_text() == "loose\n"


@contextlib.contextmanager
def new_target(level: str, place: Path) -> Iterator[Target]:
    isolation = level_or_skip(level)
    box, other = make_box(isolation, place), make_box(isolation, place, "other")
    (other.workspace / "answer.txt").write_text(TOKEN)
    if not AS_ROOT:
        other.workspace.chmod(0o755)
    (place / "secret.txt").write_text(TOKEN)
    (place / "link").symlink_to(TOKEN)
    (place / "tool").write_text("#!/bin/sh\nprintf 'ESC%s\\n' APED\n")
    (place / "tool").chmod(0o755)
    for folder in ("open", "loose"):
        (place / folder).mkdir()
        (place / folder).chmod(0o777)
    (place / "loose" / "file.txt").write_text("loose\n")
    (place / "loose" / "file.txt").chmod(0o666)
    with contextlib.ExitStack() as stack:
        # The names of sockets are short.
        run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="k", dir="/tmp")))
        run.chmod(0o755)
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        stream = stack.enter_context(socket.socket(socket.AF_UNIX))
        stream.bind(str(run / "s"))
        stream.listen()
        datagram = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        datagram.bind(str(run / "d"))
        for path in (run / "s", run / "d"):
            path.chmod(0o777)
        # A process of the sandbox's own user, so that permissions alone do not protect it.
        victim = subprocess.Popen(
            ["sleep", "600"],
            env={"PATH": os.environ["PATH"], "KLAVIS_API_KEY": TOKEN},
            stdin=subprocess.DEVNULL,
            user=box.jail.uid,
            group=box.jail.uid,
            extra_groups=[] if AS_ROOT else None,
        )
        stack.callback(victim.wait)
        stack.callback(victim.kill)
        yield Target(box, other, place, tcp, udp, run / "s", datagram, victim)
