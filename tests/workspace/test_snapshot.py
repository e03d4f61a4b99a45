"""A snapshot is read as the workspace was, wherever its links point, and is gone afterwards."""

from __future__ import annotations

import gc
import io
import os
from typing import TYPE_CHECKING

import pytest

from pytest_klavis.errors import ArchiveError, SpecError
from pytest_klavis.workspace.snapshot import Snapshot

from .build import file, folder, names, symlink, targz

if TYPE_CHECKING:
    from pathlib import Path

DUMP = targz(
    folder("./"),
    file("./report.md", "caf\u00e9\n".encode()),
    file("./data/a.csv", b"1,2\n"),
    file("./data/.hidden", b"h"),
    file("./README", b"1"),
    file("./readme", b"2"),
    file("./odd\\name", b"3"),
    symlink("./latest", "data"),
    symlink("./shortcut", "data/a.csv"),
    symlink("./secret", "/etc/passwd"),
    symlink("./up", "../../../etc/passwd"),
)


def test_it_is_read_like_a_tree() -> None:
    with Snapshot(io.BytesIO(DUMP)) as tree:
        assert tree.read_text("report.md") == "caf\u00e9\n"
        assert tree.read_text("report.md", encoding="latin-1") != "caf\u00e9\n"
        assert tree.read_bytes("data/a.csv") == tree.read_bytes("latest/a.csv") == tree.read_bytes("shortcut")
        assert tree.files == [
            "README", "data/.hidden", "data/a.csv", "latest", "odd\\name", "readme", "report.md", "shortcut",
        ]  # fmt: skip
        assert tree.glob("*.md") == ["report.md"]
        assert tree.glob("**/*.csv") == ["data/a.csv"]
        assert tree.glob("nothing*") == []
        assert (tree.path / "report.md").is_file()
        assert [path for path, _ in tree.skipped] == ["secret", "up"]
        place = tree.path
    assert not place.parent.exists()


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "data/../../x"])
def test_a_path_that_leaves_it_is_refused(path: str) -> None:
    with Snapshot(io.BytesIO(DUMP)) as tree:
        with pytest.raises(SpecError, match="relative to the workspace"):
            tree.read_text(path)
        with pytest.raises(SpecError, match="relative to the workspace"):
            tree.glob(path)


def test_a_missing_file_is_the_agents_business_and_names_the_nearest() -> None:
    with Snapshot(io.BytesIO(DUMP)) as tree:
        with pytest.raises(FileNotFoundError, match=r"reprot\.md is not there in the workspace; there is report\.md"):
            tree.read_text("reprot.md")
        with pytest.raises(FileNotFoundError, match="data is a directory"):
            tree.read_text("data")
        with pytest.raises(FileNotFoundError, match="secret is not there"):
            tree.read_text("secret")


def test_nothing_is_left_of_a_refused_or_forgotten_one(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError):
        Snapshot(io.BytesIO(DUMP[:100]), tmp_path)
    assert names(tmp_path) == []
    tree = Snapshot.of(io.BytesIO(DUMP), tmp_path)
    assert tree.path.parent.stat().st_mode & 0o077 == 0
    del tree
    gc.collect()
    assert names(tmp_path) == []


def test_a_fork_does_not_take_the_files_away(tmp_path: Path) -> None:
    tree = Snapshot(io.BytesIO(DUMP), tmp_path)
    child = os.fork()
    if not child:
        tree.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert tree.read_text("README") == "1"
    tree.close()
    tree.close()
