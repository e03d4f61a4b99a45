"""What the ledger promises about its rows, by real processes where they race."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_klavis import clock
from pytest_klavis.errors import ClosedError
from pytest_klavis.pool import ledger as room
from pytest_klavis.pool.entries import Entry, Want, spec_of, spec_text, want_of, want_text
from pytest_klavis.pool.ledger import Ledger, TakenError
from pytest_klavis.pool.rows import RunRecord
from pytest_klavis.spec import Spec

from .processes import Process

GITHUB = Spec("remote", ("github",))
SLACK = Spec("remote", ("slack",))
LOCAL = Spec("local", ("filesystem", "git"), "toolathlon", "me@example.com", (("team", "a"),))
Begin = Callable[[str], Process]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    found = Ledger(tmp_path)
    found.begin("run")
    return found


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    begun: list[Process] = []

    def start(code: str) -> Process:
        begun.append(Process(tmp_path, code))
        return begun[-1]

    yield start
    for one in begun:
        one.kill()


def _record(ledger: Ledger, run: str = "run") -> RunRecord:
    found = ledger.run(run)
    assert found is not None
    return found


def _held(ledger: Ledger, number: str, *, spec: Spec = GITHUB, ttl: int = 600, owner: str = "me") -> Entry:
    held = ledger.change(ledger.intend("run", owner, Want(spec, ttl, test="t")), "held", owner=owner, sandbox_id=number)
    assert held is not None
    return held


@pytest.mark.parametrize("spec", [GITHUB, LOCAL])
def test_specs_and_wants_are_the_same_after_they_were_written_down(spec: Spec) -> None:
    want = Want(spec, 60, 12.5, "digest", "test_a.py::test", {"evidence": "/a b", "scratch": "/s"})
    assert spec_of(spec_text(spec)) == spec
    assert want_of(want_text(want)) == want


def test_an_entry_is_read_as_it_was_written(ledger: Ledger) -> None:
    made = ledger.intend("run", "me", Want(LOCAL, 60, test="t", will={"evidence": "/e"}))
    assert ledger.entry(made.number) == made
    values = {"sandbox_id": "s-1", "instance": "i", "reusable": False, "save": True, "seed": "d", "will": {"a": "b"}}
    held = ledger.change(made, "held", owner="you", ttl=None, **values)
    assert ledger.entries() == [held]
    assert ledger.entries(run="another") == ledger.entries(states=("idle",)) == ledger.entries(states=()) == []
    assert ledger.entries(run="run", states=("idle", "held")) == [held]


def test_of_many_processes_that_release_the_same_sandboxes_one_wins_each(ledger: Ledger, begin: Begin) -> None:
    for number in range(20):
        ledger.change(_held(ledger, f"s-{number}"), "dirty", owner=None)
    racers = [
        begin(
            f"""
ledger = Ledger(folder)
seen = ledger.entries()
say("ready")
input()
claimed = [ledger.change(one, "releasing", owner="racer-{number}") for one in seen]
removed = [one.sandbox_id for one in claimed if one and ledger.remove(one)]
say(*removed)
"""
        )
        for number in range(6)
    ]
    for one in racers:
        assert one.line() == "ready"
    for one in racers:
        one.go()
    released = [number for one in racers for number in one.line().split()]
    assert sorted(released) == sorted(f"s-{number}" for number in range(20))
    assert ledger.entries() == []
    assert (_record(ledger).acquired, _record(ledger).released) == (20, 20)


def test_a_change_or_removal_of_what_is_not_as_it_was_read_does_nothing(ledger: Ledger) -> None:
    held = _held(ledger, "s-1")
    idle = ledger.change(held, "idle", owner=None)
    assert idle is not None
    for stale in (held, replace(idle, owner="me"), replace(idle, state="dirty"), replace(idle, number=99)):
        assert ledger.change(stale, "releasing", owner="me") is None
        assert not ledger.remove(stale)
    assert ledger.entries() == [idle]


def test_what_somebody_holds_is_not_held_twice(ledger: Ledger) -> None:
    first = _held(ledger, "s-1")
    with pytest.raises(TakenError, match="s-1, but t holds it"):
        _held(ledger, "s-1")
    second = ledger.entries(states=("intent",))[0]
    assert ledger.entries() == [first, second]
    assert _record(ledger).acquired == 1
    for other in (SLACK, LOCAL):  # ids are those of a server
        assert _held(ledger, "s-1", spec=other).sandbox_id == "s-1"


@pytest.mark.parametrize("stale", ["expired", "suspect"])
def test_what_nobody_can_hold_any_more_makes_way(ledger: Ledger, stale: str) -> None:
    if stale == "expired":
        old = _held(ledger, "s-1", ttl=60)
        with ledger.database.changing() as sql:
            sql.execute("UPDATE entries SET born = born - 100, born_at = born_at - 100")
    else:
        intent = ledger.intend("run", "me", Want(GITHUB, 600))
        suspect = ledger.change(intent, "suspect", owner=None, sandbox_id="s-1")
        assert suspect is not None
        old = suspect
    new = _held(ledger, "s-1")
    assert ledger.entries() == [new]
    assert not ledger.remove(old)


def test_what_is_being_released_is_waited_for(ledger: Ledger, begin: Begin) -> None:
    """The API may give a sandbox out again before the one who released it has written that down."""
    releasing = ledger.change(_held(ledger, "s-1"), "releasing", owner="me")
    assert releasing is not None
    other = begin(
        """
ledger = Ledger(folder)
intent = ledger.intend("run", "other", Want(GITHUB, 600))
look, ledger.database.read = ledger.database.read, lambda *query: say("waits") or look(*query)
held = ledger.change(intent, "held", owner="other", sandbox_id="s-1")
say("has", held.sandbox_id)
"""
    )
    assert other.line() == "waits"
    assert other.line() == "waits"
    assert ledger.remove(releasing)
    code, rest = other.end()
    assert code == 0
    assert rest.endswith("has s-1\n")
    assert _record(ledger).acquired == 2


def test_what_is_being_released_and_given_out_again_has_been_released(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "RELEASING", 0.05)
    releasing = ledger.change(_held(ledger, "s-1"), "releasing", owner="me")
    assert releasing is not None
    again = _held(ledger, "s-1")
    assert ledger.entries() == [again]
    assert not ledger.remove(releasing), "it is off the ledger already"
    record = ledger.run("run")
    assert record is not None
    assert (record.acquired, record.released) == (2, 1)


def test_what_is_being_released_is_not_given_out_again_because_a_list_still_holds_it(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "RELEASING", 0.05)
    releasing = ledger.change(_held(ledger, "s-1"), "releasing", owner="me")
    lost = ledger.change(ledger.intend("run", "me", Want(GITHUB, 600)), "lost", owner="me")
    assert lost is not None
    with pytest.raises(TakenError):
        ledger.change(lost, "releasing", owner="me", sandbox_id="s-1")
    assert ledger.entries() == [releasing, lost]


# -- runs --------------------------------------------------------------------------------------


def test_a_run_that_is_over_or_unknown_acquires_nothing(ledger: Ledger) -> None:
    ledger.close_run("run")
    ledger.begin("run")
    for run in ("run", "unknown"):
        with pytest.raises(ClosedError, match=f"the run {run} is over"):
            ledger.intend(run, "me", Want(GITHUB, 60))
    assert ledger.entries() == []


def test_a_budget_counts_what_was_acquired_or_may_have_been(ledger: Ledger) -> None:
    ledger.begin("poor", budget=3)
    first = ledger.intend("poor", "me", Want(GITHUB, 60))
    held = ledger.change(first, "held", owner="me", sandbox_id="s-1")
    assert held is not None
    lost = ledger.change(ledger.intend("poor", "me", Want(GITHUB, 60)), "lost", owner=None)
    assert lost is not None
    never = ledger.intend("poor", "me", Want(GITHUB, 60))
    with pytest.raises(ClosedError, match="--klavis-max-acquires=3"):
        ledger.intend("poor", "me", Want(GITHUB, 60))
    assert ledger.remove(never)
    assert ledger.remove(lost)
    assert ledger.remove(held), "it was acquired all the same"
    for number in range(2):
        made = ledger.intend("poor", "me", Want(GITHUB, 60))
        assert ledger.change(made, "held", owner="me", sandbox_id=f"n-{number}")
    with pytest.raises(ClosedError):
        ledger.intend("poor", "me", Want(GITHUB, 60))
    assert _record(ledger, "poor").acquired == 3


def test_processes_together_stay_within_the_budget(ledger: Ledger, begin: Begin) -> None:
    ledger.begin("poor", budget=10)
    code = """
from pytest_klavis.errors import ClosedError
ledger = Ledger(folder)
made = 0
try:
    while True:
        entry = ledger.intend("poor", "me", Want(GITHUB, 60))
        ledger.change(entry, "held", owner="me", sandbox_id=entry.nonce)
        made += 1
except ClosedError:
    say(made)
"""
    assert sum(int(one.line()) for one in [begin(code) for _ in range(4)]) == 10


def test_what_processes_tell_of_a_run_adds_up(ledger: Ledger) -> None:
    other = Ledger(ledger.database.path.parent)
    ledger.count("run", calls=2, waited=0.5)
    other.count("run", calls=1, resets=3)
    ledger.refuse("run", "first")
    other.refuse("run", "second")
    ledger.learn("run", ["ttl_seconds"])
    other.learn("run", ["tags", "ttl_seconds"])
    ledger.note("run", 'it\'s a "note"')
    other.note("run", "another")
    record = _record(ledger)
    assert (record.calls, record.waited, record.resets, record.refusal) == (3, 0.5, 3, "first")
    assert record.refused == ("tags", "ttl_seconds")
    assert record.notes == ('it\'s a "note"', "another")


def test_a_run_is_forgotten_when_nothing_of_it_is_left(ledger: Ledger) -> None:
    held = _held(ledger, "s-1")
    ledger.forget_run("run")
    assert _record(ledger).id == "run"
    assert ledger.remove(held)
    ledger.forget_run("run")
    assert ledger.runs() == []


def test_only_what_was_being_released_counts_as_released_with_its_time(ledger: Ledger) -> None:
    assert ledger.remove(ledger.intend("run", "me", Want(GITHUB, 60)))
    assert _record(ledger).released == 0
    releasing = ledger.change(_held(ledger, "s-1"), "releasing", owner="me")
    assert releasing is not None
    assert ledger.remove(replace(releasing, born=releasing.born - 30))
    assert _record(ledger).released == 1
    assert _record(ledger).seconds >= 30


# -- the line ----------------------------------------------------------------------------------


def test_tickets_stand_in_the_order_of_their_coming_and_may_come_back_to_their_place(ledger: Ledger) -> None:
    first = ledger.queue("run", "a", [Want(GITHUB, 60)])
    second = ledger.queue("run", "b", [Want(GITHUB, 60), Want(LOCAL, 60)], cap=4)
    ledger.leave(first)
    third = ledger.queue("run", "c", [])
    assert ledger.queue("run", "a", [Want(SLACK, 60)], seq=first) == first
    assert [(one.seq, one.owner, len(one.wants), one.cap) for one in ledger.tickets()] == [
        (first, "a", 1, None),
        (second, "b", 2, 4),
        (third, "c", 0, None),
    ]
    ledger.forget_owner("b")
    ledger.leave(third)
    assert ledger.queue("run", "d", []) > third


def test_a_dry_spec_is_asked_for_again_later_and_later_until_it_is_had(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(clock, "since_boot", lambda: now)
    waits = []
    for _ in range(7):
        ledger.run_dry(Want(GITHUB, 60))
        began = now
        while GITHUB in ledger.dry():
            now += 0.25
        waits.append(now - began)
    assert waits == [0.5, 1, 2, 4, 8, 8, 8]
    ledger.run_dry(Want(GITHUB, 60))
    ledger.run_dry(Want(SLACK, 60))
    _held(ledger, "s-1")
    assert ledger.dry() == {SLACK}


def test_a_release_is_a_reason_to_ask_for_a_dry_spec_at_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(clock, "since_boot", lambda: now)
    held = _held(ledger, "s-1")
    for _ in range(3):
        ledger.run_dry(Want(SLACK, 60))
    assert ledger.dry() == ledger.scarce() == {SLACK}
    going = ledger.change(held, "releasing", owner="x")
    assert going is not None
    assert ledger.remove(going)
    assert ledger.dry() == set()
    assert ledger.scarce() == {SLACK}
    ledger.run_dry(Want(SLACK, 60))
    now += 3.75
    assert ledger.dry() == {SLACK}, "it is the fourth time, nevertheless"
    now += 4.5
    assert ledger.dry() == set()
    now += 4
    assert ledger.scarce() == set()


def test_what_was_dry_before_a_restart_of_the_machine_is_forgotten(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 864_000.0
    monkeypatch.setattr(clock, "since_boot", lambda: now)
    for _ in range(5):
        ledger.run_dry(Want(GITHUB, 60))
    assert ledger.dry() == {GITHUB}
    now = 30.0
    assert ledger.dry() == ledger.scarce() == set()
    ledger.run_dry(Want(GITHUB, 60))
    now = 30.75
    assert ledger.dry() == set(), "the first time is half a second"


def test_a_wish_takes_the_place_of_the_last_one(ledger: Ledger) -> None:
    ledger.wish("run", "a", [(Want(GITHUB, 60), None)])
    ledger.wish("run", "b", [(Want(LOCAL, 60), '{"a": "b"}'), (Want(SLACK, 60), None)])
    ledger.wish("run", "a", [(Want(SLACK, 60), None)])
    assert [(want.spec, workspace) for want, workspace in ledger.wishes("run")] == [
        (LOCAL, '{"a": "b"}'),
        (SLACK, None),
        (SLACK, None),
    ]
    ledger.forget_owner("b")
    assert len(ledger.wishes("run")) == 1
