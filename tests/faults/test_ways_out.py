"""However a run ends, nothing is left on the machine, and what its sandboxes held is on disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from tests.cloud import Cloud, Fault

SUITE = """
import os, pathlib, time
import pytest

@pytest.mark.parametrize("number", range({tests}))
def test_hangs(local_sandbox, number):
    box = local_sandbox(["filesystem"], workspace={{"seed.txt": "x"}})
    box.upload({{"work.txt": "of the agent"}})
    pathlib.Path(f"ready-{{os.getpid()}}").touch()
    {body}
"""
SETTLE = 20.0
T = TypeVar("T")


@dataclass
class Suite:
    """A pytest run as a process group of its own, whose temporary files are in `temporary`."""

    process: subprocess.Popen[str]
    folder: Path
    temporary: Path

    def ready(self, count: int) -> list[int]:
        """The pids of the processes that hold a sandbox, as soon as there are `count`."""
        return wait_for(
            lambda: [int(one.name[6:]) for one in self.folder.glob("ready-*")], lambda pids: len(pids) >= count
        )

    def finish(self) -> str:
        output, _ = self.process.communicate(timeout=60)
        return output

    def leftovers(self) -> list[str]:
        """Processes and files of the run that are still there."""
        found = [str(path) for path in self.temporary.glob("pytest-klavis-*/*")]
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.temporary) in command:
                found.append(command)
        return found

    def saved(self) -> list[Path]:
        return sorted(self.folder.glob("klavis-artifacts/2*/test_it*/attempt-1/local/workspace.tar.gz"))


def wait_for(look: Callable[[], T], enough: Callable[[T], bool]) -> T:
    deadline = time.monotonic() + SETTLE
    while not enough(found := look()):
        assert time.monotonic() < deadline, f"still {found!r} after {SETTLE} s"
        time.sleep(0.05)
    return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Suite]]:
    started: list[Suite] = []
    with tempfile.TemporaryDirectory(prefix="klavis-faults-") as temporary:
        Path(temporary).chmod(0o711)

        def run(*arguments: str, tests: int = 1, body: str = "time.sleep(60)") -> Suite:
            (tmp_path / "test_it.py").write_text(SUITE.format(tests=tests, body=body))
            (tmp_path / "pytest.ini").write_text("[pytest]\n")
            command = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider", *arguments]
            environment = os.environ | {"TMPDIR": temporary}
            process = subprocess.Popen(
                command,
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                preexec_fn=_default_signals,
            )
            started.append(Suite(process, tmp_path, Path(temporary)))
            return started[-1]

        yield run
        for suite in started:
            if suite.process.poll() is None:
                os.killpg(suite.process.pid, signal.SIGKILL)
                suite.process.communicate()
            wait_for(suite.leftovers, lambda left: not left)


def _default_signals() -> None:
    # A shell that started us in the background has SIGINT ignored, which children would inherit.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def check(suite: Suite, tests: int) -> None:
    wait_for(suite.leftovers, lambda left: not left)
    saved = suite.saved()
    assert len(saved) == tests
    for archive in saved:
        with tarfile.open(archive) as opened:
            assert {"./seed.txt", "./work.txt"} <= set(opened.getnames())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda one: one.name)
@pytest.mark.parametrize("whole_group", [False, True], ids=["process", "group"])
def test_a_signal_to_a_plain_run(start: Callable[..., Suite], number: signal.Signals, whole_group: bool) -> None:
    suite = start("-p", "no:xdist")
    suite.ready(1)
    (os.killpg if whole_group else os.kill)(suite.process.pid, number)
    output = suite.finish()
    assert suite.process.returncode == pytest.ExitCode.INTERRUPTED
    assert "1 acquired, 1 released, 0 leaked" in output
    check(suite, 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda one: one.name)
@pytest.mark.parametrize("whole_group", [False, True], ids=["controller", "group"])
def test_a_signal_to_a_run_with_workers(start: Callable[..., Suite], number: signal.Signals, whole_group: bool) -> None:
    suite = start("-n2", tests=2)
    suite.ready(2)
    (os.killpg if whole_group else os.kill)(suite.process.pid, number)
    output = suite.finish()
    if number is signal.SIGINT and whole_group:  # the controller lives to tell
        assert output.count("/attempt-1/local") == 2
    check(suite, 2)


def test_ctrl_c_twice(start: Callable[..., Suite]) -> None:
    suite = start("-p", "no:xdist")
    suite.ready(1)
    suite.process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    suite.process.send_signal(signal.SIGINT)
    suite.finish()
    check(suite, 1)


@pytest.mark.parametrize("arguments", [["-p", "no:xdist"], ["-n2"]], ids=["plain", "workers"])
def test_killed_with_everything_else(start: Callable[..., Suite], arguments: list[str]) -> None:
    tests = 2 if "-n2" in arguments else 1
    suite = start(*arguments, tests=tests)
    suite.ready(tests)
    os.killpg(suite.process.pid, signal.SIGKILL)
    suite.finish()
    check(suite, tests)


def test_a_killed_worker(start: Callable[..., Suite]) -> None:
    suite = start("-n2", "--max-worker-restart=0", tests=2, body="time.sleep(8)")
    first, _ = suite.ready(2)
    os.kill(first, signal.SIGKILL)
    output = suite.finish()
    assert "crashed while running" in output
    assert "evidence in klavis-artifacts" in output
    check(suite, 1)


@pytest.mark.parametrize("body", ["os._exit(7)", "os.kill(os.getpid(), 11)"], ids=["exit", "segfault"])
def test_a_test_that_ends_its_process(start: Callable[..., Suite], body: str) -> None:
    suite = start("-p", "no:xdist", "-p", "no:faulthandler", body=body)
    suite.finish()
    check(suite, 1)


def test_pytest_timeout_by_thread(start: Callable[..., Suite]) -> None:
    suite = start("-p", "no:xdist", "--timeout=3", "--timeout-method=thread")
    suite.finish()
    check(suite, 1)


def test_a_forked_child_releases_nothing(start: Callable[..., Suite]) -> None:
    body = """if os.fork() == 0:
        raise SystemExit("the child falls through")
    os.wait()
    assert box.read_text("work.txt") == "of the agent"
    """
    suite = start("-p", "no:xdist", body=body)
    output = suite.finish()
    assert suite.process.returncode == 0, output
    assert "1 passed" in output
    wait_for(suite.leftovers, lambda left: not left)


def test_ctrl_c_while_a_sandbox_is_released(start: Callable[..., Suite], cloud: Cloud) -> None:
    cloud.faults = [Fault("DELETE /local-sandbox/.*", status=500, delay=3, times=1)]
    suite = start("-p", "no:xdist", body="pass")
    wait_for(lambda: cloud.count("DELETE /local-sandbox/.*"), bool)
    suite.process.send_signal(signal.SIGINT)
    output = suite.finish()
    assert "1 acquired, 1 released, 0 leaked" in output
    assert cloud.held() == []
