"""What a client asks before it sends a request, where somebody paces all that use the account; pool/ has the answer."""

from __future__ import annotations

from typing import Protocol

__tracebackhide__ = True  # users read their own frames


class NoTurnError(Exception):
    """The turn would come too late, so the request was not sent. It never leaves this room: retry.py words it.

    `reason` says which limit it was and how long the line, `waited` the seconds that were waited until it was clear.
    """

    def __init__(self, reason: str, *, waited: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.waited = waited


class Pace(Protocol):
    """Shares the requests that an account may send. Used from several threads."""

    def turn(self, *, patient: bool, until: float) -> float:
        """Wait until one request may be sent, and return the seconds that were waited.

        The `patient` let all others go first. Raises NoTurnError, as soon as that is known, when the turn would come
        after `until` (by clock.monotonic).
        """
        ...

    def refused(self, asked: float | None) -> None:
        """The API answered 429, and asked for a pause of so many seconds or named none: nobody's turn comes before."""
        ...
