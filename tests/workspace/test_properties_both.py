"""Whatever members a tar.gz or zip has: all readers agree on it, it stays inside, and a refusal leaves no trace."""

from __future__ import annotations

import io
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_klavis.errors import ArchiveError
from pytest_klavis.workspace.archive import Limits, extract, members, verify

from . import build, buildzip
from .build import facts
from .buildzip import Member, archive

LIMITS = Limits(members=100, total=1 << 20, member=1 << 20)
PARTS = st.sampled_from(["a", "b", "A", "..", ".", "", "outside", "canary", "sandbox", "vercel", "\u00fc", "x" * 40])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
KINDS = st.sampled_from(["file", "file", "dir", "link", "hardlink", "fifo"])
# one archive in words: (kind, name, data or target)
TREES = st.lists(st.tuples(KINDS, NAMES, st.one_of(NAMES, st.text("ab/", max_size=8))), max_size=6)
FIELDS = {
    "flags": st.sampled_from([1, 8, 0x800]),
    "method": st.sampled_from([0, 8, 12]),
    "crc": st.integers(0, 9),
    "size": st.sampled_from([0, 1, 2, 999, 0xFFFFFFFF]),
    "packed": st.sampled_from([0, 1, 2, 999, 0xFFFFFFFF]),
    "name": st.sampled_from([b"a", b"../canary", b"b/"]),
    "extra": st.sampled_from([b"", b"\1", buildzip.extra(1, bytes(8)), buildzip.extra(0x7075, b"\1abcd../x")]),
}
HERE = st.fixed_dictionaries({}, optional=FIELDS)
THERE = st.fixed_dictionaries({}, optional={**FIELDS, "offset": st.integers(0, 200), "disk": st.integers(0, 1)})
END = st.fixed_dictionaries(
    {},
    optional={
        "count": st.integers(0, 3),
        "here": st.integers(0, 3),
        "size": st.integers(0, 200),
        "offset": st.integers(0, 200),
        "before": st.sampled_from([b"", b"PK"]),
        "between": st.binary(max_size=5),
        "comment": st.sampled_from([b"", b"PK\5\6", bytes(22)]),
        "after": st.sampled_from([b"", b"\0", b"PK\5\6" + bytes(18)]),
        "zip64": st.booleans(),
    },
)


def tar_member(kind: str, name: str, data: str) -> bytes:
    if kind == "fifo":
        return build.header(name, b"6")
    if kind == "dir":
        return build.folder(name)
    make: Callable[[str, Any], bytes] = {"link": build.symlink, "hardlink": build.hardlink}.get(kind, build.file)
    return make(name, data if make is not build.file else data.encode())


def zip_member(kind: str, name: str, data: str) -> Member:
    if kind == "fifo":
        return buildzip.member(name, b"", stat.S_IFIFO | 0o644)
    if kind == "dir":
        return buildzip.folder(f"{name}/")
    if kind == "link":
        return buildzip.symlink(name, data)
    return buildzip.streamed(name, data.encode()) if kind == "hardlink" else buildzip.member(name, data.encode())


def hold(data: bytes, *, merge: bool, packed_from: str | None) -> None:
    """What has to be true of any bytes."""
    seen = verified = refusal = None
    try:
        seen = list(members(io.BytesIO(data), limits=LIMITS))
    except ArchiveError as error:
        refusal = str(error)
    try:
        verified = verify(io.BytesIO(data), limits=LIMITS)
    except ArchiveError as error:
        assert str(error) == refusal  # noqa: PT017
    assert (seen is None) == (verified is None)

    with tempfile.TemporaryDirectory() as folder:
        yard = Path(folder)
        (yard / "outside").mkdir()
        (yard / "outside" / "canary").write_text("alive")
        target = yard / "target"
        if merge:
            target.mkdir()
            (target / "a").symlink_to("../outside")
            (target / "b").mkdir()
        before = facts(yard)
        try:
            result = extract(io.BytesIO(data), target, limits=LIMITS, merge=merge, packed_from=packed_from)
        except ArchiveError as error:
            assert str(error) == refusal  # noqa: PT017
            assert facts(yard) == before
            return
        assert seen is not None
        assert verified is not None
        assert result.files == sum(one.kind in ("file", "hardlink") for one in seen)
        assert result.bytes == sum(one.size for one in seen if one.kind in ("file", "hardlink"))
        assert {one.path.split("/")[0] for one in seen} == verified.top
        if not result.stripped:
            assert result.skipped == verified.skipped
        after = {name: fact for name, fact in facts(yard).items() if not name.startswith("target")}
        assert after == {name: fact for name, fact in before.items() if not name.startswith("target")}
        if not merge:
            for path in target.rglob("*"):
                assert Path(os.path.realpath(path)).is_relative_to(target.resolve())


ROOTS = st.sampled_from([None, "/vercel/sandbox", "sandbox", "/a/b", "/.."])


@settings(max_examples=250, deadline=None, database=None)
@given(TREES, st.booleans(), ROOTS)
def test_any_tar(tree: list[tuple[str, str, str]], merge: bool, packed_from: str | None) -> None:
    hold(build.targz(*(tar_member(*one) for one in tree)), merge=merge, packed_from=packed_from)


@settings(max_examples=250, deadline=None, database=None)
@given(TREES, st.booleans(), ROOTS)
def test_any_zip(tree: list[tuple[str, str, str]], merge: bool, packed_from: str | None) -> None:
    hold(archive(*(zip_member(*one) for one in tree)), merge=merge, packed_from=packed_from)


@settings(max_examples=300, deadline=None, database=None)
@given(st.lists(st.tuples(NAMES, st.binary(max_size=9), HERE, THERE), max_size=3), END)
def test_any_zip_whose_records_lie(given_: list[tuple[str, bytes, dict[str, Any], dict[str, Any]]], end: Any) -> None:
    made = [buildzip.member(name, data, here=here, there=there) for name, data, here, there in given_]
    hold(archive(*made, **end), merge=False, packed_from=None)


@settings(max_examples=300, deadline=None, database=None)
@given(st.data())
def test_any_damage_to_a_sound_archive(data: st.DataObject) -> None:
    names = ["./", "d/", "d/a", "b"]
    sound = data.draw(
        st.sampled_from(
            [
                build.targz(build.file("d/a", b"hello" * 9), build.symlink("l", "d/a"), build.hardlink("h", "d/a")),
                archive(*(buildzip.streamed(name, name.encode() * 9) for name in names[2:])),
                archive(
                    buildzip.folder("d/"), buildzip.wide("d/a", b"hello"), buildzip.symlink("l", "d/a"), zip64=True
                ),
            ]
        )
    )
    raw = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "double", "zero"])):
            case "flip":
                raw[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del raw[at : at + data.draw(st.integers(1, 9))]
            case "double":
                raw[at:at] = raw[at : at + 50]
            case _:
                raw[at] = 0
        if not raw:
            raw = bytearray(b"P")
    hold(bytes(raw), merge=False, packed_from=None)


@pytest.mark.parametrize("head", [b"PK", b"PK\3\4", b"PK\5\6", b"PK\1\2", b""])
def test_any_bytes_after_a_magic(head: bytes) -> None:
    @settings(max_examples=40, deadline=None, database=None)
    @given(st.binary(max_size=300))
    def check(data: bytes) -> None:
        hold(head + data, merge=False, packed_from=None)

    check()
