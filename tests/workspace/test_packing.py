"""What packing refuses for a seed, and passes over in a dump."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pytest_klavis.errors import SeedError, SpecError
from pytest_klavis.workspace.archive import extract, pack, pack_mapping, verify
from pytest_klavis.workspace.reader import Limits

from .build import names


def fifo(tree: Path) -> None:
    os.mkfifo(tree / "odd")


def unix_socket(tree: Path) -> None:
    here = Path.cwd()
    os.chdir(tree)  # socket paths are short
    try:
        socket.socket(socket.AF_UNIX).bind("odd")
    finally:
        os.chdir(here)


def link_out(tree: Path) -> None:
    (tree / "odd").symlink_to("../elsewhere")


def link_absolute(tree: Path) -> None:
    (tree / "odd").symlink_to("/etc/passwd")


def link_loop(tree: Path) -> None:
    (tree / "odd").symlink_to("odd")


def backslash(tree: Path) -> None:
    (tree / "odd\\name").write_text("")


def control(tree: Path) -> None:
    (tree / "odd\x1b[2J").write_text("")


def colliding(tree: Path) -> None:
    (tree / "ODD").write_text("")
    (tree / "odd").write_text("")


def deep(tree: Path) -> None:
    tree.joinpath(*["odd"] * 120).mkdir(parents=True)


MAKERS: list[tuple[Callable[[Path], None], str]] = [
    (fifo, "a FIFO"),
    (unix_socket, "a socket"),
    (link_out, "leads outside"),
    (link_absolute, "an absolute link"),
    (link_loop, "back to itself"),
    (backslash, "backslash"),
    (control, "control character"),
    (colliding, "one file with"),
    (deep, "directories deep"),
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "a.txt").write_text("a")
    return root


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(("make", "says"), MAKERS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_seed_that_would_not_arrive_is_refused_by_its_path(
    make: Callable[[Path], None], says: str, tree: Path, tmp_path: Path
) -> None:
    make(tree)
    with pytest.raises(SeedError, match=says) as refusal:
        pack(tree, tmp_path / "t.tar.gz")
    assert "odd" in str(refusal.value).lower()
    assert "\x1b" not in str(refusal.value)
    assert names(tmp_path) == ["tree"]  # no half archive


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(("make", "says"), MAKERS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_dump_is_made_of_whatever_is_there(
    make: Callable[[Path], None], says: str, tree: Path, tmp_path: Path
) -> None:
    make(tree)
    packed = pack(tree, tmp_path / "t.tar.gz", special="skip")
    left_out = make in (fifo, unix_socket, deep)
    assert bool(packed.skipped) == left_out
    result = extract(tmp_path / "t.tar.gz", tmp_path / "out", limits=Limits(portable=False))
    assert (tmp_path / "out" / "a.txt").read_text() == "a"
    assert bool(result.skipped) == make.__name__.startswith("link_")


def test_all_problems_are_told_at_once(tree: Path) -> None:
    for number in range(12):
        os.mkfifo(tree / f"pipe{number:02}")
    with pytest.raises(SeedError) as refusal:
        pack(tree, io.BytesIO())
    assert str(refusal.value).count("is a FIFO") == 8
    assert "and 4 more" in str(refusal.value)


@contextmanager
def somebody_else() -> Iterator[None]:
    """Root reads everything, so where the tests run as root they step down for a moment."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_unreadable_files_and_directories() -> None:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        tree.chmod(0o755)
        (tree / "a.txt").write_text("a")
        (tree / "d").mkdir()
        (tree / "d").chmod(0)
        (tree / "a.txt").chmod(0)
        with somebody_else():
            with pytest.raises(SeedError, match=r"a\.txt cannot be read: Permission denied\n  d cannot be read: Perm"):
                pack(tree, io.BytesIO())
            if tree.stat().st_uid != os.geteuid():  # what is ours is opened for a dump
                skipped = pack(tree, io.BytesIO(), special="skip").skipped
                assert [path for path, _ in skipped] == ["a.txt", "d"]
        (tree / "d").chmod(0o755)


def test_a_file_that_vanishes_while_the_tree_is_packed(tree: Path) -> None:
    (tree / "big").write_bytes(os.urandom(4 << 20))
    for name in ("y", "z"):
        (tree / name).mkdir()
        (tree / name / "f").write_text("there")
    reader, writer = os.pipe()
    outcome: list[str] = []

    def work() -> None:
        with os.fdopen(writer, "wb") as sink:
            try:
                pack(tree, sink)
            except SeedError as error:
                outcome.append(str(error))

    packer = threading.Thread(target=work)
    packer.start()
    os.read(reader, 1)  # the tree has been scanned, and the pipe holds less than the first file
    (tree / "y" / "f").unlink()
    (tree / "z" / "f").unlink()
    (tree / "z").rmdir()
    while os.read(reader, 1 << 16):
        pass
    packer.join()
    os.close(reader)
    assert outcome == [f"{tree} cannot be packed: 'y/f' cannot be read any more: No such file or directory"]


def test_the_limit_names_the_largest_files_or_leaves_them_out(tree: Path, tmp_path: Path) -> None:
    (tree / "big").write_bytes(bytes(5_000))
    with pytest.raises(SeedError, match=r"5,001 bytes; the limit is 1,000[^0-9]+5,000  big"):
        pack(tree, io.BytesIO(), limit=1_000)
    packed = pack(tree, tmp_path / "t", special="skip", limit=1_000)
    assert packed.skipped == (("big", "its 5,000 bytes do not fit into the limit of 1,000"),)
    assert verify(tmp_path / "t").top == {"a.txt"}


@pytest.mark.parametrize("special", ["refuse", "skip"])
@pytest.mark.parametrize("change", ["grow", "shrink", "replace"])
def test_a_file_that_changes_while_it_is_packed(special: str, change: str, tree: Path, tmp_path: Path) -> None:
    """A FIFO as the sink stops the packer in the middle of the file: what is written fills the pipe."""
    big = tree / "big"
    big.write_bytes(os.urandom(4 << 20))
    reader, writer = os.pipe()
    outcome: list[object] = []

    def work() -> None:
        with os.fdopen(writer, "wb") as sink:
            try:
                outcome.append(pack(tree, sink, special=special))  # type: ignore[arg-type]
            except SeedError as error:
                outcome.append(error)

    packer = threading.Thread(target=work)
    packer.start()
    data = os.read(reader, 1)  # the packer is on its way; the pipe holds 64 KiB
    while len(data) < 100_000:
        data += os.read(reader, 1_000)
    if change == "grow":
        with big.open("ab") as more:
            more.write(b"more")
    elif change == "shrink":
        os.truncate(big, 2 << 20)
    else:
        with big.open("r+b") as stream:
            stream.write(b"other")
        os.utime(big, (1, 1))
    while piece := os.read(reader, 1 << 16):
        data += piece
    packer.join()
    os.close(reader)

    if special == "refuse":
        assert isinstance(outcome[0], SeedError)
        assert "'big' changed while it was packed" in str(outcome[0])
    else:
        assert "('big', 'changed while it was packed" in str(outcome[0])
        extract(io.BytesIO(data), tmp_path / "out")
        assert (tmp_path / "out" / "big").stat().st_size == 4 << 20


def test_a_tree_that_changes_all_the_time_gives_a_sound_dump(tree: Path, tmp_path: Path) -> None:
    script = """
import os, sys
os.chdir(sys.argv[1])
while True:
    for name in ("x", "y"):
        for step in (lambda: os.mkdir(name), lambda: open(name + "/f", "w").write("1" * 100000),
                     lambda: os.rename(name, name + "z"), lambda: os.symlink("/etc", name), lambda: os.unlink(name),
                     lambda: os.unlink(name + "z/f"), lambda: os.rmdir(name + "z"), lambda: os.mkfifo(name + "p"),
                     lambda: os.unlink(name + "p")):
            try:
                step()
            except OSError:
                pass
"""
    agent = subprocess.Popen([sys.executable, "-c", script, tree])
    try:
        for number in range(100):
            pack(tree, tmp_path / "t.tar.gz", special="skip")
            extract(tmp_path / "t.tar.gz", tmp_path / f"out{number}")
    finally:
        agent.kill()
        agent.wait()
    assert not [path for path in tmp_path.rglob("passwd") if "out" in path.parts[-3]]


@pytest.mark.parametrize("full", ["/dev/full", "missing/t.tar.gz"])
def test_a_sink_that_takes_nothing(full: str, tree: Path, tmp_path: Path) -> None:
    if full == "/dev/full":
        if not Path(full).exists():
            pytest.skip("this system has no /dev/full")
        (tree / "big").write_bytes(os.urandom(1 << 20))
        with (
            pytest.raises(SeedError, match="cannot write the archive: No space"),
            Path(full).open("wb", buffering=0) as sink,
        ):
            pack(tree, sink, special="skip")
    else:
        with pytest.raises(SeedError, match=r"cannot write .*t\.tar\.gz: No such file"):
            pack(tree, tmp_path / full)


def test_a_root_that_is_no_directory(tmp_path: Path) -> None:
    with pytest.raises(SeedError, match=r"cannot pack .*: No such file"):
        pack(tmp_path / "missing", io.BytesIO())


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"../a": ""}, "leaves the archive's root"),
        ({"a/../../b": ""}, "leaves the archive's root"),
        ({"/a": ""}, "absolute path"),
        ({"": ""}, "empty name"),
        ({".": "x"}, "names a directory, but has content"),
        ({"d/": "x"}, "names a directory, but has content"),
        ({"a\\b": ""}, "backslash"),
        ({"a": "", "a/b": ""}, "lies below 'a', which is a file"),
        ({"a/b": "", "a": ""}, "is there twice"),
        ({"a": "", "./a": ""}, "is there twice"),
        ({"A/x": "", "a/y": ""}, "one file where case"),
        ({"a": 1}, "is of type int"),
        ({"a": None}, "is of type NoneType"),
        ({1: "a"}, "give a path"),
        ({"a\0b": ""}, "NUL"),
    ],
)
def test_a_mapping_that_cannot_be_right_is_a_spec_error(files: dict[Any, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        pack_mapping(files, io.BytesIO())


def test_everything_below_a_directory(tree: Path, tmp_path: Path) -> None:
    sink = io.BytesIO()
    pack(tree, sink, below="in/side")
    sink.seek(0)
    extract(sink, tmp_path / "out")
    assert (tmp_path / "out" / "in" / "side" / "a.txt").read_text() == "a"
    for wrong in ("..", "/abs", ""):
        with pytest.raises(SpecError, match="relative to the workspace"):
            pack(tree, io.BytesIO(), below=wrong)
