"""Runs an agent's commands apart from the machine: three levels behind one protocol.

`choose` finds the best level that works here. What each promises, and what it does not:

strict    bubblewrap: namespaces of its own for files, processes, network, IPC and (as a plain user) users; the
          workspace is /data.
landlock  Landlock, a system call filter and rlimits: `root` is the real path of the workspace.
none      rlimits and a process group only.
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
