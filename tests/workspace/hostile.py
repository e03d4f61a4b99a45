"""What is asked of every hostile archive, whatever its format."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pytest_klavis.errors import ArchiveError
from pytest_klavis.workspace.archive import Limits, extract, members, verify

from .build import facts

Builder = Callable[[Path], bytes]
SMALL = Limits(members=1_000, total=64 << 20, member=32 << 20)


@dataclass(frozen=True)
class Case:
    """`build(outside)` makes the archive; `says` is in the refusal, or `gives` is what comes out of it."""

    id: str
    build: Builder
    says: str = ""
    gives: dict[str, bytes | str] = field(default_factory=dict)  # bytes: a file, str: a link or "" for a directory
    skips: tuple[str, ...] = ()
    empty: bool = False


def found_in(root: Path) -> dict[str, bytes | str]:
    """What came out, in the words of a Case."""
    found: dict[str, bytes | str] = {}
    for name, fact in facts(root).items():
        found[name] = (
            os.fsdecode(fact.content)
            if fact.kind == stat.S_IFLNK
            else ""
            if fact.kind == stat.S_IFDIR
            else fact.content
        )
    return found


def taken_as_intended_or_leaves_nothing(case: Case, yard: Path) -> None:
    archive = io.BytesIO(case.build(yard / "outside"))
    target = yard / "target"
    before = facts(yard)
    assert bool(case.says) != bool(case.gives or case.empty)

    if case.says:
        with pytest.raises(ArchiveError) as refusal:
            extract(archive, target, limits=SMALL)
        assert case.says in str(refusal.value)
        assert str(refusal.value).replace("…", "").isprintable()
        assert not target.exists()
    else:
        result = extract(archive, target, limits=SMALL)
        assert found_in(target) == case.gives
        assert tuple(path for path, _ in result.skipped) == case.skips
        assert result.files == sum(isinstance(value, bytes) for value in case.gives.values())
        for fact in facts(target).values():
            assert fact.kind == stat.S_IFLNK or fact.mode in (0o644, 0o755)
            assert fact.links == 1
        for path in target.rglob("*"):
            assert path.lstat().st_uid == os.geteuid()
            assert path.is_symlink() or 0 <= path.stat().st_mtime < 4e9

    after = {name: fact for name, fact in facts(yard).items() if name.split("/")[0] != "target"}
    assert after == before


def refused_everywhere(case: Case, yard: Path) -> None:
    """A listing and a verification refuse it with the same words, and a merge changes nothing."""
    data = case.build(yard / "outside")
    with pytest.raises(ArchiveError) as listed:
        list(members(io.BytesIO(data), limits=SMALL))
    with pytest.raises(ArchiveError) as verified:
        verify(io.BytesIO(data), limits=SMALL)
    target = yard / "target"
    target.mkdir()
    (target / "a").write_text("mine")
    before = facts(yard)
    with pytest.raises(ArchiveError) as merged:
        extract(io.BytesIO(data), target, limits=SMALL, merge=True)
    assert facts(yard) == before
    assert str(listed.value) == str(verified.value) == str(merged.value)
