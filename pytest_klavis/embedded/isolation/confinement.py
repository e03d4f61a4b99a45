"""What a forked process does to itself at the levels without namespaces before it becomes a command."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass

from pytest_klavis.embedded.isolation import seccomp, syscalls
from pytest_klavis.embedded.isolation.users import become


@dataclass(frozen=True)
class Confinement:
    """Prepared by the server, applied in the child.

    directory: descriptor of the working directory. limits: arguments of setrlimit. uid: the sandbox's, where the server
    is root. ruleset: descriptor of the command's Landlock rules, and with it a system call filter; None for neither.
    outer: descriptor of rules that the command's supervisor is under too, so that kill(-1) means "this run".
    """

    directory: int
    limits: tuple[tuple[int, tuple[int, int]], ...]
    uid: int | None
    ruleset: int | None = None
    outer: int | None = None

    def enter(self) -> None:  # forked child
        """For the supervisor and the command."""
        if self.outer is not None:
            syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
            syscalls.restrict_self(self.outer)

    def confine(self) -> None:  # forked child
        """For the command."""
        os.fchdir(self.directory)
        for kind, pair in self.limits:
            resource.setrlimit(kind, pair)
        become(self.uid)()
        if self.ruleset is not None:
            syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
            syscalls.restrict_self(self.ruleset)
            syscalls.load_seccomp(seccomp.sparing(os.getppid()))  # the supervisor: before ABI 6 it is within reach
            syscalls.load_seccomp(seccomp.program(sockets=False))
