"""When a call is sent again: how often, after which pauses, and never beyond its deadline."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from pytest_klavis import errors
from pytest_klavis.api.answers import Answer
from pytest_klavis.api.client import KlavisClient
from pytest_klavis.api.connection import Deadline, Fault
from pytest_klavis.api.operations import ACQUIRE_SANDBOX, GET_SANDBOX, Operation
from pytest_klavis.api.retry import repeat
from tests.api.server import FakeApi, answer, hang_up

LOST = Fault("it broke", sent=True)
UNMADE = Fault("nobody there", sent=False)
FINAL = Fault("no whole answer within 9 s", sent=True, final=True)
Outcome = Fault | int


def said(status: int, retry_after: str | None = None) -> Answer:
    return Answer(status, httpx.Headers({"Retry-After": retry_after} if retry_after else {}), b"")


def attempts(*outcomes: Outcome | Answer) -> tuple[Callable[[], Answer], list[float]]:
    """An attempt with these outcomes, the last one for ever, and the moments at which it was made."""
    left = list(outcomes)
    moments: list[float] = []

    def attempt() -> Answer:
        moments.append(time.monotonic())
        outcome = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(outcome, Fault):
            raise outcome
        return outcome if isinstance(outcome, Answer) else said(outcome)

    return attempt, moments


@pytest.mark.parametrize(
    ("operation", "outcomes", "made", "status"),
    [
        (GET_SANDBOX, (LOST, 200), 2, 200),
        (GET_SANDBOX, (UNMADE, 502, 504, 200), 4, 200),
        (GET_SANDBOX, (500, LOST, 503, 500, 200), 4, 500),
        (GET_SANDBOX, (404, 200), 1, 404),
        (GET_SANDBOX, (422, 200), 1, 422),
        (GET_SANDBOX, (301, 200), 1, 301),
        (ACQUIRE_SANDBOX, (UNMADE, 503, 201), 3, 201),
        (ACQUIRE_SANDBOX, (500, 201), 1, 500),
        (ACQUIRE_SANDBOX, (502, 201), 1, 502),
    ],
)
def test_what_is_repeated(operation: Operation[object], outcomes: tuple[Outcome, ...], made: int, status: int) -> None:  # type: ignore[type-var]
    attempt, moments = attempts(*outcomes)
    assert repeat(operation, Deadline(30), attempt, host="h").status == status
    assert len(moments) == made


@pytest.mark.parametrize(
    ("operation", "fault", "made", "sent"),
    [
        (GET_SANDBOX, LOST, 4, True),
        (GET_SANDBOX, UNMADE, 4, False),
        (GET_SANDBOX, FINAL, 1, True),
        (ACQUIRE_SANDBOX, LOST, 1, True),
        (ACQUIRE_SANDBOX, UNMADE, 4, False),
    ],
)
def test_no_answer_says_how_often_it_was_tried_and_whether_it_may_have_arrived(
    operation: Operation[object],  # type: ignore[type-var]
    fault: Fault,
    made: int,
    sent: bool,
) -> None:
    attempt, moments = attempts(fault)
    with pytest.raises(errors.TransportError) as error:
        repeat(operation, Deadline(30), attempt, host="h")
    assert len(moments) == made
    assert error.value.sent is sent
    tries = f" ({made} attempts)" if made > 1 else ""
    told = str(error.value).splitlines()
    assert told[0] == f"{operation.name} was not answered by h{tries}: {fault.reason}"
    lost_acquire = ["The request was sent, so it may have been carried out; it was not repeated for that reason."]
    assert told[1:] == (lost_acquire if operation is ACQUIRE_SANDBOX and sent else [])
    assert error.value.__suppress_context__


def test_appointments_do_not_use_up_the_repeats() -> None:
    waits: list[float] = []
    attempt, moments = attempts(*[said(503, "1")] * 2, 500, LOST, said(429, "1"), 500, 200)
    assert repeat(GET_SANDBOX, Deadline(60), attempt, host="h", on_wait=waits.append).status == 200
    assert len(moments) == 7
    assert len(waits) == 3
    assert all(1 <= wait <= 1.25 for wait in waits)


def test_pauses_grow_and_differ() -> None:
    attempt, moments = attempts(LOST)
    with pytest.raises(errors.TransportError):
        repeat(GET_SANDBOX, Deadline(60), attempt, host="h")
    first, second, third = (later - earlier for earlier, later in pairwise(moments))
    assert first >= 0.25
    assert second >= 0.5
    assert third >= 1.0
    assert len({round(pause, 4) for pause in (first * 4, second * 2, third)}) == 3


@pytest.mark.parametrize("outcome", [LOST, 500, said(429), said(429, "60"), said(503, "9999999999999999999999")])
def test_no_pause_begins_that_the_deadline_would_cut(outcome: Outcome | Answer) -> None:
    attempt, moments = attempts(outcome)
    began = time.monotonic()
    try:
        answered = repeat(GET_SANDBOX, Deadline(0.2), attempt, host="h")
    except errors.TransportError:
        assert outcome is LOST
    else:
        assert answered.status in (429, 500, 503)
    assert time.monotonic() - began < 0.9
    assert len(moments) == 1


def test_what_else_an_attempt_raises_passes_at_once() -> None:
    def attempt() -> Answer:
        raise errors.SeedError("not mine")

    with pytest.raises(errors.SeedError, match="not mine"):
        repeat(GET_SANDBOX, Deadline(30), attempt, host="h")


def test_no_frame_of_the_retry_library_is_shown(client: KlavisClient, tmp_path: Path) -> None:
    with pytest.raises(errors.SeedError) as error:
        client.upload_archive("http://127.0.0.1:1/o?sig=0", tmp_path / "none")
    assert {Path(entry.path).parent.name for entry in error.traceback} == {"api"}


def test_ctrl_c_ends_a_pause(api: FakeApi) -> None:
    api.says(answer({}, 429, {"Retry-After": "50"}))
    script = (
        "import sys; from pytest_klavis.api import KlavisClient\n"
        "try: KlavisClient(sys.argv[1], 'a-key').get_sandbox('github', 's', deadline=100)\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, api.url], stdout=subprocess.PIPE, text=True)
    began = time.monotonic()
    while not api.asked and time.monotonic() - began < 20:
        time.sleep(0.02)
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=5)
    assert out == "interrupted\n"


@pytest.fixture
def frozen_sleep(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def test_a_suite_that_replaces_sleep_does_not_make_us_hammer(
    api: FakeApi, client: KlavisClient, frozen_sleep: list[float]
) -> None:
    api.says(answer({}, 429), hang_up, answer({"sandbox_id": "s-1"}))
    began = time.monotonic()
    client.get_sandbox("github", "s-1")
    assert time.monotonic() - began >= 1.25
    assert frozen_sleep == []


@pytest.mark.parametrize(
    "error",
    [
        errors.RateLimitError("get sandbox", 429, "slow down", "a hint"),
        errors.AuthError("get sandbox", 401, ""),
        errors.TransportError("no answer", sent=True),
        errors.ToolError("git_log", "no repository"),
    ],
)
@pytest.mark.parametrize("copied", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_errors_survive_a_process_pool(
    error: errors.KlavisError, copied: Callable[[errors.KlavisError], errors.KlavisError]
) -> None:
    again = copied(error)
    assert (type(again), str(again), again.__dict__) == (type(error), str(error), error.__dict__)


@pytest.mark.parametrize("status", [404, 423])
def test_an_acquire_that_is_refused_shows_the_body_and_says_what_it_may_mean(
    api: FakeApi, client: KlavisClient, status: int
) -> None:
    body = '{"detail": {"reason": "exhausted", "pool": "github"}, "retry": false}'
    api.says(answer(body.encode(), status))
    for call in (lambda: client.acquire_sandbox("github"), lambda: client.acquire_local_sandbox(["git"])):
        with pytest.raises(errors.ApiError, match="Perhaps none is idle at the moment") as error:
            call()
        assert (error.value.status, error.value.body) == (status, body)
    with pytest.raises(errors.ApiError) as elsewhere:
        client.get_sandbox("github", "s-1")
    assert "idle" not in str(elsewhere.value)
