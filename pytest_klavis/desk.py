"""Opens the way to the backend; imported on the first sandbox, as httpx and pydantic load with it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from .api.client import KlavisClient
from .backend import Endpoint, start_embedded
from .errors import BackendError, SpecError
from .lifecycle import Desk
from .settings import Settings
from .tally import Tally

__tracebackhide__ = True  # users read their own frames


def open_desk(settings: Settings, run_id: str, tally: Tally) -> Desk:
    """Connect this process to the backend that `settings` name; BackendError when that cannot be."""
    if settings.backend == "embedded":
        endpoint, owner = start_embedded(run_id, isolation=settings.isolation, python=settings.python)
        scratch = owner.scratch
    else:
        if not settings.api_key:
            raise BackendError(
                f"the cloud backend (from {settings.source('backend')}) needs a key: set KLAVIS_API_KEY, "
                "or run on --klavis-backend=embedded"
            )
        endpoint, owner, scratch = Endpoint("cloud", settings.base_url, settings.api_key, {}), None, None
    if _has_password(endpoint.base_url):  # told without the URL
        raise BackendError("the base URL holds a user or password: KLAVIS_BASE_URL must be without them")
    try:
        api = KlavisClient(endpoint.base_url, endpoint.api_key, region=settings.region, headers=endpoint.headers)
    except SpecError as error:  # not what the test asked for is wrong, but the machine
        raise BackendError(f"the {endpoint.name} backend cannot be used: {error}") from None
    return Desk(endpoint, owner, api, scratch or Path(tempfile.mkdtemp(prefix="pytest-klavis-")), tally)


def _has_password(url: str) -> bool:
    try:
        return "@" in urlsplit(url).netloc
    except ValueError:  # the client says what is wrong with it
        return "@" in url
