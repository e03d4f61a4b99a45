"""Turns of an account that several share: what asks for one, what a 429 tells it, and what there is when none comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytest_klavis import clock, errors
from pytest_klavis.api import operations
from pytest_klavis.api.client import KlavisClient
from pytest_klavis.api.pace import NoTurnError, Pace
from pytest_klavis.pool.limiter import Limiter
from tests.api.conftest import KEY
from tests.api.server import FakeApi, answer, hang_up

SANDBOX = {"sandbox_id": "s-1", "server_name": "github", "status": "occupied"}


@dataclass
class Told:
    """A pace that lets everybody go at once, up to a number of turns, and remembers what it was told."""

    most: int = 1000
    turns: list[tuple[bool, float]] = field(default_factory=list)
    refusals: list[float | None] = field(default_factory=list)

    def turn(self, *, patient: bool, until: float) -> float:
        if len(self.turns) == self.most:
            raise NoTurnError("the line was too long", waited=0.5)
        self.turns.append((patient, until - clock.monotonic()))
        return 0.25

    def refused(self, asked: float | None) -> None:
        self.refusals.append(asked)


def client_of(api: FakeApi, pace: Pace) -> KlavisClient:
    return KlavisClient(api.url, KEY, pace=pace)


def test_acquires_are_patient_and_nothing_else_is(api: FakeApi) -> None:
    pace = Told()
    client = client_of(api, pace)
    calls: list[Callable[[], Any]] = [
        lambda: client.acquire_sandbox("github"),
        lambda: client.acquire_local_sandbox(["git"]),
        lambda: client.release_sandbox("github", "s-1"),
        lambda: client.reset_local_sandbox("l-1"),
        lambda: client.get_sandbox("github", "s-1"),
    ]
    api.says(answer({**SANDBOX, "local_sandbox_id": "l-1", "servers": []}))
    for call in calls:
        call()
    assert [patient for patient, _ in pace.turns] == [True, True, False, False, False]
    patient = [one.name for one in vars(operations).values() if isinstance(one, operations.Operation) and one.patient]
    assert patient == ["acquire sandbox", "acquire local sandbox"]
    assert client.waited == 5 * 0.25


def test_each_attempt_takes_a_turn_before_the_deadline_of_the_call(api: FakeApi) -> None:
    pace = Told()
    api.says(answer({}, 503), hang_up, answer(SANDBOX))
    client = client_of(api, pace)
    client.get_sandbox("github", "s-1", deadline=20)
    assert client.calls == len(pace.turns) == 3
    lefts = [left for _, left in pace.turns]
    assert 20 >= lefts[0] > lefts[1] > lefts[2] > 0
    assert pace.refusals == []


def test_a_field_that_is_refused_costs_a_second_turn(api: FakeApi) -> None:
    complaint = {"detail": [{"loc": ["body", "ttl_seconds"], "type": "extra_forbidden", "msg": "no"}]}
    api.says(answer(complaint, 422), answer(SANDBOX))
    pace = Told()
    client_of(api, pace).acquire_sandbox("github", ttl_seconds=60)
    assert [patient for patient, _ in pace.turns] == [True, True]


@pytest.mark.parametrize(
    ("header", "told"),
    [("50", 50.0), ("1000000000", 60.0), ("soon", 1.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 1.0), (None, 1.0)],
)
def test_a_429_is_told_and_the_next_turn_is_the_pause(api: FakeApi, header: str | None, told: float) -> None:
    api.says(answer({}, 429, {"Retry-After": header} if header else None), answer(SANDBOX))
    pace = Told()
    began = clock.monotonic()
    client_of(api, pace).get_sandbox("github", "s-1")
    assert pace.refusals == [told]
    assert header is None or told == 1.0 or clock.monotonic() - began < told


def test_an_acquire_that_is_turned_away_by_a_429_is_the_lines_again(api: FakeApi) -> None:
    api.says(answer({}, 429, {"Retry-After": "7"}), answer(SANDBOX))
    pace = Told()
    with pytest.raises(errors.RateLimitError):
        client_of(api, pace).acquire_sandbox("github")
    assert pace.refusals == [7]


def test_429s_that_name_no_pause_are_told_longer_and_longer_ones(api: FakeApi) -> None:
    api.says(*[answer({}, 429)] * 6, answer(SANDBOX))
    pace = Told()
    client_of(api, pace).get_sandbox("github", "s-1")
    assert pace.refusals == [1, 2, 4, 8, 8, 8]


def test_a_503_that_names_a_pause_is_this_calls_own(api: FakeApi) -> None:
    api.says(answer({}, 503, {"Retry-After": "1"}), answer(SANDBOX))
    pace = Told()
    client = client_of(api, pace)
    client.get_sandbox("github", "s-1")
    assert pace.refusals == []
    assert client.waited >= 1 + 2 * 0.25


def test_without_a_turn_nothing_is_sent_and_the_error_says_why(api: FakeApi) -> None:
    client = client_of(api, Told(most=0))
    with pytest.raises(errors.TransportError) as error:
        client.acquire_sandbox("github")
    assert str(error.value) == f"acquire sandbox was not sent to {api.url[7:]}: the line was too long"
    assert error.value.sent is False
    assert error.value.__suppress_context__
    assert (api.asked, client.calls, client.waited) == ([], 0, 0.5)


def test_without_a_turn_for_the_next_attempt_a_429_stands(api: FakeApi) -> None:
    api.says(answer({"detail": "slow down"}, 429, {"Retry-After": "7"}))
    pace = Told(most=1)
    with pytest.raises(errors.RateLimitError, match=r"HTTP 429: slow down\n.*come back in 7 s"):
        client_of(api, pace).acquire_sandbox("github")
    assert pace.refusals == [7]


def test_without_a_turn_for_the_next_attempt_a_lost_answer_stays_lost(api: FakeApi) -> None:
    api.says(hang_up)
    with pytest.raises(errors.TransportError, match="get sandbox was not answered") as error:
        client_of(api, Told(most=1)).get_sandbox("github", "s-1")
    assert error.value.sent is True


def test_signed_urls_are_not_paced(api: FakeApi, tmp_path: Path) -> None:
    pace = Told()
    client = client_of(api, pace)
    archive = tmp_path / "archive"
    archive.write_bytes(b"an archive")
    client.upload_archive(f"{api.url}/o?sig=0", archive)
    assert len(api.asked) == 1
    assert pace.turns == []


def test_clients_of_one_account_wait_for_the_429_of_another(api: FakeApi, tmp_path: Path) -> None:
    path = tmp_path / "limiter"
    one, other = (client_of(api, Limiter(path, rate)) for rate in (1000, None))
    api.says(answer({}, 429, {"Retry-After": "1"}), answer(SANDBOX))
    with pytest.raises(errors.RateLimitError):
        one.get_sandbox("github", "s-1", deadline=0.5)
    other.get_sandbox("github", "s-1")
    assert other.waited > 0
    assert other.calls == 1


def test_an_account_whose_line_is_too_long_is_named_with_its_limit(api: FakeApi, tmp_path: Path) -> None:
    client = client_of(api, Limiter(tmp_path / "limiter", 0.01))
    client.get_sandbox("github", "s-1")
    with pytest.raises(errors.TransportError, match=r"in 10\d\.\d s, after its deadline\.\n0 other .* 0\.01 requests"):
        client.acquire_sandbox("github", deadline=5)
    assert len(api.asked) == 1


def test_ctrl_c_ends_a_turn(api: FakeApi, tmp_path: Path) -> None:
    limiter = Limiter(tmp_path / "limiter", 2)
    limiter.refused(50)
    script = (
        "import sys; from pathlib import Path; from pytest_klavis.api import KlavisClient\n"
        "from pytest_klavis.pool.limiter import Limiter\n"
        "client = KlavisClient(sys.argv[1], 'a-key', pace=Limiter(Path(sys.argv[2]), 2))\n"
        "print('ready', flush=True)\n"
        "try: client.get_sandbox('github', 's', deadline=100)\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    command = [sys.executable, "-c", script, api.url, str(tmp_path / "limiter")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    before = (tmp_path / "limiter").read_bytes()
    until = clock.monotonic() + 20
    while (tmp_path / "limiter").read_bytes() == before and clock.monotonic() < until:
        clock.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert out == "interrupted\n"
    assert api.asked == []
