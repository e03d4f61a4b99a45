"""Trees that users have go in and come out the same, and the same tree always gives the same bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from pytest_klavis.errors import ArchiveError
from pytest_klavis.workspace.archive import extract, members, pack, pack_mapping

from .build import PEAK, facts, file, hardlink, targz


def git(*arguments: str, cwd: Path) -> str:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=cwd, env=environment, check=True, capture_output=True, text=True
    ).stdout


def round_trip(tree: Path, tmp_path: Path) -> Path:
    pack(tree, tmp_path / "tree.tar.gz")
    extract(tmp_path / "tree.tar.gz", tmp_path / "out")
    return tmp_path / "out"


def test_a_git_repository(tmp_path: Path) -> None:
    tree = tmp_path / "repository"
    tree.mkdir()
    git("init", "-q", cwd=tree)
    (tree / "run.sh").write_text("#!/bin/sh\n")
    (tree / "run.sh").chmod(0o755)
    (tree / "a.txt").write_text("a\n")
    (tree / "link").symlink_to("a.txt")
    git("add", "-A", cwd=tree)
    git("commit", "-qm", "one", cwd=tree)
    (tree / "a.txt").write_text("changed\n")

    out = round_trip(tree, tmp_path)

    assert git("status", "--porcelain", cwd=out) == " M a.txt\n"
    assert git("rev-parse", "HEAD", cwd=out) == git("rev-parse", "HEAD", cwd=tree)
    assert git("fsck", "--strict", cwd=out) == ""


def test_a_virtual_environment_loses_its_absolute_links_and_says_so(tmp_path: Path) -> None:
    tree = tmp_path / "venv"
    (tree / "bin").mkdir(parents=True)
    (tree / "lib" / "site").mkdir(parents=True)
    (tree / "lib64").symlink_to("lib")
    (tree / "bin" / "python3.11").symlink_to(sys.executable)
    (tree / "bin" / "python").symlink_to("python3.11")
    (tree / "lib" / "site" / "up").symlink_to("../../bin")
    (tree / "pyvenv.cfg").write_text("home = /usr\n")

    packed = pack(tree, tmp_path / "dump.tar.gz", special="skip")
    result = extract(tmp_path / "dump.tar.gz", tmp_path / "out")

    assert packed.skipped == ()
    assert result.skipped == (
        ("bin/python", "a link that leads outside through another one: python3.11"),
        ("bin/python3.11", f"an absolute link: {sys.executable}"),
    )
    assert (tmp_path / "out" / "lib64").readlink() == Path("lib")
    assert (tmp_path / "out" / "lib" / "site" / "up").readlink() == Path("../../bin")


def test_a_real_virtual_environment_works_again_when_its_interpreter_is_put_back(tmp_path: Path) -> None:
    made = [sys.executable, "-m", "venv", "--symlinks", "--without-pip", str(tmp_path / "venv")]
    subprocess.run(made, check=True, capture_output=True)
    before = facts(tmp_path / "venv")
    links = {name for name, fact in before.items() if fact.kind == stat.S_IFLNK}
    absolute = {name for name in links if before[name].content.startswith(b"/")}

    packed = pack(tmp_path / "venv", tmp_path / "dump.tar.gz", special="skip")
    result = extract(tmp_path / "dump.tar.gz", tmp_path / "out")

    left_out = {path for path, _ in result.skipped}
    assert packed.skipped == ()
    assert absolute <= left_out <= links
    assert any(name.startswith("bin/python") for name in absolute)
    assert facts(tmp_path / "out") == {name: fact for name, fact in before.items() if name not in left_out}
    for name in left_out:
        (tmp_path / "out" / name).symlink_to((tmp_path / "venv" / name).resolve())
    asked = [str(tmp_path / "out" / "bin" / "python"), "-c", "import sys; print(sys.prefix)"]
    done = subprocess.run(asked, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path / "out")


def test_fifty_thousand_files(tmp_path: Path) -> None:
    """By their digests on the way in and out: to make them on disk would take most of a minute."""
    files = {f"d{n % 500}/e{n % 7}/f{n}": b"%d" % n for n in range(50_000)}
    first = pack_mapping(files, tmp_path / "t.tar.gz")
    found = {one.path: one for one in members(tmp_path / "t.tar.gz")}
    assert first.files == 50_000
    assert {path for path, one in found.items() if one.kind == "file"} == files.keys()
    assert all(found[path].digest == hashlib.sha256(data).hexdigest() for path, data in files.items())


def test_ten_thousand_files_on_disk(tmp_path: Path) -> None:
    files = {f"d{n % 50}/e{n % 7}/f{n}": b"%d" % n for n in range(10_000)}
    pack_mapping({**files, "empty/": ""}, tmp_path / "one.tar.gz")
    result = extract(tmp_path / "one.tar.gz", tmp_path / "out")
    assert (result.files, result.skipped) == (10_000, ())
    pack(tmp_path / "out", tmp_path / "two.tar.gz")
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no names that are not UTF-8")
def test_names_that_are_not_utf8_and_long_ones(tmp_path: Path) -> None:
    tree = tmp_path / "names"
    tree.mkdir()
    for name in (b"\xff\xfe", "na\u00efve \U0001f600".encode(), b"n" * 255, b" space ", b"-rf"):
        (tree / os.fsdecode(name)).write_bytes(name)
    deep = tree.joinpath(*["d" * 200] * 5)
    deep.mkdir(parents=True)
    (deep / "file").write_text("deep")
    assert facts(round_trip(tree, tmp_path)) == facts(tree)


def test_other_programs_read_what_is_packed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub" / ("x" * 90)).mkdir(parents=True)
    (tree / "sub" / ("x" * 90) / ("y" * 90)).write_text("long")
    (tree / "\u00fc").write_text("u")
    (tree / "empty").write_text("")
    pack(tree, tmp_path / "tree.tar.gz")
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "xzf", tmp_path / "tree.tar.gz", "-C", tmp_path / "out"], check=True)
    assert facts(tmp_path / "out") == facts(tree)


def test_what_other_programs_pack_is_read(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub" / ("x" * 120)).mkdir(parents=True)
    (tree / "sub" / ("x" * 120) / ("y" * 120)).write_text("long")
    (tree / "\u00fc").write_bytes(os.urandom(100_000))
    (tree / "l").symlink_to("sub/" + "x" * 120)
    for form in ("gnu", "posix", "ustar", "v7", "oldgnu"):
        source = tree if form in ("gnu", "posix", "oldgnu") else tree / "sub"
        archive = tmp_path / f"{form}.tar.gz"
        done = subprocess.run(
            ["tar", f"--format={form}", "-czf", archive, "-C", source, "."], check=False, capture_output=True
        )
        if done.returncode:
            assert form in ("ustar", "v7")  # these cannot hold the long names
            continue
        extract(archive, tmp_path / form)
        assert facts(tmp_path / form) == facts(source)


def test_members_are_dot_forms_in_order_with_fixed_fields(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a").mkdir(parents=True)
    for name in ("a/b", "a-b", "z", "B"):
        (tree / name).write_text(name)
    (tree / "z").chmod(0o777)
    (tree / "l").symlink_to("a/b")
    pack(tree, tmp_path / "t.tar.gz")

    raw = (tmp_path / "t.tar.gz").read_bytes()
    assert raw[:4] == b"\x1f\x8b\x08\x00"  # no name
    assert raw[4:8] == bytes(4)  # no time
    with tarfile.open(tmp_path / "t.tar.gz") as archive:
        found = archive.getmembers()
    assert [info.name for info in found] == [".", "./B", "./a", "./a-b", "./a/b", "./l", "./z"]
    assert {info.mtime for info in found} == {946_684_800}
    assert {(info.uid, info.gid, info.uname, info.gname) for info in found} == {(0, 0, "", "")}
    assert {info.name: info.mode for info in found if info.isreg()}["./z"] == 0o755
    assert not any(info.pax_headers for info in found)
    assert (tmp_path / "t.tar.gz").stat().st_mode & 0o777 == 0o600


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for attempt, mask in ((1, 0o022), (2, 0o077)):
        before = os.umask(mask)
        try:
            tree = tmp_path / f"tree{attempt}"
            for name in sorted(("b", "a/c", "a/d"), reverse=attempt == 2):
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                (tree / name).write_text(name)
                os.utime(tree / name, (attempt, attempt))
        finally:
            os.umask(before)
        sink = io.BytesIO()
        pack(tree, sink)
        digests.add(hashlib.sha256(gzip.decompress(sink.getvalue())).hexdigest())
    assert len(digests) == 1


def test_the_extra_compressor_changes_the_gzip_but_not_the_tar(tmp_path: Path) -> None:
    pytest.importorskip("isal")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "text").write_text("one two three " * 50_000)
    (tree / "noise").write_bytes(os.urandom(300_000))
    (tree / "empty").write_text("")
    without = """
import sys
sys.modules["isal"] = None  # as where it is not installed
from pathlib import Path
from pytest_klavis.workspace.archive import pack
pack(Path(sys.argv[1]), Path(sys.argv[2]))
"""
    for number in (1, 2):
        pack(tree, tmp_path / f"fast{number}.tar.gz")
        command = [sys.executable, "-c", without, str(tree), str(tmp_path / f"plain{number}.tar.gz")]
        subprocess.run(command, check=True)
    fast, plain = (tmp_path / "fast1.tar.gz").read_bytes(), (tmp_path / "plain1.tar.gz").read_bytes()
    assert fast == (tmp_path / "fast2.tar.gz").read_bytes()
    assert plain == (tmp_path / "plain2.tar.gz").read_bytes()
    assert fast != plain
    assert gzip.decompress(fast) == gzip.decompress(plain)
    extract(tmp_path / "fast1.tar.gz", tmp_path / "out")
    assert facts(tmp_path / "out") == facts(tree)
    subprocess.run(["gzip", "-t", tmp_path / "fast1.tar.gz"], check=True)


def test_a_mapping_gives_the_bytes_of_its_tree(tmp_path: Path) -> None:
    (tmp_path / "t" / "d").mkdir(parents=True)
    (tmp_path / "t" / "d" / "a.txt").write_text("caf\u00e9")
    (tmp_path / "t" / "b").write_bytes(b"\0")
    (tmp_path / "t" / "run").write_text("#!/bin/sh\n")
    (tmp_path / "t" / "run").chmod(0o755)
    (tmp_path / "t" / "out").mkdir()
    tree, mapping = io.BytesIO(), io.BytesIO()
    packed = pack(tmp_path / "t", tree)
    again = pack_mapping({"run": "#!/bin/sh\n", "b": b"\0", "./d/a.txt": "caf\u00e9", "out/": ""}, mapping)
    assert tree.getvalue() == mapping.getvalue()
    assert packed == again
    assert packed.files == 3


def test_a_listing_has_digests_and_targets() -> None:
    data = targz(file("./d/a", b"hello", mode=0o600), hardlink("h", "d/a"))
    digest = hashlib.sha256(b"hello").hexdigest()
    assert list(members(io.BytesIO(data))) == [
        ("d/a", "file", 5, 0o600, digest),
        ("h", "hardlink", 5, 0o644, digest),
    ]


def test_memory_stays_flat(tmp_path: Path) -> None:
    script = """
work = Path(sys.argv[1])
base = peak()
pack(work / "tree", work / "t.tar.gz")
extract(work / "t.tar.gz", work / "out")
print(peak() - base)
"""
    (tmp_path / "tree").mkdir()
    block = os.urandom(1 << 20)
    with (tmp_path / "tree" / "big").open("wb") as big:
        for _ in range(40):
            big.write(block)
    command = [sys.executable, "-c", PEAK + script, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert 0 < int(done.stdout) < 20 << 20


@pytest.mark.parametrize("name", ["missing.tar.gz", "pipe", "."])
def test_an_archive_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArchiveError, match="cannot read"):
        extract(tmp_path / name, tmp_path / "out")
