"""Trees of more things than are worth telling."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import pytest

from pytest_klavis.errors import SeedError
from pytest_klavis.workspace.archive import pack
from pytest_klavis.workspace.scan import KEPT, MAX_MEMBERS, Found

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def fifos(tmp_path: Path) -> Path:
    for number in range(KEPT + 500):
        os.mkfifo(tmp_path / f"fifo{number:05}")
    (tmp_path / "a.txt").write_text("a")
    return tmp_path


def test_a_dump_lists_what_is_left_out_up_to_a_point(fifos: Path) -> None:
    packed = pack(fifos, io.BytesIO(), special="skip")
    assert packed.files == 1
    assert len(packed.skipped) == KEPT + 1
    assert packed.skipped[0] == ("...", "and 500 more")
    assert packed.skipped[1][1] == "is a FIFO"


def test_a_seed_that_is_refused_counts_all_of_it(fifos: Path) -> None:
    with pytest.raises(SeedError, match=f"and {KEPT + 492:,} more$"):
        pack(fifos, io.BytesIO())


def test_what_is_left_out_counts_as_members(fifos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_klavis.workspace.scan.MAX_MEMBERS", KEPT + 100)
    skipped = dict(pack(fifos, io.BytesIO(), special="skip").skipped)
    assert "limit" in skipped[""]
    assert sum(why == "is a FIFO" for why in skipped.values()) == KEPT
    assert skipped["..."] in {"and 99 more", "and 100 more"}


def test_memory_for_reasons_is_bounded(tmp_path: Path) -> None:
    found = Found(tmp_path, "skip")
    for number in range(MAX_MEMBERS):
        found.note(f"{number}", "is a FIFO")
    assert len(found.skipped) == KEPT + 1
    assert found.skipped["..."] == f"and {MAX_MEMBERS - KEPT:,} more"
