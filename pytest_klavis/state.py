"""What a process knows: of its run, of one attempt at an item, of one lease in use."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .errors import InfraError

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

    from .lease import Lease


@dataclass(frozen=True)
class Run:
    """What the controller tells its workers, so that all processes of a run agree."""

    id: str
    worker: str = ""
    every_test_everywhere: bool = False
    """`--dist each`: the same test runs on every worker."""
    workers: int = 1

    @classmethod
    def of(cls, config: pytest.Config) -> Run:
        """This process's run: told by the controller in a worker, else made up here."""
        told = getattr(config, "workerinput", {}).get("klavis")
        if told:
            return cls(**told)
        return cls(f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}")

    def for_worker(self, node: WorkerController) -> dict[str, Any]:
        """What goes into `workerinput`: JSON values only."""
        everywhere = node.config.getoption("dist", "no") == "each"
        workers = int(node.workerinput["workercount"])
        return {"id": self.id, "worker": node.gateway.id, "every_test_everywhere": everywhere, "workers": workers}


@dataclass(eq=False)
class ItemState:
    """What is known of one attempt at one item."""

    failed: bool = False
    unfit: bool = False
    """It crashed, timed out or lost its connection: nobody knows what still goes on in its sandboxes."""
    in_body: bool = False
    """The test's body runs: reports that are made now are those of subtests."""
    judged: bool = False
    """The teardown report was made: `failed` is final."""
    infra: list[InfraError] = field(default_factory=list)
    told: int = 0
    """How many of `infra` have been reported."""
    attempt: Path | None = None
    files: Path | None = None
    """The test's own evidence (`klavis_artifacts`)."""
    folders: set[Path] = field(default_factory=set)
    """Folders of the sandboxes of this attempt, so that each has its own."""
    saved: set[int] = field(default_factory=set)


STATE = pytest.StashKey[ItemState]()


@dataclass(eq=False)
class Use:
    """A lease, the fixture it belongs to, and the items that have used it."""

    lease: Lease
    fixture: str
    wide: bool
    """Of a scope wider than function: later items may use it, too."""
    key: str
    items: list[ItemState]

    @property
    def failed(self) -> bool:
        """An item that was cut short before its verdict counts as failed."""
        return any(item.failed or not item.judged for item in self.items)

    @property
    def reusable(self) -> bool:
        """Whether its sandbox can be reset for another test: each of its items came to its verdict by itself."""
        return all(item.judged and not item.unfit for item in self.items)

    @property
    def title(self) -> str:
        return f"sandbox {self.key!r}: {', '.join(self.lease.sandbox.servers)}"
