"""Whose turn it is, and when: on a simulated clock, with the real file."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_klavis.api.pace import NoTurnError
from pytest_klavis.pool import limiter as room
from pytest_klavis.pool.limiter import MARGIN, Book, Limiter, Line, Request

FOREVER = float("inf")


@dataclass
class Clock:
    """A clock that stands still unless it is told, and sleeps in no time."""

    at: float = 1000.0

    def monotonic(self) -> float:
        return self.at

    since_boot = monotonic

    def sleep(self, seconds: float) -> None:
        self.at += seconds

    def boot_id(self) -> str:
        return "this-boot"


@dataclass
class Account:
    """Requests of many processes to one account, each waking when the limiter says, or later."""

    limiter: Limiter
    clock: Clock
    granted: list[tuple[float, str]] = field(default_factory=list)
    gave_up: list[str] = field(default_factory=list)
    _events: list[tuple[float, int, object]] = field(default_factory=list)
    _count: int = 0

    def ask(
        self,
        moment: float,
        name: str,
        *,
        patient: bool = False,
        late: float = 0.0,
        dies: bool = False,
        until: float = FOREVER,
    ) -> None:
        self._push(moment, _Caller(name, patient, late, dies, until))

    def refuse(self, moment: float, asked: float | None) -> None:
        self._push(moment, asked)

    def run(self, seconds: float = FOREVER) -> list[str]:
        """Until nobody waits; the names in the order in which they went."""
        while self._events and self._events[0][0] <= 1000.0 + seconds:
            self.clock.at, _, event = heapq.heappop(self._events)
            if isinstance(event, _Caller):
                self._look(event)
            else:
                assert event is None or isinstance(event, float)
                self.limiter.refused(event)
        return [name for _, name in self.granted]

    def when(self, name: str) -> float:
        return next(moment for moment, one in self.granted if one == name)

    def _push(self, moment: float, event: object) -> None:
        self._count += 1
        heapq.heappush(self._events, (1000.0 + moment, self._count, event))

    def _look(self, caller: _Caller) -> None:
        now = self.clock.at
        if caller.request is None:
            caller.request = Request(now + room.PATIENCE if caller.patient else None)
        look = partial(self.limiter._look, until=caller.until + 1000.0)
        request = caller.request
        wait, too_late = self.limiter._change(lambda book, now: look(book, request, now))
        if too_late:
            self.gave_up.append(caller.name)
        elif wait <= 0:
            self.granted.append((now - 1000.0, caller.name))
        elif not caller.dies:
            self._push(now - 1000.0 + wait + caller.late, caller)
            caller.late /= 10  # a process is late for its next wake too, but not for ever


@dataclass(eq=False)
class _Caller:
    name: str
    patient: bool
    late: float
    dies: bool
    until: float
    request: Request | None = None


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    simulated = Clock()
    monkeypatch.setattr(room, "clock", simulated)
    return simulated


@pytest.fixture
def account(tmp_path: Path, time: Clock) -> Account:
    return Account(Limiter(tmp_path / "limiter", 2), time)


def test_requests_go_in_the_order_in_which_they_came_a_little_further_apart_than_the_rate_says(
    account: Account,
) -> None:
    for number in range(10):
        account.ask(number / 100, str(number))
    assert account.run() == [str(number) for number in range(10)]
    moments = [moment for moment, _ in account.granted]
    assert moments[0] == 0  # nobody waits without a reason
    assert [later - earlier for earlier, later in pairwise(moments)] == pytest.approx([MARGIN / 2] * 9)


def test_acquires_go_after_all_others_and_in_their_order(account: Account) -> None:
    for number in range(3):
        account.ask(0.01 * number, f"acquire {number}", patient=True)
    for number in range(3):
        account.ask(0.1 + 0.6 * number, f"release {number}")
    names = account.run()
    assert names[0] == "acquire 0"  # nobody else was there
    assert names[1:] == ["release 0", "release 1", "release 2", "acquire 1", "acquire 2"]


@pytest.mark.parametrize("patience", [5.0, 1e9])
def test_an_acquire_is_not_starved_by_endless_releases(
    account: Account, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    monkeypatch.setattr(room, "PATIENCE", patience)
    for number in range(200):
        account.ask(number * 0.5, "release")
    account.ask(1.0, "acquire", patient=True)
    names = account.run(seconds=90)
    assert ("acquire" in names) is (patience == 5.0)
    if patience == 5.0:
        assert 6.0 <= account.when("acquire") <= 9.0


def test_acquires_that_have_waited_long_stand_in_line_by_their_age(account: Account) -> None:
    for number in range(16):
        account.ask(number / 1000, f"{number:02}", patient=True)
    account.ask(7.0, "release")
    names = account.run()
    names.remove("release")
    assert names == sorted(names)


@given(
    callers=st.lists(
        st.tuples(
            st.floats(0, 20),  # when it comes
            st.booleans(),  # patient
            st.sampled_from((0.0, 0.0, 0.001, 0.2, 0.6, 5.0)),  # how much too late it wakes
            st.booleans() | st.just(False),  # dies in line
            st.just(FOREVER) | st.floats(0, 30),  # its deadline
        ),
        max_size=40,
    ),
    refusals=st.lists(st.tuples(st.floats(0, 20), st.none() | st.floats(0.1, 9)), max_size=4),
    rate=st.sampled_from((0.5, 2.0, 10.0)),
)
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_no_window_holds_more_than_the_rate_and_all_get_their_turn(
    callers: list[tuple[float, bool, float, bool, float]],
    refusals: list[tuple[float, float | None]],
    rate: float,
    time: Clock,
    tmp_path: Path,
) -> None:
    path = tmp_path / "limiter"
    path.unlink(missing_ok=True)
    account = Account(Limiter(path, rate), time)
    for number, (moment, patient, late, dies, until) in enumerate(callers):
        account.ask(moment, str(number), patient=patient, late=late, dies=dies, until=until)
    for moment, asked in refusals:
        account.refuse(moment, asked)
    names = account.run()
    moments = [moment for moment, _ in account.granted]
    assert all(later - earlier >= MARGIN / rate - 1e-9 for earlier, later in pairwise(moments))
    living = {str(number) for number, caller in enumerate(callers) if not caller[3]}
    assert living <= {*names, *account.gave_up}
    assert len(names) == len(set(names))
    for moment, asked in refusals:
        assert not any(moment + 1e-9 < one < moment + (asked or 1.0) - 1e-9 for one in moments)
    for number, (*_, until) in enumerate(callers):
        if str(number) in names:
            assert account.when(str(number)) <= until + 1e-9
    book = Book.unpack(path.read_bytes(), time.at, 1.0) if path.exists() else Book()
    assert len(book.urgent) + len(book.patient) <= sum(caller[3] for caller in callers)


def test_a_429_moves_the_line_and_keeps_its_order(account: Account) -> None:
    for number in range(6):
        account.ask(0, str(number))
    account.refuse(0.6, 3.0)
    account.refuse(0.7, 3.0)  # the other request that was on its way
    account.refuse(0.8, 1.0)
    assert account.run() == ["0", "1", "2", "3", "4", "5"]
    assert [moment for moment, _ in account.granted] == pytest.approx([0, 0.525, 3.7, 4.225, 4.75, 5.275])


@pytest.mark.parametrize(
    ("asked", "pause"),
    [(None, 1), (0.0, 1), (-5.0, 1), (float("nan"), 1), (0.25, 0.25), (7.0, 7), (1e9, 60), (float("inf"), 60)],
)
@pytest.mark.parametrize("rate", [2, None])
def test_a_pause_that_was_asked_for_is_kept_by_all_and_capped(
    tmp_path: Path, time: Clock, asked: float | None, pause: float, rate: float | None
) -> None:
    one, other = (Limiter(tmp_path / "limiter", rate) for _ in range(2))
    one.refused(asked)
    assert other.turn(patient=False, until=FOREVER) == pytest.approx(pause)


def test_without_a_rate_nothing_is_spaced(tmp_path: Path, time: Clock) -> None:
    paying = Limiter(tmp_path / "limiter", None)
    assert [paying.turn(patient=bool(number % 2), until=FOREVER) for number in range(20)] == [0.0] * 20


def test_a_turn_that_would_come_too_late_is_not_waited_for(account: Account, time: Clock) -> None:
    limiter = account.limiter
    for number in range(5):
        account.ask(0, str(number))
    account.ask(0.1, "hurried", until=2.0)
    account.ask(0.1, "hurried acquire", until=2.0, patient=True)
    account.ask(0.2, "next")
    account.run(seconds=0.3)
    assert account.gave_up == ["hurried", "hurried acquire"]
    with pytest.raises(NoTurnError) as error:
        limiter.turn(patient=False, until=time.at)
    assert error.value.reason == (
        "its turn would have come in 2.9 s, after its deadline.\n"
        "5 other requests were in line: all processes of this machine share the account's limit of "
        "2 requests per second (--klavis-rate)"
    )
    assert error.value.waited == 0
    account.run()
    assert account.when("next") == pytest.approx(5 * 0.525)  # who gave up left no gap


def test_a_turn_that_a_429_moves_beyond_the_deadline_says_so(account: Account, time: Clock) -> None:
    account.limiter.refused(30)
    with pytest.raises(NoTurnError, match=r"come in 30.0 s, after its deadline; the API answered 429, and .* 30.0 s"):
        account.limiter.turn(patient=True, until=time.at + 29)
    with pytest.raises(NoTurnError, match=r"deadline; the API answered 429, and nothing is sent to it for 30.0 s$"):
        Limiter(account.limiter._path, None).turn(patient=True, until=time.at + 29)


def _book(free: float, boot: int | None = None, **ends: int) -> bytes:
    content = Book(free, Line(ends.get("head", 0), ends.get("tail", 0))).pack()
    return content if boot is None else content[:8] + boot.to_bytes(4, "little") + content[12:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda: b"",
        lambda: b"\0" * 16,
        lambda: b"\xff" * 28,
        lambda: b"\0" * 28,
        lambda: _book(900.0) + b"\n",
        lambda: _book(1000.0)[:-1],
        lambda: _book(1e12),
        lambda: _book(1601.0),
        lambda: _book(-1.0),
        lambda: _book(float("nan")),
        lambda: _book(float("inf")),
        lambda: _book(1050.0, boot=1),
        lambda: _book(900.0, head=5, tail=4),
        lambda: _book(900.0, tail=2_000_000),
        lambda: _book(900.0, head=(1 << 32) - 2, tail=(1 << 32) - 1),
    ],
)
def test_what_cannot_be_true_is_not_waited_for(tmp_path: Path, time: Clock, damage: object) -> None:
    assert callable(damage)
    path = tmp_path / "limiter"
    path.write_bytes(damage())
    limiter = Limiter(path, 2)
    assert limiter.turn(patient=False, until=FOREVER) == 0
    assert path.stat().st_size == Book.LAYOUT.size
    assert limiter.turn(patient=True, until=FOREVER) == pytest.approx(0.525)


def test_who_waits_while_the_file_is_replaced_keeps_a_place(account: Account) -> None:
    for number in range(30):
        account.ask(0, f"before {number}")
    for number in range(4):
        account.ask(0, str(number))
    account.run(seconds=15.5)
    account.limiter._path.unlink()
    for number in range(60):
        account.ask(15.6 + number / 2, "new")
    account.run()
    moments = [account.when(str(number)) for number in range(4)]
    assert moments == sorted(moments)
    assert moments[3] < 20


def test_who_waits_alone_while_the_file_is_replaced_waits_by_the_new_one(account: Account) -> None:
    account.ask(0, "before")
    account.ask(0, "waiting")
    account.run(seconds=0.1)
    account.limiter._path.unlink()
    account.refuse(0.2, 3.0)
    account.run()
    assert account.when("waiting") == pytest.approx(3.2)


def test_who_was_overtaken_because_it_slept_too_long_goes_next(account: Account) -> None:
    for number in range(60):
        account.ask(number / 2, "release")
    for number in range(3):
        account.ask(0.1, f"stopped {number}", late=9.0 + number / 100)
    account.run()
    for number in range(3):
        woke = (number + 1) * 0.525 + 9.0
        assert woke <= account.when(f"stopped {number}") <= woke + 4 * 0.525


def test_the_turns_of_the_dead_are_waited_for_once(account: Account) -> None:
    account.ask(0, "release")
    for _ in range(5):
        account.ask(0, "dead", dies=True)
    account.ask(0, "acquire", patient=True)
    account.ask(3.2, "late release")
    account.run()
    assert account.when("acquire") == pytest.approx(6 * 0.525)
    assert account.when("late release") == pytest.approx(7 * 0.525)


def test_where_the_file_cannot_be_used_each_process_paces_itself(
    tmp_path: Path, time: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    limiter = Limiter(tmp_path / "gone" / "limiter", 2)
    waits = [limiter.turn(patient=False, until=FOREVER) for _ in range(3)]
    assert waits == pytest.approx([0, 0.525, 0.525])
    limiter.refused(9)
    assert limiter.turn(patient=True, until=FOREVER) == pytest.approx(9)
    assert len(caplog.records) == 1
    assert "gone/limiter cannot be used, so this process paces itself" in caplog.text
