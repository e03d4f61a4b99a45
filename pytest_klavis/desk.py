"""Opens the way to the backend; imported on the first sandbox, as httpx and pydantic load with it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .api.client import KlavisClient
from .backend import Endpoint, start_embedded
from .errors import BackendError, SpecError
from .lifecycle import Desk

if TYPE_CHECKING:
    from .api.pace import Pace
    from .settings import Settings
    from .tally import Tally

__tracebackhide__ = True  # users read their own frames


def open_desk(settings: Settings, run_id: str, tally: Tally, *, enough: int) -> Desk:
    """Connect this process to the backend that `settings` name; BackendError when that cannot be.

    `enough` is how many sandboxes of the cloud the run can use at once.
    """
    if settings.backend == "embedded":
        endpoint, owner = start_embedded(
            run_id,
            isolation=settings.isolation,
            python=settings.python,
            limits=settings.limits,
            install_servers=settings.install_servers,
        )
        return Desk(endpoint, client(endpoint, settings.region), owner.scratch, tally, owner=owner)
    from . import cloud  # noqa: PLC0415  sqlite and the pool are for the cloud only
    from .pool.rescue import SCRATCH  # noqa: PLC0415

    pool = cloud.open_pool(settings, run_id, enough)
    scratch = Path(tempfile.mkdtemp(prefix=SCRATCH))
    return Desk(cloud.endpoint(settings), pool.api, scratch, tally, pool=pool)


def client(endpoint: Endpoint, region: str, pace: Pace | None = None) -> KlavisClient:
    """A client of the backend; BackendError where its address or key cannot be right."""
    try:
        return KlavisClient(endpoint.base_url, endpoint.api_key, region=region, headers=endpoint.headers, pace=pace)
    except SpecError as error:  # not what the test asked for is wrong, but the machine
        raise BackendError(f"the {endpoint.name} backend cannot be used: {error}") from None
