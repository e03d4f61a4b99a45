"""What is ordered, and what comes of it: a lease."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import InfraError
    from .handles import Context, LocalSandbox, RemoteSandbox
    from .pool.entries import Entry, Want
    from .spec import Spec
    from .workspace.seed import Seed

__tracebackhide__ = True  # users read their own frames


@dataclass(frozen=True)
class Order:
    """One acquire, with everything resolved: what, with which content, for how long."""

    spec: Spec
    given: Mapping[str, str]
    """Canonical server name -> the name that the test used."""
    ttl: int
    needs: float = 0.0
    """Seconds that a sandbox which was used before must have left."""
    patience: float = 600.0
    """Seconds that the acquire with its seeding may take."""
    whole: bool = False
    """"ALL" has to mean all: a server that the backend lacks is an error."""
    seed: Seed | None = None
    data: Mapping[str, Any] | None = None
    """Of a remote sandbox, in its server's shape; of a local one, by the servers' canonical names."""
    evidence: Path | None = None
    """Where the workspace is saved when things go wrong; None when nothing is to be saved."""
    test: str = ""
    """Who asked: the node id, for the evidence and the summary."""
    find: Callable[[str | Path], Path] = Path
    report: Callable[[InfraError], None] = field(default=lambda _error: None)


@dataclass
class Lease:
    """One fixture scope's exclusive hold of one sandbox, from checkout to hand-over."""

    order: Order
    sandbox: LocalSandbox | RemoteSandbox
    context: Context
    pid: int
    began: float
    entry: Entry | None = None
    """What it is on the ledger; an embedded server needs none."""
    used: bool = False
    """Somebody had the sandbox before, and it was reset."""
    over: bool = False
    """The scope has ended; the hand-over may follow as soon as the verdict is known."""
    handed_over: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    """Held while it is handed over: a thread that came too late and the drain may both want to."""

    @property
    def is_seeded(self) -> bool:
        """Whether its workspace has begun with its seed before it was leased."""
        return self.entry is not None and self.entry.seed is not None


@dataclass(frozen=True)
class Prepared:
    """An order whose seed is packed."""

    order: Order
    context: Context

    def want(self) -> Want:
        """What the pool is asked for."""
        from .pool.entries import Want  # noqa: PLC0415  the cloud only
        from .workspace.seed import digest_of  # noqa: PLC0415

        order, seed = self.order, self.context.seed
        will = {"scratch": str(self.context.scratch)}
        if order.evidence is not None:
            will["evidence"] = str(order.evidence)
        if seed is not None:
            will["seed"] = str(seed)
        digest = None if seed is None else digest_of(seed)
        return Want(order.spec, order.ttl, order.needs, digest, order.test, will)
