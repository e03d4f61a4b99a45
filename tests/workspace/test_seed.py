"""Seeds are found near the test, checked before anything is acquired, and packed to the same bytes each time."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_klavis.errors import SeedError, SpecError
from pytest_klavis.workspace.archive import extract, verify
from pytest_klavis.workspace.seed import Seed, find, pack_tree, resolve_seed

from .build import file, symlink, targz

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project whose tests lie two directories deep."""
    place = tmp_path / "project"
    (place / "tests" / "unit").mkdir(parents=True)
    return place


def seed(workspace: str | Path | Mapping[str, str | bytes], root: Path, *, git: bool = False) -> Seed:
    return resolve_seed(workspace, start=root / "tests" / "unit", root=root, git=git)


def unpacked(given: Seed, tmp_path: Path, name: str = "out") -> Path:
    given.pack_to(tmp_path / f"{name}.tar.gz")
    extract(tmp_path / f"{name}.tar.gz", tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("place", ["tests/unit", "tests", "."])
def test_a_relative_path_is_found_from_the_test_up_to_the_root(place: str, root: Path, tmp_path: Path) -> None:
    (root / place / "data" / "a").mkdir(parents=True)
    (root / place / "data" / "a" / "f").write_text(place)
    found = seed("data/a", root)
    assert found.source == str(root / place / "data" / "a")
    assert (unpacked(found, tmp_path) / "f").read_text() == place


def test_the_nearest_place_wins(root: Path, tmp_path: Path) -> None:
    for place in (".", "tests"):
        (root / place / "data").mkdir()
        (root / place / "data" / "f").write_text(place)
    assert (unpacked(seed(Path("data"), root), tmp_path) / "f").read_text() == "tests"


def test_a_missing_seed_lists_the_places_and_the_nearest_name(root: Path) -> None:
    (root / "tests" / "Data" / "report").mkdir(parents=True)
    (root.parent / "dat").mkdir()  # above the root: not looked at
    with pytest.raises(SpecError) as refusal:
        seed("data/reprot", root)
    assert str(refusal.value).splitlines() == [
        "'data/reprot' is not there. Looked for:",
        f"  {root}/tests/unit/data/reprot",
        f"  {root}/tests/data/reprot",
        f"  {root}/data/reprot",
    ]
    with pytest.raises(SpecError, match=f"Did you mean {root}/tests/Data/report\\?"):
        seed("data/report", root)
    with pytest.raises(SpecError, match=f"Did you mean {root}/tests/Data/report\\?"):
        seed("Data/reprot", root)


def test_a_test_outside_of_the_root_is_looked_up_in_its_folder_and_the_root(root: Path) -> None:
    (root / "data").mkdir()
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir()
    assert find("data", start=elsewhere, root=root) == root / "data"


def test_an_archive_is_a_seed(root: Path, tmp_path: Path) -> None:
    for name in ("a.tar.gz", "b.tgz"):
        (root / name).write_bytes(targz(file("./a.txt", b"hello", mode=0o600)))
        assert (unpacked(seed(name, root), tmp_path, name) / "a.txt").read_text() == "hello"


def broken(root: Path) -> None:
    (root / "s.tar.gz").write_bytes(targz(file("a"))[:-4])


def hostile(root: Path) -> None:
    (root / "s.tar.gz").write_bytes(targz(file("../a")))


def links(root: Path) -> None:
    (root / "s.tar.gz").write_bytes(targz(symlink("out", "/etc")))


def other(root: Path) -> None:
    (root / "s.tar.gz").mkdir()
    (root / "s.tar.gz" / "a").symlink_to("/etc/passwd")


def pipe(root: Path) -> None:
    os.mkfifo(root / "s.tar.gz")


def dangling(root: Path) -> None:
    (root / "s.tar.gz").symlink_to("nowhere")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (broken, "cut short"),
        (hostile, "leaves the archive's root"),
        (links, "out is an absolute link: /etc"),
        (other, "a is an absolute link"),
        (pipe, "neither a directory nor a file"),
        (dangling, "cannot be read: No such file"),
    ],
)
def test_what_can_be_known_to_be_wrong_is_refused_when_it_is_resolved(
    make: Callable[[Path], None], says: str, root: Path
) -> None:
    make(root)
    with pytest.raises(SpecError, match=says):
        seed("s.tar.gz", root)


@pytest.mark.parametrize(("given", "says"), [("", "no seed"), (b"x", "no seed"), (3, "no seed")])
def test_other_values_are_no_seeds(given: Any, says: str, root: Path) -> None:
    with pytest.raises(SpecError, match=says):
        seed(given, root)


def test_other_files_are_no_seeds(root: Path) -> None:
    (root / "s.zip").write_bytes(b"PK")
    with pytest.raises(SpecError, match=r"a file has to be a \.tar\.gz or \.tgz"):
        seed("s.zip", root)


def test_a_mapping_is_a_seed_and_is_checked_at_once(root: Path, tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"d/a.txt": "text", "b": b"\0\1", "empty/": ""}
    given = seed(files, root)
    files["later"] = "not in it"
    out = unpacked(given, tmp_path)
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*")) == ["b", "d", "d/a.txt", "empty"]
    assert "text" not in repr(given)
    with pytest.raises(SpecError, match="leaves the archive's root"):
        seed({"../../etc/cron.d/x": ""}, root)


def test_a_tree_that_breaks_after_it_was_resolved_is_a_seed_error(root: Path, tmp_path: Path) -> None:
    (root / "data").mkdir()
    given = seed("data", root)
    os.mkfifo(root / "data" / "pipe")
    with pytest.raises(SeedError, match="pipe is a FIFO"):
        given.pack_to(tmp_path / "t.tar.gz")


def log(tree: Path) -> str:
    shown = subprocess.run(
        ["git", "log", "--format=%H %an <%ae> %aI %cI %D"], cwd=tree, check=True, capture_output=True, text=True
    )
    return shown.stdout.strip()


def test_git_makes_one_commit_that_depends_on_the_tree_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "data" / "sub").mkdir(parents=True)
    (root / "data" / "run.sh").write_text("#!/bin/sh\n")
    (root / "data" / "run.sh").chmod(0o755)
    (root / "data" / "sub" / "a.txt").write_text("a\n")
    (root / "data" / ".gitignore").write_text("*.log\n")
    (root / "data" / "x.log").write_text("ignored")
    first = unpacked(seed("data", root, git=True), tmp_path, "one")

    home = tmp_path / "home"
    (home / "hooks").mkdir(parents=True)
    (home / "hooks" / "commit-msg").write_text("#!/bin/sh\nexit 1\n")
    (home / "hooks" / "commit-msg").chmod(0o755)
    (home / ".gitconfig").write_text(
        f"[user]\nname = Me\nemail = me@example.org\n[core]\nhooksPath = {home}/hooks\nautocrlf = true\n"
        "[commit]\ngpgsign = true\n[init]\ndefaultBranch = other\n"
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    os.utime(root / "data" / "run.sh", (1, 1))
    second = unpacked(seed("data", root, git=True), tmp_path, "two")
    monkeypatch.undo()

    assert log(first) == log(second)
    when = "2000-01-01T00:00:00"
    assert log(first)[41:].replace("Z", "+00:00") == (
        f"pytest-klavis <pytest-klavis@localhost> {when}+00:00 {when}+00:00 HEAD -> main"
    )
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()
    status = subprocess.run(["git", "status", "--porcelain"], cwd=first, check=True, capture_output=True, text=True)
    assert status.stdout == ""
    assert (first / "x.log").exists()
    assert (tmp_path / "one.tar.gz").stat().st_size < 10_000  # no hooks and descriptions of this machine


def test_git_of_an_empty_seed_and_of_a_repository(root: Path, tmp_path: Path) -> None:
    assert log(unpacked(seed({}, root, git=True), tmp_path)).endswith("main")
    with pytest.raises(SpecError, match="is a repository already"):
        seed({".git/config": ""}, root, git=True)


def test_git_that_is_not_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(root))
    with pytest.raises(SpecError, match="there is none on PATH"):
        seed({"a": ""}, root, git=True)


def test_what_is_uploaded_later_is_packed_like_a_seed(root: Path, tmp_path: Path) -> None:
    (root / "d").mkdir()
    (root / "d" / "a").write_text("a")
    (root / "plain.txt").write_text("plain")
    (root / "t.tgz").write_bytes(targz(file("a", b"a")))
    dest = tmp_path / "u.tar.gz"
    for source, names in ((root / "d", {"a"}), (root / "plain.txt", {"plain.txt"}), (root / "t.tgz", {"a"})):
        pack_tree(source, dest)
        assert verify(dest).top == names
    pack_tree({"a": "a"}, dest, below="x/y")
    assert verify(dest).top == {"x"}
    with pytest.raises(SeedError, match="no regular file"):
        pack_tree(root / "missing", dest)
