"""When a call is sent again, and after which pause: the one home of backoff, jitter, Retry-After and their limits."""

from __future__ import annotations

from random import SystemRandom
from typing import TYPE_CHECKING, Any

from pytest_klavis.api.answers import retry_after
from pytest_klavis.api.connection import Fault
from pytest_klavis.clock import sleep
from pytest_klavis.errors import TransportError
from pytest_klavis.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_klavis.api.answers import Answer
    from pytest_klavis.api.connection import Deadline
    from pytest_klavis.api.operations import Operation

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
) -> Answer:
    """Call `attempt` until its answer stands or it may not be repeated any more; return the last answer.

    A fault and a status of `operation.repeat` are repeated three times. Being told when to come back (429,
    Retry-After) is an appointment, not a failure: it does not use up the repeats, and `on_wait` gets its seconds.
    No pause begins that the clock would not let end. Raises TransportError, naming `host`, when no answer came;
    what `attempt` raises besides Fault passes.
    """
    failures = appointments = 0
    while True:
        fault, asked = None, None
        try:
            answer = attempt()
        except Fault as lost:
            fault = lost
            again = not fault.final and (operation.repeat.lost or not fault.sent)
        else:
            again = answer.status in operation.repeat.statuses
            asked = retry_after(answer) or (0.0 if answer.status == 429 else None)
        if asked is None:
            failures += 1
            pause = 2.0 ** (failures - 2) * _uniform(0.5, 1.0)
        else:
            appointments += 1
            pause = (asked or min(2.0 ** (appointments - 1), 8.0)) * _uniform(1.0, 1.25)
        if not again or failures > REPEATS or pause >= clock.left():
            break
        if on_wait is not None and asked is not None:
            on_wait(pause)
        sleep(pause)
    if fault is not None:
        raise no_answer(operation, host, fault, failures + appointments) from None
    return answer


def no_answer(operation: Operation[Any], host: str, fault: Fault, attempts: int) -> TransportError:
    """Return the error for a call that was not answered; it names the host and no more of the URL."""
    tries = f" ({attempts} attempts)" if attempts > 1 else ""
    message = f"{operation.name} was not answered by {host}{tries}: {redact(fault.reason)}"
    if fault.sent and not operation.repeat.lost:
        message += "\nThe request was sent, so it may have been carried out; it was not repeated for that reason."
    return TransportError(message, sent=fault.sent)
