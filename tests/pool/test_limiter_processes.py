"""The limiter's file among real processes and threads, which are killed, stopped, forked and interrupted.

Grants are noted under the lock: later a busy machine could move them.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import pytest

from pytest_klavis import clock
from pytest_klavis.pool import limiter as room
from pytest_klavis.pool.limiter import Book, Limiter, Request
from pytest_klavis.pool.locks import locked

SPAWN = multiprocessing.get_context("spawn")
FOREVER = float("inf")
SOON = 60.0  # seconds that a loaded machine may take for what takes milliseconds


def note_grants(monkeypatch: pytest.MonkeyPatch | None = None) -> list[float]:
    moments: list[float] = []
    serve = Book.serve

    def noted(book: Book, request: Request, now: float, interval: float) -> None:
        moments.append(now)
        serve(book, request, now, interval)

    if monkeypatch is None:
        Book.serve = noted  # type: ignore[method-assign,assignment]
    else:
        monkeypatch.setattr(Book, "serve", noted)
    return moments


def take_turns(path: Path, rate: float, turns: int, patient: bool, answers: SimpleQueue[list[float]]) -> None:
    moments = note_grants()
    limiter = Limiter(path, rate)
    for _ in range(turns):
        limiter.turn(patient=patient, until=clock.monotonic() + SOON)
    answers.put(moments)


def most_in_a_window(moments: list[float], window: float) -> int:
    moments = sorted(moments)
    return max(sum(start <= one < start + window for one in moments) for start in moments)


def test_processes_share_one_rate(tmp_path: Path) -> None:
    rate, path = 200.0, tmp_path / "limiter"
    answers: SimpleQueue[list[float]] = SPAWN.SimpleQueue()
    workers = [SPAWN.Process(target=take_turns, args=(path, rate, 40, number % 2 == 0, answers)) for number in range(4)]
    for one in workers:
        one.start()
    moments = [moment for _ in workers for moment in answers.get()]
    for one in workers:
        one.join(SOON)
    assert len(moments) == 160
    for window in (0.01, 0.05, 0.2):
        assert most_in_a_window(moments, window) <= rate * window + 1
    assert path.stat().st_mode & 0o777 == 0o600


def test_threads_share_one_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = note_grants(monkeypatch)
    limiter = Limiter(tmp_path / "limiter", 200)

    def turns() -> None:
        for number in range(10):
            limiter.turn(patient=number % 2 == 0, until=clock.monotonic() + SOON)

    threads = [threading.Thread(target=turns) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(SOON)
    assert len(moments) == 80
    assert most_in_a_window(moments, 0.05) <= 200 * 0.05 + 1


WAITS = (
    "import sys; from pathlib import Path; from pytest_klavis import clock; from pytest_klavis.pool.limiter import *\n"
    "limiter = Limiter(Path(sys.argv[1]), float(sys.argv[2]))\n"
    "print('ready', flush=True)\n"
)


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for one in started:
        one.kill()
        one.communicate()


def start(processes: list[subprocess.Popen[str]], script: str, path: Path, rate: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WAITS + script, str(path), str(rate)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    processes.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def in_line(path: Path) -> int:
    book = Book.unpack(path.read_bytes(), clock.since_boot(), 1e9) if path.exists() else Book()
    return len(book.urgent) + len(book.patient)


def wait_for_line(path: Path, length: int) -> None:
    until = clock.monotonic() + SOON
    while in_line(path) != length:
        assert clock.monotonic() < until, f"{in_line(path)} in line"
        clock.sleep(0.01)


def test_processes_that_are_killed_anywhere_stop_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "limiter"
    moments = note_grants(monkeypatch)
    monkeypatch.setattr(room, "PATIENCE", 0.02)
    limiter = Limiter(path, 400)
    chance = random.Random(4)
    for _ in range(15):
        child = os.fork()
        if child == 0:  # forked child
            while True:
                limiter.turn(patient=False, until=FOREVER)
        for _ in range(chance.randrange(1, 12)):
            limiter.turn(patient=chance.random() < 0.3, until=clock.monotonic() + SOON)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert path.stat().st_size == Book.LAYOUT.size
    assert most_in_a_window(moments, 0.05) <= 400 * 0.05 + 1


@pytest.mark.parametrize("last", [signal.SIGKILL, signal.SIGSTOP])
def test_the_turns_of_those_that_died_or_stopped_in_line_pass(
    tmp_path: Path, processes: list[subprocess.Popen[str]], last: signal.Signals
) -> None:
    path, rate = tmp_path / "limiter", 10.0
    limiter = Limiter(path, rate)
    limiter.refused(60)
    for number in range(3):
        waiting = start(processes, "limiter.turn(patient=False, until=float('inf'))", path, rate)
        wait_for_line(path, number + 1)
        waiting.send_signal(last)
    limiter._change(lambda book, now: setattr(book, "free", now))
    waited = limiter.turn(patient=False, until=clock.monotonic() + SOON)
    assert waited < SOON / 2
    assert in_line(path) == 0


def test_ctrl_c_ends_a_turn_and_gives_the_place_back(tmp_path: Path, processes: list[subprocess.Popen[str]]) -> None:
    path = tmp_path / "limiter"
    Limiter(path, 2).refused(60)
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ours may be ignored
        "try: limiter.turn(patient={patient}, until=float('inf'))\n"
        "except KeyboardInterrupt: print('interrupted', flush=True)\n"
    )
    waiting = []
    for number in range(3):
        waiting.append(start(processes, script.format(patient=number == 0), path, 2))
        wait_for_line(path, number + 1)
    for left, one in zip((2, 1, 0), waiting, strict=True):
        one.send_signal(signal.SIGINT)
        out, _ = one.communicate(timeout=SOON / 2)
        assert out == "interrupted\n"
        assert in_line(path) == left


def test_a_child_that_is_forked_under_the_lock_does_not_keep_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "limiter"
    with locked(path, 1.0):
        child = os.fork()
        if child == 0:  # forked child
            signal.pause()
            os._exit(0)
    try:
        Limiter(path, 1000).turn(patient=False, until=FOREVER)
        assert not caplog.records  # the shared file it was
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_forked_child_takes_turns_of_its_own(tmp_path: Path) -> None:
    limiter = Limiter(tmp_path / "limiter", 2)
    limiter.turn(patient=False, until=FOREVER)
    child = os.fork()
    if child == 0:  # forked child
        os._exit(17 if limiter.turn(patient=False, until=FOREVER) > 0 else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 17


def test_a_process_that_stopped_with_the_lock_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(room, "_LOCK_PATIENCE", 0.01)
    path = tmp_path / "limiter"
    with path.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        Limiter(path, 1000).turn(patient=False, until=FOREVER)
    assert "another process has held its lock for too long" in caplog.text
