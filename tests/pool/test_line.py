"""Standing in line, with real processes and threads on one ledger."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pytest_klavis import clock
from pytest_klavis.errors import BackendError, ClosedError, RateLimitError
from pytest_klavis.pool.allocation import Limits, StandstillError
from pytest_klavis.pool.entries import Entry, Want
from pytest_klavis.pool.ledger import Ledger
from pytest_klavis.pool.line import Place
from pytest_klavis.spec import Spec

from .processes import SOON, Process, soon

GITHUB = Spec("remote", ("github",))
SLACK = Spec("remote", ("slack",))
Begin = Callable[[str], Process]
_TAKE = """
from pytest_klavis import clock
from pytest_klavis.pool.allocation import Limits
from pytest_klavis.pool.line import Place
ledger = Ledger(folder)
me = str(os.getpid())
def take(cap, seconds=60):
    limits = Limits(cap, per_account=True)
    place = Place(ledger, [Want(GITHUB, 600)], run="run", owner=me, limits=limits, tend=lambda: None)
    with place:
        return place.take(clock.monotonic() + seconds)
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    found = Ledger(tmp_path)
    found.begin("run")
    return found


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    begun: list[Process] = []

    def start(code: str) -> Process:
        begun.append(Process(tmp_path, _TAKE + code))
        return begun[-1]

    yield start
    for one in begun:
        one.kill()


def _idle(ledger: Ledger, number: str, spec: Spec = GITHUB) -> Entry:
    idle = ledger.change(ledger.intend("run", "x", Want(spec, 600)), "idle", owner=None, sandbox_id=number)
    assert idle is not None
    return idle


def _place(ledger: Ledger, cap: int, *specs: Spec, owner: str = "me") -> Place:
    wants = [Want(one, 600, test=f"test of {owner}") for one in specs or (GITHUB,)]
    return Place(ledger, wants, run="run", owner=owner, limits=Limits(cap, per_account=True), tend=lambda: None)


def _now() -> float:
    return clock.monotonic() - 1


def test_processes_that_race_for_one_place_get_it_one_after_the_other_and_in_order(
    ledger: Ledger, begin: Begin
) -> None:
    _idle(ledger, "s-1")
    code = """
for _ in range(10):
    (mine,) = take(1)
    assert mine.state == "held" and mine.owner == me
    assert len(ledger.entries(states=("held",))) == 1
    say(mine.sandbox_id)
    assert ledger.change(mine, "idle", owner=None)
"""
    ended = [one.end() for one in [begin(code) for _ in range(5)]]
    assert ended == [(0, "s-1\n" * 10)] * 5
    assert ledger.tickets() == []


def test_a_later_one_does_not_overtake_and_a_set_is_had_at_once(ledger: Ledger) -> None:
    first, second = _idle(ledger, "s-1"), _idle(ledger, "s-2", SLACK)
    order: list[str] = []

    def take(name: str, *specs: Spec) -> None:
        with _place(ledger, 2, *specs, owner=name) as place:
            taken = place.take(clock.monotonic() + SOON)
        with ledger.database.changing():  # or who waits for one has the other released for it
            for one in taken:
                order.append(f"{name} {one.sandbox_id}")
                assert ledger.change(one, "idle", owner=None)

    held = [ledger.change(one, "held", owner="x") for one in (first, second)]
    threads = []
    for name, specs in (("a", (SLACK, GITHUB)), ("b", (GITHUB,)), ("c", (SLACK,))):
        threads.append(threading.Thread(target=take, args=(name, *specs)))
        threads[-1].start()
        soon(lambda: len(ledger.tickets()) == len(threads))
    for number, one in enumerate(held):
        assert one is not None
        assert ledger.change(one, "idle", owner=None)
        if not number:
            threading.Event().wait(0.05)
            assert order == [], "what is free is the set's, who came first"
    for thread in threads:
        thread.join()
    assert order[:2] == ["a s-2", "a s-1"]
    assert sorted(order[2:]) == ["b s-1", "c s-2"]


def test_what_cannot_be_had_in_time_is_an_error_that_names_who_has_it(ledger: Ledger) -> None:
    with _place(ledger, 1, owner="other") as place:
        (other,) = place.take(_now())
    with (
        pytest.raises(BackendError, match=r"no place(?s:.*)test of other has a remote sandbox(?s:.*)pool-size"),
        _place(ledger, 1) as place,
    ):
        place.take(clock.monotonic() + 0.05)
    assert ledger.tickets() == []
    assert ledger.entries() == [other]


def test_what_the_api_said_is_the_error_when_it_had_none(ledger: Ledger) -> None:
    with _place(ledger, 1) as place:
        (intent,) = place.take(_now())
        assert ledger.remove(intent)
        place.none_left(Want(GITHUB, 600), RateLimitError("acquire", 429, "none left"))
        with pytest.raises(RateLimitError, match="none left") as caught:
            place.another(Want(GITHUB, 600), clock.monotonic() + 0.05)
    assert "--klavis-acquire-timeout" in caught.value.__notes__[0]
    assert ledger.tickets() == []


def test_who_comes_back_has_the_place_it_had(ledger: Ledger) -> None:
    with _place(ledger, 1, owner="a") as first, _place(ledger, 1, owner="b") as second:
        (intent,) = first.take(_now())
        with pytest.raises(BackendError):
            second.take(_now())
        assert ledger.remove(intent)
        (again,) = [first.another(Want(GITHUB, 600), _now())]
        assert again.owner == "a"


def test_of_those_who_hold_up_each_other_one_gives_up_and_the_rest_go_on(ledger: Ledger, begin: Begin) -> None:
    code = """
from pytest_klavis.pool.allocation import StandstillError
first = ledger.change(take(3)[0], "held", owner=me, sandbox_id=me)
say("has one")
input()
try:
    second = take(3)[0]
except StandstillError:
    say("gave up")
else:
    say("went on")
    ledger.change(second, "idle", owner=None)
ledger.change(first, "idle", owner=None)
"""
    together = [begin(code) for _ in range(3)]
    for one in together:
        assert one.line() == "has one"
    for one in together:
        one.go()
    assert sorted(one.line() for one in together) == ["gave up", "went on", "went on"]


def test_who_gives_up_leaves_nothing_behind(ledger: Ledger) -> None:
    with ExitStack() as stack:
        mine = stack.enter_context(_place(ledger, 1)).take(_now())
        with pytest.raises(StandstillError):
            stack.enter_context(_place(ledger, 1, SLACK)).take(_now())
        assert ledger.tickets() == []
    assert ledger.entries() == mine


def test_a_set_that_the_budget_does_not_allow_is_not_begun(ledger: Ledger) -> None:
    ledger.begin("poor", budget=1)
    wants = [Want(GITHUB, 600), Want(SLACK, 600)]
    place = Place(ledger, wants, run="poor", owner="me", limits=Limits(4, per_account=False), tend=lambda: None)
    with pytest.raises(ClosedError, match="--klavis-max-acquires"), place:
        place.take(_now())
    assert (ledger.entries(), ledger.tickets()) == ([], [])


def test_who_was_taken_for_dead_while_it_waited_gets_nothing(ledger: Ledger) -> None:
    with _place(ledger, 1, owner="other") as place:
        place.take(_now())
    with _place(ledger, 1) as place:
        place._tend = lambda: ledger.forget_owner("me")
        with pytest.raises(ClosedError, match="me was taken for dead"):
            place.take(clock.monotonic() + SOON)


def test_a_wrong_seed_at_the_cap_is_recycled_and_another_spec_released(ledger: Ledger) -> None:
    seeded = ledger.change(_idle(ledger, "s-1"), "idle", owner=None, seed="x")
    _idle(ledger, "s-2", SLACK)
    assert seeded is not None
    with pytest.raises(BackendError), _place(ledger, 2, GITHUB, Spec("remote", ("notion",))) as place:
        place.take(_now())
    assert [(one.sandbox_id, one.state, one.reusable) for one in ledger.entries()] == [
        ("s-1", "dirty", True),
        ("s-2", "dirty", False),
    ]
