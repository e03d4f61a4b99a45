"""A disk that is full or a limit that is reached: an error that says so, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pytest_klavis.workspace.archive import extract, pack_mapping
from pytest_klavis.workspace.names import encode
from pytest_klavis.workspace.trees import partial_name

from .build import file, targz

SCRIPT = """
import json, os, resource, sys
from pathlib import Path
from pytest_klavis.errors import ArchiveError, SeedError
from pytest_klavis.workspace.archive import extract, pack

action, source, dest, limit = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    if action == "pack":
        pack(source, dest)
    else:
        extract(source, dest, merge=action == "merge")
except (ArchiveError, SeedError) as error:
    said = type(error).__name__ + ": " + str(error)
else:
    said = "done"
print(json.dumps([said, sorted(os.listdir(dest.parent)), sorted(os.listdir(dest)) if dest.is_dir() else None]))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree, a tar.gz and a zip with more than a megabyte in them."""
    place = tmp_path / "source"
    (place / "tree").mkdir(parents=True)
    noise = os.urandom(3 << 20)
    (place / "tree" / "small").write_text("small")
    (place / "tree" / "big").write_bytes(noise)
    (place / "t.tar.gz").write_bytes(targz(file("d/small", b"s"), file("d/big", noise)))
    with zipfile.ZipFile(place / "t.zip", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("d/small", "s")
        out.writestr("d/big", noise)
    return place


def outcome(*command: object) -> tuple[str, list[str], list[str] | None]:
    done = subprocess.run([str(one) for one in command], check=True, capture_output=True, text=True)
    said, beside, inside = json.loads(done.stdout)
    return said, beside, inside


@pytest.mark.parametrize("name", ["t.tar.gz", "t.zip"])
def test_a_file_that_grows_over_the_limit_of_the_process(name: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    dest = tmp_path / "here" / "out"
    said, beside, _ = outcome(sys.executable, "-c", SCRIPT, "extract", source / name, dest, 1 << 20)
    assert said == f"ArchiveError: cannot unpack into {dest}: File too large"
    assert beside == []
    dest.mkdir()
    (dest / "mine").write_text("mine")
    said, beside, inside = outcome(sys.executable, "-c", SCRIPT, "merge", source / name, dest, 1 << 20)
    assert "File too large" in said
    assert (beside, inside) == (["out"], ["mine"])


def test_an_archive_that_grows_over_the_limit_of_the_process(source: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    dest = tmp_path / "here" / "t.tar.gz"
    said, beside, _ = outcome(sys.executable, "-c", SCRIPT, "pack", source / "tree", dest, 1 << 20)
    assert said.startswith("SeedError: cannot write ")
    assert "File too large" in said
    assert beside == []


def mounts() -> bool:
    """Whether this user may have a small disk of their own."""
    if shutil.which("unshare") is None:
        return False
    asked = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=1m none /mnt"]
    return subprocess.run(asked, check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="unshare and tmpfs are Linux's")
@pytest.mark.parametrize(("action", "name"), [("extract", "t.tar.gz"), ("extract", "t.zip"), ("pack", "tree")])
def test_a_disk_that_is_full(action: str, name: str, source: Path, tmp_path: Path) -> None:
    if not mounts():
        pytest.skip("no disk can be mounted here (user namespaces are off)")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = 'mount -t tmpfs -o size=2m none "$0" && exec "$@"'
    command = ("unshare", "-rm", "sh", "-c", mounted, disk, sys.executable, "-c", SCRIPT)
    said, beside, _ = outcome(*command, action, source / name, disk / "out", 0)
    assert "No space left on device" in said
    assert said.startswith("SeedError" if action == "pack" else "ArchiveError")
    assert beside == []


def test_a_directory_that_cannot_be_written(source: Path, tmp_path: Path) -> None:
    dest = tmp_path / "missing" / "out"
    (tmp_path / "missing").write_text("a file")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("os.listdir(dest.parent)", "[]"), "extract", source / "t.zip", dest, "0"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "ArchiveError: cannot unpack into" in done.stdout


@pytest.mark.parametrize("name", ["\u6f22" * 80, "\U0001f600" * 60, "n" * 255, "a" + "\u00e9" * 120])
def test_a_name_as_long_as_the_file_system_takes_is_no_trouble(tmp_path: Path, name: str) -> None:
    """What is made beside it meanwhile has a longer name of its own: counted in bytes, and no character cut."""
    assert len(encode(partial_name(name))) < 130
    assert partial_name(name).isprintable()
    pack_mapping({"a": "1"}, tmp_path / name)
    target = tmp_path / f"{name[:-1]}t"
    extract(tmp_path / name, target)
    assert (target / "a").read_text() == "1"
