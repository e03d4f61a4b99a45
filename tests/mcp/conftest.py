from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .server import FakeServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running
