"""What is done with one entry: by whom, in which cases, and what is left when it fails."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_klavis import clock
from pytest_klavis.errors import AuthError, ClosedError
from pytest_klavis.pool import search
from pytest_klavis.pool.allocation import Limits
from pytest_klavis.pool.chores import NoPlaceError
from pytest_klavis.pool.entries import Entry, Want
from pytest_klavis.pool.resetting import is_nothing
from pytest_klavis.spec import Spec
from pytest_klavis.workspace.archive import members, pack_mapping

from ..cloud import SEED, Fault
from .bench import LOCAL, REMOTE, RUN, Bench, bench

TYPED = Spec("local", ("filesystem", "canvas"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path) as made:
        yield made


@pytest.fixture
def old_place(tmp_path: Path) -> Iterator[Bench]:
    """Where the API speaks the dialect that brings tags back."""
    with bench(tmp_path, SEED) as made:
        yield made


# -- answers ---------------------------------------------------------------------------------------


def test_an_answer_is_kept_without_credentials_in_a_private_file(place: Bench) -> None:
    spec = Spec("local", ("filesystem", "canvas"))
    entry = place.acquired(spec)
    file = place.account / "answers" / f"{entry.number}.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert "10.0.0.7-planted" not in file.read_text()
    found: Any = place.answers.load(entry.number, spec)
    assert found.local_sandbox_id == entry.sandbox_id
    assert [one.server_name for one in found.servers] == ["filesystem", "canvas"]
    assert all(one.mcp_server_url and one.auth_data is None for one in found.servers)
    place.answers.drop(entry.number)
    place.answers.drop(entry.number)
    assert place.answers.load(entry.number, spec) is None


def test_an_answer_of_a_remote_sandbox_brings_its_url_back(place: Bench) -> None:
    entry = place.acquired(REMOTE)
    found: Any = place.answers.load(entry.number, REMOTE)
    assert found.sandbox_id == entry.sandbox_id
    assert list(found.urls) == ["github"]


@pytest.mark.parametrize("content", ["", "[]", '{"servers": []}', "\0\0", '{"local_sandbox_id": ""}'])
def test_a_damaged_answer_is_none(place: Bench, content: str) -> None:
    entry = place.acquired()
    (place.account / "answers" / f"{entry.number}.json").write_text(content)
    assert place.answers.load(entry.number, LOCAL) is None


def test_answers_of_what_is_gone_are_swept_away(place: Bench) -> None:
    there, gone = place.acquired(), place.acquired()
    assert place.ledger.remove(gone)
    late = place.account / "answers" / f"{gone.number + 1}.json"

    def numbers() -> list[int]:
        late.touch()  # an acquire is answered in the middle of the look
        return [one.number for one in place.ledger.entries()]

    place.answers.sweep(numbers)
    assert place.answers.load(there.number, LOCAL) is not None
    assert place.answers.load(gone.number, LOCAL) is None
    assert late.exists()


# -- clean -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [LOCAL, REMOTE])
def test_a_dirty_sandbox_is_reset_and_idle(place: Bench, spec: Spec) -> None:
    entry = place.acquired(spec, "dirty", owner=None, seed="digest")
    found = place.chores.clean(entry)
    assert found == place.ledger.entry(entry.number)
    assert found is not None
    assert (found.state, found.owner, found.seed, found.test, dict(found.will)) == ("idle", None, None, "", {})
    assert place.cloud.kinds["reset"] == 1
    assert place.cloud.kinds["get"] == (spec is LOCAL)  # its answer to a reset is {}
    record = place.ledger.run(RUN)
    assert record is not None
    assert record.resets == 1


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        (LOCAL, {"reusable": False}),
        (Spec("remote", ("github",), "Toolathlon"), {}),
        (LOCAL, {"ttl": 1800, "born": clock.since_boot() - 1000}),
    ],
)
def test_what_is_not_worth_a_reset_is_released(place: Bench, spec: Spec, values: dict[str, Any]) -> None:
    entry = place.acquired(spec, "dirty", owner=None, **values)
    assert place.chores.clean(entry) is None
    assert place.states() == []
    assert place.cloud.kinds["reset"] == 0
    assert place.is_clean()


@pytest.mark.parametrize("status", [500, 404])
@pytest.mark.parametrize("spec", [LOCAL, REMOTE])
def test_what_could_not_be_reset_is_released(place: Bench, spec: Spec, status: int) -> None:
    entry = place.acquired(spec, "dirty", owner=None)
    place.cloud.faults.append(Fault(".*/reset", status=status))
    assert place.chores.clean(entry, 3) is None
    assert place.states() == []
    assert place.is_clean()


@pytest.mark.parametrize(
    ("spec", "route"), [(LOCAL, "GET /local-sandbox/[0-9a-f]+"), (REMOTE, "POST /sandbox/.*/reset")]
)
def test_a_reset_that_ends_in_an_error_status_is_none(place: Bench, spec: Spec, route: str) -> None:
    entry = place.acquired(spec, "dirty", owner=None)
    body: dict[str, Any] = {
        "sandbox_id": entry.sandbox_id,
        "local_sandbox_id": entry.sandbox_id,
        "status": "error",
        "servers": [],
    }
    place.cloud.faults.append(Fault(route, status=200, body=json.dumps(body)))
    assert place.chores.clean(entry) is None
    assert place.states() == []
    assert place.is_clean()


def test_a_reset_is_confirmed_by_the_seeding_that_follows(place: Bench, tmp_path: Path) -> None:
    entry = place.acquired(LOCAL, "dirty", owner=None)
    archive = tmp_path / "seed.tar.gz"
    pack_mapping({"a.txt": "a"}, archive)
    found = place.chores.clean(entry, archive=archive, digest="digest")
    assert found is not None
    assert (found.state, found.seed) == ("idle", "digest")
    assert place.cloud.kinds["get"] == 0
    assert _files(place, entry.sandbox_id, tmp_path) == ["a.txt"]


@pytest.mark.parametrize("spec", [LOCAL, REMOTE, TYPED])
@pytest.mark.parametrize("dirt", [False, True])
def test_a_verified_reset_leaves_nothing(place: Bench, tmp_path: Path, spec: Spec, dirt: bool) -> None:
    place.verify_reset = True
    entry = place.acquired(spec, "dirty", owner=None)
    assert entry.sandbox_id is not None
    if spec is LOCAL:
        place.put(entry, {"left.txt": "left"}, tmp_path)
    elif spec is REMOTE:
        place.api.initialize_sandbox("github", entry.sandbox_id, {"repos": [{"name": "left"}]})
    else:
        place.api.initialize_local_server("canvas", f"canvas-of-{entry.sandbox_id}", {"courses": [{"name": "left"}]})
    place.cloud.reset_leaves_dirt = dirt
    found = place.chores.clean(entry)
    assert place.states() == ([] if dirt else ["idle"])
    assert (found is None) == dirt
    assert not place.cloud.books.troubles()


def test_a_reset_that_cannot_be_verified_is_none(old_place: Bench) -> None:
    old_place.verify_reset = True
    entry = old_place.acquired(REMOTE, "dirty", owner=None)
    assert old_place.chores.clean(entry) is None  # that dialect has no dump
    assert old_place.states() == []
    assert old_place.is_clean()


@pytest.mark.parametrize(
    ("value", "empty"),
    [({}, True), ({"a": [], "b": {"c": []}, "d": None, "e": ""}, True), ({"a": [{}]}, False), ({"a": {"b": 1}}, False)],
)
def test_empty_is_without_any_object(value: Any, empty: bool) -> None:
    assert is_nothing(value) == empty


def test_of_two_who_clean_one_does(place: Bench) -> None:
    entry = place.acquired(LOCAL, "dirty", owner=None)
    place.cloud.latency = {"reset": 0.2}
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(place.chores.clean(entry))) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sum(one is not None for one in found) == 1
    assert place.cloud.kinds["reset"] == 1


# -- release ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [LOCAL, REMOTE])
def test_what_is_given_back_is_released_with_one_request(place: Bench, spec: Spec) -> None:
    entry = place.acquired(spec, "dirty", owner=None)
    before = len(place.cloud.requests)
    assert place.chores.release(entry)
    assert place.cloud.requests[before:] == [next(one for one in place.cloud.requests if one.startswith("DELETE"))]
    assert place.states() == []
    assert place.answers.load(entry.number, spec) is None
    assert not place.chores.release(entry)
    assert place.is_clean()


@pytest.mark.parametrize("status", [500, 401])
def test_a_release_that_fails_is_left_to_be_tried_again(place: Bench, status: int) -> None:
    entry = place.acquired(REMOTE, "dirty", owner=None)
    place.cloud.faults.append(Fault("DELETE .*", status=status))
    assert not place.chores.release(entry, 1)
    (left,) = place.ledger.entries()
    assert (left.state, left.owner) == ("releasing", place.owner)
    place.cloud.faults.clear()
    assert place.chores.release(left)
    assert place.is_clean()


def test_a_release_that_hangs_ends_at_its_deadline(place: Bench) -> None:
    entry = place.acquired(REMOTE, "dirty", owner=None)
    place.cloud.faults.append(Fault("DELETE .*", way="hang"))
    assert not place.chores.release(entry, 0.5)
    (left,) = place.ledger.entries()
    place.cloud.faults.clear()
    assert place.chores.release(left)  # it was carried out, and the API says so
    assert place.is_clean()


@pytest.mark.parametrize("state", ["releasing", "held"])
def test_a_late_release_leaves_alone_what_is_somebody_elses(place: Bench, state: Any) -> None:
    entry = place.acquired(REMOTE, state, owner="somebody-dead")
    assert entry.sandbox_id is not None
    place.cloud.accounts.reuse(entry.sandbox_id)
    assert place.chores.release(entry)
    assert place.states() == []
    assert place.cloud.kinds["release"] == 0
    assert place.cloud.accounts.live


def test_a_late_release_is_told_by_the_tags_where_no_instance_is(old_place: Bench) -> None:
    entry = old_place.acquired(REMOTE, "releasing", owner="somebody-dead")
    assert entry.sandbox_id is not None
    nameless = old_place.ledger.change(entry, "releasing", owner="somebody-dead", instance=None)
    assert nameless is not None
    old_place.api.release_sandbox("github", entry.sandbox_id)
    other = old_place.api.acquire_sandbox("github", tags={"pytest-klavis": "another"})
    assert other.sandbox_id == entry.sandbox_id
    assert old_place.chores.release(nameless)
    assert old_place.states() == []
    assert old_place.cloud.books.open() == [entry.sandbox_id]


def test_what_is_still_ours_is_released_late(old_place: Bench) -> None:
    entry = old_place.acquired(REMOTE, "held", owner="somebody-dead")
    assert old_place.chores.release(entry)
    assert old_place.cloud.kinds["get"] == 1
    assert old_place.is_clean()


@pytest.mark.parametrize("spec", [LOCAL, REMOTE])
def test_past_its_time_what_the_api_took_back_is_only_forgotten(place: Bench, spec: Spec) -> None:
    entry = place.acquired(spec, "dirty", owner=None, born=clock.since_boot() - 2000)
    assert entry.sandbox_id is not None
    place.cloud.expire(entry.sandbox_id)
    if spec is REMOTE:
        place.cloud.accounts.reuse(entry.sandbox_id)
    assert entry.left < 0
    assert place.chores.release(entry)
    assert place.states() == []
    assert place.cloud.kinds["release"] == 0


def test_past_its_time_what_is_sure_to_be_ours_is_released(place: Bench) -> None:
    """The API ignored the time to live."""
    entry = place.acquired(REMOTE, "dirty", owner=None, born=clock.since_boot() - 2000)
    assert place.chores.release(entry)
    assert place.is_clean()


# -- rescue ----------------------------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def _will(tmp_path: Path, temporary: Path) -> dict[str, str]:
    scratch = temporary / "pytest-klavis-abc" / "lease-1"
    scratch.mkdir(parents=True)
    pack_mapping({"kept.txt": "kept"}, scratch / "seed.tar.gz")
    evidence = tmp_path / "artifacts" / "run-1" / "test_it-1234" / "attempt-1" / "local"
    return {"evidence": str(evidence), "scratch": str(scratch), "seed": str(scratch / "seed.tar.gz")}


def test_what_a_dead_holder_left_is_saved(place: Bench, tmp_path: Path, temporary: Path) -> None:
    will = _will(tmp_path, temporary)
    entry = place.acquired(owner="somebody-dead", will=will)
    place.put(entry, {"kept.txt": "kept", "new.txt": "new"}, tmp_path)
    saved = place.chores.rescue(entry)
    assert saved is not None
    assert (saved.state, saved.owner, saved.reusable, saved.save) == ("dirty", place.owner, False, False)
    evidence = Path(will["evidence"])
    facts = json.loads((evidence / "sandbox.json").read_text())
    assert facts["outcome"] == "killed"
    assert facts["sandbox_id"] == entry.sandbox_id
    assert facts["test"] == entry.test
    assert facts["backend"] == "cloud"
    assert "dump_error" not in facts
    assert "new.txt" in (evidence / "changes.txt").read_text()
    assert "kept.txt" not in (evidence / "changes.txt").read_text()
    assert (tmp_path / "artifacts" / "latest").resolve() == tmp_path / "artifacts" / "run-1"
    assert not Path(will["scratch"]).exists()
    assert list(temporary.iterdir()) == []
    assert place.chores.release(saved)
    assert place.is_clean()


def test_evidence_that_is_there_is_left_alone(place: Bench, tmp_path: Path, temporary: Path) -> None:
    will = _will(tmp_path, temporary)
    evidence = Path(will["evidence"])
    evidence.mkdir(parents=True)
    (evidence / "sandbox.json").write_text("{}")
    entry = place.acquired(LOCAL, "dirty", owner=None, will=will, save=True, reusable=False)
    assert place.chores.rescue(entry) is not None
    assert (evidence / "sandbox.json").read_text() == "{}"
    assert place.cloud.kinds["dump"] == 0


def test_evidence_that_cannot_be_saved_is_a_note_of_the_run(place: Bench, tmp_path: Path, temporary: Path) -> None:
    will = _will(tmp_path, temporary)
    entry = place.acquired(LOCAL, "dirty", owner=None, will=will, save=True)
    place.cloud.faults.append(Fault(".*/dump", status=500))
    assert place.chores.clean(entry, 3) is None
    assert place.states() == []
    record = place.ledger.run(RUN)
    assert record is not None
    (note,) = record.notes
    assert "could not be saved" in note
    assert "test_it.py::test_it" in note
    assert json.loads((Path(will["evidence"]) / "sandbox.json").read_text())["outcome"] == "interrupted"
    assert place.is_clean()


def test_a_folder_that_cannot_be_made_does_not_stop_the_release(place: Bench, tmp_path: Path, temporary: Path) -> None:
    (tmp_path / "artifacts").write_text("in the way")
    entry = place.acquired(owner="somebody-dead", will=_will(tmp_path, temporary))
    saved = place.chores.rescue(entry)
    assert saved is not None
    assert place.chores.release(saved)
    record = place.ledger.run(RUN)
    assert record is not None
    assert len(record.notes) == 1


def test_without_a_will_nothing_is_dumped(place: Bench) -> None:
    entry = place.acquired(REMOTE, owner="somebody-dead")
    assert place.chores.rescue(entry) is not None
    assert place.cloud.kinds["dump"] == 0


@pytest.mark.parametrize("name", ["elsewhere", "tmp/other", "tmp/pytest-klavis-link"])
def test_only_our_own_folders_are_removed(place: Bench, tmp_path: Path, temporary: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    (temporary / "other").mkdir()
    (temporary / "pytest-klavis-link").symlink_to(tmp_path / "elsewhere")
    entry = place.acquired(owner="somebody-dead", will={"scratch": str(tmp_path / name)})
    assert place.chores.rescue(entry) is not None
    assert (tmp_path / "elsewhere" / "kept").exists()
    assert os.path.lexists(tmp_path / name)


def test_a_folder_that_another_one_still_needs_is_left(place: Bench, temporary: Path) -> None:
    scratch = temporary / "pytest-klavis-abc"
    scratch.mkdir()
    first = place.acquired(owner="somebody-dead", will={"scratch": str(scratch)})
    second = place.acquired(owner="somebody-dead", will={"scratch": str(scratch)})
    assert place.chores.rescue(first) is not None
    assert scratch.exists()
    assert place.chores.rescue(second) is not None
    assert not scratch.exists()


# -- reconcile -------------------------------------------------------------------------------------


def test_what_was_lost_is_found_by_its_label(old_place: Bench) -> None:
    old_place.acquired(REMOTE)
    lost = old_place.intent(REMOTE, owner="somebody-dead")
    assert len(old_place.cloud.books.open()) == 2
    assert old_place.chores.reconcile(lost) == "released"
    assert old_place.states() == ["held"]
    assert len(old_place.cloud.books.open()) == 1
    assert not old_place.cloud.books.troubles()


@pytest.mark.parametrize("spec", [LOCAL, REMOTE])
def test_what_is_found_by_the_list_is_a_suspect(place: Bench, spec: Spec) -> None:
    place.acquired(spec)
    lost = place.intent(spec, owner="somebody-dead")
    assert place.chores.reconcile(lost) == "suspect"
    found = place.ledger.entry(lost.number)
    assert found is not None
    assert (found.state, found.owner) == ("suspect", None)
    assert found.sandbox_id in place.cloud.books.open()
    record = place.ledger.run(RUN)
    assert record is not None
    assert found.sandbox_id in record.notes[0]
    assert place.cloud.kinds["release"] == 0
    assert place.chores.release(found)  # as `reap --suspects` does
    assert place.states() == ["held"]


@pytest.mark.parametrize("spec", [LOCAL, REMOTE])
def test_what_is_found_by_the_list_of_an_exclusive_account_is_released(place: Bench, spec: Spec) -> None:
    place.exclusive = True
    place.acquired(spec)
    lost = [place.intent(spec, owner="somebody-dead") for _ in range(2)]
    chores = place.chores
    assert chores.reconcile(lost[0]) == "again"  # one of the two could be on its way
    changed = place.ledger.change(lost[1], "lost", owner=None)
    assert changed is not None
    again = place.ledger.entry(lost[0].number)
    assert again is not None
    assert chores.reconcile(again) == "released"
    assert chores.reconcile(changed) == "released"
    assert place.states() == ["held"]
    assert len(place.cloud.books.open()) == 1
    assert not place.cloud.books.troubles()


def test_more_than_what_was_lost_is_not_released_even_there(place: Bench) -> None:
    place.exclusive = True
    lost = place.intent(LOCAL, owner="somebody-dead")
    place.api.acquire_local_sandbox(["filesystem"])
    assert place.chores.reconcile(lost) == "suspect"
    assert len(place.cloud.books.open()) == 2


def test_what_others_are_acquiring_is_not_suspected(place: Bench) -> None:
    place.exclusive = True
    lost = place.intent(LOCAL, owner="somebody-dead")
    place.ledger.intend(RUN, place.owner, Want(LOCAL, 1800))
    assert place.chores.reconcile(lost) == "again"
    assert place.states() == ["lost", "intent"]


def test_another_benchmarks_sandbox_or_an_older_one_is_no_suspect(place: Bench) -> None:
    place.api.acquire_local_sandbox(["filesystem"], benchmark="MCPMark")
    place.api.acquire_local_sandbox(["memory"])
    place.api.acquire_local_sandbox(["filesystem"])
    entry = place.ledger.intend(RUN, "somebody-dead", Want(Spec("local", ("filesystem",), "Toolathlon"), 1800))
    lost = place.ledger.change(entry, "lost", owner=None, born_at=clock.now() + 1000)
    assert lost is not None
    assert place.chores.reconcile(lost) == "again"


@pytest.mark.parametrize("dialect", ["seed", "newer"])
def test_what_was_never_made_is_looked_for_for_a_while(
    place: Bench, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if dialect == "seed":
        place.cloud.dialect = SEED
    lost = place.ledger.intend(RUN, "somebody-dead", Want(REMOTE, 1800))
    chores = place.chores
    assert chores.reconcile(lost) == "again"
    (entry,) = place.ledger.entries()
    assert (entry.state, entry.owner) == ("lost", place.owner)
    monkeypatch.setattr(search, "SETTLED", 0.0)
    assert chores.reconcile(entry) == "dropped"
    assert place.states() == []


def test_what_cannot_be_looked_for_stays_as_long_as_it_may_live(place: Bench) -> None:
    lost = place.ledger.intend(RUN, "somebody-dead", Want(LOCAL, 1800))
    place.cloud.faults.append(Fault("GET /local-sandbox", status=500))
    assert place.chores.reconcile(lost, 1) == "again"
    (entry,) = place.ledger.entries()
    old = place.ledger.change(entry, "lost", owner=place.owner, born=clock.since_boot() - 1801)
    assert old is not None
    assert place.chores.reconcile(old, 1) == "dropped"


def test_a_lost_acquire_is_looked_for_by_one(place: Bench) -> None:
    lost = place.intent(LOCAL, owner="somebody-dead")
    stale = replace(lost)
    assert place.chores.reconcile(lost) == "suspect"
    assert place.chores.reconcile(stale) == "taken"


@pytest.mark.parametrize("state", ["releasing", "lost"])
def test_what_somebody_releases_during_the_look_is_not_what_was_lost(place: Bench, state: Any) -> None:
    """It is on the account's list, and its row is gone when the ledger is read again."""
    place.exclusive = True
    other = place.acquired(LOCAL, "releasing")
    number = other.sandbox_id
    if state == "lost":  # another look has found it
        other = _changed(place, other, "lost", owner="keeper-another", sandbox_id=None)
    lost = _changed(place, place.ledger.intend(RUN, place.owner, Want(LOCAL, 1800)), "lost", owner=None)

    def released() -> None:
        found = _changed(place, other, "releasing", owner="keeper-another", sandbox_id=number)
        assert place.ledger.remove(found)

    place.cloud.faults.append(Fault("GET /local-sandbox", then=released, times=1))
    assert place.chores.reconcile(lost) == "again"
    assert place.cloud.kinds["list"] == 1
    assert place.cloud.kinds["release"] == 0
    assert place.states() == ["lost"]


@pytest.mark.parametrize("spec", [LOCAL, REMOTE])
def test_of_lost_acquires_that_are_looked_for_at_once_each_takes_back_another(place: Bench, spec: Spec) -> None:
    place.exclusive = True
    lost = [_changed(place, place.intent(spec), "lost", owner=None) for _ in range(3)]
    chores, met = place.chores, threading.Barrier(3, timeout=0.5)

    def meet() -> None:
        with suppress(threading.BrokenBarrierError):  # who look one at a time never do
            met.wait()

    def look(entry: Entry) -> None:
        while chores.reconcile(entry) == "again":
            (entry,) = [one for one in place.ledger.entries() if one.number == entry.number]

    place.cloud.faults.append(Fault("GET /(local-)?sandbox", then=meet))
    threads = [threading.Thread(target=look, args=(one,)) for one in lost]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert place.states() == []
    assert place.is_clean(), place.cloud.books.troubles()


# -- ahead -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [LOCAL, REMOTE])
def test_what_is_acquired_ahead_is_idle_and_nobodys(place: Bench, spec: Spec) -> None:
    found = place.chores.acquire_ahead(RUN, Want(spec, 600, test="test_it", will={"scratch": "/tmp/x"}))
    assert found is not None
    assert (found.state, found.owner, found.test, found.ttl, dict(found.will)) == ("idle", None, "", 600, {})
    assert place.answers.load(found.number, spec) is not None
    assert (found.instance is None) == (spec is LOCAL)


def test_an_api_that_has_none_is_not_asked_again_at_once(place: Bench) -> None:
    place.cloud.capacity = 0
    assert place.chores.acquire_ahead(RUN, Want(LOCAL, 600)) is None
    assert place.states() == []
    assert place.ledger.dry() == {LOCAL}


def test_a_spare_never_goes_beyond_the_places_that_there_are(place: Bench) -> None:
    place.acquired()
    other = place.acquired(REMOTE, "idle", owner=None, run="another")
    with pytest.raises(NoPlaceError, match="all 2 places"):
        place.chores.acquire_ahead(RUN, Want(LOCAL, 600), limits=Limits(2, per_account=True))
    assert place.cloud.kinds["acquire"] == 2
    assert place.chores.acquire_ahead(RUN, Want(LOCAL, 600), limits=Limits(2, per_account=False)) is not None
    with pytest.raises(NoPlaceError):
        place.chores.acquire_ahead(RUN, Want(LOCAL, 600), limits=Limits(2, per_account=False))
    assert place.ledger.entry(other.number) == other


def test_a_refused_acquire_ahead_leaves_nothing(place: Bench) -> None:
    place.cloud.keys.clear()
    with pytest.raises(AuthError):
        place.chores.acquire_ahead(RUN, Want(LOCAL, 600))
    assert place.states() == []


def test_a_lost_acquire_ahead_is_looked_for(place: Bench) -> None:
    place.cloud.faults.append(Fault("POST /local-sandbox", lose_answer=True))
    with pytest.raises(Exception, match="not answered"):
        place.chores.acquire_ahead(RUN, Want(LOCAL, 600))
    assert place.states() == ["lost"]


def test_a_broken_one_is_given_back(place: Bench) -> None:
    from ..cloud import Odd

    place.cloud.odd = Odd("error")
    assert place.chores.acquire_ahead(RUN, Want(LOCAL, 600)) is None
    assert place.states() == []
    assert place.is_clean()


def test_a_run_that_is_over_acquires_nothing_ahead(place: Bench) -> None:
    place.ledger.close_run(RUN)
    with pytest.raises(ClosedError):
        place.chores.acquire_ahead(RUN, Want(LOCAL, 600))


def test_an_idle_one_is_seeded_ahead(place: Bench, tmp_path: Path) -> None:
    archive = tmp_path / "seed.tar.gz"
    pack_mapping({"a.txt": "a"}, archive)
    entry = place.acquired(LOCAL, "idle", owner=None)
    found = place.chores.seed_ahead(entry, Want(LOCAL, 600), archive, "digest")
    assert found is not None
    assert (found.state, found.seed) == ("idle", "digest")
    assert _files(place, entry.sandbox_id, tmp_path) == ["a.txt"]


def test_a_seed_that_does_not_get_in_costs_the_sandbox(place: Bench, tmp_path: Path) -> None:
    archive = tmp_path / "seed.tar.gz"
    pack_mapping({"a.txt": "a"}, archive)
    entry = place.acquired(LOCAL, "idle", owner=None)
    place.cloud.faults.append(Fault(".*/initialize", status=500))
    assert place.chores.seed_ahead(entry, Want(LOCAL, 600), archive, "digest", 3) is None
    assert place.states() == []
    assert place.is_clean()


def _changed(place: Bench, entry: Entry, to: Any, **values: Any) -> Entry:
    found = place.ledger.change(entry, to, **values)
    assert found is not None
    return found


def _files(place: Bench, number: str | None, folder: Path) -> list[str]:
    assert number is not None
    target = folder / "dump.tar.gz"
    place.api.download_archive(place.api.dump_local_sandbox(number).download_url, target)
    return [one.path for one in members(target)]
