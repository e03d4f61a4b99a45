"""How the ledger's entries, tickets and runs are rows of its tables; which changes they may see is not known here."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from .entries import Entry, Ticket, Want, spec_of, spec_text, want_of, want_text

__tracebackhide__ = True  # users read their own frames

COLUMNS = tuple(one.name for one in fields(Entry))
ALL = ", ".join(COLUMNS)


@dataclass(frozen=True)
class RunRecord:
    """What the ledger knows of one run."""

    id: str
    begun: float
    """By the wall clock."""
    closed: bool = False
    """Nothing more is acquired for it."""
    budget: int | None = None
    """How many acquires it may make."""
    acquired: int = 0
    released: int = 0
    resets: int = 0
    seconds: float = 0.0
    """How long released sandboxes were held."""
    calls: int = 0
    waited: float = 0.0
    refusal: str | None = None
    """What the API said of the key: JSON of an AuthError's arguments."""
    refused: tuple[str, ...] = ()
    """Fields that the API does not take."""
    notes: tuple[str, ...] = ()
    """What the keeper has to tell in the summary."""


def wants_text(wants: Sequence[Want]) -> str:
    return json.dumps([want_text(one) for one in wants])


def ticket_of(row: sqlite3.Row) -> Ticket:
    return Ticket(
        row["seq"], row["run"], row["owner"], tuple(want_of(one) for one in json.loads(row["wants"])), row["cap"]
    )


def place_of(entry: Entry) -> str | None:
    """What no two entries may share."""
    if entry.sandbox_id is None:
        return None
    server = entry.spec.servers[0] if entry.spec.kind == "remote" else ""
    return f"{entry.spec.kind}/{server}/{entry.sandbox_id}"


def row_of(entry: Entry) -> tuple[Any, ...]:
    given = vars(entry) | {"spec": spec_text(entry.spec), "will": json.dumps(dict(entry.will))}
    return tuple(given[name] for name in COLUMNS)


def entry_of(row: sqlite3.Row) -> Entry:
    values = list(row)
    for name, read in _READ.items():
        values[COLUMNS.index(name)] = read(values[COLUMNS.index(name)])
    return Entry(*values)


_READ: dict[str, Callable[[Any], Any]] = {"spec": spec_of, "will": json.loads, "reusable": bool, "save": bool}


def run_of(row: sqlite3.Row) -> RunRecord:
    lists = {name: tuple(json.loads(row[name])) for name in ("refused", "notes")}
    return RunRecord(**{name: row[name] for name in row.keys()} | lists | {"closed": bool(row["closed"])})  # noqa: SIM118
