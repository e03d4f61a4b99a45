"""Zips that other programs make come out whole, and a wrapping directory of the sandbox comes off."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_klavis.workspace.archive import Limits, extract, members, pack, verify

from .build import END, PEAK, facts, file, folder, symlink, targz
from .buildzip import archive, member
from .buildzip import folder as zip_folder
from .buildzip import symlink as zip_symlink
from .hostile import found_in

ROOT = "/vercel/sandbox"


@pytest.fixture
def sandbox(tmp_path: Path) -> Path:
    """A workspace at vercel/sandbox, as Blackbox has it."""
    tree = tmp_path / "vercel" / "sandbox"
    (tree / "src" / "deep").mkdir(parents=True)
    (tree / "empty").mkdir()
    (tree / "a.txt").write_text("hello\n" * 5_000)
    (tree / "src" / "nothing").write_text("")
    (tree / "src" / "deep" / "noise").write_bytes(os.urandom(300_000))
    (tree / "run.sh").write_text("#!/bin/sh\n")
    (tree / "run.sh").chmod(0o755)
    (tree / "na\u00efve \U0001f600").write_text("name")
    (tree / "src" / "link").symlink_to("../a.txt")
    return tree


Maker = Callable[[Path, Path], None]


def info_zip(*options: str, place: int = 0, to_pipe: bool = False) -> Maker:
    """The zip program, in the sandbox or `place` directories above it."""

    def make(tree: Path, dest: Path) -> None:
        if to_pipe:
            (tree / "src" / "link").unlink()  # zip cannot write links into a pipe
        start = [tree, *tree.parents][place]
        command = ["zip", "-qry", *options, "-" if to_pipe else str(dest), str(tree.relative_to(start))]
        done = subprocess.run(command, cwd=start, check=True, stdout=subprocess.PIPE, input=b"a comment\n")
        if to_pipe:
            dest.write_bytes(done.stdout)

    return make


class Pipe(io.RawIOBase):
    """A sink that cannot seek."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        piece = bytes(data)  # type: ignore[call-overload]
        self.data += piece
        return len(piece)


def python(*, seekable: bool = True, zip64: bool = False, method: int = zipfile.ZIP_DEFLATED) -> Maker:
    def make(tree: Path, dest: Path) -> None:
        sink = io.BytesIO() if seekable else Pipe()
        with zipfile.ZipFile(sink, "w", method) as out:
            for path in sorted(tree.rglob("*")):
                info = zipfile.ZipInfo.from_file(path, str(path.relative_to(tree)), strict_timestamps=False)
                info.compress_type = method
                if path.is_symlink():
                    info.external_attr = (stat.S_IFLNK | 0o777) << 16
                    out.writestr(info, str(path.readlink()))
                elif path.is_dir():
                    out.writestr(info, "")
                else:
                    with out.open(info, "w", force_zip64=zip64) as stream:
                        stream.write(path.read_bytes())
        dest.write_bytes(sink.getvalue() if isinstance(sink, io.BytesIO) else sink.data)

    return make


def appended(tree: Path, dest: Path) -> None:
    """Python in mode "a" writes over the directory that was there."""
    python()(tree, dest)
    inner = dest.read_bytes()
    with zipfile.ZipFile(dest, "a") as out:
        out.writestr("later.zip", inner)
    (tree / "later.zip").write_bytes(inner)


needs_zip = pytest.mark.skipif(shutil.which("zip") is None, reason="the zip program is not here")
MAKERS = [
    pytest.param(info_zip(), id="zip", marks=needs_zip),
    pytest.param(info_zip("-0"), id="zip-stored", marks=needs_zip),
    pytest.param(info_zip("-fz"), id="zip-zip64", marks=needs_zip),
    pytest.param(info_zip("-z"), id="zip-comment", marks=needs_zip),
    pytest.param(info_zip(to_pipe=True), id="zip-piped", marks=needs_zip),
    pytest.param(info_zip("-X", place=1), id="zip-of-sandbox", marks=needs_zip),
    pytest.param(info_zip(place=2), id="zip-of-vercel-sandbox", marks=needs_zip),
    pytest.param(python(), id="python"),
    pytest.param(python(method=zipfile.ZIP_STORED), id="python-stored"),
    pytest.param(python(zip64=True), id="python-zip64"),
    pytest.param(python(seekable=False), id="python-streamed"),
    pytest.param(python(seekable=False, zip64=True), id="python-streamed-zip64"),
    pytest.param(appended, id="python-appended"),
]


@pytest.mark.parametrize("make", MAKERS)
def test_what_other_programs_zip_comes_out_whole(make: Maker, sandbox: Path, tmp_path: Path) -> None:
    make(sandbox, tmp_path / "w.zip")
    result = extract(tmp_path / "w.zip", tmp_path / "out", packed_from=ROOT)
    assert facts(tmp_path / "out") == facts(sandbox)
    assert result.skipped == ()
    assert result.files == sum(path.is_file() and not path.is_symlink() for path in sandbox.rglob("*"))


@pytest.mark.parametrize("make", MAKERS)
def test_a_zip_lists_what_the_tar_of_the_same_tree_lists(make: Maker, sandbox: Path, tmp_path: Path) -> None:
    make(sandbox, tmp_path / "w.zip")
    pack(sandbox, tmp_path / "w.tar.gz")
    top = verify(tmp_path / "w.zip").top
    prefix = "vercel/sandbox/" if "vercel" in top else "sandbox/" if "sandbox" in top else ""
    zipped = {one.path: one for one in members(tmp_path / "w.zip")}
    for one in members(tmp_path / "w.tar.gz"):
        other = zipped[prefix + one.path]
        assert (other.kind, other.size, other.digest) == (one.kind, one.size, one.digest)
        assert one.kind == "link" or bool(other.mode & 0o111) == bool(one.mode & 0o111)


@needs_zip
def test_names_that_are_not_utf8_and_links_that_lead_outside(sandbox: Path, tmp_path: Path) -> None:
    if sys.platform == "darwin":
        pytest.skip("macOS has no names that are not UTF-8")
    (sandbox / os.fsdecode(b"\xff\xfe")).write_text("raw")
    before = facts(sandbox)
    (sandbox / "python").symlink_to("/usr/bin/python3")
    info_zip(place=1)(sandbox, tmp_path / "w.zip")
    result = extract(tmp_path / "w.zip", tmp_path / "out", packed_from=ROOT)
    assert facts(tmp_path / "out") == before
    assert result.skipped == (("python", "an absolute link: /usr/bin/python3"),)


def test_dates_are_kept_as_far_as_a_zip_has_them(sandbox: Path, tmp_path: Path) -> None:
    os.utime(sandbox / "a.txt", (1_700_000_000, 1_700_000_000))
    python()(sandbox, tmp_path / "w.zip")
    extract(tmp_path / "w.zip", tmp_path / "out")
    assert abs((tmp_path / "out" / "a.txt").stat().st_mtime - 1_700_000_000) < 15 * 3600  # no time zone in it


# what is packed from /vercel/sandbox: names, then what is stripped
WRAPPED: list[tuple[list[str], str]] = [
    (["vercel/sandbox/", "vercel/sandbox/a"], "vercel/sandbox"),
    (["vercel/", "vercel/sandbox/a", "vercel/sandbox/b/"], "vercel/sandbox"),
    (["sandbox/", "sandbox/a", "sandbox/d/b"], "sandbox"),
    (["sandbox/a"], "sandbox"),
    (["sandbox/"], "sandbox"),
    (["sandbox/sandbox/a"], "sandbox"),
    (["sandbox/vercel/sandbox/a"], "sandbox"),
    (["vercel/a"], ""),
    (["vercel/"], ""),
    (["vercel/sandbox/a", "vercel/b"], ""),
    (["vercel/sandbox/a", "b"], ""),
    (["sandbox/a", "b/"], ""),
    (["sandbox"], ""),
    (["project/a"], ""),
    (["project/sandbox/a"], ""),
    (["sandbox2/a"], ""),
    (["Sandbox/a"], ""),
    (["./", "sandbox/a"], ""),  # an entry for the root: packed from inside
    ([], ""),
]


@pytest.mark.parametrize("form", ["tar", "zip"])
@pytest.mark.parametrize(("names", "stripped"), WRAPPED)
def test_the_sandbox_s_own_directory_comes_off(names: list[str], stripped: str, form: str, tmp_path: Path) -> None:
    if form == "tar":
        data = targz(*(folder(name) if name.endswith("/") else file(name, name.encode()) for name in names))
    else:
        data = archive(*(zip_folder(name) if name.endswith("/") else member(name, name.encode()) for name in names))
    result = extract(io.BytesIO(data), tmp_path / "out", packed_from=ROOT)
    assert result.stripped == stripped
    plain = extract(io.BytesIO(data), tmp_path / "plain")
    assert plain.stripped == ""
    assert found_in(tmp_path / "out") == found_in(tmp_path / "plain" / stripped)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755

    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("mine")
    extract(io.BytesIO(data), tmp_path / "there", packed_from=ROOT, merge=True)
    assert found_in(tmp_path / "there") == {"mine": b"mine", **found_in(tmp_path / "out")}


@pytest.mark.parametrize("packed_from", ["", "/", "./", "//"])
def test_a_root_without_a_name_strips_nothing(packed_from: str, tmp_path: Path) -> None:
    result = extract(io.BytesIO(targz(file("sandbox/a"))), tmp_path / "out", packed_from=packed_from)
    assert result.stripped == ""
    assert found_in(tmp_path / "out") == {"sandbox": "", "sandbox/a": b"x"}


@pytest.mark.parametrize("form", ["tar", "zip"])
def test_links_are_judged_from_the_root_that_is_left(form: str, tmp_path: Path) -> None:
    links = {"up": "../secret", "here": "a", "round": "../sandbox/a", "far": "/vercel/sandbox/a", "top": "."}
    if form == "tar":
        data = targz(folder("vercel/sandbox"), file("vercel/sandbox/a"), *(
            symlink(f"vercel/sandbox/{name}", target) for name, target in links.items()), end=END)  # fmt: skip
    else:
        data = archive(zip_folder("vercel/sandbox/"), member("vercel/sandbox/a"), *(
            zip_symlink(f"vercel/sandbox/{name}", target) for name, target in links.items()))  # fmt: skip
    result = extract(io.BytesIO(data), tmp_path / "out", packed_from=ROOT)
    assert found_in(tmp_path / "out") == {"a": b"x", "here": "a"}
    assert [path for path, _ in result.skipped] == ["far", "round", "top", "up"]
    assert sorted(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_link_for_a_wrapper_is_no_wrapper(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "a").write_text("a")
    data = archive(zip_symlink("sandbox", "../secret"))
    result = extract(io.BytesIO(data), tmp_path / "out", packed_from=ROOT)
    assert (result.stripped, found_in(tmp_path / "out")) == ("", {})


def test_a_file_that_is_called_zip_may_be_a_tar_and_the_other_way_round(sandbox: Path, tmp_path: Path) -> None:
    pack(sandbox, tmp_path / "w.zip")
    python()(sandbox, tmp_path / "w.tar.gz")
    for name in ("w.zip", "w.tar.gz"):
        extract(tmp_path / name, tmp_path / f"out-{name}")
        assert facts(tmp_path / f"out-{name}") == facts(sandbox)


def test_what_tar_makes_of_an_absolute_path_comes_off_too(sandbox: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "w.tar.gz", "w:gz") as out:
        out.add(sandbox, ROOT)  # tarfile drops the slash, as tar and zip do
    result = extract(tmp_path / "w.tar.gz", tmp_path / "out", packed_from=ROOT)
    assert result.stripped == "vercel/sandbox"
    assert facts(tmp_path / "out") == facts(sandbox)


def test_memory_stays_flat_for_a_zip(tmp_path: Path) -> None:
    script = """
work = Path(sys.argv[1])
base = peak()
extract(work / "w.zip", work / "out")
print(peak() - base)
"""
    noise = os.urandom(1 << 20)
    with zipfile.ZipFile(tmp_path / "w.zip", "w", zipfile.ZIP_DEFLATED) as out:
        for name, block in (("noise", noise), ("zeros", bytes(1 << 19) + noise[: 1 << 19])):
            with out.open(name, "w") as stream:
                for _ in range(30):
                    stream.write(block)
    command = [sys.executable, "-c", PEAK + script, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert 0 < int(done.stdout) < 20 << 20
    assert (tmp_path / "out" / "noise").stat().st_size == 30 << 20


def test_ten_thousand_members_take_seconds(tmp_path: Path) -> None:
    data = archive(*(member(f"d{n % 50}/f{n}", b"%d" % n, method=0) for n in range(10_000)))
    result = extract(io.BytesIO(data), tmp_path / "out", limits=Limits())
    assert (result.files, result.bytes) == (10_000, 38_890)
