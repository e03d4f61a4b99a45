"""What the settings say of the cloud: its address and key, the account's state on this machine, the run's keeper."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .backend import Endpoint
from .errors import BackendError
from .pool.statedir import StateDir, account_directory, existing_account, marker_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .pool.end import End
    from .pool.entries import Entry
    from .pool.pool import Pool
    from .settings import Settings

__tracebackhide__ = True  # users read their own frames


def endpoint(settings: Settings) -> Endpoint:
    """The cloud's address and key; BackendError where they cannot be used."""
    if not settings.api_key:
        raise BackendError(
            f"the cloud backend (from {settings.source('backend')}) needs a key: set KLAVIS_API_KEY, "
            "or run on --klavis-backend=embedded"
        )
    return Endpoint("cloud", settings.base_url, settings.api_key)


def account(settings: Settings) -> StateDir:
    """Where this machine keeps what it knows of the account."""
    found = endpoint(settings)
    if _has_password(found.base_url):  # told without the URL
        raise BackendError("the base URL holds a user or password: KLAVIS_BASE_URL must be without them")
    return account_directory(found.base_url, found.api_key)


def open_pool(settings: Settings, run_id: str, enough: int) -> Pool:
    """This process's part in the pool; `enough` is how many sandboxes the run can use at once."""
    place = account(settings)
    pool = _pool(settings, run_id, enough, place.path)
    if place.note:
        pool.ledger.note(run_id, place.note)
    return pool


def end_of(settings: Settings, run_id: str, pool: Pool | None) -> End | None:
    """The end of a run that is on the ledger; None where no process has put it there. Makes nothing.

    `pool` is this process's part in it, if it has any.
    """
    if not settings.api_key or (where := existing_account(settings.base_url, settings.api_key)) is None:
        return None
    if not marker_of(where, run_id).exists():
        return None
    from .pool.end import End  # noqa: PLC0415  sqlite is for those who have used a sandbox

    def release(entries: Sequence[Entry], until: float) -> None:
        (pool or _pool(settings, run_id, 1, where)).release_left(entries, until)

    return End(where, run_id, release)


def _pool(settings: Settings, run_id: str, enough: int, where: Path) -> Pool:
    from .pool.keeper import KeeperConfig  # noqa: PLC0415  the pool is for those who use a sandbox

    found = endpoint(settings)
    config = KeeperConfig(
        run=run_id,
        account=where,
        base_url=found.base_url,
        api_key=found.api_key,
        region=settings.region,
        rate=settings.rate,
        cap=settings.pool_size or enough,
        per_account=settings.pool_size is not None,
        verify_reset=settings.verify_reset,
        exclusive=settings.exclusive_account,
        prefetch=settings.prefetch,
    )
    from .desk import client  # noqa: PLC0415  httpx and pydantic load with the first sandbox
    from .pool.limiter import Limiter  # noqa: PLC0415
    from .pool.pool import Pool  # noqa: PLC0415

    pace = Limiter(where / "limiter", settings.rate)
    return Pool(config, client(found, settings.region, pace), pace, budget=settings.max_acquires)


def _has_password(url: str) -> bool:
    try:
        return "@" in urlsplit(url).netloc
    except ValueError:  # the client says what is wrong with it
        return "@" in url
