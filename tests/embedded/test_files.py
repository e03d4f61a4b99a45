"""Rooted file access, on both ways to it: openat2 and the walk."""

from __future__ import annotations

import os
import socket
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_klavis.embedded.files import (
    AccessDeniedError,
    ClosedError,
    DiskFullError,
    Entry,
    NotAFileError,
    TooLargeError,
    WorkspaceFiles,
    agent_path,
)
from pytest_klavis.embedded.rooted import LIBC, has_openat2
from tests.embedded.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

WAYS = [
    pytest.param(True, id="openat2", marks=pytest.mark.skipif(not has_openat2(), reason="this kernel has no openat2")),
    pytest.param(False, id="walk"),
]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.txt").write_text("SECRET")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("A")
    (folder / "sub" / "b.txt").write_text("B")
    return folder


@pytest.fixture(params=WAYS)
def files(request: pytest.FixtureRequest, root: Path) -> WorkspaceFiles:
    return WorkspaceFiles(root, openat2=request.param)


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        (".", "."),
        ("", "."),
        ("/data", "."),
        ("/data/", "."),
        ("//data/a", "a"),
        ("a/./b/../c", "a/c"),
        ("/data/a/../b", "b"),
        ("/data/../data/x", "x"),
        ("/srv/ws/deep/x.txt", "deep/x.txt"),
        ("~tilde", "~tilde"),
        ("-x", "-x"),
        ("dir with space/ü", "dir with space/ü"),
    ],
)
def test_agent_paths_are_relative_and_normalised(text: str, inner: str) -> None:
    assert agent_path(text, ("/data", "/srv/ws")) == inner


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/etc/passwd", "/etc/passwd"),
        ("../x", "/x"),
        ("a/../../x", "/x"),
        ("/data/../etc", "/etc"),
        ("/database", "/database"),
        ("/", "/"),
        ("~", "~"),
        ("~/x", "~/x"),
        ("a\0b", "a\0b"),
        ("\ud800", "\ud800"),
    ],
)
def test_agent_paths_outside_are_denied(text: str, shown: str) -> None:
    with pytest.raises(AccessDeniedError) as caught:
        agent_path(text, ("/data", "/srv/ws"))
    assert str(caught.value) == f"Access denied - path outside allowed directories: {shown}"


def test_reads_and_lists(files: WorkspaceFiles) -> None:
    assert files.read_bytes("sub/b.txt", 10) == b"B"
    assert files.listdir() == ["a.txt", "sub"]
    assert files.scan("sub")[0] == Entry("b.txt", "file", 1)
    assert [path for path, _ in files.walk()] == ["a.txt", "sub", "sub/b.txt", "sub/deep"]
    assert files.exists("sub/deep")
    assert not files.exists("sub/none")
    assert files.stat("sub").st_mode & stat.S_IFDIR
    assert files.usage() == 2


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("l", "a.txt"),
        ("sub/l", "../a.txt"),
        ("sub/deep/l", "../../sub/../a.txt"),
        ("l", "/data/a.txt"),
        ("l", "{root}/a.txt"),
        ("l", "sub/../sub/deep/../../a.txt"),
    ],
)
def test_links_inside_are_followed(files: WorkspaceFiles, root: Path, link: str, target: str) -> None:
    (root / link).symlink_to(target.format(root=root))
    (root / "way").symlink_to("/data/sub")
    assert files.read_bytes(link, 10) == b"A"
    assert files.read_bytes("way/b.txt", 10) == b"B"
    files.write_bytes(link, b"new")
    assert (root / "a.txt").read_bytes() == b"new"
    assert (root / link).is_symlink()


@pytest.mark.parametrize(
    "target", ["/etc", "{outside}", "../outside", "sub/../../outside", "/", "..", "/data/../outside"]
)
def test_links_out_are_denied(files: WorkspaceFiles, root: Path, outside: Path, target: str) -> None:
    (root / "out").symlink_to(target.format(outside=outside))
    (root / "chain").symlink_to("out")
    for name in ("out/secret.txt", "chain/secret.txt", "sub/../out/secret.txt", "sub/../chain/passwd"):
        with pytest.raises(AccessDeniedError, match="symlink target outside allowed directories"):
            files.read_bytes(name, 100)
        with pytest.raises(AccessDeniedError):
            files.write_bytes(name, b"x")
        with pytest.raises(AccessDeniedError):
            files.mkdir(f"{name}/new")
        assert not files.exists(name)
    assert [item.name for item in outside.iterdir()] == ["secret.txt"]
    assert [path for path, _ in files.walk() if path.startswith(("out", "chain"))] == ["chain", "out"]


def test_circles_of_links_end(files: WorkspaceFiles, root: Path) -> None:
    (root / "x").symlink_to("y")
    (root / "y").symlink_to("x")
    (root / "up").symlink_to("sub/" + "../sub/" * 300)
    (root / "far").symlink_to("/data/far/deeper")
    for name in ("x", "x/z", "far", "far/z"):
        with pytest.raises(OSError, match="symbolic links"):
            files.read_bytes(name, 10)
    assert files.listdir("up") == ["b.txt", "deep"]


def test_a_path_that_is_no_inner_path_is_a_mistake(files: WorkspaceFiles) -> None:
    for path in ("/etc/passwd", "a\0b"):
        with pytest.raises(ValueError, match="relative"):
            files.read_bytes(path, 10)
    for path in ("../outside/secret.txt", "sub/../../outside/secret.txt"):
        with pytest.raises(AccessDeniedError):
            files.read_bytes(path, 10)


def test_writing_replaces_all_at_once_and_keeps_the_permissions(files: WorkspaceFiles, root: Path) -> None:
    script = root / "run.sh"
    script.write_text("old")
    script.chmod(0o755)
    with files.open_read("run.sh") as reader:
        files.write_bytes("run.sh", b"new and longer")
        assert reader.read() == b"old"
    assert script.read_text() == "new and longer"
    assert stat.S_IMODE(script.stat().st_mode) == 0o755
    files.write_bytes("fresh.txt", b"")
    assert stat.S_IMODE((root / "fresh.txt").stat().st_mode) == 0o644
    with pytest.raises(FileNotFoundError):
        files.write_bytes("no/such/x", b"")
    files.write_bytes("no/such/x", b"1", parents=True)
    with pytest.raises(IsADirectoryError):
        files.write_bytes("sub", b"")
    assert not [name for name in files.listdir() if name.endswith(".tmp")]


def test_mkdir(files: WorkspaceFiles, root: Path) -> None:
    files.mkdir("x/y/z")
    files.mkdir("x/y/z")
    assert (root / "x/y/z").is_dir()
    with pytest.raises(FileExistsError):
        files.mkdir("a.txt")
    with pytest.raises(NotADirectoryError):
        files.mkdir("a.txt/b")


def test_rename_never_replaces_unless_asked(files: WorkspaceFiles, root: Path) -> None:
    with pytest.raises(FileExistsError):
        files.rename("a.txt", "sub/b.txt")
    assert (root / "sub/b.txt").read_text() == "B"
    files.rename("a.txt", "sub/b.txt", replace=True)
    assert (root / "sub/b.txt").read_text() == "A"
    (root / "out").symlink_to("/etc/hostname")
    files.rename("out", "moved")
    assert (root / "moved").readlink() == Path("/etc/hostname")
    with pytest.raises(FileNotFoundError):
        files.rename("gone", "x")


def test_what_is_no_file_is_never_opened(files: WorkspaceFiles, root: Path, tmp_path: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "s"))
        for name, kind in (("pipe", "a FIFO"), ("link", "a FIFO"), ("s", "a socket")):
            for attempt in (
                lambda name=name: files.read_bytes(name, 10),
                lambda name=name: files.write_bytes(name, b""),
            ):
                in_time(attempt, NotAFileError, kind)
    assert [entry.kind for entry in files.scan() if entry.name in {"pipe", "s"}] == ["other", "other"]
    assert stat.S_ISFIFO(files.stat("link").st_mode)


def in_time(attempt: Callable[[], object], error: type[OSError], text: str) -> None:
    """The attempt fails so, and does not block."""
    caught: list[BaseException] = []

    def run() -> None:
        try:
            attempt()
        except OSError as problem:
            caught.append(problem)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "opening blocks"
    assert [type(problem) for problem in caught] == [error]
    assert text in str(caught[0])


def test_limits_on_reading_and_on_the_disk(root: Path) -> None:
    files = WorkspaceFiles(root, disk=1000)
    with pytest.raises(TooLargeError):
        files.read_bytes("a.txt", 0)
    files.write_bytes("big", b"x" * 900)
    with pytest.raises(DiskFullError, match="holds 902 of its 1000 bytes, 200 more do not fit"):
        files.write_bytes("more", b"x" * 200)
    assert not (root / "more").exists()
    files.write_bytes("big", b"y" * 950)  # only the difference counts
    (root / "by_process").write_bytes(b"z" * 500)
    time.sleep(1.1)
    with pytest.raises(DiskFullError):
        files.write_bytes("more", b"x")
    (root / "big").unlink()  # room that a process made counts at once
    files.write_bytes("more", b"x" * 400)


def test_a_tree_deeper_than_any_path_is_measured(files: WorkspaceFiles, root: Path) -> None:
    here = os.open(root, os.O_RDONLY)
    for _ in range(600):
        os.mkdir("deep-directory", dir_fd=here)
        deeper = os.open("deep-directory", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    assert files.usage() == 2


@needs_root
def test_what_is_made_belongs_to_the_owner(root: Path) -> None:
    files = WorkspaceFiles(root, 54_321)
    files.write_bytes("new.txt", b"1")
    files.mkdir("n/m")
    for name in ("new.txt", "n", "n/m"):
        found = (root / name).lstat()
        assert (found.st_uid, found.st_gid) == (54_321, 54_321)


@pytest.mark.skipif(not hasattr(LIBC, "renameat2"), reason="swapping needs renameat2")
def test_a_link_swapped_in_under_way_never_leads_out(files: WorkspaceFiles, root: Path, outside: Path) -> None:
    """One thread turns a directory and a file into links out and back, as fast as it can; another works there."""
    (root / "real").mkdir()
    (root / "real" / "secret.txt").write_text("inside")
    (root / "out").symlink_to(outside)
    (root / "file").write_text("inside")
    (root / "file-out").symlink_to(outside / "secret.txt")
    stop = threading.Event()
    turns, exchange = 0, 2

    def swap() -> None:
        nonlocal turns
        while not stop.is_set():
            for one, other in (("real", "out"), ("file", "file-out")):
                LIBC.renameat2(-100, bytes(root / one), -100, bytes(root / other), exchange)
            turns += 1

    seen: set[bytes] = set()
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            for attempt in (
                lambda: seen.add(files.read_bytes("real/secret.txt", 100)),
                lambda: seen.add(files.read_bytes("sub/../real/secret.txt", 100)),
                lambda: seen.add(files.read_bytes("file", 100)),
                lambda: files.write_bytes("real/secret.txt", b"written"),
                lambda: files.mkdir("real/made"),
                lambda: files.scan("real"),
                lambda: list(files.walk()),
            ):
                try:
                    attempt()
                except OSError:
                    continue
    finally:
        stop.set()
        thread.join()
    assert turns > 20
    assert seen
    assert seen <= {b"inside", b"written"}
    assert [item.name for item in outside.iterdir()] == ["secret.txt"]
    assert (outside / "secret.txt").read_text() == "SECRET"


def test_nothing_is_changed_once_they_are_closed(files: WorkspaceFiles, root: Path) -> None:
    walk = files.walk()
    next(walk)
    files.close()
    for change in (
        lambda: files.write_bytes("a.txt", b"late"),
        lambda: files.mkdir("late"),
        lambda: files.rename("a.txt", "late"),
        lambda: next(walk),
    ):
        with pytest.raises(ClosedError, match="reset or released"):
            change()
    assert sorted(path.name for path in root.iterdir()) == ["a.txt", "sub"]
    assert files.read_bytes("a.txt", 9) == b"A"


def test_closing_waits_for_the_change_that_is_under_way(files: WorkspaceFiles) -> None:
    closer = threading.Thread(target=files.close)
    with files.lock:
        files.write_bytes("a.txt", b"1")
        closer.start()
        wait_until(lambda: files.closed)
        closer.join(0.2)
        assert closer.is_alive()
        with pytest.raises(ClosedError):
            files.write_bytes("a.txt", b"2")
    closer.join(10)
    assert not closer.is_alive()


def test_links_that_make_walks_long_end_soon(root: Path) -> None:
    files = WorkspaceFiles(root, openat2=False)
    deep = "/".join(["d"] * 100)
    (root / deep / "x").mkdir(parents=True)
    (root / "L").symlink_to(f"/data/{deep}/" + "x/../" * 95 + "x")
    start = time.process_time()
    for _ in range(100):
        assert not files.exists("L/" + "/".join(["a"] * 900))
    assert time.process_time() - start < 8  # 20,000 steps each are 20 s and more
