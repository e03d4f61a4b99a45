"""A seed that cannot be packed is an ERROR with its path, and nothing has been acquired for it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SUITE = """
import pytest

@pytest.mark.local_sandbox("filesystem", workspace="data")
def test_declared(sandbox):
    raise AssertionError("it ran")

def test_called(local_sandbox):
    local_sandbox("filesystem", workspace="data")
    raise AssertionError("it ran")
"""
SHORT_PATH_SOCKET = "import socket; socket.socket(socket.AF_UNIX).bind('odd')"


def outside_link(data: Path) -> None:
    (data / "odd").symlink_to("../../elsewhere")


def chained_link(data: Path) -> None:
    (data / "a").mkdir()
    (data / "a" / "odd").symlink_to("../a/../../elsewhere")


def fifo(data: Path) -> None:
    os.mkfifo(data / "odd")


def unix_socket(data: Path) -> None:
    subprocess.run([sys.executable, "-c", SHORT_PATH_SOCKET], cwd=data, check=True)


def device(data: Path) -> None:
    try:
        os.mknod(data / "odd", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")


def too_large(data: Path) -> None:
    with (data / "odd").open("wb") as stream:
        stream.truncate(5 << 30)  # a hole; nothing is written


def unportable(data: Path) -> None:
    (data / "odd").mkdir()
    (data / "odd" / "a\\b").write_text("")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (outside_link, "a link that leads outside"),
        (chained_link, "a link that leads outside"),
        (fifo, "a FIFO"),
        (unix_socket, "a socket"),
        (device, "a character device"),
        (too_large, "the limit is 4,294,967,296"),
        (unportable, "backslash"),
    ],
)
def test_what_is_wrong_with_the_tree(pytester: pytest.Pytester, make: Callable[[Path], None], says: str) -> None:
    (pytester.path / "data").mkdir()
    (pytester.path / "data" / "fine.txt").write_text("fine")
    make(pytester.path / "data")
    pytester.makepyfile(SUITE)
    result = pytester.runpytest()
    result.assert_outcomes(errors=2)
    text = result.stdout.str()
    assert text.count(says) >= 2
    assert "odd" in text
    result.stdout.no_fnmatch_line("* acquired, *")


def test_a_tree_that_changes_while_it_is_packed(pytester: pytest.Pytester) -> None:
    data = pytester.path / "data"
    data.mkdir()
    (data / "log.bin").write_bytes(os.urandom(16 << 20))
    writing = "import sys\nwith open(sys.argv[1], 'ab', 0) as f:\n while True: f.write(b'x')"
    writer = subprocess.Popen([sys.executable, "-c", writing, str(data / "log.bin")])
    try:
        pytester.makepyfile(SUITE)
        result = pytester.runpytest()
    finally:
        writer.kill()
        writer.wait()
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*SeedError: *data cannot be packed: 'log.bin' changed while it was packed*"])
    result.stdout.no_fnmatch_line("* acquired, *")
