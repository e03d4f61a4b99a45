"""Runs an agent's commands apart from the machine: four levels behind one protocol.

`choose` finds the best level that works here. What each promises, and what it does not:

strict    bubblewrap: namespaces of its own for files, processes, network, IPC and (as a plain user) users; the
          workspace is /data.
landlock  Landlock, a system call filter and rlimits: `root` is the real path of the workspace.
seatbelt  macOS's sandbox-exec; experimental, see there.
none      rlimits and a process group only.

A process is executed there (`run`, `start`), or forked from one that is warm (`fork`, by `warm.Zygote`): it enters the
namespaces of a bubblewrap that only waits, or puts itself under the same rules, and gives up every privilege before it
looks at anything of an agent's. That holds what the level promises, and is tried once before it is used. Two things
differ at strict: there is no /proc (/proc/self/exe would lead to a file of the machine that is not on a read-only
mount), and all forks of one process share their layout in memory.

What none of them does: a quota. The disk is looked at before a command and several times a second while it runs, so
it holds for a moment what is written between two looks; a name counts as a block at least. Directories cannot be
hidden from that, nor removed files that are still open; a removed file that is only mapped, or on its way through a
socket, is not counted until it ends with its command. Landlock before ABI 6 (Linux 6.12) lets commands signal other
processes of the same user, except for the one that supervises them; for a server that runs as root these are the
sandbox's own.
"""

from __future__ import annotations

from pytest_klavis.embedded.isolation.model import (
    BadCommandError,
    Completed,
    Isolation,
    IsolationError,
    Jail,
)
from pytest_klavis.embedded.isolation.probe import choose, probe_sync
from pytest_klavis.embedded.isolation.running import Running
from pytest_klavis.limits import Limits

__all__ = [
    "BadCommandError",
    "Completed",
    "Isolation",
    "IsolationError",
    "Jail",
    "Limits",
    "Running",
    "choose",
    "probe_sync",
]
