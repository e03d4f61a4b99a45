"""Counts of what the processes of a run have done with sandboxes, for the summary."""

from __future__ import annotations

from dataclasses import dataclass, field, fields


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
    unknown: list[str] = field(default_factory=list)
    """Acquires whose answer was lost: what they made may exist, and nobody knows its id."""
    suspects: list[str] = field(default_factory=list)
    """Sandboxes of the account that may be what such an acquire made."""
    resets: int = 0
    """How often a sandbox was made clean for another test."""
    notes: list[str] = field(default_factory=list)
    """What else has to be told."""
    refused: list[str] = field(default_factory=list)
    """Fields that the API does not take; they were left out."""
    unsaved: list[str] = field(default_factory=list)
    """What could not be saved where no report could tell it, and why."""

    def add(self, other: Tally) -> None:
        """Count what another process did."""
        for one in fields(self):
            if one.name != "isolation":
                setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))
        self.isolation = self.isolation or other.isolation
