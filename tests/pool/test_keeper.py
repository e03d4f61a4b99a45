"""The keeper as a process: started once, told apart from the dead, at work until nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pytest_klavis import clock
from pytest_klavis.errors import BackendError
from pytest_klavis.pool import keeping
from pytest_klavis.pool.ahead import Packed, Seeds, Wish, plan
from pytest_klavis.pool.entries import Entry, Want
from pytest_klavis.pool.keeper import KeeperConfig, start_keeper
from pytest_klavis.pool.owners import Owner
from pytest_klavis.spec import Spec
from pytest_klavis.workspace.archive import members

from ..cloud import KEY, SEED, Fault, Odd
from .bench import LOCAL, REMOTE, RUN, Bench, bench, holder, wait

OTHER = Spec("local", ("memory",))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A bench with a live worker, which is this process."""
    monkeypatch.setenv("KLAVIS_API_KEY", KEY)
    with bench(tmp_path) as made:
        owner = Owner(made.account / "owners", made.owner)
        try:
            yield made
        finally:
            owner.close()


@contextmanager
def _kept_here(place: Bench, **config: Any) -> Iterator[None]:
    """A keeper that is a thread of this process, so that its constants can be other ones."""
    owner = Owner(place.account / "owners", f"keeper-{RUN}")
    work = keeping.Keeping(place.config(**config), owner)
    thread = threading.Thread(target=work.run)
    thread.start()
    try:
        yield
    finally:
        place.ledger.close_run(RUN)
        for entry in place.ledger.entries():
            place.ledger.remove(entry)
        owner.path.unlink(missing_ok=True)  # it ends when its directory is gone
        thread.join(60)
        owner.close()
        assert not thread.is_alive()


# -- one process -----------------------------------------------------------------------------------


def test_a_keeper_resets_releases_and_ends_with_its_run(place: Bench) -> None:
    start_keeper(place.config())
    start_keeper(place.config())
    assert place.keeper_lives()
    for spec in (LOCAL, REMOTE):
        place.acquired(spec, "dirty", owner=None)
    wait(lambda: place.states() == ["idle", "idle"])
    held = place.acquired()
    place.ledger.close_run(RUN)
    wait(lambda: place.states() == ["held"])
    assert place.ledger.change(held, "dirty", owner=None) is not None
    wait(lambda: place.states() == [])
    record = place.ledger.run(RUN)
    assert record is not None
    assert (record.acquired, record.released, record.resets) == (3, 3, 2)
    assert record.calls == 6  # two resets, one of them asked after, three releases
    assert place.is_clean()
    assert place.keeper_lives()


def test_a_keeper_is_gone_without_a_trace_when_nobody_is_left(tmp_path: Path) -> None:
    with bench(tmp_path) as place:
        with holder(place):
            place.acquired(LOCAL, "dirty", owner=None)
            place.acquired(LOCAL, "kept", owner=None)
            (place.account / "answers" / "99.json").touch()  # its row was set aside, or given to another
            start_keeper(place.config())
            wait(lambda: place.states() == ["idle", "kept"])
            place.ledger.close_run(RUN)
            wait(lambda: place.states() == ["kept"])
            assert place.keeper_lives()
        wait(lambda: not place.keeper_lives())
        wait(lambda: not list(place.account.glob("*.log")))
        assert not list((place.account / "owners").glob("keeper-*"))
        assert len(list((place.account / "answers").iterdir())) == len(place.cloud.books.open()) == 1


def test_its_key_is_nowhere_to_be_seen(place: Bench) -> None:
    os.environ["HTTPS_PROXY"] = "http://127.0.0.1:9"
    try:
        start_keeper(place.config())
    finally:
        del os.environ["HTTPS_PROXY"]
    process = Path("/proc", str(place.keeper_pid()))
    environment = (process / "environ").read_bytes()
    assert KEY.encode() not in (process / "cmdline").read_bytes() + environment
    assert b"HTTPS_PROXY=" in environment
    assert (process / "cwd").readlink() == Path("/")
    assert (place.account / f"keeper-{RUN}.log").stat().st_mode & 0o777 == 0o600
    assert KEY not in repr(place.config())
    assert KeeperConfig.from_json(place.config().to_json()) == place.config()


def test_a_keeper_outlives_the_signals_that_end_a_run(place: Bench) -> None:
    start_keeper(place.config())
    pid = place.keeper_pid()
    assert os.getsid(pid) not in (0, os.getsid(0))
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, one)
    place.acquired(LOCAL, "dirty", owner=None)
    wait(lambda: place.states() == ["idle"])
    assert place.keeper_pid() == pid


def test_of_many_that_start_one_at_the_same_time_one_does(place: Bench) -> None:
    code = (
        "import sys; from pytest_klavis.pool.keeper import KeeperConfig, start_keeper;"
        "start_keeper(KeeperConfig.from_json(sys.stdin.buffer.read()), 30)"
    )
    command = [sys.executable, "-c", code]
    starters = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
    for one in starters:
        assert one.stdin is not None
        one.stdin.write(place.config().to_json())
        one.stdin.close()
    for one in starters:
        assert one.stderr is not None
        assert one.wait(60) == 0, one.stderr.read()
        one.stderr.close()
    assert place.keeper_lives()
    assert (place.account / f"keeper-{RUN}.log").read_text().count("another keeper lives") == 0
    assert len(list((place.account / "owners").glob("keeper-*"))) == 1


def test_a_keeper_that_cannot_start_says_why(place: Bench) -> None:
    (place.account / "ledger-1.sqlite3").write_text("no database" * 100)
    for companion in place.account.glob("ledger-1.sqlite3-*"):
        companion.unlink()
    config = KeeperConfig(RUN, place.account, "http://user:secret@127.0.0.1", KEY)
    with pytest.raises(BackendError, match="did not start") as caught:
        start_keeper(config)
    assert str(config.log) in str(caught.value)
    assert "base URL" in str(caught.value)
    assert KEY not in str(caught.value)
    place.ledger.close()
    for file in place.account.glob("ledger-1.sqlite3*"):
        file.unlink()


def test_after_a_killed_keeper_another_one_takes_over(place: Bench) -> None:
    place.cloud.latency = {"reset": 1.0, "release": 1.0}
    start_keeper(place.config())
    place.acquired(LOCAL, "dirty", owner=None)
    place.acquired(REMOTE, "dirty", owner=None, reusable=False)
    wait(lambda: sorted(place.states()) == ["cleaning", "releasing"])
    wait(lambda: place.cloud.kinds["reset"] and place.cloud.kinds["release"])
    os.kill(place.keeper_pid(), signal.SIGKILL)
    wait(lambda: not place.keeper_lives())
    assert sorted(place.states()) == ["cleaning", "releasing"]
    start_keeper(place.config())
    wait(lambda: place.states() == ["idle"])
    assert not place.cloud.books.troubles()


def test_a_keeper_whose_account_is_removed_ends(place: Bench) -> None:
    start_keeper(place.config())
    pid = place.keeper_pid()
    place.ledger.close()
    shutil.rmtree(place.account)
    wait(lambda: not _is_running(pid))
    place.account.mkdir()
    (place.account / "owners").mkdir()


def _is_running(pid: int) -> bool:
    try:
        return b"State:\tZ" not in Path(f"/proc/{pid}/status").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


# -- the dead --------------------------------------------------------------------------------------


def test_what_a_killed_holder_had_is_saved_and_released(place: Bench, tmp_path: Path) -> None:
    start_keeper(place.config())
    scratch = Path(tempfile.mkdtemp(prefix="pytest-klavis-"))
    evidence = tmp_path / "artifacts" / "run-1" / "test_it-1234" / "attempt-1" / "local"
    will = {"evidence": str(evidence), "scratch": str(scratch)}
    with holder(place) as process:
        name = f"{RUN}--2-holder"
        entry = place.acquired(owner=name, will=will)
        place.put(entry, {"a.txt": "a"}, tmp_path)
        remote = place.acquired(REMOTE, owner=name, will={**will, "evidence": str(evidence.with_name("github"))})
        seq = place.ledger.queue(RUN, name, [Want(LOCAL, 600)])
        assert [one.seq for one in place.ledger.tickets()] == [seq]
        process.kill()
        wait(lambda: place.states() == [])
    assert [one.path for one in members(evidence / "workspace.tar.gz")] == ["a.txt"]
    for folder, number in ((evidence, entry.sandbox_id), (evidence.with_name("github"), remote.sandbox_id)):
        facts = json.loads((folder / "sandbox.json").read_text())
        assert (facts["outcome"], facts["sandbox_id"]) == ("killed", number)
    assert not scratch.exists()
    wait(lambda: place.ledger.tickets() == [])
    assert place.is_clean()


def test_what_was_lost_is_looked_for_again_until_it_is_there(tmp_path: Path) -> None:
    with bench(tmp_path, SEED) as place:
        owner = Owner(place.account / "owners", place.owner)
        start_keeper(place.config())
        lost = place.ledger.intend(RUN, place.owner, Want(REMOTE, 600, test="test_it"))
        assert place.ledger.change(lost, "lost", owner=None) is not None
        wait(lambda: place.cloud.kinds["list"] >= 2)
        place.api.acquire_sandbox("github", tags={"pytest-klavis": lost.nonce})
        wait(lambda: place.states() == [])
        owner.close()
        assert place.is_clean()


def test_what_another_run_left_is_released(place: Bench) -> None:
    place.ledger.begin("dead-run")
    left = []
    for state in ("idle", "dirty", "held", "cleaning", "releasing"):
        owner = "dead-run--1-gone" if state in ("held", "cleaning", "releasing") else None
        left.append(place.acquired(REMOTE if state == "held" else LOCAL, state, owner=owner, run="dead-run"))
    place.acquired(LOCAL, "idle", owner=None)
    kept = place.acquired(LOCAL, "kept", owner=None, run="dead-run")
    place.ledger.queue("dead-run", "dead-run--1-gone", [Want(LOCAL, 600)])
    start_keeper(place.config())
    wait(lambda: place.states() == ["idle", "kept"])
    told = [f"{one.sandbox_id} of test_it.py::test_it, left by the run dead-run, was released" for one in left]
    wait(lambda: sorted(place.notes()) == sorted(told))
    assert len(place.cloud.books.open()) == 2
    assert place.ledger.tickets() == []
    assert place.ledger.entry(kept.number) == kept
    assert not place.cloud.books.troubles()


def test_what_another_live_run_has_is_left_alone(place: Bench) -> None:
    place.ledger.begin("live-run")
    with holder(place, "live-run--9-worker"):
        mine = [
            place.acquired(LOCAL, "idle", owner=None, run="live-run"),
            place.acquired(LOCAL, "dirty", owner=None, run="live-run"),
            place.acquired(LOCAL, "held", owner="live-run--9-worker", run="live-run"),
        ]
        place.acquired(LOCAL, "held", owner="live-run--8-dead", run="live-run")
        start_keeper(place.config())
        wait(lambda: len(place.states()) == 3)  # a sweep has been there
        assert place.ledger.entries() == mine


# -- what comes first ------------------------------------------------------------------------------


def test_a_sandbox_that_nobody_wants_makes_room_for_those_who_wait(place: Bench) -> None:
    place.ledger.queue(RUN, place.owner, [Want(OTHER, 600)])
    for _ in range(8):
        place.acquired(LOCAL, "dirty", owner=None)
    start_keeper(place.config())
    wait(lambda: "dirty" not in place.states())
    assert place.cloud.kinds["reset"] < 8
    assert place.cloud.kinds["release"] > 0


def test_releases_are_tried_again_until_they_succeed(place: Bench) -> None:
    place.cloud.faults.append(Fault("DELETE .*", status=500, times=6))
    place.acquired(LOCAL, "dirty", owner=None, reusable=False)
    start_keeper(place.config())
    wait(lambda: place.states() == [])
    assert place.is_clean()
    assert "could not be released" in place.config().log.read_text()


def test_idle_sandboxes_without_time_go(place: Bench) -> None:
    place.acquired(LOCAL, "idle", owner=None, born=clock.since_boot() - 1750)
    place.acquired(LOCAL, "kept", owner=None, born=clock.since_boot() - 1850)
    place.acquired(LOCAL, "idle", owner=None, ttl=60)
    start_keeper(place.config())
    wait(lambda: place.states() == ["idle"])
    assert place.ledger.entries()[0].ttl == 60


# -- the end ---------------------------------------------------------------------------------------


def test_a_run_without_any_process_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "GRACE", 0.5)
    with bench(tmp_path) as place:
        place.acquired(LOCAL, "idle", owner=None)
        place.acquired(LOCAL, owner=f"{RUN}--1-dead")
        with _kept_here(place):
            wait(lambda: place.states() == [])
            record = place.ledger.run(RUN)
            assert record is not None
            assert not record.closed, "a worker that replaces a dead one may come late"
        assert place.is_clean()


def test_what_cannot_be_released_stays_on_the_ledger_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "PATIENCE", 1.0)
    with bench(tmp_path) as place:
        entry = place.acquired(LOCAL, "idle", owner=None)
        place.ledger.close_run(RUN)
        place.cloud.faults.append(Fault("DELETE .*", status=401))
        owner = Owner(place.account / "owners", f"keeper-{RUN}")
        keeping.Keeping(place.config(), owner).run()
        owner.close()
        (left,) = place.ledger.entries()
        assert (left.number, left.state) == (entry.number, "releasing")


# -- ahead -----------------------------------------------------------------------------------------


def _workspace(folder: Path, **files: str) -> str:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return json.dumps({"path": str(folder), "git": False})


def test_what_is_wished_for_is_acquired_and_seeded_ahead(place: Bench, tmp_path: Path) -> None:
    start_keeper(place.config())
    workspace = _workspace(tmp_path / "seed", a="a")
    seeds = Seeds()
    seeds.pack(workspace)
    packed = seeds.known(workspace)
    assert packed is not None
    place.ledger.wish(RUN, place.owner, [(Want(LOCAL, 600), workspace), (Want(REMOTE, 600), None)])
    wait(lambda: sorted((one.state, one.seed or "") for one in place.ledger.entries()) == _idle("", packed.digest))
    place.ledger.wish(RUN, place.owner, [(Want(LOCAL, 600), None), (Want(REMOTE, 600), None)])
    wait(lambda: sorted((one.state, one.seed or "") for one in place.ledger.entries()) == _idle("", ""))
    assert place.cloud.kinds["acquire"] == 2  # the wrong guess was made good
    seeds.close()


def _idle(*seeds: str) -> list[tuple[str, str]]:
    return sorted(("idle", one) for one in seeds)


def test_a_dirty_one_is_seeded_in_the_same_go(place: Bench, tmp_path: Path) -> None:
    workspace = _workspace(tmp_path / "seed", a="a")
    place.ledger.wish(RUN, place.owner, [(Want(LOCAL, 600), workspace)])
    start_keeper(place.config())
    wait(lambda: any(one.seed for one in place.ledger.entries()))
    (entry,) = place.ledger.entries()
    before = dict(place.cloud.kinds)
    assert place.ledger.change(entry, "dirty", owner=None, seed=None) is not None
    wait(lambda: any(one.seed for one in place.ledger.entries()))
    used = {kind: count - before.get(kind, 0) for kind, count in place.cloud.kinds.items()}
    assert {kind for kind, count in used.items() if count} == {"reset", "upload-url", "put", "initialize"}


def test_nothing_is_acquired_ahead_beyond_the_cap_or_before_those_who_wait(place: Bench) -> None:
    place.ledger.wish(RUN, place.owner, [(Want(LOCAL, 600), None)] * 12)
    seq = place.ledger.queue(RUN, place.owner, [Want(OTHER, 600)])
    start_keeper(place.config())
    place.acquired(LOCAL, "dirty", owner=None)
    wait(lambda: place.states() == ["idle"])
    assert place.cloud.kinds["acquire"] == 1
    place.ledger.leave(seq)
    wait(lambda: place.states() == ["idle"] * 8)
    assert place.cloud.books.most == 8


def test_an_api_that_gives_broken_sandboxes_is_not_asked_on_and_on(place: Bench) -> None:
    place.cloud.odd = Odd("error")
    place.ledger.wish(RUN, place.owner, [(Want(LOCAL, 600), None)])
    start_keeper(place.config())
    wait(lambda: place.cloud.kinds["release"] == 1)
    place.acquired(LOCAL, "dirty", owner=None)
    wait(lambda: place.states() == ["idle"])
    assert place.cloud.kinds["acquire"] == 2


def test_without_prefetch_nothing_is_acquired_ahead(place: Bench) -> None:
    place.ledger.wish(RUN, place.owner, [(Want(OTHER, 600), None)])
    start_keeper(place.config(prefetch=False))
    place.acquired(LOCAL, "dirty", owner=None)
    wait(lambda: place.states() == ["idle"])
    assert place.cloud.kinds["acquire"] == 1


def _entry(number: int, state: Any, seed: str | None = None, spec: Spec = LOCAL) -> Entry:
    return Entry(number, RUN, None, state, spec, "n", None, 0.0, "", 0.0, 0.0, seed=seed, sandbox_id=str(number))


def test_a_plan_gives_each_wish_what_suits_it_best(tmp_path: Path) -> None:
    plain, first, second = (
        Wish(Want(LOCAL, 600)),
        Wish(Want(LOCAL, 600), Packed(tmp_path, "first")),
        Wish(Want(LOCAL, 600), Packed(tmp_path, "second")),
    )
    seeded, empty, dirty, wrong = (
        _entry(1, "idle", "first"),
        _entry(2, "idle"),
        _entry(3, "dirty"),
        _entry(4, "idle", "nobody's"),
    )
    made = plan([second, first, plain, plain, plain], [seeded, empty, dirty, wrong, _entry(5, "held")], {})
    assert made.seed == [(empty, second)]
    assert made.clean == {3: plain, 4: plain}
    assert made.acquire == [plain.want]
    pending = Wish(Want(LOCAL, 600), packing=True)
    assert plan([pending], [wrong], {}) == plan([], [], {})
    made = plan([first, plain], [_entry(6, "cleaning"), _entry(7, "cleaning")], {6: None, 7: "first"})
    assert made == plan([], [], {})


def test_a_workspace_is_packed_again_when_it_changed(tmp_path: Path) -> None:
    seeds = Seeds(fresh=0.0)
    workspace = _workspace(tmp_path / "seed", a="a")
    assert seeds.is_due(workspace)
    seeds.pack(workspace)
    first = seeds.known(workspace)
    assert not seeds.is_due(workspace)
    _workspace(tmp_path / "seed", a="another")
    assert seeds.known(workspace) is None
    seeds.pack(workspace)
    second = seeds.known(workspace)
    assert first is not None
    assert second is not None
    assert first.digest != second.digest
    shutil.rmtree(tmp_path / "seed")
    seeds.pack(workspace)
    assert seeds.known(workspace) is None
    assert not seeds.is_due(workspace)
    archive = json.dumps({"archive": str(second.archive)})
    seeds.pack(archive)
    assert seeds.known(archive) == second
    seeds.close()
    assert not second.archive.exists()
