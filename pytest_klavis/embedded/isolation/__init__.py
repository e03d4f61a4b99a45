"""Runs an agent's commands apart from the machine: three levels behind one protocol.

`choose` finds the best level that works here. What each promises, and what it does not:

strict    bubblewrap: namespaces of its own for files, processes, network, IPC and (as a plain user) users; the
          workspace is /data.
landlock  Landlock, a system call filter and rlimits: `root` is the real path of the workspace.
none      rlimits and a process group only.

What none of them does: a quota. The disk is looked at before a command and several times a second while it runs, so
it holds for a moment what is written between two looks. Directories cannot be hidden from that, nor removed files that
are still open; a removed file that is only mapped, or on its way through a socket, is not counted until it ends with
its command. Landlock before ABI 6 (Linux 6.12) lets commands signal other processes of the same user, except for the
one that supervises them; for a server that runs as root these are the sandbox's own.
"""

from __future__ import annotations

from pytest_klavis.embedded.isolation.model import (
    BadCommandError,
    Completed,
    Isolation,
    IsolationError,
    Jail,
    Limits,
)
from pytest_klavis.embedded.isolation.probe import choose, probe_sync

__all__ = [
    "BadCommandError",
    "Completed",
    "Isolation",
    "IsolationError",
    "Jail",
    "Limits",
    "choose",
    "probe_sync",
]
