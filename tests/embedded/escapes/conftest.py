"""Sandboxes to break out of, at each level of the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.embedded.escapes.support import Target, new_target
from tests.embedded.isolation_support import LEVELS, open_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def place() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.fixture(params=LEVELS)
def target(request: pytest.FixtureRequest, place: Path) -> Iterator[Target]:
    with new_target(request.param, place) as target:
        yield target


@pytest.fixture
def unprotected(place: Path) -> Iterator[Target]:
    with new_target("none", place) as target:
        yield target
