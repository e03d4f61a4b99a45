"""Edits of a text as the filesystem server's edit_file makes and shows them; knows no files."""

from __future__ import annotations

import re
from collections import Counter
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from pytest_klavis.embedded.tools.base import ToolFailureError

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTEXT = 4  # unchanged lines around a change
# What is larger is shown as replaced whole: comparing takes the product of lines and of pairs of lines that are equal.
MAX_COMPARED = 2_000  # lines on either side
MAX_PAIRS = 100_000
MAX_INDENTED = 16 << 20  # characters of an edit with the indentation of the file

_Step = tuple[str, int, int, int, int]


def normalised(text: str) -> str:
    """Line ends as \\n."""
    return text.replace("\r\n", "\n")


def replaced(content: str, old: str, new: str) -> str:
    """`content` with the first `old` replaced; where it is not there as such, by lines whose stripped text is the same.

    In the second way the indentation of the file is kept. Takes time linear in both texts. Raises ToolFailureError
    when nothing matches.
    """
    old_text, new_text = normalised(old), normalised(new)
    if old_text in content:
        return content.replace(old_text, new_text, 1)
    wanted, lines = old_text.split("\n"), content.split("\n")
    bare, stripped = _stripped(wanted), _stripped(lines)
    if (at := stripped.find(bare)) < 0:
        raise ToolFailureError(f"Could not find exact match for edit:\n{old}")
    start = stripped.count("\n", 0, at)
    indent, new_lines = _indent(lines[start]), new_text.split("\n")
    if len(indent) * len(new_lines) > MAX_INDENTED:
        raise ToolFailureError(f"The edit with its indentation is larger than {MAX_INDENTED} characters")
    lines[start : start + len(wanted)] = _indented(new_lines, wanted, indent)
    return "\n".join(lines)


def _stripped(lines: list[str]) -> str:
    """The lines without their indentation, each between line ends, so that only whole lines are found in it."""
    return "\n".join(["", *(line.strip() for line in lines), ""])


def _indented(new: list[str], old: list[str], indent: str) -> Iterator[str]:
    yield indent + new[0].lstrip()
    for number, line in enumerate(new[1:], start=1):
        before = _indent(old[number]) if number < len(old) else ""
        after = _indent(line)
        yield indent + " " * max(0, len(after) - len(before)) + line.lstrip() if before and after else line


def _indent(line: str) -> str:
    found = re.match(r"\s*", line)
    return found[0] if found else ""


def fenced_diff(path: str, old: str, new: str) -> str:
    """The unified diff in a Markdown fence longer than any run of backticks inside."""
    diff = unified_diff(path, old, new)
    ticks = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`+", diff))])
    return f"{ticks}diff\n{diff}{ticks}\n\n"


def unified_diff(path: str, old: str, new: str) -> str:
    """A patch as the `diff` package of npm writes it."""
    before, after = _lines(old), _lines(new)
    parts = [f"Index: {path}\n{'=' * 67}\n--- {path}\toriginal\n+++ {path}\tmodified\n"]
    for group in _hunks(_steps(before, after)):
        (_, first_old, _, first_new, _), (_, _, last_old, _, last_new) = group[0], group[-1]
        parts.append(f"@@ -{_range(first_old, last_old)} +{_range(first_new, last_new)} @@\n")
        for kind, old_start, old_end, new_start, new_end in group:
            if kind == "equal":
                parts += [_shown(" ", line) for line in before[old_start:old_end]]
                continue
            parts += [_shown("-", line) for line in before[old_start:old_end]]
            parts += [_shown("+", line) for line in after[new_start:new_end]]
    return "".join(parts)


def _lines(text: str) -> list[str]:
    # Not splitlines: it knows more line ends than \n.
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _shown(sign: str, line: str) -> str:
    return sign + line if line.endswith("\n") else f"{sign}{line}\n\\ No newline at end of file\n"


def _range(start: int, end: int) -> str:
    return f"{start + (end > start)},{end - start}"


def _steps(old: list[str], new: list[str]) -> list[_Step]:
    """How to get from `old` to `new`; only what differs between the common start and end is compared."""
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    inner_old, inner_new = old[head : len(old) - tail], new[head : len(new) - tail]
    inner: list[_Step]
    if not inner_old and not inner_new:
        return []
    if max(len(inner_old), len(inner_new)) > MAX_COMPARED or _pairs(inner_old, inner_new) > MAX_PAIRS:
        inner = [("replace", 0, len(inner_old), 0, len(inner_new))]
    else:
        inner = list(SequenceMatcher(None, inner_old, inner_new, autojunk=False).get_opcodes())
    return [
        ("equal", 0, head, 0, head),
        *((kind, a + head, b + head, c + head, d + head) for kind, a, b, c, d in inner),
        ("equal", len(old) - tail, len(old), len(new) - tail, len(new)),
    ]


def _pairs(old: list[str], new: list[str]) -> int:
    counted = Counter(new)
    return sum(counted[line] for line in old)


def _hunks(steps: list[_Step]) -> Iterator[list[_Step]]:
    """The steps in groups with CONTEXT unchanged lines around; groups that touch are one."""
    group: list[_Step] = []
    for number, (kind, a, b, c, d) in enumerate(steps):
        if kind != "equal":
            group.append((kind, a, b, c, d))
            continue
        first, last = number == 0, number == len(steps) - 1
        lead = max(0, b - a - CONTEXT)
        if first:
            group = [(kind, a + lead, b, c + lead, d)]
        elif last or b - a > 2 * CONTEXT:
            keep = min(b - a, CONTEXT)
            yield [*group, (kind, a, a + keep, c, c + keep)]
            group = [(kind, a + lead, b, c + lead, d)]
        else:
            group.append((kind, a, b, c, d))
