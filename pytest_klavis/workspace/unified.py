"""Unified diffs of texts that somebody hostile may have written: bounded in time, safe to print."""

from __future__ import annotations

from difflib import SequenceMatcher

from .names import printable

CONTEXT = 3
MAX_LINES = 1_000  # lines that differ, after the common start and end: difflib's time grows with their square
MAX_LINE = 400  # characters of one line that are shown


def hunks(before: str, after: str) -> list[str]:
    """The lines of a unified diff without its two head lines; [] for equal texts."""
    old, new = _lines(before), _lines(after)
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    first = max(start - CONTEXT, 0)
    last = max(end - CONTEXT, 0)
    a, b = old[first : len(old) - last], new[first : len(new) - last]
    shown: list[str] = []
    for group in _groups(a, b, start - first, end - last):
        shown.append(_head(group, first))
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                shown.extend(f" {line}" for line in map(_shown, a[i1:i2]))
                continue
            shown.extend(f"-{line}" for line in map(_shown, a[i1:i2]))
            shown.extend(f"+{line}" for line in map(_shown, b[j1:j2]))
    return shown


Opcode = tuple[str, int, int, int, int]


def _groups(a: list[str], b: list[str], head: int, tail: int) -> list[list[Opcode]]:
    if a == b:
        return []
    if max(len(a), len(b)) <= MAX_LINES:
        return [list(group) for group in SequenceMatcher(None, a, b).get_grouped_opcodes(CONTEXT)]
    return [
        [
            ("equal", 0, head, 0, head),
            ("replace", head, len(a) - tail, head, len(b) - tail),
            ("equal", len(a) - tail, len(a), len(b) - tail, len(b)),
        ]
    ]


def _head(group: list[Opcode], offset: int) -> str:
    (_, i1, _, j1, _), (_, _, i2, _, j2) = group[0], group[-1]
    return f"@@ -{_range(i1 + offset, i2 - i1)} +{_range(j1 + offset, j2 - j1)} @@"


def _range(start: int, length: int) -> str:
    # POSIX: an empty range names the line before it
    return f"{start + 1 if length else start},{length}" if length != 1 else f"{start + 1}"


def _lines(text: str) -> list[str]:
    """Lines that keep what tells them apart: a last one without its newline is not one with it."""
    lines = text.split("\n")
    if not lines[-1]:
        return lines[:-1]
    lines[-1] += "\n\\ No newline at end of file"
    return lines


def _shown(line: str) -> str:
    line, _, note = line.partition("\n")
    rest = len(line) - MAX_LINE
    if rest > 0:
        line = line[:MAX_LINE]
    safe = "\t".join(map(printable, line.split("\t"))) + (f"… ({rest:,} more characters)" if rest > 0 else "")
    return f"{safe}\n{note}" if note else safe
