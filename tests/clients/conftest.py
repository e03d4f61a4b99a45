from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .embedded import Box, embedded_server, local_sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx


@pytest.fixture(scope="session")
def api() -> Iterator[httpx.Client]:
    with embedded_server() as client:
        yield client


@pytest.fixture
def box(api: httpx.Client) -> Iterator[Box]:
    with local_sandbox(api, ["filesystem", "git", "terminal"]) as sandbox:
        yield sandbox
