"""Runs of pytest as processes of their own against a light cloud, which are struck down and looked after."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pytest_klavis.pool.entries import Entry
from pytest_klavis.pool.ledger import Ledger

from ..cloud import KEY, NEWER, Cloud, Dialect, Fault, light_cloud

Who = Literal["worker", "controller", "keeper", "all", "all but the keeper"]
Recovery = Literal["run", "keeper", "next run", "reap", "reap --suspects"]
T = TypeVar("T")

SOON = 45.0
"""Seconds that a loaded machine may take for what takes a few."""

PRELUDE = """
import ctypes, os, pathlib, signal, sys, time
import pytest

HERE = pathlib.Path(__file__).parent

def tell(name):
    path = HERE / f".{name}-{os.getpid()}"
    path.write_text(str(os.getpid()))
    path.rename(HERE / name)

def wait_for(name):
    while not (HERE / name).exists():
        time.sleep(0.01)

def clean(box):
    assert box.list_files() == ["seed.txt"], f"DIRTY {box.list_files()}"
    box.upload({"work.txt": "of the agent"})
    return box

def fresh(local_sandbox):
    return clean(local_sandbox("filesystem", workspace={"seed.txt": "x"}))

def empty(klavis_sandbox):
    box = klavis_sandbox("github")
    assert not box.dump(), f"DIRTY {box.dump()}"
    box.initialize({"repos": [{"name": "of the agent"}]})
    return box
"""
VICTIM = """
@pytest.mark.parametrize("number", range({tests}))
def test_it(local_sandbox, number):
    if number:
        wait_for("struck")
        fresh(local_sandbox)
        return
    tell("victim")
    box = fresh(local_sandbox)
    {body}
"""
"""Test 0 tells who it is and goes on; the others begin when it was struck."""


@dataclass
class Run:
    """A run of pytest in a session of its own."""

    process: subprocess.Popen[bytes]
    folder: Path
    log: Path

    def finish(self) -> str:
        """Wait until it has ended; what it said."""
        self.process.wait(SOON)
        return self.output

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def code(self) -> int:
        return self.process.returncode

    def wait_for(self, name: str) -> int:
        """Wait for a test to tell its process."""
        path = self.folder / name
        until(path.exists, f"{name} of:\n{{}}", lambda: self.output)
        return int(path.read_text())


@dataclass
class Site:
    """A suite, its account at a cloud, and this machine's state of it."""

    cloud: Cloud
    folder: Path
    state: Path
    temporary: Path
    runs: list[Run] = field(default_factory=list)

    def suite(self, text: str, name: str = "test_it.py") -> None:
        (self.folder / name).write_text(PRELUDE + text)

    def victims(self, tests: int = 4, body: str = "time.sleep(40)") -> None:
        """A suite whose first test is struck, and has to be."""
        self.suite(VICTIM.format(tests=tests, body=body))

    def start(self, *arguments: str, command: tuple[str, ...] = (), **environment: str) -> Run:
        """Start a run, by a `command` that is given the one of the run."""
        log = self.folder / f"output-{len(self.runs)}.txt"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *arguments],
                cwd=self.folder,
                env=self.environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=default_signals,
            )
        self.runs.append(Run(process, self.folder, log))
        return self.runs[-1]

    def run(self, *arguments: str) -> Run:
        """A run that has ended."""
        run = self.start(*arguments)
        run.finish()
        return run

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "KLAVIS_API_KEY": KEY,
            "KLAVIS_BASE_URL": self.cloud.url,
            "KLAVIS_STATE_DIR": str(self.state),
            "KLAVIS_RATE": "off",
            "PYTEST_ADDOPTS": "-p no:randomly -p no:asyncio -p no:anyio -p no:hypothesispytest",
            "TMPDIR": str(self.temporary),
        }

    # -- striking ------------------------------------------------------------------------------

    def strike(self, who: Who) -> Callable[[], None]:
        """What a fault's `then` does to the processes of the last run, and tells the suite."""

        def strike() -> None:
            run = self.runs[-1]
            match who:
                case "worker":
                    pids = [int((self.folder / "victim").read_text())]
                case "controller":
                    pids = [run.process.pid]
                case "keeper":
                    pids = self.keepers()
                    assert pids
                case _:
                    pids = group(run.process.pid) + (self.keepers() if who == "all" else [])
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            until(lambda: not any(map(lives, pids)), "the end of {}", lambda: pids)
            (self.folder / "struck").touch()

        return strike

    def keepers(self) -> list[int]:
        """The processes that hold the lock of a keeper's owner file."""
        files = {str(one.stat().st_ino) for one in self.state.glob("*/owners/keeper-*")}
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        return [int(one[4]) for one in locks if one[1] == "POSIX" and one[5].rpartition(":")[2] in files]

    # -- what is left --------------------------------------------------------------------------

    @property
    def account(self) -> Path:
        (found,) = self.state.glob("127.0.0.1*")
        return found

    def entries(self) -> list[Entry]:
        ledger = Ledger(self.account)
        try:
            return ledger.entries()
        finally:
            ledger.close()

    def recover(self, by: Recovery) -> None:
        """Whatever has to happen until nothing is held any more."""
        match by:
            case "next run":
                self.suite("def test_next(local_sandbox): fresh(local_sandbox)", "test_next.py")
                next_run = self.run("-p", "no:xdist", "test_next.py")
                assert next_run.code == 0, next_run.output
            case "reap" | "reap --suspects":
                self.reap(*by.split()[1:])
        if by != "run":
            until(lambda: not self.cloud.books.open(), "open are {}", self._left)
        assert self.cloud.books.open() == [], self.entries()

    def reap(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "pytest_klavis.cli", "reap", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=SOON, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def check(self, by: Recovery, *, rows: bool = True, keeper_ends: bool = True) -> None:
        """After the last recovery that the scenario allows nothing is held, and never was anything wrong.

        `rows`: nor is anything on the ledger.
        """
        self.recover(by)
        if rows:
            until(lambda: not self.entries(), "on the ledger are {}", self.entries)
        if keeper_ends:
            until(lambda: not self.keepers(), "a keeper stays: {}", self._left)
        assert self.cloud.books.troubles() == [], "\n".join(self.cloud.books.troubles())
        for run in self.runs:
            assert "DIRTY" not in run.output
            assert "INTERNALERROR" not in run.output

    def _left(self) -> Any:
        logs = "\n".join(one.read_text() for one in self.state.glob("*/keeper-*.log"))
        return self.cloud.books.open(), self.entries(), logs

    def saved(self) -> dict[str, set[str]]:
        """For each workspace that is saved, why it was, and what is in it."""
        found: dict[str, set[str]] = {}
        for facts in self.folder.glob("klavis-artifacts/2*/*/attempt-*/*/sandbox.json"):
            about = json.loads(facts.read_text())
            with suppress(FileNotFoundError), tarfile.open(facts.with_name("workspace.tar.gz")) as opened:
                names = {one.removeprefix("./") for one in opened.getnames()} - {"", "."}
                found[f"{about['test'].rpartition('::')[2]} {about['outcome']}"] = names
        return found


@contextmanager
def site(folder: Path, dialect: Dialect = NEWER, **knobs: Any) -> Iterator[Site]:
    """All that a fault needs; its processes are gone at the end."""
    suite = folder / "suite"
    suite.mkdir()
    (suite / "pytest.ini").write_text("[pytest]\n")
    with tempfile.TemporaryDirectory(prefix="klavis-faults-") as temporary, light_cloud(dialect, **knobs) as cloud:
        made = Site(cloud, suite, folder / "state", Path(temporary))
        try:
            yield made
        finally:
            for pid in [pid for run in made.runs for pid in group(run.process.pid)] + made.keepers():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for run in made.runs:
                run.process.wait(SOON)
            until(lambda: not made.keepers(), "keepers {}", made.keepers)


def fault(pattern: str, then: Callable[[], object], **more: Any) -> Fault:
    """Something happens when a request comes, once, and a while before it is carried out."""
    return Fault(pattern, then=then, **{"times": 1, "delay": 0.1} | more)


def until(look: Callable[[], T], what: str, about: Callable[[], object]) -> T:
    """Wait until it is so; else an error that says what it waited for."""
    end = time.monotonic() + SOON
    while not (found := look()):
        assert time.monotonic() < end, what.format(about())
        time.sleep(0.02)
    return found


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def group(leader: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(entry.parent.name))
    return found


def default_signals() -> None:
    # A shell that started us in the background has SIGINT ignored, which children would inherit.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
