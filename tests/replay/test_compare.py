"""The comparison itself, without any server: what has to differ is left out, and nothing else is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .compare import Seen, differences
from .scenario import Folder, Link, effect, lay, lay_late_links, snapshot
from .stdio import Answer

if TYPE_CHECKING:
    from pathlib import Path


def seen(text: str, root: str = "/data", *, error: bool = False, **changed: str) -> Seen:
    return Seen(Answer(is_error=error, content=({"type": "text", "text": text},)), changed, (root,))


def test_roots_times_and_hashes_do_not_count() -> None:
    ours = seen("wrote /data/a.txt at 2024-03-01 12:00:00 in " + "a1" * 20)
    theirs = seen("wrote /tmp/x/place/a.txt at 2025-01-02T03:04:05Z in " + "b2" * 20, "/tmp/x/place")
    assert differences(ours, theirs) == {}


def test_each_aspect_is_told() -> None:
    assert list(differences(seen("a"), seen("a", error=True))) == ["outcome"]
    assert list(differences(seen("a"), seen("b"))) == ["words"]
    assert list(differences(seen('{"a": 1}'), seen('{"a": "1"}'))) == ["shape", "words"]
    assert list(differences(seen("a", file="1"), seen("a", file="2"))) == ["workspace"]
    assert "-/database" in differences(seen("/data"), seen("/database"))["words"]


def test_an_effect_is_what_changed(tmp_path: Path) -> None:
    lay(
        {"a.txt": "a", "b/c.bin": b"\0", "empty": Folder, "link": Link("a.txt"), "out": Link("/etc", late=True)},
        tmp_path,
    )
    assert not (tmp_path / "out").is_symlink()
    lay_late_links({"out": Link("/etc", late=True)}, tmp_path)
    before = snapshot(tmp_path)
    assert before == {
        "a.txt": "644 b'a'",
        "b": "directory",
        "b/c.bin": "644 b'\\x00'",
        "empty": "directory",
        "link": "link to a.txt",
        "out": "link to /etc",
    }
    (tmp_path / "a.txt").write_text("changed")
    (tmp_path / "link").unlink()
    assert effect(before, snapshot(tmp_path)) == {"a.txt": "644 b'changed'", "link": "gone"}
