"""The ledger's file: shared by real processes that are killed, stopped, forked, or run out of disk."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_klavis.pool import database as room
from pytest_klavis.pool.database import FILE, Database, LedgerError
from pytest_klavis.pool.entries import Want
from pytest_klavis.pool.ledger import Ledger
from pytest_klavis.pool.owners import Owner
from pytest_klavis.pool.rows import RunRecord
from pytest_klavis.spec import Spec

from .processes import Process, soon

GITHUB = Spec("remote", ("github",))
Begin = Callable[[str], Process]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "owners").mkdir()
    return tmp_path


@pytest.fixture
def begin(folder: Path) -> Iterator[Begin]:
    begun: list[Process] = []

    def start(code: str) -> Process:
        begun.append(Process(folder, code))
        return begun[-1]

    yield start
    for one in begun:
        one.kill()


def _sound(folder: Path) -> bool:
    connection = sqlite3.connect(folder / FILE)
    try:
        return bool(connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok")
    finally:
        connection.close()


def test_a_process_killed_at_any_moment_leaves_a_sound_file_with_whole_transactions(folder: Path, begin: Begin) -> None:
    ledger = Ledger(folder)
    ledger.begin("run")
    code = """
ledger = Ledger(folder)
say("ready")
while True:
    with ledger.database.changing():
        one = ledger.intend("run", "me", Want(GITHUB, 60))
        two = ledger.intend("run", "me", Want(GITHUB, 60))
    ledger.remove(one)
    with ledger.database.changing():
        ledger.count("run", calls=1)
        ledger.remove(two)
        ledger.count("run", resets=1)
"""
    chance = random.Random(4)
    for _ in range(6):
        killed = begin(code)
        assert killed.line() == "ready"
        calls = _record(ledger).calls
        soon(lambda calls=calls: _record(ledger).calls > calls)  # type: ignore[misc]
        threading.Event().wait(chance.uniform(0, 0.02))
        killed.kill()
        record, left = _record(ledger), ledger.entries()
        assert record.calls == record.resets
        assert len(left) <= 2
        for one in left:
            assert ledger.remove(one)
    assert _sound(folder)


def _record(ledger: Ledger) -> RunRecord:
    found = ledger.run("run")
    assert found is not None
    return found


def test_what_a_killed_process_had_begun_holds_nobody_up(folder: Path, begin: Begin) -> None:
    ledger = Ledger(folder)
    ledger.begin("run")
    killed = begin(
        """
ledger = Ledger(folder)
with ledger.database.changing():
    ledger.intend("run", "me", Want(GITHUB, 60))
    say("in it")
    time.sleep(600)
"""
    )
    assert killed.line() == "in it"
    killed.kill()
    assert ledger.entries() == []
    assert ledger.intend("run", "me", Want(GITHUB, 60)).number == 1


def test_a_stopped_process_is_waited_for_only_so_long(
    folder: Path, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(folder)
    ledger.begin("run")
    stopped = begin(
        """
ledger = Ledger(folder)
with ledger.database.changing():
    say("in it")
    os.kill(os.getpid(), signal.SIGSTOP)
"""
    )
    assert stopped.line() == "in it"
    monkeypatch.setattr(room, "BUSY", 0.1)
    with pytest.raises(LedgerError, match=r"locked\n.*perhaps one is stopped"):
        ledger.begin("another")
    assert [one.id for one in ledger.runs()] == ["run"], "reading waits for nobody"
    stopped.send(signal.SIGCONT)
    assert stopped.end()[0] == 0
    ledger.begin("another")


def test_threads_take_turns_and_a_transaction_within_one_is_a_part_of_it(folder: Path) -> None:
    ledger = Ledger(folder)
    ledger.begin("run")

    def count() -> None:
        for _ in range(20):
            with ledger.database.changing() as sql:
                before = sql.execute("SELECT calls FROM runs").fetchone()[0]
                ledger.count("run", waited=1.0)
                sql.execute("UPDATE runs SET calls = ?", (before + 1,))

    threads = [threading.Thread(target=count) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert (_record(ledger).calls, _record(ledger).waited) == (160, 160.0)


def test_what_fails_in_a_transaction_undoes_all_of_it(folder: Path) -> None:
    ledger = Ledger(folder)
    ledger.begin("run")

    def change() -> None:
        with ledger.database.changing():
            ledger.intend("run", "me", Want(GITHUB, 60))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        change()
    assert ledger.entries() == []


def test_an_interrupt_between_two_lines_leaves_no_transaction_behind(folder: Path) -> None:
    ledger = Ledger(folder)
    ledger.begin("run")
    with ledger.database._connected() as own:
        ledger.database._open(own).execute("BEGIN IMMEDIATE")  # as if the next line never came
    ledger.count("run", calls=1)
    assert Ledger(folder).run("run") == ledger.run("run")
    other = Database(folder)
    assert other.read("SELECT calls FROM runs")[0][0] == 1


@pytest.mark.parametrize("way", ["os.fork()", "the child ends by sys.exit"])
def test_a_forked_child_has_a_connection_of_its_own_and_its_parent_is_unharmed(
    folder: Path, begin: Begin, way: str
) -> None:
    parent = begin(
        f"""
ledger = Ledger(folder)
ledger.begin("run")
before = ledger.intend("run", "parent", Want(GITHUB, 60))
child = os.fork()
if not child:
    made = ledger.intend("run", "child", Want(GITHUB, 60))
    assert {{"parent", "child"}} == {{one.owner for one in ledger.entries()}}
    input()
    ledger.intend("run", "child", Want(GITHUB, 60))
    {"sys.exit(0)" if "sys.exit" in way else "os._exit(0)"}
ledger.intend("run", "parent", Want(GITHUB, 60))
say("both")
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert ledger.remove(before)
ledger.close()
say(code, sorted(one.owner for one in ledger.entries()))
"""
    )
    assert parent.line() == "both"
    parent.go()
    assert parent.line() == "0 ['child', 'child', 'parent']"
    assert parent.end()[0] == 0
    assert _sound(folder)


def test_a_child_goes_on_when_its_parent_has_closed_the_file(folder: Path, begin: Begin) -> None:
    """SQLite's own bookkeeping, carried over a fork, would let the parent remove the journal that the child writes."""
    parent = begin(
        """
ledger = Ledger(folder)
ledger.begin("run")
to_child, from_parent = os.pipe()
child = os.fork()
if not child:
    ledger.intend("run", "child", Want(GITHUB, 60))
    os.read(to_child, 1)
    ledger.intend("run", "child", Want(GITHUB, 60))
    os._exit(0)
while not ledger.entries():
    time.sleep(0.001)
ledger.close()
os.write(from_parent, b"x")
os.waitpid(child, 0)
say(len(ledger.entries()))
"""
    )
    assert parent.line() == "2"
    assert len(Ledger(folder).entries()) == 2


def test_a_fork_waits_for_another_threads_transaction(folder: Path, begin: Begin) -> None:
    parent = begin(
        """
import threading
ledger = Ledger(folder)
ledger.begin("run")
inside = threading.Event()
def change():
    with ledger.database.changing():
        ledger.intend("run", "thread", Want(GITHUB, 60))
        inside.set()
        time.sleep(0.2)
thread = threading.Thread(target=change)
thread.start()
inside.wait()
child = os.fork()
if not child:
    ledger.intend("run", "child", Want(GITHUB, 60))
    os._exit(0)
thread.join()
assert os.waitpid(child, 0)[1] == 0
say([one.owner for one in ledger.entries()])
"""
    )
    assert parent.line() == "['thread', 'child']"


def test_nobody_else_can_read_the_files_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0)
    try:
        ledger = Ledger(folder)
        ledger.begin("run")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.glob("ledger-*")}
    finally:
        os.umask(before)
    assert modes == {FILE: 0o600, f"{FILE}-wal": 0o600, f"{FILE}-shm": 0o600}


def test_a_full_disk_is_an_error_before_anything_is_acquired_and_harms_nothing(folder: Path, begin: Begin) -> None:
    ledger = Ledger(folder)
    ledger.begin("run")
    first = ledger.intend("run", "me", Want(GITHUB, 60))
    size = (folder / f"{FILE}-wal").stat().st_size
    full = begin(
        f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY))
from pytest_klavis.pool.database import LedgerError
ledger = Ledger(folder)
try:
    ledger.intend("run", "me", Want(GITHUB, 60))
except LedgerError as error:
    say(str(error).replace(chr(10), " "))
say(len(ledger.entries()))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
say(ledger.intend("run", "me", Want(GITHUB, 60)).number)
"""
    )
    assert "Make room there" in full.line()
    assert full.line() == "1"
    assert full.line() == "2"
    assert ledger.remove(first)
    assert _sound(folder)


def test_a_directory_that_cannot_be_written_to_is_an_error_that_says_what_to_do() -> None:
    folder = Path(tempfile.mkdtemp(prefix="klavis-"))  # where another user can go
    nobody = 65534
    try:
        folder.chmod(0o555)
        if os.geteuid() == 0:
            os.chown(folder, nobody, nobody)
        code = f"""
if os.geteuid() == 0:
    from pytest_klavis.pool import database
    os.setuid({nobody})
from pytest_klavis.pool.database import LedgerError
try:
    Ledger(folder).begin("run")
except LedgerError as error:
    say(str(error).replace(chr(10), " "))
"""
        process = Process(folder, code)
        line = process.line()
        assert str(folder / FILE) in line
        assert "KLAVIS_STATE_DIR" in line
        assert process.end()[0] == 0
    finally:
        shutil.rmtree(folder)


# -- damage ------------------------------------------------------------------------------------


def _damaged(folder: Path, way: str) -> None:
    ledger = Ledger(folder)
    ledger.begin("old-run")
    for _ in range(40):
        ledger.intend("old-run", "me", Want(GITHUB, 60))
    ledger.close()
    path = folder / FILE
    content = bytearray(path.read_bytes())
    if way == "garbage":
        content = bytearray(b"no database at all\n" * 300)
    elif way == "cut":
        content = content[: len(content) // 2]
    elif way == "pages":
        content[8192:] = os.urandom(len(content) - 8192)
    path.write_bytes(content)


@pytest.mark.parametrize("way", ["garbage", "cut", "pages"])
def test_a_damaged_file_is_set_aside_with_a_note_when_nobody_lives(folder: Path, way: str) -> None:
    _damaged(folder, way)
    before = (folder / FILE).read_bytes()
    ledger = Ledger(folder)
    ledger.begin("run")
    ledger.begin("run")
    (aside,) = folder.glob("ledger-1.damaged-*")
    assert aside.read_bytes() == before
    (note,) = _record(ledger).notes
    assert str(aside) in note
    assert "reap --account" in note
    assert [one.id for one in ledger.runs()] == ["run"]


def test_a_damaged_file_stays_while_an_owner_lives(folder: Path) -> None:
    owner = Owner(folder / "owners", "run--1-abc")
    _damaged(folder, "pages")
    with pytest.raises(LedgerError, match=r"in use by run--1-abc(?s:.*)end the runs of this account"):
        Ledger(folder).begin("run")
    assert not list(folder.glob("*damaged*"))
    owner.close()
    Ledger(folder).begin("run")
    assert len(list(folder.glob("*damaged*"))) == 1


@pytest.mark.parametrize("whole", [True, False])
def test_what_a_whole_journal_holds_is_not_lost_and_one_of_a_damaged_file_is_not_taken_for_the_next_ones(
    folder: Path, begin: Begin, whole: bool
) -> None:
    if not whole:
        _damaged(folder, "nothing")
    killed = begin('ledger = Ledger(folder)\nledger.begin("killed-run")\nsay("done")\ntime.sleep(600)\n')
    assert killed.line() == "done"
    killed.kill()
    (folder / FILE).write_bytes(b"no database at all\n" * 300)
    ledger = Ledger(folder)
    ledger.begin("run")
    assert [one.id for one in ledger.runs()] == (["killed-run", "run"] if whole else ["run"])


@pytest.mark.parametrize("damaged", [False, True])
def test_processes_that_open_it_at_once_get_one_and_the_same_file(folder: Path, begin: Begin, damaged: bool) -> None:
    if damaged:
        _damaged(folder, "garbage")
    together = [
        begin(
            f"""
say("ready")
input()
ledger = Ledger(folder)
ledger.begin("run")
ledger.intend("run", "{number}", Want(GITHUB, 60))
"""
        )
        for number in range(6)
    ]
    for one in together:
        assert one.line() == "ready"
    for one in together:
        one.go()
    assert [one.end()[0] for one in together] == [0] * 6
    ledger = Ledger(folder)
    assert sorted(one.owner or "" for one in ledger.entries()) == ["0", "1", "2", "3", "4", "5"]
    assert len(list(folder.glob("*damaged*"))) == damaged
    assert len(_record(ledger).notes) == damaged


def test_who_has_it_open_goes_on_in_the_new_file_when_it_was_set_aside(folder: Path) -> None:
    mine = Ledger(folder)
    mine.begin("run")
    (folder / FILE).rename(folder / "ledger-1.damaged-by-hand")
    for end in ("-wal", "-shm"):
        (folder / f"{FILE}{end}").unlink()
    other = Ledger(folder)
    other.begin("another")
    assert [one.id for one in mine.runs()] == ["another"]
