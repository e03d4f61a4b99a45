"""Who is alive, by real processes: killed, stopped, forked, racing for one name."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_klavis import rundir
from pytest_klavis.pool import owners as owners_module
from pytest_klavis.pool.owners import Owner, Owners, OwnerTaken

_HOME = Path(rundir.__file__).parents[1]
_START = """
import os, sys, time
from pathlib import Path
from pytest_klavis.pool.owners import Owner, Owners, OwnerTaken
folder = Path(sys.argv[1])
"""


class Process:
    """A process that runs a few lines of Python; it answers by lines, and ends with the test."""

    def __init__(self, folder: Path, code: str) -> None:
        self._run = subprocess.Popen(
            [sys.executable, "-c", _START + code, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(_HOME)},
            text=True,
        )
        self.pid = self._run.pid

    def line(self) -> str:
        assert self._run.stdout is not None
        return self._run.stdout.readline().strip()

    def say(self, line: str = "") -> None:
        assert self._run.stdin is not None
        print(line, file=self._run.stdin, flush=True)

    def stop(self) -> None:
        self._run.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def go_on(self) -> None:
        self._run.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._run.kill()
        self.wait()

    def wait(self) -> int:
        self._run.communicate(timeout=30)
        return self._run.returncode


Begin = Callable[[str], Process]
_HOLD = "owner = Owner(folder); print(owner.id, flush=True); input()"
_KEEP = "owner = Owner(folder, 'keeper-run'); print(owner.id, flush=True); input()"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "owners").mkdir()
    return tmp_path / "owners"


@pytest.fixture
def begin(folder: Path) -> Iterator[Begin]:
    begun: list[Process] = []

    def start(code: str) -> Process:
        begun.append(Process(folder, code))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()


def _elsewhere(begin: Begin, question: str) -> str:
    """What another process sees."""
    process = begin(f"owners = Owners(folder); print({question})")
    answer = process.line()
    assert process.wait() == 0
    return answer


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_owner_is_alive_for_all_until_it_closes(folder: Path, begin: Begin) -> None:
    owner = Owner(folder)
    assert owner.id.startswith(f"{os.getpid()}-")
    assert (owner.pid, _files(folder)) == (os.getpid(), [owner.id])
    assert (folder / owner.id).stat().st_mode & 0o777 == 0o600
    owners = Owners(folder)
    for own in (owner, None):
        assert owners.alive(owner.id, own)
        assert owners.living(own) == {owner.id}
    assert not owners.bury(owner.id)
    assert _elsewhere(begin, "sorted(owners.living())") == f"['{owner.id}']"
    assert _elsewhere(begin, f"owners.bury('{owner.id}')") == "False"
    owner.close()
    owner.close()
    assert not owners.alive(owner.id, owner)
    assert owners.living(owner) == set()
    assert _files(folder) == []


def test_a_killed_owner_is_dead_at_once_and_can_be_buried(folder: Path, begin: Begin) -> None:
    process, owners = begin(_HOLD), Owners(folder)
    owner_id = process.line()
    assert owners.alive(owner_id)
    assert owners.dead() == set()
    process.kill()
    assert not owners.alive(owner_id)
    assert owners.living() == set()
    assert owners.dead() == {owner_id}
    assert owners.bury(owner_id)
    assert owners.bury(owner_id)
    assert _files(folder) == []


def test_a_stopped_owner_is_alive(folder: Path, begin: Begin) -> None:
    process, owners = begin(_HOLD), Owners(folder)
    owner_id = process.line()
    process.stop()
    assert owners.alive(owner_id)
    assert not owners.bury(owner_id)
    process.go_on()
    process.kill()
    assert not owners.alive(owner_id)


def test_looking_in_its_own_process_drops_no_lock(folder: Path, begin: Begin, tmp_path: Path) -> None:
    owner, keeper = Owner(folder), Owner(folder, "keeper-run")
    (tmp_path / "link").symlink_to(folder)
    for owners in (Owners(folder), Owners(tmp_path / "link")):
        assert owners.living() == {owner.id, keeper.id}
        assert owners.dead() == set()
        assert owners.alive(keeper.id)
        assert not owners.bury(owner.id)
    with pytest.raises(OwnerTaken):
        Owner(tmp_path / "link", "keeper-run")
    assert _elsewhere(begin, "len(owners.living())") == "2"
    owner.close()
    assert _elsewhere(begin, "owners.living()") == "{'keeper-run'}"
    keeper.close()


def test_a_forked_child_inherits_nothing_and_drops_nothing(folder: Path, begin: Begin) -> None:
    owner, owners = Owner(folder), Owners(folder)
    tell, told = os.pipe()
    if (child := os.fork()) == 0:  # forked child
        answer = b"an error"
        with contextlib.suppress(BaseException):
            seen = owners.alive(owner.id, owner) and owners.living(owner) == {owner.id} and not owner.is_mine()
            own = Owner(folder)
            seen = seen and owners.living(own) == {owner.id, own.id} and not owners.bury(owner.id)
            owner.close()
            answer = b"right" if seen and own.id in _files(folder) else b"wrong"
        os.write(told, answer)
        os._exit(0)  # own is not closed: a dead owner
    os.waitpid(child, 0)
    assert os.read(tell, 100) == b"right"
    os.close(tell)
    os.close(told)
    assert _elsewhere(begin, "owners.living()") == f"{{'{owner.id}'}}"
    (dead,) = owners.dead()
    assert dead.startswith(f"{child}-")
    owner.close()


def test_a_child_that_outlives_its_parent_neither_keeps_it_alive_nor_takes_it_for_alive(begin: Begin) -> None:
    process = begin("""
owner, parent = Owner(folder), os.getpid()
if os.fork():
    os.write(1, b"begun\\n")
    input()
while os.getppid() == parent:
    time.sleep(0.01)
os.write(1, f"{Owners(folder).alive(owner.id, owner)} {Owners(folder).living(owner)}\\n".encode())
""")
    assert process.line() == "begun"
    os.kill(process.pid, signal.SIGKILL)
    assert process.line() == "False set()"


def test_a_fork_in_the_middle_of_a_look_does_not_block_the_child(folder: Path) -> None:
    owner, owners, over = Owner(folder), Owners(folder), threading.Event()

    def look() -> None:
        while not over.is_set():
            owners.alive("nobody")

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            if (child := os.fork()) == 0:  # forked child
                signal.alarm(20)
                os._exit(0 if owners.alive(owner.id) else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        over.set()
        for thread in threads:
            thread.join()
        owner.close()


def test_a_dead_owners_name_is_taken_over(folder: Path, begin: Begin) -> None:
    process = begin(_KEEP)
    assert process.line() == "keeper-run"
    with pytest.raises(OwnerTaken, match="keeper-run"):
        Owner(folder, "keeper-run")
    process.kill()
    assert not Owners(folder).alive("keeper-run")
    owner = Owner(folder, "keeper-run")
    assert _files(folder) == ["keeper-run"]
    assert _elsewhere(begin, "owners.living()") == "{'keeper-run'}"
    owner.close()
    again = begin(_KEEP)
    assert again.line() == "keeper-run"


_TOUCH = """
import fcntl
file = os.open(folder / "keeper-run", os.O_RDWR)
fcntl.lockf(file, fcntl.{lock} | fcntl.LOCK_NB, 1, {byte})
print(flush=True)
input()
"""


def test_who_was_stopped_while_it_looked_is_in_nobodys_way(folder: Path, begin: Begin) -> None:
    (folder / "keeper-run").touch()
    looker = begin(_TOUCH.format(lock="LOCK_SH", byte=0))
    looker.line()
    assert not Owners(folder).alive("keeper-run")
    owner = Owner(folder, "keeper-run")
    assert _elsewhere(begin, "owners.alive('keeper-run')") == "True"
    owner.close()


def test_who_was_stopped_while_it_buried_delays_a_name_and_revives_nobody(
    folder: Path, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owners_module, "_PATIENCE", 0.05)
    (folder / "keeper-run").touch()
    digger, owners = begin(_TOUCH.format(lock="LOCK_EX", byte=1)), Owners(folder)
    digger.line()
    assert not owners.alive("keeper-run")
    assert not owners.bury("keeper-run")
    with pytest.raises(OwnerTaken):
        Owner(folder, "keeper-run")
    digger.kill()
    Owner(folder, "keeper-run").close()


@pytest.mark.parametrize("act", ["alive", "bury"])
def test_a_successor_that_comes_in_the_middle_is_seen_and_stays(
    folder: Path, begin: Begin, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    (folder / "keeper-run").touch()
    owners, successor, lock = Owners(folder), begin("input()\n" + _KEEP), owners_module._lock

    def meanwhile(descriptor: int, kind: int, byte: int) -> bool:
        monkeypatch.undo()
        (folder / "keeper-run").unlink()
        successor.say()
        assert successor.line() == "keeper-run"
        return lock(descriptor, kind, byte)

    monkeypatch.setattr(owners_module, "_lock", meanwhile)
    assert getattr(owners, act)("keeper-run") is (act == "alive")
    assert owners.alive("keeper-run")


def test_what_it_closed_is_no_longer_its_own(folder: Path) -> None:
    for owner in [Owner(folder) for _ in range(5)]:
        owner.close()
    names = {f"{number}-0" for number in range(20)}  # file systems give a number that came free to the next file
    for name in names:
        (folder / name).touch()
    assert Owners(folder).dead() == names


def test_an_owner_that_closes_late_leaves_the_file_of_its_successor(folder: Path, begin: Begin) -> None:
    first = Owner(folder, "keeper-run")
    (folder / "keeper-run").unlink()  # by hand
    process = begin(_KEEP)
    assert process.line() == "keeper-run"
    first.close()
    assert Owners(folder).alive("keeper-run")


_RACE = """
for round in range(120):
    if not os.fork():
        os.read(0, 1)
        try:
            owner = Owner(folder, "keeper-run")
            os.write(1, b"mine\\n")
        except OwnerTaken:
            owner = None
            os.write(1, b"none\\n")
        os.read(0, 1)
        if owner and round % 3 == 0:
            owner.close()
        os._exit(0)  # or die with it
    os.wait()
    os.write(1, b"ended\\n")
"""


def test_of_those_who_race_for_a_name_one_gets_it(folder: Path, begin: Begin) -> None:
    racers = [begin(_RACE) for _ in range(3)]
    begin("owners = Owners(folder)\nwhile True: owners.living(), [owners.bury(name) for name in owners.dead()]")
    for _ in range(120):
        for expected in (["mine", "none", "none"], ["ended"] * 3):
            for racer in racers:
                racer.say()
            assert sorted(racer.line() for racer in racers) == expected


def test_no_live_owner_is_ever_seen_without_its_lock(folder: Path, begin: Begin) -> None:
    code = """
print(flush=True)
while True:
    owner = Owner(folder)
    named = Owner(folder, f"keeper-{os.getpid()}")
    named.close()
    owner.close()
"""
    makers = [begin(code) for _ in range(2)]
    for maker in makers:
        maker.line()
    owners, end, seen = Owners(folder), time.monotonic() + 60, 0
    while seen < 1000 and time.monotonic() < end:
        assert owners.dead() == set()
        seen += len(owners.living())
    assert seen >= 1000


def test_what_was_left_by_a_death_at_birth_is_buried_when_it_is_old(folder: Path) -> None:
    left, young = folder / f"{rundir.UNNAMED}1-0a", folder / f"{rundir.UNNAMED}2-0b"
    left.touch()
    young.touch()
    os.utime(left, (time.time() - 120,) * 2)
    owners = Owners(folder)
    assert owners.living() == set()
    assert owners.dead() == {left.name}
    assert owners.bury(left.name)
    assert _files(folder) == [young.name]


def test_threads_may_look_while_others_begin_and_close(folder: Path, begin: Begin) -> None:
    owners, over, wrong = Owners(folder), threading.Event(), list[str]()
    first = Owner(folder)

    def live(name: str | None) -> None:
        while not over.is_set():
            owner = Owner(folder, name)
            if not owners.alive(owner.id) or owner.id not in owners.living():
                wrong.append(owner.id)
            owner.close()

    threads = [threading.Thread(target=live, args=(name,)) for name in (None, None, "keeper-a", "keeper-b")]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            assert _elsewhere(begin, f"all(owners.alive('{first.id}') for _ in range(500))") == "True"
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert _files(folder) == [first.id]
    first.close()


def test_a_directory_that_went_away_has_no_owners(folder: Path) -> None:
    owner, owners = Owner(folder), Owners(folder)
    rundir.remove_tree(folder)
    assert owners.living() == set()
    assert owners.living(owner) == {owner.id}
    assert owners.alive(owner.id, owner)
    assert owners.dead() == set()
    assert owners.bury("somebody")
    with pytest.raises(FileNotFoundError):
        Owner(folder)
    owner.close()


def test_what_cannot_be_asked_counts_as_alive(folder: Path) -> None:
    (folder / "link").symlink_to("/dev/null")
    (folder / "directory").mkdir()
    assert Owners(folder).living() == {"link", "directory"}


@pytest.mark.parametrize("name", ["..", ".", "a/b", "a\0", "x" * 201, "a b"])
def test_an_owner_has_to_have_a_name(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="names no owner"):
        Owner(folder, name)
    with pytest.raises(ValueError, match="names no owner"):
        Owners(folder).bury(name)
