"""Glob patterns as the filesystem server knows them (minimatch with dotfiles), in time linear in pattern times path.

`*`, `?`, `[...]`, `**` as a whole name, `{a,b}`, `{1..3}`, a leading `!`. Not there: extglobs such as `+(a|b)`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

MAX_PATTERN = 4096  # characters
MAX_ALTERNATIVES = 1000  # of braces; more are refused
MAX_EXPANDED = 1 << 18  # characters of all alternatives, and of the steps to them

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
_STAR = None  # among the pieces of a name: any number of characters


@dataclass(frozen=True)
class _Set:
    ranges: tuple[tuple[str, str], ...]
    negated: bool

    def __contains__(self, letter: str) -> bool:
        return any(low <= letter <= high for low, high in self.ranges) != self.negated


_Name = tuple["str | _Set | None", ...]
_ANY = _Set((), negated=True)


def matches(path: str, pattern: str, check: Callable[[], None] = lambda: None) -> bool:
    """True when the relative `path` matches. `check` is called before each of the patterns that braces make.

    Raises ValueError for a pattern that is too long or whose braces make too many.
    """
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"the pattern {pattern[:40]!r}... has {len(pattern)} characters; at most {MAX_PATTERN} may be")
    if pattern.startswith("#"):
        return False
    if pattern == "":
        return path == ""
    bare = pattern.lstrip("!")
    found = False
    for names in _compiled(bare):
        check()
        if found := _match_names(path.split("/"), names):
            break
    return found != bool((len(pattern) - len(bare)) % 2)


@lru_cache(maxsize=32)
def _compiled(pattern: str) -> tuple[tuple[_Name | None, ...], ...]:
    """Each alternative as its names; None is `**`."""
    alternatives = []
    for one in _braces(pattern):
        names = re.sub(r"/+", "/", one).split("/")
        alternatives.append(tuple(None if name == "**" else _pieces(name) for name in names))
    return tuple(alternatives)


def _match_names(path: list[str], pattern: tuple[_Name | None, ...]) -> bool:
    """Row by row over the pattern: reach[i] says that the names so far can match the first i names of the path."""
    reach = [True] + [False] * len(path)
    for index, name in enumerate(pattern):
        following = [False] * (len(path) + 1)
        if name is None:
            first = next((i for i, ok in enumerate(reach) if ok), len(path) + 1)
            last = index == len(pattern) - 1  # a closing ** stands for one name at least
            for i in range(first + last, len(path) + 1):
                following[i] = True
        else:
            for i, ok in enumerate(reach[:-1]):
                following[i + 1] = ok and _match_name(path[i], name)
        reach = following
    return reach[-1]


def _match_name(text: str, pieces: _Name) -> bool:
    """Greedy with one point to come back to, the last star: enough for globs, and never exponential."""
    at = piece = 0
    star, mark = -1, 0
    while at < len(text):
        wanted = pieces[piece] if piece < len(pieces) else ""
        if piece < len(pieces) and wanted is _STAR:
            star, mark = piece, at
            piece += 1
        elif wanted and text[at] in wanted:
            at += 1
            piece += 1
        elif star >= 0:
            mark += 1
            at, piece = mark, star + 1
        else:
            return False
    return all(rest is _STAR for rest in pieces[piece:])


def _pieces(name: str) -> _Name:
    pieces: list[str | _Set | None] = []
    at = 0
    while at < len(name):
        letter = name[at]
        at += 1
        if letter == "*":
            if not pieces or pieces[-1] is not _STAR:
                pieces.append(_STAR)
        elif letter == "?":
            pieces.append(_ANY)
        elif letter == "[" and (found := _set(name, at)) is not None:
            pieces.append(found[0])
            at = found[1]
        elif letter == "\\" and at < len(name):
            pieces.append(name[at])
            at += 1
        else:
            pieces.append(letter)
    return tuple(pieces)


def _set(name: str, at: int) -> tuple[_Set, int] | None:
    """The `[...]` whose inside starts at `at`, and where it ends; None when it never closes."""
    negated = name[at : at + 1] in {"!", "^"}
    start = at + negated
    end = name.find("]", start + 1)
    if end < 0:
        return None
    inside = name[start:end]
    ranges: list[tuple[str, str]] = []
    while inside:
        if len(inside) >= 3 and inside[1] == "-":
            ranges.append((inside[0], inside[2]))
            inside = inside[3:]
        else:
            ranges.append((inside[0], inside[0]))
            inside = inside[1:]
    return _Set(tuple(ranges), negated), end + 1


def _braces(pattern: str) -> list[str]:
    """Every alternative that the braces of `pattern` stand for."""
    todo, done, read = [pattern], [], 0
    while todo:
        one = todo.pop()
        read += len(one)
        found = _first_braces(one)
        if found is None:
            done.append(one)
        else:
            start, end, options = found
            todo.extend(one[:start] + option + one[end:] for option in reversed(options))
        if len(todo) + len(done) > MAX_ALTERNATIVES:
            raise ValueError(f"the braces of {pattern!r} stand for more than {MAX_ALTERNATIVES} patterns")
        if read > MAX_EXPANDED:
            raise ValueError(f"the braces of {pattern!r} stand for more than {MAX_EXPANDED} characters of patterns")
    return done


def _first_braces(pattern: str) -> tuple[int, int, list[str]] | None:
    """The first braces that stand for something: start, end and options. One pass, however many never close."""
    unclosed: list[list[int]] = []  # of each brace: where it and its commas are
    first: list[int] = []
    for at, letter in enumerate(pattern):
        if letter == "{":
            unclosed.append([at])
        elif letter == "," and unclosed:
            unclosed[-1].append(at)
        elif letter == "}" and unclosed:
            cuts = [*unclosed.pop(), at]
            if _has_options(pattern, cuts) and (not first or cuts[0] < first[0]):
                first = cuts
            if first and not unclosed:
                break
    if not first:
        return None
    options = [pattern[a + 1 : b] for a, b in pairwise(first)]
    if len(options) == 1 and (numbers := _RANGE.fullmatch(options[0])) is not None:
        options = _numbers(int(numbers[1]), int(numbers[2]))
    return first[0], first[-1] + 1, options


def _has_options(pattern: str, cuts: list[int]) -> bool:
    start, end = cuts[0], cuts[-1]
    if pattern[start - 1 : start] in {"\\", "$"}:
        return False
    return len(cuts) > 2 or _RANGE.fullmatch(pattern, start + 1, end) is not None


def _numbers(first: int, last: int) -> list[str]:
    step = 1 if last >= first else -1
    if abs(last - first) > MAX_ALTERNATIVES:
        raise ValueError(f"{{{first}..{last}}} stands for more than {MAX_ALTERNATIVES} patterns")
    return [str(number) for number in range(first, last + step, step)]
