"""The run's keeper, as other processes see it: what it is told, how it is started, and whether it lives.

A keeper is a process of its own that resets, releases, acquires and seeds ahead, and does for the dead what they did
not; what it does is in keeping.py. There is one per run. It outlives whoever started it, and ends with its work.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_klavis import clock
from pytest_klavis.errors import BackendError
from pytest_klavis.processes import spawn

from .owners import Owners

if TYPE_CHECKING:
    from typing import Self

__tracebackhide__ = True  # users read their own frames

OWNER = "keeper-{run}"
"""What a keeper is called in the ledger."""
_REQUIREMENTS = ("httpx", "httpcore", "h11", "pydantic", "pydantic_core", "anyio", "certifi", "idna", "annotated_types")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_KEPT_ENVIRONMENT = (
    *("HOME", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *_PROXIES,
    *(name.upper() for name in _PROXIES),
)


@dataclass(frozen=True)
class KeeperConfig:
    """What a keeper is told."""

    run: str
    account: Path
    """The directory of the account."""
    base_url: str
    api_key: str = field(repr=False)
    region: str = "us"
    rate: float | None = None
    """Requests per second; None for no limit."""
    cap: int = 1
    per_account: bool = False
    """Whether the cap is one for all runs of the account."""
    verify_reset: bool = False
    """Whether a reset is confirmed by a dump that has to be empty."""
    exclusive: bool = False
    """Whether nobody else uses the account."""
    prefetch: bool = True
    """Whether to acquire and seed ahead."""

    @property
    def owner(self) -> str:
        """Who the run's keeper is on the ledger."""
        return OWNER.format(run=self.run)

    @property
    def log(self) -> Path:
        """Where the keeper writes."""
        return self.account / f"keeper-{self.run}.log"

    @property
    def owners(self) -> Path:
        """Where the owner files are."""
        return self.account / "owners"

    def to_json(self) -> bytes:
        """All of it, the key too: for a pipe, never for a file."""
        return json.dumps({**asdict(self), "account": str(self.account)}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """The config of a text by `to_json`. Raises ValueError or TypeError for another one."""
        given: dict[str, Any] = json.loads(text)
        known = {one.name for one in fields(cls)}
        given = {name: value for name, value in given.items() if name in known}
        return cls(**given | {"account": Path(given["account"])})


def keeper_alive(account: Path, run: str) -> bool:
    """Whether the run's keeper lives. Cheap: a lock is asked for."""
    return Owners(account / "owners").alive(OWNER.format(run=run))


def start_keeper(config: KeeperConfig, deadline: float = 15.0) -> None:
    """See that the run has a keeper: nothing happens where one lives, whoever started it.

    Raises:
        BackendError: none could be started within `deadline` seconds; the message ends with the end of its log.
    """
    import filelock  # noqa: PLC0415  first sandbox, not pytest's start

    until = clock.monotonic() + deadline
    lock = filelock.FileLock(config.account / "keeper.lock", timeout=deadline, poll_interval=0.01, mode=0o600)
    try:
        with lock.acquire(cancel_check=lambda: clock.monotonic() > until):  # the timeout stands still in frozen time
            if keeper_alive(config.account, config.run):
                return
            spawn(
                "the keeper of this run's cloud sandboxes",
                "pytest_klavis.pool.keeper_main",
                [],
                config.log,
                requirements=_REQUIREMENTS,
                until=until,
                keep=_KEPT_ENVIRONMENT,
                told=config.to_json(),
            )
    except filelock.Timeout:
        raise BackendError(
            f"waited {deadline:.0f} s for another process to start the keeper of this run's cloud sandboxes "
            f"({lock.lock_file} is locked)"
        ) from None
