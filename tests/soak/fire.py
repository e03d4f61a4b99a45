"""What the soak does to a run while it goes on: kills, faults of the API, and a look at what the processes take."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cloud import Simulated

_ANY = r".*"
_ACQUIRE = r"POST /(local-sandbox|sandbox/\w+)"
_RESET = r"POST .*/reset"
_RELEASE = r"DELETE .*"
_SEED = r"POST .*/(upload-url|initialize)"
_DUMP = r"GET .*/dump"
_LIST = r"GET /(local-sandbox|sandbox)"
_WAYS: tuple[dict[str, Any], ...] = (
    {"status": 500},
    {"status": 503},
    {"status": 429, "headers": {"Retry-After": "1"}},
    {"lose_answer": True},
    {"way": "cut"},
    {"way": "garbage"},
    {"delay": 2.0},
)


@dataclass
class Fire:
    """Kills workers and the keeper of a run now and then, and plants faults, all by one random number generator."""

    cloud: Simulated
    run: subprocess.Popen[str]
    journals: Path
    state: Path
    chance: random.Random
    killed: dict[int, float] = field(default_factory=dict)
    """Workers -> when, by the monotonic clock."""
    kills: Counter[str] = field(default_factory=Counter)
    peaks: Counter[str] = field(default_factory=Counter)
    """The most that a keeper and a worker had of memory, in MB, and the ledger's files, in kB."""

    def burn(self, until: float) -> bool:
        """Go on until the run ends, or until then by the monotonic clock; whether it ended."""
        next_fault = next_kill = time.monotonic() + 1.0
        while time.monotonic() < until:
            if self.run.poll() is not None:
                return True
            now = time.monotonic()
            if now >= next_fault:
                next_fault = now + self.chance.uniform(0.5, 1.5)
                self.cloud.change(faults=[self._fault() for _ in range(self.chance.randint(0, 2))])
            if now >= next_kill:
                next_kill = now + self.chance.uniform(0.5, 1.5)
                self._kill()
            self.look()
            time.sleep(0.05)
        return False

    def quench(self) -> None:
        """From now on all goes well."""
        self.cloud.change(faults=[])

    def look(self) -> None:
        """See what the processes and the ledger take."""
        for name, pids in (("keeper", keepers(self.state)), ("worker", self._workers())):
            for pid in pids:
                self.peaks[name] = max(self.peaks[name], _peak(pid))
        for path in self.state.glob("*/ledger-*"):
            size = path.stat().st_size // 1024 if path.exists() else 0
            self.peaks[path.suffix] = max(self.peaks[path.suffix], size)

    def _fault(self) -> dict[str, Any]:
        pattern = self.chance.choice((_ANY, _ACQUIRE, _RESET, _RELEASE, _SEED, _DUMP, _LIST))
        times, after = self.chance.randint(1, 2), self.chance.randint(0, 5)
        return {"pattern": pattern, "times": times, "after": after, **self.chance.choice(_WAYS)}

    def _kill(self) -> None:
        what = "keeper" if self.chance.random() < 0.15 else "worker"
        pids = keepers(self.state) if what == "keeper" else self._workers()
        if not pids:
            return
        pid = self.chance.choice(sorted(pids))
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.kills[what] += 1
        if what == "worker":
            self.killed[pid] = time.monotonic()

    def _workers(self) -> list[int]:
        """Those that have begun a test: of one that dies before, xdist does not say whom it was to replace."""
        found = [int(path.name) for path in self.journals.iterdir()]
        return [pid for pid in found if pid not in self.killed and _parent(pid) == self.run.pid]


def keepers(state: Path) -> list[int]:
    """The processes of the living keepers: who has locked a keeper's file."""
    inodes = {str(path.stat().st_ino) for path in state.glob("*/owners/keeper-*") if path.exists()}
    with Path("/proc/locks").open() as file:
        locks = [line.split() for line in file if "->" not in line]
    return [int(one[4]) for one in locks if one[1] == "POSIX" and one[5].rpartition(":")[2] in inodes]


def _parent(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def _peak(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)
