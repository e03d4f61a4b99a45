"""A server that plays the API, and a client of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_klavis.api.client import KlavisClient
from tests.api.server import FakeApi

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "kl-0123456789-very-secret"


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as server:
        yield server


@pytest.fixture
def client(api: FakeApi) -> KlavisClient:
    return KlavisClient(api.url, KEY, headers={"X-Klavis-Owner": "owner-1"})
