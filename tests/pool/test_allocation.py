"""Who gets which sandbox: chosen cases, and whole histories that hypothesis makes up, played to their end."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_klavis import clock
from pytest_klavis.errors import BackendError
from pytest_klavis.pool.allocation import COMING, Grant, Limits, StandstillError, allocate
from pytest_klavis.pool.entries import LIVE, Entry, State, Ticket, Want
from pytest_klavis.spec import Spec

A, B, C = (Spec("remote", (name,)) for name in ("github", "slack", "notion"))
FLAVOURED = Spec("remote", ("github",), "toolathlon")
OWN = "run"


def entry(number: int, state: State, spec: Spec = A, **values: Any) -> Entry:
    given = {
        "run": OWN,
        "owner": None,
        "nonce": str(number),
        "ttl": 3600,
        "born": clock.since_boot(),
        "boot": clock.boot_id(),
        "born_at": clock.now(),
        "since": clock.now() - 1000 + number,
        "sandbox_id": f"s-{number}",
    }
    if state not in ("idle", "held", "kept"):
        given["since"] = clock.now()
    return Entry(number=number, state=state, spec=spec, **given | values)


def ticket(seq: int, *specs: Spec, owner: str = "", run: str = OWN, **values: Any) -> Ticket:
    return Ticket(seq, run, owner or f"owner-{seq}", tuple(Want(one, 3600, **values) for one in specs))


def ask(
    line: Sequence[Ticket],
    entries: Sequence[Entry],
    cap: int,
    *,
    seq: int | None = None,
    per_account: bool = True,
    dry: Sequence[Spec] = (),
    scarce: Sequence[Spec] = (),
) -> Grant:
    chosen = line[-1].seq if seq is None else seq
    return allocate(line, chosen, entries, Limits(cap, per_account), dry=dry, scarce=scarce, now=clock.now())


def test_a_clean_one_is_better_than_another_and_below_the_cap_there_is_another() -> None:
    idle = entry(1, "idle")
    assert ask([ticket(1, A)], [idle], 2) == Grant(True, (idle,))
    assert ask([ticket(1, B)], [idle], 2) == Grant(True, (None,))
    assert ask([ticket(1, A, A)], [idle], 2) == Grant(True, (idle, None))


def test_at_the_cap_the_least_recently_used_of_another_spec_goes() -> None:
    old, new = entry(1, "idle", B), entry(2, "idle", C)
    assert ask([ticket(1, A)], [new, old], 2) == Grant(False, evict=(old,))
    going = replace(old, state="releasing", since=clock.now())
    assert ask([ticket(1, A)], [new, going], 2) == Grant(False), "no second one while the first is on its way"
    stuck = replace(going, since=clock.now() - COMING - 1)
    assert ask([ticket(1, A)], [new, stuck], 2) == Grant(False, evict=(new,))


def test_what_is_reset_or_acquired_ahead_is_waited_for_a_while() -> None:
    for coming in (entry(1, "cleaning", owner="keeper"), entry(1, "intent", sandbox_id=None, owner="keeper")):
        assert ask([ticket(1, A)], [coming], 4) == Grant(False)
        assert ask([ticket(1, A), ticket(2, A)], [coming], 4) == Grant(True, (None,)), "by one"
        assert ask([ticket(1, B)], [coming], 4) == Grant(True, (None,))
        late = replace(coming, since=clock.now() - COMING - 1)
        assert ask([ticket(1, A)], [late], 4) == Grant(True, (None,))
        assert ask([ticket(1, A, needs=4000)], [coming], 4) == Grant(True, (None,)), "it will not do"


def test_what_was_given_back_is_waited_for_where_another_would_have_to_go_instead() -> None:
    back, other = entry(1, "dirty"), entry(2, "idle", B)
    assert ask([ticket(1, A)], [back, other], 3) == Grant(True, (None,))
    assert ask([ticket(1, A)], [back, other], 2) == Grant(False)
    assert ask([ticket(1, FLAVOURED)], [replace(back, spec=FLAVOURED), other], 2) == Grant(False), "released: a place"
    assert ask([ticket(1, A)], [replace(back, reusable=False), other], 2) == Grant(False), "released: a place"
    assert ask([ticket(1, C)], [back, other], 2) == Grant(False, evict=(other,))


def test_seeds_go_to_those_who_want_just_them() -> None:
    empty, seeded, wrong = entry(1, "idle"), entry(2, "idle", seed="x"), entry(3, "idle", seed="y")
    pool = [empty, seeded, wrong]
    assert ask([ticket(1, A, seed="x")], pool, 3).given == (seeded,)
    assert ask([ticket(1, A)], pool, 3).given == (empty,)
    assert ask([ticket(1, A, seed="z")], [seeded, wrong], 3).given == (None,)
    other = entry(0, "idle", B)
    assert ask([ticket(1, A)], [other, wrong], 2) == Grant(False, recycle=(wrong,)), "a reset makes it right"


def test_too_little_time_left_is_not_handed_out() -> None:
    old = entry(1, "idle", born=clock.since_boot() - 3000, born_at=clock.now() - 3000)
    assert ask([ticket(1, A, needs=500)], [old], 2).given == (old,)
    assert ask([ticket(1, A, needs=700)], [old], 2).given == (None,)
    assert ask([ticket(1, A, needs=700)], [old], 1).evict == (old,)
    assert ask([ticket(1, A, needs=700)], [replace(old, ttl=None)], 1).given == (replace(old, ttl=None),)


def test_a_set_is_not_starved_by_those_behind_it() -> None:
    line = [ticket(1, A, B, C), ticket(2, A)]
    held = entry(1, "held", owner="x")
    assert ask(line, [held], 3, seq=1) == Grant(False)
    assert ask(line, [held], 3, seq=2) == Grant(False), "the two free places are the set's"
    assert ask(line, [held, entry(2, "idle")], 3, seq=2) == Grant(False)
    assert ask(line, [held], 5, seq=2) == Grant(True, (None,)), "what nobody before it wants"


def test_a_dry_spec_holds_nobody_up() -> None:
    line = [ticket(1, A), ticket(2, B)]
    assert ask(line, [], 1, seq=1, dry=[A]) == Grant(False)
    assert ask(line, [], 1, seq=2, dry=[A]) == Grant(True, (None,))
    idle = entry(1, "idle")
    assert ask(line, [idle], 1, seq=1, dry=[A]) == Grant(True, (idle,))


def test_what_nobody_can_use_goes_one_by_one_while_the_head_of_the_line_is_refused() -> None:
    mine, old, new = entry(1, "idle", B), entry(2, "idle", C), entry(3, "idle", C)
    line = [ticket(1, A, B), ticket(2, A, C)]
    assert ask(line, [mine, old, new], 9, seq=1, dry=[A]) == Grant(False, evict=(old,)), "not its own part of the set"
    assert ask(line, [mine, old, new], 9, seq=2, dry=[A]) == Grant(False), "the head of the line only"
    assert ask([line[0], ticket(2, C)], [mine, old], 9, seq=1, dry=[A]) == Grant(False), "that one is as good as held"
    going = replace(old, state="releasing", since=clock.now())
    assert ask(line, [mine, going, new], 9, seq=1, dry=[A]) == Grant(False), "one at a time"
    assert ask(line, [mine, new], 9, seq=1) == Grant(True, (None, mine)), "nothing is let go without need"
    back = entry(4, "dirty", A)
    assert ask(line, [mine, new, back], 9, seq=1, dry=[A]) == Grant(False), "what is wanted comes by itself"


def test_what_the_api_had_none_of_lately_is_asked_for_by_one_at_a_time() -> None:
    line = [ticket(1, B, A), ticket(2, C, A)]
    assert ask(line, [], 9, seq=2) == Grant(True, (None, None))
    assert ask(line, [], 9, seq=2, scarce=[A]) == Grant(False)
    assert ask(line, [], 9, seq=1, scarce=[A]) == Grant(True, (None, None))
    asked = [entry(1, "intent", A, sandbox_id=None, owner="owner-0", test="t")]
    assert ask(line, asked, 9, seq=1, scarce=[A]) == Grant(False)
    assert ask([ticket(1, A, A)], [], 9, scarce=[A]) == Grant(True, (None, None)), "a set is one"
    idle = entry(2, "idle", A)
    assert ask(line, [*asked, idle], 9, seq=1, scarce=[A]) == Grant(True, (None, idle))


def test_one_with_another_seed_is_reset_for_who_is_refused() -> None:
    wrong = entry(1, "idle", A, seed="x")
    assert ask([ticket(1, A)], [wrong], 9, dry=[A]) == Grant(False, recycle=(wrong,))


def test_a_cap_that_nobody_set_makes_no_test_fail() -> None:
    held = [entry(1, "held", owner="o1"), entry(2, "held", owner="o2")]
    assert ask([ticket(1, A, A, A)], [], 2, per_account=False) == Grant(True, (None, None, None))
    assert ask([ticket(1, A, owner="o1")], held, 2, per_account=False) == Grant(False), "the other one works"
    stuck = [ticket(1, A, owner="o1"), ticket(2, A, owner="o2")]
    assert ask(stuck, held, 2, seq=2, per_account=False) == Grant(True, (None,))


def test_idle_ones_are_the_runs_and_places_the_accounts() -> None:
    foreign = entry(1, "idle", run="another")
    assert ask([ticket(1, A)], [foreign], 1, per_account=False) == Grant(True, (None,))
    assert ask([ticket(1, A)], [foreign], 2, per_account=True) == Grant(True, (None,))
    assert ask([ticket(1, A)], [foreign], 1, per_account=True) == Grant(False, evict=(foreign,))
    theirs = [ticket(1, A, run="another"), ticket(2, A)]
    assert ask(theirs, [foreign], 1, per_account=True) == Grant(False), "they came first"


def test_a_run_with_a_smaller_cap_does_not_take_the_idle_ones_of_a_larger_one_in_vain() -> None:
    busy = [entry(number, "held", run="another", owner="x") for number in range(4)]
    idle = [entry(number, "idle", run="another") for number in (4, 5)]
    assert ask([ticket(1, A)], [*busy, *idle], 2, per_account=True) == Grant(False)
    assert ask([ticket(1, A)], idle, 1, per_account=True).evict == tuple(idle)


def test_more_than_there_may_ever_be_is_an_error() -> None:
    with pytest.raises(BackendError, match="3 sandboxes are wanted at once, and --klavis-pool-size=2"):
        ask([ticket(1, A, A, B)], [], 2)


# -- standstill --------------------------------------------------------------------------------


def test_when_all_who_hold_wait_those_who_hold_fail_and_the_others_wait() -> None:
    pool = [entry(1, "held", owner="a", test="test_a"), entry(2, "held", owner="b")]
    line = [ticket(1, A, owner="a"), ticket(2, A, owner="b"), ticket(3, A, owner="c")]
    for seq in (1, 2):
        with pytest.raises(StandstillError, match=r"--klavis-keep|test_a has s-1(?s:.*)--klavis-pool-size"):
            ask(line, pool, 2, seq=seq)
    assert ask(line, pool, 2, seq=3) == Grant(False)
    assert ask(line[:1], pool, 2) == Grant(False), "the other one works, and will give it back"


@pytest.mark.parametrize("state", ["intent", "dirty", "cleaning", "releasing"])
def test_what_moves_may_bring_relief(state: State) -> None:
    pool = [entry(1, "held", owner="a"), entry(2, state, B, owner="x", test="t", since=clock.now() - 60)]
    assert ask([ticket(1, A, owner="a")], pool, 2) == Grant(False)


def test_what_is_reserved_for_a_set_that_waits_for_the_others_is_no_relief() -> None:
    line = [ticket(1, A, B, owner="p"), ticket(2, C, owner="x")]
    pool = [entry(1, "idle"), entry(2, "held", owner="x")]
    assert ask(line, pool, 2, seq=1) == Grant(False)
    with pytest.raises(StandstillError):
        ask(line, pool, 2, seq=2)


def test_kept_ones_that_leave_no_place_are_named() -> None:
    kept = [entry(1, "kept"), entry(2, "kept")]
    with pytest.raises(StandstillError, match="1 more wanted, 0 held by the same process and 2 kept"):
        ask([ticket(1, A)], kept, 2)
    with pytest.raises(StandstillError, match="2 more wanted"):
        ask([ticket(1, A, B)], [kept[0], entry(2, "held", owner="x")], 2)
    assert ask([ticket(1, A)], [kept[0], entry(2, "held", owner="x")], 2) == Grant(False)


def test_who_holds_as_many_as_there_may_be_is_told_at_once() -> None:
    pool = [entry(1, "held", owner="a"), entry(2, "held", owner="b")]
    with pytest.raises(StandstillError, match="2 more wanted, 1 held"):
        ask([ticket(1, A, A, owner="a")], pool, 2)


def test_who_waits_in_a_run_with_another_cap_may_get_what_it_waits_for() -> None:
    pool = [entry(1, "held", owner="a"), entry(2, "held", owner="b", run="another")]
    theirs = replace(ticket(2, A, owner="b", run="another"), cap=2)
    line = [ticket(1, A, owner="a"), theirs]
    with pytest.raises(StandstillError):
        ask(line, pool, 2, seq=1, per_account=True)
    for cap in (3, None):
        assert ask([line[0], replace(theirs, cap=cap)], pool, 2, seq=1, per_account=True) == Grant(False)


# -- histories ---------------------------------------------------------------------------------

specs = st.sampled_from([A, B, C, FLAVOURED])
seeds = st.sampled_from([None, None, "x", "y"])
wants = st.lists(
    st.builds(Want, specs, st.just(3600), needs=st.sampled_from([0.0, 100.0, 3000.0]), seed=seeds), min_size=1
)
runs = st.sampled_from([OWN, OWN, "another"])
old = st.sampled_from([0.0, 1000.0, 3590.0])


def _aged(  # noqa: PLR0917
    number: int, state: State, spec: Spec, run: str, age: float, seed: str | None
) -> Entry:
    born = {"born": clock.since_boot() - age, "born_at": clock.now() - age}
    return entry(number, state, spec, run=run, seed=seed if state == "idle" else None, owner=None, **born)


@st.composite
def pools(draw: st.DrawFn, states: Sequence[State] = tuple(sorted(LIVE))) -> list[Entry]:
    shapes = st.tuples(st.sampled_from(states), specs, runs, old, seeds)
    made = [_aged(number, *shape) for number, shape in enumerate(draw(st.lists(shapes, max_size=6)))]
    who = st.sampled_from([f"owner-{seq}" for seq in range(1, 8)])
    return [replace(one, owner=draw(who)) if one.state in ("held", "intent") else one for one in made]


@st.composite
def lines(draw: st.DrawFn, size: int, longest: int) -> list[Ticket]:
    asked = draw(st.lists(st.tuples(runs, wants), min_size=1, max_size=longest))
    return [
        Ticket(seq, run, f"owner-{seq}", tuple(some[:size]), cap=size) for seq, (run, some) in enumerate(asked, start=1)
    ]


@st.composite
def scenes(draw: st.DrawFn, states: Sequence[State] = tuple(sorted(LIVE))) -> tuple[list[Ticket], list[Entry], Limits]:
    cap = draw(st.integers(1, 5))
    return draw(lines(cap, 5)), draw(pools(states)), Limits(cap, draw(st.booleans()))


def _scope(entries: Sequence[Entry], limits: Limits, run: str) -> list[Entry]:
    return [one for one in entries if one.state in LIVE and (limits.per_account or one.run == run)]


@given(scenes(), st.sets(specs, max_size=2))
def test_what_is_given_fits_and_is_given_once_and_the_cap_holds(
    scene: tuple[list[Ticket], list[Entry], Limits], dry: set[Spec]
) -> None:
    line, entries, limits = scene
    limits = replace(limits, per_account=True)  # one that nobody set gives way
    taken: list[int] = []
    for mine in line:
        try:
            grant = allocate(line, mine.seq, entries, limits, dry=dry, now=clock.now())
        except StandstillError:
            continue
        assert len(grant.given) == (len(mine.wants) if grant.ready else 0), "all or nothing"
        assert not (grant.ready and grant.evict)
        for found, want in zip(grant.given, mine.wants, strict=False):
            assert found is not None or want.spec not in dry
            if found is not None:
                assert (found.run, found.spec, found.state) == (mine.run, want.spec, "idle")
                assert found.left > want.needs
                assert found.seed in (None, want.seed)
        named = [one.number for one in (*grant.given, *grant.evict, *grant.recycle) if one is not None]
        taken += [(mine.run if not limits.per_account else "", number) for number in named]  # type: ignore[misc]
        anew = sum(one is None for one in grant.given)
        scope = _scope(entries, limits, mine.run)
        assert not anew or len(scope) + anew <= limits.cap
        leaving = sum(one.state in ("releasing", "dirty") for one in scope)
        needed = max(len(scope) + len(mine.wants) - limits.cap, 0)
        asked_in_vain = mine is line[0] and any(want.spec in dry for want in mine.wants)
        assert len(grant.evict) <= max(needed, asked_in_vain), leaving
        assert all(one.state == "idle" for one in grant.evict)
    assert len(taken) == len(set(taken)), "what one may have, nobody behind it may"


@given(scenes())
def test_who_comes_later_changes_nothing_for_those_before(scene: tuple[list[Ticket], list[Entry], Limits]) -> None:
    line, entries, limits = scene
    limits = replace(limits, per_account=True)
    for index, mine in enumerate(line):
        answers = []
        for seen in (line[: index + 1], line):
            try:
                answers.append(allocate(seen, mine.seq, entries, limits, dry=(), now=clock.now()))
            except StandstillError:
                answers.append(Grant(False))
        assert answers[0] == answers[1]


@dataclass
class World:
    """A pool that is played: tickets look in any order, keepers do their chores, holders give back."""

    line: list[Ticket]
    entries: list[Entry]
    limits: Limits
    served: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    def look(self, mine: Ticket) -> bool:
        """Whether it changed anything."""
        try:
            grant = allocate(self.line, mine.seq, self.entries, self.limits, dry=(), now=clock.now())
        except StandstillError:
            self.refused.append(mine.seq)
            self._leave(mine)
            return True
        for one in grant.evict:
            self._set(one, state="dirty", reusable=False, since=clock.now())
        for one in grant.recycle:
            self._set(one, state="dirty", since=clock.now())
        for found, want in zip(grant.given, mine.wants, strict=False):
            if found is not None:
                self._set(found, state="held", owner=mine.owner)
            else:
                number = max((one.number for one in self.entries), default=0) + 1
                self.entries.append(entry(number, "held", want.spec, owner=mine.owner, run=mine.run))
        if grant.ready:
            self.served.append(mine.seq)
            self.line.remove(mine)
        assert all(
            len(_scope(self.entries, self.limits, run)) <= max(self.limits.cap, 0) for run in (OWN, "another")
        ), "cap"
        return grant.acts

    def keep(self) -> bool:
        """All that keepers do by themselves; whether there was anything."""
        moving = [one for one in self.entries if one.state in ("intent", "dirty", "cleaning", "releasing")]
        for one in moving:
            if one.state in ("intent", "cleaning") or (one.state == "dirty" and one.resettable):
                self._set(one, state="idle", owner=None, seed=None)
            else:
                self.entries.remove(one)
        return bool(moving)

    def give_back(self, owner: str) -> None:
        for one in [one for one in self.entries if one.owner == owner]:
            self._set(one, state="dirty", owner=None, since=clock.now())

    def _set(self, one: Entry, **values: Any) -> None:
        self.entries[self.entries.index(one)] = replace(one, **values)

    def _leave(self, mine: Ticket) -> None:
        self.line.remove(mine)
        self.give_back(mine.owner)


@given(scenes(("idle", "held", "dirty", "cleaning", "releasing")), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_everybody_is_served_at_last_where_all_give_back_what_they_hold(
    scene: tuple[list[Ticket], list[Entry], Limits], chance: random.Random
) -> None:
    line, entries, limits = scene
    keep = [one for one in entries if sum(o.number <= one.number for o in entries) <= limits.cap]
    entries = [replace(one, owner="another-test" if one.state == "held" else None) for one in keep]
    world = World(list(line), entries, limits)
    for _ in range(60):
        for one in chance.sample(world.line, len(world.line)):
            world.look(one)
        if chance.random() < 0.7:
            world.keep()
        holders = sorted({one.owner or "" for one in world.entries if one.state == "held"})
        if holders and (chance.random() < 0.5 or not world.keep()):
            world.give_back(chance.choice(holders))
    assert sorted(world.served) == [one.seq for one in line]
    assert not world.refused


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.randoms(use_true_random=False))
def test_a_set_is_served_though_small_ones_keep_coming(cap: int, chance: random.Random) -> None:
    world = World([], [entry(number, "held", owner=f"o-{number}") for number in range(cap)], Limits(cap, True))
    world.line.append(ticket(1, *[A, B, C, A, B][:cap]))
    for seq in range(2, 40):
        world.line.append(ticket(seq, chance.choice([A, B, C])))
        for one in chance.sample(world.line, len(world.line)):
            world.look(one)
        world.keep()
        holders = sorted({one.owner or "" for one in world.entries if one.state == "held"})
        if holders:
            world.give_back(chance.choice(holders))
    assert 1 in world.served
    assert world.served[0] == 1, "all places were taken when it came"


@given(scenes(("idle", "held", "kept", "dirty", "releasing")))
@settings(max_examples=150, deadline=None)
def test_a_standstill_is_one_exactly_when_nothing_can_move(scene: tuple[list[Ticket], list[Entry], Limits]) -> None:
    line, entries, limits = scene
    limits = replace(limits, per_account=True)
    entries = entries[: limits.cap]
    waiting = {one.owner for one in line}
    works = any(one.state == "held" and one.owner not in waiting for one in entries)
    told = _told(line, entries, limits)
    world = World(list(line), list(entries), limits)
    if works or _moves(world):
        assert all(_is_impossible(one, entries, limits) for one in told), "it had only to wait"
        return
    told = _told(line, world.entries, limits)
    assert told, "nobody is told that all wait for ever"
    holders = {one.owner for one in entries if one.state == "held"}
    assert all(not holders or one.owner in holders or _is_impossible(one, entries, limits) for one in told)


def _told(line: Sequence[Ticket], entries: Sequence[Entry], limits: Limits) -> list[Ticket]:
    told = []
    for mine in line:
        try:
            allocate(line, mine.seq, entries, limits, dry=(), now=clock.now())
        except StandstillError:
            told.append(mine)
    return told


def _is_impossible(mine: Ticket, entries: Sequence[Entry], limits: Limits) -> bool:
    own = sum(one.owner == mine.owner and one.state == "held" for one in entries)
    return own + sum(one.state == "kept" for one in entries) + len(mine.wants) > limits.cap


def _moves(world: World) -> bool:
    """Whether anybody in line can be served without a waiting one's giving back what it holds."""
    for _ in range(12):
        for mine in list(world.line):
            try:
                grant = allocate(world.line, mine.seq, world.entries, world.limits, dry=(), now=clock.now())
            except StandstillError:
                continue
            if grant.ready:
                return True
            for one in (*grant.evict, *grant.recycle):
                world._set(one, state="dirty", reusable=one in grant.recycle, since=clock.now())
        world.keep()
    return False
