"""Fixtures of the tests about archives."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def yard(tmp_path: Path) -> Path:
    """A directory with a canary beside the place where archives are unpacked."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "canary").write_text("alive")
    (tmp_path / "outside" / "canary").chmod(0o640)
    return tmp_path
