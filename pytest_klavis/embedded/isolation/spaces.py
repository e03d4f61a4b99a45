"""Entering the namespaces that bubblewrap has made, from outside: for processes that are forked and not executed."""

from __future__ import annotations

import fcntl
import os
import resource
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_klavis.embedded.isolation import seccomp, syscalls
from pytest_klavis.embedded.isolation.model import IsolationError
from pytest_klavis.embedded.isolation.users import become

if TYPE_CHECKING:
    from collections.abc import Iterator

_NS_GET_USERNS = 0xB701
_KINDS = ("net", "ipc", "uts", "cgroup", "pid", "mnt")  # mnt last: it changes what paths mean


@dataclass(frozen=True)
class Entry:
    """Prepared by the server, applied in the child.

    spaces: descriptors of namespaces, in the order in which they are entered. cwd: the working directory, as named
    inside. limits: arguments of setrlimit. uid: the sandbox's, where the server is root.
    """

    spaces: tuple[int, ...]
    cwd: str
    limits: tuple[tuple[int, tuple[int, int]], ...]
    uid: int | None

    def enter(self) -> None:  # forked child
        """The PID namespace is that of the next child only."""
        for space in self.spaces:
            syscalls.setns(space)

    def confine(self) -> None:  # forked child
        """In the PID namespace: give up every privilege, then go where an agent may have been."""
        for kind, pair in self.limits:
            resource.setrlimit(kind, pair)
        syscalls.drop_bounding_set()
        become(self.uid)()
        syscalls.drop_capabilities()
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        syscalls.load_seccomp(seccomp.program(sockets=True))
        os.chdir(self.cwd)


@contextmanager
def namespaces_of(init: int) -> Iterator[tuple[int, ...]]:
    """Descriptors of the namespaces of process 1's first child, which is there and nobody's but ours.

    As a plain user there are two user namespaces: the one that owns the others, and the one inside of it in which no
    further one can be made. Raises IsolationError.
    """
    try:
        children = Path(f"/proc/{init}/task/{init}/children").read_text(encoding="ascii").split()
        if len(children) != 1:
            raise IsolationError(f"process 1 of a sandbox has {len(children)} children, not the one that it was given")
        with ExitStack() as opened:
            folder = f"/proc/{children[0]}/ns/"
            ours = os.stat("/proc/self/ns/user")  # noqa: PTH116

            def take(fd: int) -> int:
                opened.callback(os.close, fd)
                return fd

            spaces = [take(os.open(folder + kind, os.O_RDONLY | os.O_CLOEXEC)) for kind in _KINDS]
            outer = take(fcntl.ioctl(spaces[-1], _NS_GET_USERNS))
            inner = take(os.open(folder + "user", os.O_RDONLY | os.O_CLOEXEC))
            if not os.path.samestat(os.fstat(outer), ours):
                spaces.insert(0, outer)
            if not os.path.samestat(os.fstat(inner), os.fstat(outer)):
                spaces.append(inner)
            yield tuple(spaces)
    except OSError as error:
        raise IsolationError(f"the namespaces of a sandbox cannot be entered: {error}") from error
