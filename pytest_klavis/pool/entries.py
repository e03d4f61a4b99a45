"""What the ledger holds: an entry per sandbox, a ticket per acquire that waits, a wish per test to come."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, get_args

from pytest_klavis import clock
from pytest_klavis.spec import Spec

State = Literal["intent", "lost", "suspect", "held", "dirty", "cleaning", "idle", "releasing", "kept"]
"""
intent     its acquire is about to be sent, or on its way
lost       the answer to its acquire was lost: it may exist
suspect    the account holds it, nobody on the ledger does: perhaps it is what was lost
held       leased
dirty      given back: to be saved where that is noted, then to be reset or released
cleaning   being reset, or seeded
idle       clean
releasing  being released
kept       left alive until its time is over, because somebody asked for it
"""
STATES: tuple[State, ...] = get_args(State)
LIVE: frozenset[State] = frozenset(STATES) - {"lost", "suspect"}
"""Those that take a place of the pool."""
STAYS: tuple[State, ...] = ("kept", "suspect")
"""Those in which an entry waits for nobody."""


@dataclass(frozen=True)
class Want:
    """One sandbox that somebody asks for."""

    spec: Spec
    ttl: int
    """Seconds to ask for when it is acquired anew."""
    needs: float = 0.0
    """Seconds that a used one must have left."""
    seed: str | None = None
    """Digest of what its workspace shall begin with; None for an empty one."""
    test: str = ""
    will: Mapping[str, str] = field(default_factory=dict)
    """For whoever finds the holder dead: `evidence`, the folder for what is saved; `scratch`, its own folder."""


@dataclass(frozen=True)
class Entry:
    """One sandbox on the ledger. A change of it gives another entry."""

    number: int
    run: str
    owner: str | None
    """Who answers for it: an owner's id, or None while it waits for somebody."""
    state: State
    spec: Spec
    nonce: str
    """What its acquire was labelled with, where the API takes labels."""
    ttl: int | None
    """Seconds that it lives; None where the API takes none."""
    born: float
    """When the acquire was decided, by `clock.since_boot`."""
    boot: str
    born_at: float
    """The same by the wall clock."""
    since: float
    """When it came into its state, by the wall clock."""
    test: str = ""
    sandbox_id: str | None = None
    instance: str | None = None
    """Which lease of a remote sandbox it is, where its URL tells."""
    reusable: bool = True
    """Whether nothing speaks against a reset."""
    save: bool = False
    """Its workspace is evidence, and not saved yet."""
    seed: str | None = None
    """Digest of what its workspace was seeded with ahead."""
    will: Mapping[str, str] = field(default_factory=dict)

    @property
    def age(self) -> float:
        """Seconds since the acquire was decided."""
        age = clock.since_boot() - self.born
        return age if self.boot == clock.boot_id() and age >= 0 else clock.now() - self.born_at

    @property
    def left(self) -> float:
        """Seconds that it has to live."""
        return float("inf") if self.ttl is None else self.ttl - self.age

    @property
    def resettable(self) -> bool:
        """Whether a reset may make it as good as new: one that brought a benchmark's data comes back without."""
        emptied = self.spec.kind == "remote" and self.spec.benchmark is not None
        return self.reusable and not self.save and not emptied and self.sandbox_id is not None

    @property
    def whose(self) -> str:
        """The test that it is, or was, held for."""
        return self.test or "the pool"

    @property
    def name(self) -> str:
        """Its id where there is one, for people."""
        return self.sandbox_id or f"a {self.spec}, id unknown"


@dataclass(frozen=True)
class Ticket:
    """A place in the line: what is still wanted, all of it or nothing."""

    seq: int
    run: str
    owner: str
    wants: tuple[Want, ...]
    cap: int | None = None
    """How many sandboxes of the whole account it lets there be; None where only its own run's count."""


def spec_text(spec: Spec) -> str:
    """A spec as the ledger holds it; equal specs give equal texts."""
    return json.dumps([spec.kind, list(spec.servers), spec.benchmark, spec.account, [list(one) for one in spec.tags]])


@lru_cache(1024)
def spec_of(text: str) -> Spec:
    """The spec of a text by `spec_text`."""
    kind, servers, benchmark, account, tags = json.loads(text)
    return Spec(kind, tuple(servers), benchmark, account, tuple((key, value) for key, value in tags))


def want_text(want: Want) -> str:
    """A want as the ledger holds it."""
    record: dict[str, Any] = {**vars(want), "spec": spec_text(want.spec), "will": dict(want.will)}
    return json.dumps(record)


@lru_cache(1024)  # those in line are read again and again
def want_of(text: str) -> Want:
    """The want of a text by `want_text`."""
    record = json.loads(text)
    return Want(**{**record, "spec": spec_of(record["spec"])})
