"""Laying an archive over a tree that an agent owns, and taking it off again."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from pytest_klavis.errors import ArchiveError
from pytest_klavis.workspace.archive import extract, laid_over, pack_mapping

from .build import facts, file, folder, names, symlink, targz

if TYPE_CHECKING:
    from pathlib import Path

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")


def mapping(**files: str) -> io.BytesIO:
    sink = io.BytesIO()
    pack_mapping({name.replace("__", "/"): text for name, text in files.items()}, sink)
    sink.seek(0)
    return sink


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    root = tmp_path / "home" / "workspace"
    root.mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "a").write_text("secret")
    return root


def test_a_merge_keeps_the_rest_and_wins_over_everything_in_its_way(workspace: Path, tmp_path: Path) -> None:
    (workspace / "kept").write_text("kept")
    (workspace / "file").write_text("old")
    (workspace / "link").symlink_to(tmp_path / "secret" / "a")
    (workspace / "folder").symlink_to(tmp_path / "secret")
    (workspace / "tree" / "deep").mkdir(parents=True)
    (workspace / "d").mkdir()
    (workspace / "d" / "kept").write_text("kept")
    inode = workspace.stat().st_ino

    extract(mapping(file="new", link="new", folder__a="new", tree="new", d__new="new"), workspace, merge=True)

    assert {name: fact.content for name, fact in facts(workspace).items()} == {
        "kept": b"kept", "file": b"new", "link": b"new", "folder": b"", "folder/a": b"new", "tree": b"new",
        "d": b"", "d/kept": b"kept", "d/new": b"new",
    }  # fmt: skip
    assert facts(tmp_path / "secret")["a"].content == b"secret"
    assert workspace.stat().st_ino == inode
    assert names(workspace.parent) == ["workspace"]


def test_an_empty_destination_stays_the_same_directory(workspace: Path) -> None:
    workspace.chmod(0o700)
    before = workspace.stat()
    extract(mapping(a="1"), workspace)
    assert (workspace.stat().st_ino, workspace.stat().st_mode) == (before.st_ino, before.st_mode)
    with pytest.raises(ArchiveError, match="not empty"):
        extract(mapping(a="1"), workspace)


def test_a_disk_error_is_an_archive_error(workspace: Path) -> None:
    with pytest.raises(ArchiveError, match=r"cannot unpack into .*No such file"):
        extract(mapping(a="1"), workspace / "missing" / "place")
    (workspace / "plain").write_text("")
    with pytest.raises(ArchiveError, match=r"cannot unpack into .*Not a directory"):
        extract(mapping(a="1"), workspace / "plain")


def test_links_can_be_left_out(workspace: Path) -> None:
    result = extract(io.BytesIO(targz(file("a"), symlink("l", "a"))), workspace, links=False)
    assert names(workspace) == ["a"]
    assert result.skipped == (("l", "links are not wanted here"),)


def test_what_lay_under_the_files_of_a_run_is_put_back(workspace: Path, tmp_path: Path) -> None:
    (workspace / "tests").symlink_to(tmp_path / "secret")
    (workspace / "test_a.py").mkdir()
    (workspace / "test_a.py" / "inner").write_text("agent's")
    (workspace / "pkg").mkdir()
    (workspace / "pkg" / "m.py").write_text("agent's")
    before = facts(workspace)

    with laid_over(mapping(tests__a="t", pkg__new__m="hidden"), workspace):
        assert (workspace / "tests" / "a").read_text() == "t"
        (workspace / "tests" / "a").unlink()  # the run may do what it likes with them
        (workspace / "pkg" / "new" / "m").write_text("changed")

    assert facts(workspace) == before
    assert facts(tmp_path / "secret")["a"].content == b"secret"

    with laid_over(mapping(**{"test_a.py": "hidden", "pkg__m.py": "hidden"}), workspace):
        assert (workspace / "test_a.py").read_text() == "hidden"
        assert (workspace / "pkg" / "m.py").read_text() == "hidden"
        (workspace / "result.json").write_text("{}")
        (workspace / "pkg").rename(workspace / "moved")

    after = facts(workspace)
    assert after["result.json"].content == b"{}"
    assert after["pkg/m.py"].content == b"agent's"
    assert after["test_a.py/inner"].content == b"agent's"
    assert names(workspace.parent) == ["workspace"]


def test_an_error_in_the_block_comes_through_and_the_tree_is_put_back(workspace: Path) -> None:
    (workspace / "a").write_text("old")
    before = facts(workspace)
    with pytest.raises(OSError, match="of the block"), laid_over(mapping(a="new", b="new"), workspace):
        raise OSError("of the block")
    assert facts(workspace) == before


def test_files_are_laid_into_a_directory_that_is_not_a_link(workspace: Path, tmp_path: Path) -> None:
    (workspace / "sub").mkdir()
    (workspace / "out").symlink_to(tmp_path / "secret")
    with laid_over(mapping(a="new"), workspace, at="sub"):
        assert (workspace / "sub" / "a").read_text() == "new"
    for wrong in ("out", "missing", "../x", "/etc"):
        with (
            pytest.raises(ArchiveError, match="is no directory of the workspace"),
            laid_over(mapping(a="new"), workspace, at=wrong),
        ):
            pytest.fail("the block must not run")
    assert facts(tmp_path / "secret")["a"].content == b"secret"
    assert names(workspace.parent) == ["workspace"]


def test_a_deep_and_locked_tree_in_the_way_is_removed(workspace: Path) -> None:
    script = (
        "import os\nos.mkdir('x')\nos.chdir('x')\n" + "for _ in range(1500):\n    os.mkdir('d')\n    os.chdir('d')\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=workspace, check=True)
    (workspace / "x" / "locked").mkdir()
    (workspace / "x" / "locked" / "f").write_text("")
    (workspace / "x" / "locked").chmod(0)
    extract(mapping(x="new"), workspace, merge=True)
    assert (workspace / "x").read_text() == "new"
    assert names(workspace.parent) == ["workspace"]


@as_root
def test_everything_belongs_to_the_owner(workspace: Path) -> None:
    os.chown(workspace, 4242, 4242)
    data = io.BytesIO(targz(folder("d"), file("d/a"), symlink("d/l", "a"), file("e/b")))
    extract(data, workspace, owner=4242, merge=True)
    owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in (workspace, *workspace.rglob("*"))}
    assert owners == {(4242, 4242)}


def test_a_tree_that_changes_all_the_time_never_leads_outside(workspace: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    outside = tmp_path / "secret"
    before = facts(outside)

    def swap() -> None:
        while not stop.is_set():
            for name in ("d", "d/e"):
                place = workspace / name
                try:
                    place.rename(workspace / f"old{os.urandom(4).hex()}")
                    place.symlink_to(outside)
                    place.unlink()
                    place.mkdir()
                except OSError:
                    continue

    (workspace / "d").mkdir()
    agent = threading.Thread(target=swap)
    agent.start()
    try:
        for _ in range(60):
            try:
                extract(mapping(d__a="new", d__e__a="new", a="new"), workspace, merge=True)
            except ArchiveError:
                continue  # refused is fine; written outside is not
    finally:
        stop.set()
        agent.join()
    assert facts(outside) == before
