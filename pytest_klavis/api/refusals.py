"""From an answer that is no success to its error of the tree, with what the reader can do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_klavis.api.answers import retry_after, shown_body
from pytest_klavis.api.operations import ACQUIRE_LOCAL_SANDBOX, ACQUIRE_SANDBOX
from pytest_klavis.errors import ApiError, AuthError, RateLimitError, RequestRefusedError, class_of

if TYPE_CHECKING:
    from pytest_klavis.api.answers import Answer
    from pytest_klavis.api.operations import Operation

__tracebackhide__ = True  # users read their own frames

KLAVIS_KEY = "KLAVIS_API_KEY"


def refusal(operation: Operation[Any], answer: Answer, host: str, *, key: str = KLAVIS_KEY) -> ApiError:
    """Return the error for an API's status that is no success; `key` is the variable that holds its key."""
    kind = class_of(answer.status)
    hint = ""
    if kind is AuthError:
        hint = f"Set {key} in the environment to a key that {host} accepts; it is read from nowhere else."
    elif kind is RateLimitError:
        asked = retry_after(answer)
        hint = f"{host} allows this account fewer requests"
        hint += " (2 per second unless it is a paying one)." if key == KLAVIS_KEY else "."
        hint += f" It asked to come back in {asked:g} s." if asked else ""
    elif kind is ApiError:
        hint = f"Redirects are not followed: the base URL must be the API itself, not {host}."
    elif operation in (ACQUIRE_SANDBOX, ACQUIRE_LOCAL_SANDBOX) and answer.status in (404, 423):
        hint = "Perhaps none is idle at the moment: the API does not document how it says so."
    return kind(operation.name, answer.status, shown_body(answer), hint)


def storage_refusal(operation: Operation[Any], answer: Answer) -> ApiError:
    """Return the error for a signed URL's status that is no success.

    Never an AuthError: the key has no part in this, only the URL has.
    """
    kind = class_of(answer.status)
    hint = ""
    if kind is AuthError or answer.status == 400:
        kind = RequestRefusedError
        hint = "Signed URLs expire (in 30 minutes) and allow one method: ask the API for a new one."
    elif kind is ApiError:
        hint = "Redirects are not followed: a signed URL is good for its own host only."
    return kind(operation.name, answer.status, shown_body(answer), hint)
