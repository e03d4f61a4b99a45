"""Extension points: what a conftest or another plugin can add to the life of a sandbox."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .handles import Sandbox


@pytest.hookspec
def pytest_klavis_acquired(item: pytest.Item, sandbox: Sandbox) -> None:
    """Called after a sandbox was acquired and seeded, before the test gets it.

    Raise `pytest_klavis.InfraError` when the sandbox turns out to be unusable: it is
    released and the test is reported as an ERROR.
    """


@pytest.hookspec
def pytest_klavis_artifacts(item: pytest.Item, sandbox: Sandbox, path: Path) -> None:
    """Called when the evidence of a sandbox was saved in `path`, while the sandbox is still alive.

    Write more files into `path`, or upload it.
    """
