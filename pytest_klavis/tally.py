"""Counts of what the processes of a run have done with sandboxes, for the summary."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Tally:
    """What the processes of a run have done, for the summary."""

    acquired: int = 0
    released: int = 0
    kept: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    seconds_held: float = 0.0
    seconds_waited: float = 0.0
    calls: int = 0
    isolation: str | None = None
    saved: list[tuple[str, str]] = field(default_factory=list)
    """(node id, folder) of each piece of evidence."""

    def add(self, other: Tally) -> None:
        """Count what another process did."""
        for name in ("acquired", "released", "kept", "leaked", "seconds_held", "seconds_waited", "calls", "saved"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.isolation = self.isolation or other.isolation
