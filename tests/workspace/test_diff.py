"""The changes that a failure report shows."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from pytest_klavis.errors import ArchiveError
from pytest_klavis.workspace.archive import pack_mapping
from pytest_klavis.workspace.diff import Diff, _parents, diff_archives
from pytest_klavis.workspace.unified import hunks

from .build import file, folder, symlink, targz

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Compare = Callable[..., Diff]


@pytest.fixture
def compare(tmp_path: Path) -> Compare:
    def compare(before: dict[str, str | bytes] | None, after: dict[str, str | bytes], **options: bool) -> Diff:
        if before is not None:
            pack_mapping(before, tmp_path / "before.tar.gz")
        pack_mapping(after, tmp_path / "after.tar.gz")
        return diff_archives(
            tmp_path / "before.tar.gz" if before is not None else None, tmp_path / "after.tar.gz", **options
        )

    return compare


def test_added_removed_and_modified(compare: Compare) -> None:
    report = "one\ntwo\nthree\n"
    diff = compare(
        {"same": "s", "gone.txt": "g\n", "report.md": report},
        {"same": "s", "new/a": "1\n2\n", "report.md": "one\n2\nthree\nfour\n"},
    )
    assert diff
    assert (diff.added, diff.removed, diff.modified) == (("new/a",), ("gone.txt",), ("report.md",))
    assert diff.summary() == ["D gone.txt (-1)", "A new/a (+2)", "M report.md (+2 -1)"]
    assert diff.text().endswith("--- a/report.md\n+++ b/report.md\n@@ -1,3 +1,4 @@\n one\n-two\n+2\n three\n+four")


def test_no_change_is_false(compare: Compare) -> None:
    diff = compare({"a": "1", "d/": ""}, {"a": "1", "d/": ""})
    assert not diff
    assert (diff.summary(), diff.text()) == ([], "")


def test_without_a_seed_everything_is_added(compare: Compare) -> None:
    assert compare(None, {"a": "1\n"}).summary() == ["A a (+1)"]


def test_what_tools_fill_is_passed_over_unless_asked_for(compare: Compare) -> None:
    after: dict[str, str | bytes] = {
        ".git/HEAD": "x",
        "p/__pycache__/m.pyc": b"\0",
        "node_modules/m/a.js": "x",
        ".venv/x": "y",
    }
    assert not compare({"p/": ""}, after)
    assert len(compare({}, after, everything=True).added) == 4


def test_binary_empty_and_executable_files_say_so(compare: Compare) -> None:
    diff = compare(
        {"b": b"\0\1", "s": "#!/bin/sh\n"},
        {"b": b"\0\1\2", "e": "", "latin": "caf\u00e9".encode("latin-1"), "s": "/bin/sh\n"},
    )
    assert diff.summary() == [
        "M b (binary, 2 bytes -> binary, 3 bytes)",
        "A e (empty)",
        "A latin (binary, 4 bytes)",
        "M s (+1 -1, mode 755 -> 644)",
    ]


def test_links_and_empty_directories_count(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(targz(symlink("l", "x"), folder("old"), folder("filled"), file("was", b"1\n")))
    (tmp_path / "b").write_bytes(
        targz(symlink("l", "/y"), folder("new"), file("filled/f", b"1\n"), symlink("was", "l"))
    )
    diff = diff_archives(tmp_path / "a", tmp_path / "b")
    assert diff.summary() == [
        "A filled/f (+1)",
        "M l (link to x -> link to /y)",
        "A new/ (empty directory)",
        "D old/ (empty directory)",
        "M was (text, 2 bytes -> link to l)",
    ]


def test_a_directory_is_no_change_where_only_its_contents_are(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(targz(folder("p"), folder("p/q"), file("r/s/f", b"1\n"), folder("kept"), folder("pq")))
    (tmp_path / "b").write_bytes(
        targz(file("p/q/r/f", b"1\n"), folder("r"), folder("r/s"), folder("kept/x"), folder("ke"))
    )
    diff = diff_archives(tmp_path / "a", tmp_path / "b")
    assert diff.summary() == [
        "A ke/ (empty directory)",
        "A kept/x/ (empty directory)",
        "A p/q/r/f (+1)",
        "D pq/ (empty directory)",
        "D r/s/f (-1)",
    ]


def test_each_directory_above_is_looked_at_once() -> None:
    assert _parents(["a/b/c", "a/b/d/", "e", "f/"]) == {"a/", "a/b/"}
    assert _parents([]) == set()


def test_what_an_agent_writes_cannot_speak_to_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(targz(file("a\x1b[2J\nb", b"tab\there \x1b]0;title\x07 \xe2\x80\xae end\r\n")))
    shown = diff_archives(None, tmp_path / "b").text()
    assert "\\x1b[2J\\x0ab" in shown
    assert "+tab\there \\x1b]0;title\\x07 \\u202e end\\x0d" in shown
    assert "\x1b" not in shown


def test_the_text_is_capped_at_a_line(compare: Compare) -> None:
    diff = compare({}, {f"f{number:04}": "line\n" * 20 for number in range(500)})
    text = diff.text(2_000)
    assert len(text.encode()) < 2_200
    assert text.splitlines()[-1].endswith("more lines; the whole workspace is in the archive")
    assert len(diff.summary()) == 500


def test_a_large_file_is_not_compared_and_a_long_line_is_cut(compare: Compare) -> None:
    diff = compare({"big": "x\n"}, {"big": "x\n" * 200_000, "json": "y" * 100_000})
    assert diff.summary()[0] == "M big (text, 2 bytes -> not compared, 400,000 bytes)"
    assert "more characters)" in diff.text()
    assert len(diff.text()) < 1_000


def test_hunks_are_what_diff_prints(tmp_path: Path) -> None:
    old = "".join(f"line {number}\n" for number in range(60))
    new = old.replace("line 5\n", "line five\n").replace("line 30\n", "").replace("line 59\n", "line 59\nend")
    cases = [(old, new), (new, old), ("", "a\n"), ("a\n", ""), ("a", "a\n"), ("a\nb\nc\n", "a\nc\n"), ("\n\n", "\n")]
    for before, after in cases:
        (tmp_path / "a").write_text(before)
        (tmp_path / "b").write_text(after)
        done = subprocess.run(
            ["diff", "-u", tmp_path / "a", tmp_path / "b"], capture_output=True, text=True, check=False
        )
        expected = done.stdout.splitlines()[2:]
        assert "\n".join(hunks(before, after)).splitlines() == expected


def test_texts_made_to_be_slow_are_not() -> None:
    started = time.monotonic()
    hunks("a\nb\n" * 30_000, "b\na\n" * 30_000 + "c\n")
    hunks("".join(f"{n % 90}\n" for n in range(990)), "".join(f"{n % 91}\n" for n in range(990)))
    assert time.monotonic() - started < 20  # minutes if the lines were compared


def test_a_hostile_dump_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(targz(file("../x")))
    with pytest.raises(ArchiveError, match="leaves"):
        diff_archives(None, tmp_path / "b")
