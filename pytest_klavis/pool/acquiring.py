"""One acquire: the ledger knows at each moment what may exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pytest_klavis.errors import InfraError, ServerError, TransportError
from pytest_klavis.interrupts import PATIENCE
from pytest_klavis.kinds import KINDS, Held, id_of, instance_of

from .ledger import TakenError

if TYPE_CHECKING:
    from pytest_klavis.kinds import Acquired

    from .entries import Entry
    from .pool import Pool

__tracebackhide__ = True  # users read their own frames

NO_CAPACITY = (404, 409, 423, 429, 503)
"""What an API may say to an acquire when it has none; which one is not documented."""
LABEL = "pytest-klavis"
"""The tag that an acquire is found by when its answer is lost."""

AnswerT = TypeVar("AnswerT", bound="Acquired")


def recorded(pool: Pool, entry: Entry, acquire: Callable[[], AnswerT]) -> tuple[Entry, AnswerT]:
    """Carry out the acquire of an intent: the ledger knows at each moment what may exist."""
    try:
        answer = acquire()
    except BaseException as error:
        if may_have_been_made(error):
            pool.lost(entry)
            if isinstance(error, ServerError):
                error.add_note("A gateway may have said so while the sandbox was made: it is looked for.")
        else:
            pool.ledger.remove(entry)
        raise
    try:
        return pool.acquired(entry, answer), answer
    except TakenError:
        pool.ledger.remove(entry)  # it is somebody else's
        raise
    except InfraError as error:  # it cannot be written down, so it is not kept
        one = Held(entry.spec, id_of(answer), instance_of(getattr(answer, "urls", {}).values()))
        _release_at_once(pool, entry, one, error)
        raise


def _release_at_once(pool: Pool, entry: Entry, one: Held, error: InfraError) -> None:
    try:
        KINDS[entry.spec.kind].release(pool.api, one, PATIENCE)
    except InfraError as trouble:
        error.add_note(f"NOT released: {one.id}: {trouble}")
        pool.unwritten.append(one.id)
    else:
        error.add_note(f"{one.id} was released at once.")
        pool.ledger.remove(entry)


def may_have_been_made(error: BaseException) -> bool:
    """Whether an acquire that ended in `error` may have been carried out: its answer was lost, maybe on the way."""
    if isinstance(error, ServerError):
        return error.status in (500, 502, 504)  # 503 turns it away unread
    if isinstance(error, TransportError):
        return error.sent is not False
    return not isinstance(error, Exception)
