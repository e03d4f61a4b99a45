"""When a call is sent again, and after which pause: the one home of backoff, jitter, Retry-After and their limits."""

from __future__ import annotations

from random import SystemRandom
from typing import TYPE_CHECKING, Any

from pytest_klavis.api.answers import Answer, retry_after
from pytest_klavis.api.connection import Fault
from pytest_klavis.api.pace import NoTurnError
from pytest_klavis.clock import monotonic, sleep
from pytest_klavis.errors import TransportError
from pytest_klavis.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_klavis.api.connection import Deadline
    from pytest_klavis.api.operations import Operation
    from pytest_klavis.api.pace import Pace

__tracebackhide__ = True  # users read their own frames

REPEATS = 3
_uniform = SystemRandom().uniform  # a seed that the tests set would be used up by it, and give all workers one jitter


def repeat(
    operation: Operation[Any],
    clock: Deadline,
    attempt: Callable[[], Answer],
    *,
    host: str,
    on_wait: Callable[[float], None] | None = None,
    pace: Pace | None = None,
) -> Answer:
    """Call `attempt` until its answer stands or it may not be repeated any more; return the last answer.

    A fault and a status of `operation.repeat` are repeated three times. Being told when to come back (429,
    Retry-After) is an appointment, not a failure: it does not use up the repeats, and `on_wait` gets its seconds.
    With a `pace` each attempt waits for its turn, whose seconds `on_wait` gets too; a 429 is told to it, and its turns
    are the pause. No pause begins that the clock would not let end. Raises TransportError, naming `host`, when no
    answer came, also because there was no turn in time; what `attempt` raises besides Fault passes.
    """
    on_wait = on_wait or _nobody
    failures = appointments = 0
    outcome: Answer | Fault | None = None
    while True:
        try:
            _take_turn(operation, clock, pace, on_wait)
        except NoTurnError as late:
            if outcome is not None:
                break
            raise TransportError(f"{operation.name} was not sent to {host}: {late.reason}", sent=False) from None
        outcome = _outcome(attempt)
        again, asked = _may_be_repeated(operation, outcome)
        if asked is None:
            failures += 1
            pause = 2.0 ** (failures - 2) * _uniform(0.5, 1.0)
        else:
            appointments += 1
            asked = asked or min(2.0 ** (appointments - 1), 8.0)
            pause = asked * _uniform(1.0, 1.25)
        if pace is not None and isinstance(outcome, Answer) and outcome.status == 429:
            pace.refused(asked)
            if operation.patient:  # it may mean that there is none: who acquires looks for one that has come back
                break
            pause = 0.0
        if not again or failures > REPEATS or pause >= clock.left():
            break
        if asked is not None and pause:
            on_wait(pause)
        sleep(pause)
    if isinstance(outcome, Answer):
        return outcome
    raise no_answer(operation, host, outcome, failures + appointments) from None


def _take_turn(operation: Operation[Any], clock: Deadline, pace: Pace | None, on_wait: Callable[[float], None]) -> None:
    if pace is None:
        return
    try:
        waited = pace.turn(patient=operation.patient, until=monotonic() + clock.left())
    except NoTurnError as late:
        on_wait(late.waited)
        raise
    on_wait(waited)


def _outcome(attempt: Callable[[], Answer]) -> Answer | Fault:
    try:
        return attempt()
    except Fault as lost:
        return lost


def _may_be_repeated(operation: Operation[Any], outcome: Answer | Fault) -> tuple[bool, float | None]:
    """Return whether trying again is allowed, and the seconds that were asked for: 0 for a 429 that names none."""
    if isinstance(outcome, Fault):
        return not outcome.final and (operation.repeat.lost or not outcome.sent), None
    asked = retry_after(outcome) or (0.0 if outcome.status == 429 else None)
    return outcome.status in operation.repeat.statuses, asked


def _nobody(_: float) -> None:
    """Nobody counts the seconds."""


def no_answer(operation: Operation[Any], host: str, fault: Fault, attempts: int) -> TransportError:
    """Return the error for a call that was not answered; it names the host and no more of the URL."""
    tries = f" ({attempts} attempts)" if attempts > 1 else ""
    message = f"{operation.name} was not answered by {host}{tries}: {redact(fault.reason)}"
    if fault.sent and not operation.repeat.lost:
        message += "\nThe request was sent, so it may have been carried out; it was not repeated for that reason."
    return TransportError(message, sent=fault.sent)
