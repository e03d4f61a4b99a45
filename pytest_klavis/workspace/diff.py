"""What changed in a workspace between two archives, for a person who reads a failure report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from .archive import Limits, Member, members
from .names import printable
from .reader import Reader, opened
from .unified import hunks

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# Directories that tools fill on their own: their contents say nothing about what the agent did.
NOISE = frozenset(
    {
        ".cache", ".git", ".hg", ".mypy_cache", ".nox", ".pytest_cache", ".ruff_cache", ".svn", ".tox", ".venv",
        "__pycache__", "node_modules",
    }
)  # fmt: skip
MAX_TEXT = 256 << 10  # bytes of one file whose lines are compared
MAX_TEXTS = 8 << 20  # bytes of all of them together
# An agent's names are kept as they are, whatever they would mean elsewhere: nothing is written to disk here.
LIMITS = Limits(portable=False)

Status = Literal["A", "D", "M"]


@dataclass(frozen=True)
class Change:
    """One path that was A(dded), D(eleted) or M(odified).

    `note` says what the lines do not: "binary, 12 bytes", "mode 644 -> 755". `lines` is the unified diff without
    head lines, escaped for a terminal; empty for what is no text of at most 256 KiB.
    """

    status: Status
    path: str
    note: str = ""
    lines: tuple[str, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        gained = sum(line.startswith("+") for line in self.lines)
        lost = sum(line.startswith("-") for line in self.lines)
        counts = " ".join(part for part in (f"+{gained}" * bool(gained), f"-{lost}" * bool(lost)) if part)
        note = ", ".join(part for part in (counts, self.note) if part)
        return f"{self.status} {printable(self.path)}" + (f" ({note})" if note else "")


@dataclass(frozen=True)
class Diff:
    """The changes between two archives, sorted by path; false when there are none."""

    changes: tuple[Change, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changes)

    @property
    def added(self) -> tuple[str, ...]:
        return self._paths("A")

    @property
    def removed(self) -> tuple[str, ...]:
        return self._paths("D")

    @property
    def modified(self) -> tuple[str, ...]:
        return self._paths("M")

    def summary(self) -> list[str]:
        """One line per change: `M report.md (+3 -1)`."""
        return [str(change) for change in self.changes]

    def text(self, limit_bytes: int = 20_000) -> str:
        """Unified diffs of the texts and one line for all else, cut at a line when longer than `limit_bytes`."""
        shown: list[str] = []
        left = limit_bytes
        lines = [line for change in self.changes for line in _block(change)]
        for line in lines:
            left -= len(line.encode("utf-8", "surrogatepass")) + 1
            if left < 0:
                shown.append(f"... {len(lines) - len(shown):,} more lines; the whole workspace is in the archive")
                break
            shown.append(line)
        return "\n".join(shown)

    def _paths(self, status: Status) -> tuple[str, ...]:
        return tuple(change.path for change in self.changes if change.status == status)


def diff_archives(before: Path | None, after: Path, *, everything: bool = False) -> Diff:
    """Compare two tar.gz by content, executable bit and link target; `before=None` is an empty workspace.

    Directories count when they are empty, with a `/` at the end of the path. What tools fill on their own (`.git`,
    `__pycache__`, `node_modules`, `.venv`, caches) is passed over unless `everything`. A renamed file is one deleted
    and one added. Raises ArchiveError for an archive that is damaged or hostile.
    """
    old = _listing(before, everything=everything) if before else {}
    new = _listing(after, everything=everything)
    paths = sorted(path for path in old.keys() | new.keys() if not _same(old.get(path), new.get(path)))
    old_texts = _texts(before, {path for path in paths if path in old}) if before else {}
    new_texts = _texts(after, {path for path in paths if path in new})
    filled = _parents(old) | _parents(new)
    changes = []
    for path in paths:
        if path in filled:  # empty on one side, not on the other: what is in it there tells more
            continue
        changes.append(_change(path, _Side(old.get(path), old_texts), _Side(new.get(path), new_texts)))
    return Diff(tuple(changes))


def _block(change: Change) -> list[str]:
    if not change.lines:
        return [str(change)]
    name = printable(change.path)
    head = [f"--- {'/dev/null' if change.status == 'A' else 'a/' + name}"]
    head.append(f"+++ {'/dev/null' if change.status == 'D' else 'b/' + name}")
    return [str(change), *head, *change.lines]


def _listing(archive: Path, *, everything: bool) -> dict[str, Member]:
    found: dict[str, Member] = {}
    for member in members(archive, limits=LIMITS):
        if everything or NOISE.isdisjoint(member.path.split("/")):
            found[member.path + "/" if member.kind == "dir" else member.path] = member
    filled = _parents(found)
    return {path: member for path, member in found.items() if path not in filled}


def _parents(paths: Iterable[str]) -> set[str]:
    """All directories above some paths, with a `/` at the end."""
    found: set[str] = set()
    for path in paths:
        above = path.rstrip("/").rpartition("/")[0]
        while above and f"{above}/" not in found:
            found.add(f"{above}/")
            above = above.rpartition("/")[0]
    return found


def _same(old: Member | None, new: Member | None) -> bool:
    if old is None or new is None:
        return False
    return _key(old) == _key(new)


def _key(member: Member) -> tuple[object, ...]:
    if member.kind in ("file", "hardlink"):
        return "file", member.digest, _mode(member)
    return member.kind, member.digest


def _mode(member: Member) -> str:
    return "755" if member.mode & 0o111 else "644"


def _texts(archive: Path, wanted: set[str]) -> dict[str, str | None]:
    """The contents of the wanted files that are short, until there are 8 MiB of them; None for what is no UTF-8."""
    found: dict[str, str | None] = {}
    left = MAX_TEXTS
    if not wanted:
        return found
    with opened(archive) as stream:
        reader = Reader(stream, LIMITS)
        for entry in reader:
            if entry.kind != "file" or entry.path not in wanted or entry.size > min(MAX_TEXT, left):
                continue
            raw = b"".join(reader.data())
            left -= len(raw)
            try:
                found[entry.path] = None if b"\0" in raw else raw.decode()
            except UnicodeDecodeError:
                found[entry.path] = None
    return found


@dataclass(frozen=True)
class _Side:
    """One path in one of the two archives."""

    member: Member | None
    texts: dict[str, str | None]

    @property
    def text(self) -> str | None:
        """What is compared by lines: nothing has none."""
        return self.texts.get(self.member.path) if self.member else ""

    def __str__(self) -> str:
        if self.member is None:
            return ""
        if self.member.kind == "dir":
            return "empty directory"
        if self.member.kind == "link":
            return f"link to {printable(self.member.digest)}"
        if self.member.path not in self.texts:
            return f"not compared, {self.member.size:,} bytes"
        return f"{'binary' if self.text is None else 'text'}, {self.member.size:,} bytes"


def _change(path: str, old: _Side, new: _Side) -> Change:
    status: Status = "M" if old.member and new.member else "A" if new.member else "D"
    if old.text is not None and new.text is not None:
        lines = tuple(hunks(old.text, new.text))
        notes = ["empty"] if status != "M" and not lines else []
    else:
        lines = ()
        same = old.member and new.member and old.member.digest == new.member.digest
        notes = [" -> ".join(filter(None, (str(old), str(new))))] if not same else []
    if old.member and new.member and old.member.kind == new.member.kind != "link":
        modes = _mode(old.member), _mode(new.member)
        if modes[0] != modes[1]:
            notes.append(f"mode {modes[0]} -> {modes[1]}")
    return Change(status, path, ", ".join(notes), lines)
