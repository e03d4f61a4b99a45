"""Whatever members an archive has, in whatever order: it is refused without a trace, or stays inside."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_klavis.errors import ArchiveError
from pytest_klavis.workspace.archive import Limits, extract, members, pack, pack_mapping

from .build import END, facts, file, folder, hardlink, header, names, symlink, targz

LIMITS = Limits(members=100, total=1 << 20, member=1 << 20)
PARTS = st.sampled_from(["a", "b", "A", "..", ".", "", "outside", "canary", "x" * 40])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
MEMBERS = st.one_of(
    st.builds(file, NAMES, st.binary(max_size=20)),
    st.builds(folder, NAMES),
    st.builds(symlink, NAMES, NAMES),
    st.builds(hardlink, NAMES, NAMES),
    st.builds(header, NAMES, st.sampled_from([b"3", b"6", b"x", b"L", b"g", b"\0"])),
    st.binary(min_size=512, max_size=512),
)


@settings(max_examples=300, deadline=None, database=None)
@given(st.lists(MEMBERS, max_size=6), st.booleans(), st.sampled_from([END, END, b"", b"\0" * 512]))
def test_any_sequence_of_members(parts: list[bytes], merge: bool, end: bytes) -> None:
    data = targz(*parts, end=end)
    with tempfile.TemporaryDirectory() as folder_:
        yard = Path(folder_)
        (yard / "outside").mkdir()
        (yard / "outside" / "canary").write_text("alive")
        target = yard / "target"
        if merge:
            target.mkdir()
            (target / "a").symlink_to("../outside")
            (target / "b").mkdir()
        before = facts(yard)
        try:
            extract(io.BytesIO(data), target, limits=LIMITS, merge=merge)
        except ArchiveError:
            assert facts(yard) == before
            return
        after = {name: fact for name, fact in facts(yard).items() if not name.startswith("target")}
        assert after == {name: fact for name, fact in before.items() if not name.startswith("target")}
        assert len(list(members(io.BytesIO(data), limits=LIMITS))) <= 6
        if not merge:
            inside = target.resolve()
            for path in target.rglob("*"):
                resolved = Path(os.path.realpath(path))
                assert resolved.is_relative_to(inside)


@settings(max_examples=100, deadline=None, database=None)
@given(st.binary(max_size=2_000))
def test_any_bytes(data: bytes) -> None:
    for stream in (data, targz(data)):
        with tempfile.TemporaryDirectory() as folder_:
            try:
                extract(io.BytesIO(stream), Path(folder_, "t"), limits=LIMITS)
            except ArchiveError:
                assert names(Path(folder_)) == []


LEAVES = st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
TREES = st.dictionaries(
    LEAVES.filter(lambda name: name not in (".", "..")).map(lambda name: f"d/{name}"),
    st.binary(max_size=600),
    max_size=5,
)


@settings(max_examples=100, deadline=None, database=None)
@given(TREES)
def test_any_tree_comes_back(files: dict[str, bytes]) -> None:
    from pytest_klavis.errors import SpecError

    first = io.BytesIO()
    try:
        pack_mapping(files, first)
    except SpecError:
        return  # names that are not portable
    first.seek(0)
    with tempfile.TemporaryDirectory() as folder_:
        extract(first, Path(folder_, "t"))
        found = {
            path.relative_to(Path(folder_, "t")).as_posix(): path.read_bytes()
            for path in Path(folder_, "t").rglob("*")
            if path.is_file()
        }
        assert found == files
        second = io.BytesIO()
        pack(Path(folder_, "t"), second)
    assert first.getvalue() == second.getvalue()
