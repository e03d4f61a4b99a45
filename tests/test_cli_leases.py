"""`pytest-klavis leases` and `reap` as processes: what dead ones left goes, what living ones hold stays."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .cloud import KEY, NEWER, SEED, Cloud, Dialect, Fault, light_cloud

HOLDER = """
import json, os, sys, time
from dataclasses import replace
from pathlib import Path

from pytest_klavis import clock
from pytest_klavis.api.client import KlavisClient
from pytest_klavis.kinds import KINDS, Acquire, id_of, instance_of
from pytest_klavis.pool.answers import Answers
from pytest_klavis.pool.acquiring import LABEL
from pytest_klavis.pool.entries import Want
from pytest_klavis.pool.ledger import Ledger
from pytest_klavis.pool.owners import Owner
from pytest_klavis.pool.statedir import account_directory
from pytest_klavis.spec import Spec

run, *what = json.loads(sys.argv[1])
url, key = os.environ["KLAVIS_BASE_URL"], os.environ["KLAVIS_API_KEY"]
account = account_directory(url, key).path
ledger, api, answers = Ledger(account), KlavisClient(url, key), Answers(account / "answers")
ledger.begin(run)
owner = Owner(account / "owners", f"{run}--{os.getpid()}")
for one in what:
    if one["state"] == "keeper":
        keeper = Owner(account / "owners", f"keeper-{run}")
        continue
    name = one.get("server", "github")
    kind = "local" if name == "filesystem" else "remote"
    spec, test = Spec(kind, (name,)), one.get("test", "test_a.py::test_one")
    entry = ledger.intend(run, owner.id, Want(spec, one.get("ttl", 1800), test=test, will=one.get("will", {})))
    state, number = one["state"], "kept-by-nobody"
    if state != "intent" or one.get("sent"):
        labels = {LABEL: entry.nonce} if kind == "remote" else {}
        answer = KINDS[kind].acquire(api, spec, Acquire(entry.ttl, 30, labels))
        number = id_of(answer)
    if state in ("intent", "lost"):
        if state == "lost":
            ledger.change(entry, "lost", owner=None)
        continue
    instance = instance_of(getattr(answer, "urls", {}).values())
    held = ledger.change(entry, "held", owner=owner.id, sandbox_id=number, instance=instance)
    answers.store(entry.number, spec, answer)
    if "put" in one:
        api.initialize_sandbox(name, number, one["put"])
    if state != "held":
        ledger.change(held, state, owner=owner.id if state in ("cleaning", "releasing") else None)
    if "ago" in one:
        old = "UPDATE entries SET born = born - ?, born_at = born_at - ?"
        with ledger.database.changing() as sql:
            sql.execute(old + " WHERE number = ?", (one["ago"], one["ago"], held.number))
print("READY", flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the records are; nothing is there yet."""
    place = tmp_path / "state"
    monkeypatch.setenv("KLAVIS_STATE_DIR", str(place))
    monkeypatch.setenv("KLAVIS_RATE", "off")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return place


@pytest.fixture
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return getattr(request, "param", NEWER)


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch, dialect: Dialect) -> Iterator[Cloud]:
    """A cloud whose sandboxes are small."""
    with light_cloud(dialect) as found:
        monkeypatch.setenv("KLAVIS_API_KEY", KEY)
        monkeypatch.setenv("KLAVIS_BASE_URL", found.url)
        yield found


@contextlib.contextmanager
def holding(*what: dict[str, Any], run: str = "run-1") -> Iterator[subprocess.Popen[str]]:
    """A process that lives and holds these."""
    asked = json.dumps([run, *what])
    with subprocess.Popen([sys.executable, "-c", HOLDER, asked], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "READY\n"
            yield process
        finally:
            process.kill()


def left_behind(*what: dict[str, Any], run: str = "run-1") -> None:
    """The same by a process that was killed."""
    with holding(*what, run=run):
        pass


def command(*arguments: str, status: int | None = 0, **environment: str) -> str:
    """All that a command writes."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest_klavis.cli", *arguments],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert status in (None, done.returncode), done.stdout
    assert KEY not in done.stdout
    assert "-planted" not in done.stdout  # the stand-in's secrets
    return done.stdout


def eventually(true: Callable[[], Any]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def in_order(cloud: Cloud, *still: str) -> None:
    assert sorted(cloud.books.open()) == sorted(still)
    assert cloud.books.troubles() == []


# -- leases ------------------------------------------------------------------------------------


def test_nothing_is_held_and_nothing_is_made(state: Path) -> None:
    assert command("leases") == "nothing is held\n"
    assert command("leases", "--json") == "[]\n"
    assert not state.exists()
    state.mkdir()
    assert command("leases") == "nothing is held\n"
    assert list(state.iterdir()) == []


def test_what_is_held_is_listed_by_whom(light: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "tests/" + "very_" * 20 + "deep/test_a.py::test_it"
    left_behind({"state": "held", "test": "test_a.py::test_dead"}, run="run-dead")
    with holding({"state": "held", "test": long}, {"state": "keeper"}, {"state": "idle", "server": "filesystem"}):
        monkeypatch.delenv("KLAVIS_API_KEY")
        text = command("leases")
        assert max(map(len, text.splitlines())) <= 80
        host = light.url.removeprefix("http://").partition(":")
        assert re.search(rf"^{host[0]}:{host[2]} \(account [0-9a-f]{{16}}\)$", text, re.MULTILINE)
        assert re.search(r"^  held +\d+s +(30m 0s|29m \d+s) +github-1$", text, re.MULTILINE)
        assert "test_a.py::test_dead\n      owner dead; run run-dead, its keeper dead" in text
        assert "deep/test_a.py::test_it\n      owner alive; run run-1, its keeper alive" in text
        assert "local: filesystem\n      the pool" in text or "local: filesystem\n      test_a.py" in text
        records = json.loads(command("leases", "--json"))
    assert [(one["state"], one["owner_alive"], one["keeper_alive"]) for one in records] == [
        ("held", False, False),
        ("held", True, True),
        ("idle", None, True),
    ]
    assert records[1]["test"] == long
    assert records[0]["id"] == "github-1"


def test_a_ledger_that_cannot_be_read_hides_no_other(light: Cloud, state: Path) -> None:
    left_behind({"state": "held"})
    broken = state / "api.example.com-0123456789abcdef"
    broken.mkdir(mode=0o700)
    (broken / "ledger-1.sqlite3").mkdir()
    text = command("leases", status=1)
    assert str(broken / "ledger-1.sqlite3") in text
    assert "github-1" in text
    assert "nothing is held" not in text


def test_the_ledger_of_a_newer_version_is_named(state: Path) -> None:
    place = state / "api.klavis.ai-0123456789abcdef"
    place.mkdir(parents=True, mode=0o700)
    (place / "ledger-99.sqlite3").touch()
    text = command("leases")
    assert "ledger-99.sqlite3 is a newer pytest-klavis's" in text
    assert sorted(one.name for one in place.iterdir()) == ["ledger-99.sqlite3"]


# -- reap --------------------------------------------------------------------------------------


def test_what_the_dead_held_is_saved_and_released(cloud: Cloud, tmp_path: Path) -> None:
    folder = tmp_path / "artifacts" / "run-1" / "test_a" / "attempt-1" / "github"
    scratch = tmp_path / "pytest-klavis-scratch"
    scratch.mkdir()
    will = {"evidence": str(folder), "scratch": str(scratch)}
    put = {"repos": [{"name": "shop"}]}
    with holding(
        {"state": "held", "put": put, "will": will},
        {"state": "held", "server": "filesystem", "will": {"evidence": str(folder.with_name("local"))}},
        {"state": "idle"},
        {"state": "dirty"},
        {"state": "cleaning"},
        {"state": "releasing"},
    ):
        assert command("reap", TMPDIR=str(tmp_path)) == "nothing to reap\n"
    before = len(cloud.requests)
    told = command("reap", "--dry-run")
    assert "would save and release: github-1 (remote: github)" in told
    assert "6 sandboxes would be reaped" in told
    assert len(cloud.requests) == before
    assert not folder.exists()
    told = command("reap", TMPDIR=str(tmp_path))
    assert f"saved in {folder}" in told
    assert told.endswith("6 released, 0 still held\n")
    assert json.loads((folder / "data.json").read_text())["repos"] == put["repos"]
    assert json.loads((folder / "sandbox.json").read_text())["outcome"] == "killed"
    assert (folder.with_name("local") / "sandbox.json").exists()
    assert not scratch.exists()
    in_order(cloud)
    assert cloud.held() == []
    assert command("leases") == "nothing is held\n"
    assert command("reap") == "nothing to reap\n"


def test_a_run_that_was_killed_with_its_keeper(
    pytester: pytest.Pytester, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(pytester.mkdir("tmp")))
    pytester.makepyfile("""
        import pathlib, time

        def test_it(local_sandbox, klavis_sandbox):
            box = local_sandbox("filesystem", workspace={"a.txt": "x"})
            box.call_tool("filesystem_write_file", {"path": f"{box.root}/b.txt", "content": "evidence"})
            klavis_sandbox("github")
            pathlib.Path("ready").touch()
            time.sleep(600)
    """)
    arguments = [sys.executable, "-m", "pytest", "-p", "no:xdist"]
    with subprocess.Popen(arguments, cwd=pytester.path, stdout=subprocess.DEVNULL) as run:
        try:
            eventually(Path(pytester.path, "ready").exists)
            [keeper] = Path(os.environ["KLAVIS_STATE_DIR"]).glob("*/owners/keeper-*")
            os.kill(_owner_of(keeper), signal.SIGKILL)
        finally:
            run.kill()
    assert len(cloud.books.open()) == 2
    assert command("leases").count("test_it\n      owner dead; ") == 2
    told = command("reap")
    assert "2 released" in told
    in_order(cloud)
    [changes] = pytester.path.glob("klavis-artifacts/latest/*/attempt-1/*/changes.txt")
    assert "b.txt" in changes.read_text()
    assert list(pytester.path.glob("tmp/pytest-klavis-*/*")) == []


def _owner_of(file: Path) -> int:
    """The process that has a file locked."""
    flock = struct.Struct("hhqqi")
    with file.open("r+b") as opened:
        found = fcntl.fcntl(opened, fcntl.F_GETLK, flock.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    return int(flock.unpack(found)[4])


def test_nobody_reads_what_it_says(light: Cloud) -> None:
    left_behind(*[{"state": "held"}] * 4)
    with subprocess.Popen([sys.executable, "-m", "pytest_klavis.cli", "reap"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
    assert process.returncode == 0
    in_order(light)


def test_nothing_is_made_where_nothing_was_recorded(light: Cloud, state: Path) -> None:
    assert "nothing to reap" in command("reap")
    assert not state.exists()
    assert light.requests == []


def test_what_a_living_keeper_has_is_its_own(light: Cloud) -> None:
    left_behind({"state": "held"}, run="run-1")
    with holding({"state": "keeper"}, run="run-1"):
        assert "nothing to reap" in command("reap")
    with holding({"state": "held"}, {"state": "keeper"}, run="run-2"):
        assert "1 released" in command("reap")
    assert "1 released" in command("reap")
    in_order(light)


def test_a_keeper_whose_run_is_over_is_waited_for(light: Cloud, state: Path) -> None:
    left_behind({"state": "held"})
    keeper = """
import sys
from pathlib import Path
from pytest_klavis.pool.owners import Owner
owner = Owner(Path(sys.argv[1]), "keeper-run-1")
print("READY", flush=True)
sys.stdin.read()
"""
    [owners] = state.glob("*/owners")
    arguments = [sys.executable, "-c", keeper, str(owners)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "READY\n"
        assert "1 sandbox left to a keeper that lives" in command("reap")
        assert "1 sandbox left to a keeper that lives" in command("reap", "--wait", "0.5s", status=1)
        reaping = subprocess.Popen(
            [sys.executable, "-m", "pytest_klavis.cli", "reap", "--wait", "1m"], stdout=subprocess.PIPE, text=True
        )
        process.communicate("")
        told, _ = reaping.communicate(timeout=60)
    assert "1 released" in told
    assert reaping.returncode == 0
    in_order(light)


def test_what_was_kept_goes_when_its_time_is_over(light: Cloud) -> None:
    left_behind(
        {"state": "kept"}, {"state": "kept", "ttl": 60, "ago": 3600}, {"state": "kept", "ttl": None, "ago": 9e4}
    )
    told = command("reap")
    assert "github-1" not in told
    assert "2 released" in told
    in_order(light, "github-1")
    assert json.loads(command("leases", "--json"))[0]["id"] == "github-1"


def test_suspects_are_released_when_that_is_asked_for(light: Cloud) -> None:
    left_behind({"state": "suspect"}, {"state": "suspect", "ttl": 60, "ago": 3600})
    told = command("reap")
    assert "its time is over: github-2" in told
    assert "suspect: github-1 may come from a lost acquire of test_a.py::test_one" in told
    assert "github-1" in light.books.open()
    assert "1 released" in command("reap", "--suspects")
    assert "github-1" not in light.books.open()


def test_only_old_ones(light: Cloud) -> None:
    left_behind({"state": "held"}, {"state": "held", "ago": 7300, "ttl": 9000})
    told = command("reap", "--older-than", "2h")
    assert "github-1" not in told
    assert "1 released" in told
    in_order(light, "github-1")


@pytest.mark.parametrize("dialect", [SEED], indirect=True)
def test_a_lost_acquire_is_found_by_its_label(light: Cloud) -> None:
    left_behind({"state": "lost"}, {"state": "intent", "sent": True})
    told = command("reap")
    assert told.endswith("2 released, 0 still held\n")
    in_order(light)


def test_a_lost_acquire_without_labels_is_a_suspect(light: Cloud) -> None:
    left_behind({"state": "intent", "sent": True})
    told = command("reap")
    assert "suspect: " in told
    assert light.books.open() == ["github-1"]
    assert "1 released" in command("reap", "--suspects")
    in_order(light)


def test_a_lost_acquire_is_released_at_once_where_nobody_else_uses_the_account(light: Cloud) -> None:
    left_behind({"state": "lost"})
    assert "1 released" in command("reap", KLAVIS_EXCLUSIVE_ACCOUNT="on")
    in_order(light)


def test_an_acquire_that_was_never_sent_is_forgotten_after_a_minute(
    light: Cloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pytest_klavis import cli

    left_behind({"state": "intent"})
    monkeypatch.setattr(importlib.import_module("pytest_klavis.pool.search"), "SETTLED", 0.5)
    assert cli.main(["reap"]) == 0
    told = capsys.readouterr().out
    assert "looking for what 1 lost acquire may have made" in told
    assert "never made: (id unknown)" in told
    assert command("leases") == "nothing is held\n"


def test_what_cannot_be_released_stays_and_is_tried_again(light: Cloud) -> None:
    left_behind({"state": "held"}, {"state": "held", "server": "slack"})
    light.faults.append(Fault("DELETE /sandbox/github/.*", status=400))
    told = command("reap", status=1)
    assert "STILL HELD: github-1" in told
    assert "HTTP 400" in told
    assert told.endswith("1 released, 1 still held\n")
    light.faults.clear()
    assert "1 released" in command("reap")
    in_order(light)


def test_what_somebody_else_has_by_now_is_left_alone(light: Cloud) -> None:
    left_behind({"state": "held"}, {"state": "held"})
    light.accounts.reuse("github-1")
    light.expire("github-2")
    told = command("reap")
    assert "not ours any more: github-1" in told
    assert "github-2" in told
    assert light.books.troubles() == []
    assert light.books.holding("github-1") is not None
    assert command("leases") == "nothing is held\n"


def test_reaps_at_the_same_time_release_each_one_once(light: Cloud) -> None:
    left_behind(*[{"state": "held"}] * 6)
    light.latency = {"release": 0.05}
    arguments = [sys.executable, "-m", "pytest_klavis.cli", "reap"]
    processes = [subprocess.Popen(arguments, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [one.wait(60) for one in processes] == [0, 0, 0]
    in_order(light)
    assert light.kinds["release"] == 6


def test_ctrl_c_says_what_is_left(light: Cloud) -> None:
    left_behind(*[{"state": "held"}] * 12)
    light.latency = {"release": 1.0}
    arguments = [sys.executable, "-m", "pytest_klavis.cli", "reap"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        eventually(lambda: light.kinds["release"] >= 8)
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert re.search(r"interrupted: \d+ sandboxes left, which the next run or another reap releases", told)
    assert "Traceback" not in told
    light.latency = {}
    assert "released" in command("reap")
    in_order(light)


def test_what_other_keys_left_is_told(light: Cloud) -> None:
    left_behind({"state": "held"})
    told = command("reap", KLAVIS_API_KEY="another-key")
    host = light.url.removeprefix("http://")
    assert f"1 sandbox at {host} of another key" in told
    told = command("reap", KLAVIS_API_KEY="", status=2)
    assert "set KLAVIS_API_KEY" in told
    assert f"1 sandbox at {host}" in told
    in_order(light, "github-1")


# -- reap --account ----------------------------------------------------------------------------


def test_what_the_account_holds_beyond_the_ledger(light: Cloud, monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    for server in ("github", "filesystem"):
        monkeypatch.setenv("KLAVIS_STATE_DIR", str(state.with_name("another-machine")))
        left_behind({"state": "held", "server": server})
    strange = light.books.open()
    monkeypatch.setenv("KLAVIS_STATE_DIR", str(state))
    with holding({"state": "held"}):
        [ours] = set(light.books.open()) - set(strange)
        told = command("reap", "--account")
        assert all(f"not on this machine's ledger: {one} (" in told for one in strange)
        assert ours not in told
        assert "2 sandboxes beyond the ledger; --yes releases all of it" in told
        assert "0 sandboxes" in command("reap", "--account", "--older-than", "2h")
        in_order(light, *strange, ours)
        assert command("reap", "--account", "--yes").endswith("2 released, 0 still held\n")
        in_order(light, ours)


def test_what_is_just_being_acquired_is_not_beyond_the_ledger(light: Cloud) -> None:
    with holding({"state": "intent", "sent": True}):
        assert "0 sandboxes beyond the ledger" in command("reap", "--account")
        command("reap", "--account", "--yes")
        in_order(light, "github-1")


def test_an_account_that_cannot_be_listed(light: Cloud) -> None:
    light.faults.append(Fault("GET /sandbox", status=400))
    assert "HTTP 400" in command("reap", "--account", status=1)
    light.faults.clear()
    assert "403" in command("reap", "--account", "--yes", status=1, KLAVIS_API_KEY="another-key")


# -- usage -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["reap", "--yes"], "--yes is for --account"),
        (["reap", "--account", "--dry-run"], "do not go together"),
        (["reap", "--older-than", "soon"], "'soon' is no duration"),
        (["reap", "--base-url", "ftp://api.example.com"], "http"),
        (["reap", "--base-url", "https://me:secret@api.example.com"], "user or password"),
        (["leases", "--nonsense"], "unrecognized"),
    ],
)
def test_wrong_usage_is_told(arguments: list[str], words: str, state: Path) -> None:
    told = command(*arguments, status=2, KLAVIS_API_KEY=KEY)
    assert words in told
    assert "secret" not in told
    assert not state.exists()
