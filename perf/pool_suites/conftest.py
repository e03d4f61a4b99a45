"""What all suites have in common: how long a body takes, how many there are, and when the first one began."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

BEGAN = Path(os.environ["POOL_BEGAN"])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.fixturenames.append("number")
    metafunc.parametrize("number", range(int(os.environ["POOL_TESTS"])))


def pytest_runtest_logstart() -> None:
    """With xdist both a worker and the controller come here; the first one counts."""
    if not BEGAN.exists():
        BEGAN.write_text(str(time.monotonic()))


@pytest.fixture
def body() -> float:
    """Seconds that a test takes by itself."""
    return float(os.environ["POOL_BODY"])
