"""Whether a sandbox on the ledger is still the one that was acquired, asked before a late release. Deletes nothing.

The API gives the ids of remote sandboxes out again. What tells one lease from the next: the tags of the acquire, where
answers bring them back, and the instance in the server's URL. Ids of local sandboxes are not given out again as far as
anybody knows, but that is not documented either; their details say when they were made.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from pytest_klavis.errors import NotFoundError
from pytest_klavis.kinds import instance_of

from .acquiring import LABEL

if TYPE_CHECKING:
    from pytest_klavis.api.client import KlavisClient

    from .entries import Entry

__tracebackhide__ = True  # users read their own frames

APART = 300.0
"""Seconds that this machine's clock and the API's may be apart."""


class Still(Enum):
    """What the API's details say of a sandbox."""

    OURS = "ours"
    GONE = "gone"
    OTHERS = "somebody else's"
    UNKNOWN = "unknown"


def still(api: KlavisClient, entry: Entry, deadline: float | None) -> Still:
    """Ask the API whose the sandbox of an entry is now. Raises an InfraError where it does not say."""
    assert entry.sandbox_id is not None  # noqa: S101  (for mypy)
    try:
        if entry.spec.kind == "local":
            return _local(api.get_local_sandbox(entry.sandbox_id, deadline=deadline), entry)
        return _remote(api.get_sandbox(entry.spec.servers[0], entry.sandbox_id, deadline=deadline), entry)
    except NotFoundError:
        return Still.GONE


def _local(details: Any, entry: Entry) -> Still:
    made = moment(details.created_at)
    return Still.OURS if made is not None and abs(made - entry.born_at) < APART else Still.UNKNOWN


def _remote(details: Any, entry: Entry) -> Still:
    if details.status == "idle":
        return Still.GONE
    instance = instance_of(details.urls.values())
    if instance is not None and entry.instance is not None:
        return Still.OURS if instance == entry.instance else Still.OTHERS
    if isinstance(details.tags, dict) and details.tags:
        return Still.OURS if details.tags.get(LABEL) == entry.nonce else Still.OTHERS
    return Still.UNKNOWN


def moment(text: str | None) -> float | None:
    """A time as the API writes it, in seconds since the epoch; None where it cannot be read."""
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found.timestamp() if found.tzinfo is not None else found.replace(tzinfo=UTC).timestamp()
