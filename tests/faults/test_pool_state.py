"""A state directory that is full, read-only, damaged or taken, and runs that get no keeper."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache

import pytest

from pytest_klavis.pool.statedir import account_directory

from ..cloud import KEY
from .kit import Site, until

pytestmark = pytest.mark.timeout(60)

PLAIN = ("-p", "no:xdist")
QUIET = "--klavis-prefetch=off"
BOTH = {"seed.txt", "work.txt"}
FOUR = """
@pytest.mark.parametrize("number", range(4))
def test_it(local_sandbox, number):
    fresh(local_sandbox)
    {body}
"""
FILL = """
def fill():
    with open(os.path.join(os.environ["KLAVIS_STATE_DIR"], "fill"), "wb", 0) as file:
        try:
            while True:
                file.write(bytes(1024))
        except OSError:
            pass

def free():
    os.remove(os.path.join(os.environ["KLAVIS_STATE_DIR"], "fill"))
"""
WHEN_THERE_IS_ROOM = 'until [ -e room ]; do sleep 0.1; done; rm "$KLAVIS_STATE_DIR/fill"'
NO_KEEPER = "there was no keeper"


@cache
def can_mount() -> bool:
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, check=False).returncode == 0


needs_mounts = pytest.mark.skipif(not can_mount(), reason="no file system can be mounted here")


def on_a_small_disk(place: Site, options: str = "size=2m") -> tuple[str, ...]:
    """A command before that of a run, whose state is on a file system of its own, which ends with it."""
    place.state.mkdir(exist_ok=True)
    mount = f'mount -t tmpfs -o {options},mode=700 tmpfs {place.state} && exec "$@"'
    return ("unshare", "-m", "sh", "-c", mount, "sh")


# -- no room ---------------------------------------------------------------------------------------


@needs_mounts
def test_a_disk_without_any_room(place: Site) -> None:
    place.suite(FOUR.format(body=""))
    run = place.start(*PLAIN, command=on_a_small_disk(place, "size=4k"))
    output = run.finish()
    assert "4 errors" in output
    assert "KLAVIS_STATE_DIR" in output
    assert place.cloud.count("POST .*") == 0
    place.recover("run")


@needs_mounts
def test_a_disk_that_fills_while_a_sandbox_is_held(place: Site) -> None:
    place.suite(f"{FILL}\n{FOUR.format(body='if number == 1: fill()')}\ndef test_last(): free()\n")
    run = place.start(*PLAIN, QUIET, command=on_a_small_disk(place))
    output = run.finish()
    assert "3 passed" in output
    assert "ERROR test_it.py::test_it[2] - pytest_klavis.pool.database.LedgerError" in output
    assert run.code == pytest.ExitCode.TESTS_FAILED
    place.recover("run")
    assert place.cloud.books.troubles() == []


@needs_mounts
def test_a_disk_that_is_full_to_the_end_of_the_run(place: Site) -> None:
    """The keeper does it as soon as there is room."""
    waits = ["sh", "-c", WHEN_THERE_IS_ROOM]
    room = f"import subprocess\nsubprocess.Popen({waits}, cwd=HERE, stdin=-3, stdout=-3, stderr=-3)"
    place.suite(f"{FILL}\n{room}\n{FOUR.format(body='if number == 1: fill(); assert 0')}")
    run = place.start(*PLAIN, QUIET, command=on_a_small_disk(place))
    output = run.finish()
    assert "1 failed, 1 passed" in output
    assert "assert 0" in output
    assert "Traceback (most recent call last)" not in output
    assert place.saved()["test_it[1] failed"] == BOTH
    (place.folder / "room").touch()
    until(lambda: not place.cloud.books.open(), "open are {}", place.cloud.books.open)
    assert place.cloud.books.troubles() == []


# -- not to be written -----------------------------------------------------------------------------


@needs_mounts
def test_a_read_only_disk(place: Site) -> None:
    place.suite(FOUR.format(body=""))
    run = place.start("-n2", command=on_a_small_disk(place, "ro"))
    output = run.finish()
    assert "4 errors" in output
    assert "KLAVIS_STATE_DIR" in output
    assert "Read-only file system" in output or "cannot be written" in output
    assert place.cloud.count("POST .*") == 0


def test_a_file_in_place_of_the_directory(place: Site) -> None:
    place.state.write_text("")
    place.suite(FOUR.format(body=""))
    run = place.run("-n2")
    assert "4 errors" in run.output
    assert "KLAVIS_STATE_DIR" in run.output
    assert place.cloud.count("POST .*") == 0


# -- damaged ---------------------------------------------------------------------------------------


def damage(place: Site) -> None:
    (place.account / "ledger-1.sqlite3").write_bytes(b"no such thing" * 1000)
    for end in ("-wal", "-shm"):
        (place.account / f"ledger-1.sqlite3{end}").unlink(missing_ok=True)


def test_a_damaged_ledger_of_the_dead(place: Site) -> None:
    place.suite(FOUR.format(body=""))
    assert place.run(*PLAIN).code == 0
    until(lambda: not place.keepers(), "{}", place.keepers)
    damage(place)
    run = place.run("-n2")
    assert "4 passed" in run.output
    assert "the ledger was damaged" in run.output
    assert [one.name for one in place.account.glob("ledger-1.damaged-*")]
    place.check("run")


def test_a_ledger_that_is_damaged_under_a_run(place: Site) -> None:
    """SQLite may not even see it, as it works in its journal."""
    place.suite(
        FOUR.format(body="if number == 1: next(HERE.parent.glob('state/*/*.sqlite3')).write_bytes(b'x' * 9999)")
    )
    run = place.run(*PLAIN, QUIET)
    assert "INTERNALERROR" not in run.output
    assert not place.cloud.books.open() or "NOT released" in run.output
    assert place.cloud.books.troubles() == []


# -- no keeper -------------------------------------------------------------------------------------


@pytest.fixture
def no_keeper(place: Site) -> Site:
    """Something else is where its lock should be."""
    account = account_directory(place.cloud.url, KEY, place.environment).path
    (account / "keeper.lock").mkdir()
    return place


@pytest.mark.parametrize("arguments", [PLAIN, ("-n2",)], ids=["plain", "workers"])
def test_a_run_without_a_keeper(no_keeper: Site, arguments: tuple[str, ...]) -> None:
    no_keeper.suite(FOUR.format(body="assert number != 2"))
    run = no_keeper.run(*arguments)
    assert "1 failed, 3 passed" in run.output
    assert ", 0 leaked" in run.output
    assert NO_KEEPER in run.output
    no_keeper.check("run")
    assert no_keeper.saved() == {"test_it[2] failed": BOTH}


def test_a_worker_that_is_killed_without_a_keeper(no_keeper: Site) -> None:
    no_keeper.victims()
    run = no_keeper.start("-n2", "--klavis-pool-size=2")
    run.wait_for("victim")
    until(lambda: no_keeper.cloud.count("POST /local-sandbox/.*/initialize") >= 2, "{}", lambda: run.output)
    no_keeper.strike("worker")()
    assert "1 failed, 3 passed" in run.finish()
    no_keeper.check("run")
    assert no_keeper.saved() == {"test_it[0] killed": BOTH}


def test_ctrl_c_without_a_keeper(no_keeper: Site) -> None:
    no_keeper.victims(1)
    run = no_keeper.start(*PLAIN)
    run.wait_for("victim")
    until(lambda: no_keeper.cloud.count("POST /local-sandbox/.*/initialize") >= 2, "{}", lambda: run.output)
    run.process.send_signal(2)
    assert "1 acquired, 1 released, 0 leaked" in run.finish()
    no_keeper.check("run")
    assert no_keeper.saved() == {"test_it[0] interrupted": BOTH}


def test_all_are_killed_without_a_keeper(no_keeper: Site) -> None:
    no_keeper.victims(1)
    run = no_keeper.start(*PLAIN)
    run.wait_for("victim")
    until(lambda: no_keeper.cloud.count("POST /local-sandbox/.*/initialize") >= 2, "{}", lambda: run.output)
    no_keeper.strike("all")()
    run.finish()
    no_keeper.check("reap")
    assert no_keeper.saved() == {"test_it[0] killed": BOTH}


def test_fewer_places_than_workers_without_a_keeper(no_keeper: Site) -> None:
    no_keeper.suite(FOUR.format(body=""))
    run = no_keeper.run("-n3", "--klavis-pool-size=1")
    assert "4 passed" in run.output
    assert no_keeper.cloud.books.most == 1
    no_keeper.check("run")
