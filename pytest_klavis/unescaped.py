"""A text as it reads once escapes are undone, and the way back to where each character stood. Standard library only.

JSON, repr, bytes, URLs, HTML and terminal colours all spell one string in ways of their own, also inside each other.
Instead of guessing every spelling of a secret, the text is read.
"""

from __future__ import annotations

import html
import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

_DEEPEST = 6
"""JSON in a repr in a log line is three; text can be made that unescapes for ever."""
_COLOUR = re.compile(r"\x1b\[[0-9;:?]*[@-~]")
_ESCAPE = re.compile(
    r"""(?P<colour>\x1b\[[0-9;:?]*[@-~])
    | (?P<bytes>(?:%[89A-Fa-f][0-9A-Fa-f])+ | (?:\\x[89A-Fa-f][0-9A-Fa-f])+ | (?:%|\\x)[0-7][0-9A-Fa-f])
    | (?P<unicode>\\u[Dd][89ABab][0-9A-Fa-f]{2}\\u[Dd][C-Fc-f][0-9A-Fa-f]{2} | \\u[0-9A-Fa-f]{4}
        | \\U00(?:0[0-9A-Fa-f]|10)[0-9A-Fa-f]{4})
    | (?P<simple>\\[abfnrtv'"\\/])
    | (?P<entity>&(?:amp|lt|gt|quot|apos|\#[0-9]{1,7}|\#[xX][0-9A-Fa-f]{1,6});)""",
    re.VERBOSE,
)
_SIMPLE = dict(zip("abfnrtv'\"\\/", "\a\b\f\n\r\t\v'\"\\/", strict=True))


@dataclass(frozen=True)
class _Layer:
    """One round of undoing: escape number i stands at `origins[i]` of the text below, and reads as `[starts, ends)`."""

    starts: list[int]
    ends: list[int]
    origins: list[tuple[int, int]]

    def begin(self, at: int) -> int:
        """Where the character at `at` begins in the text below."""
        last = bisect_right(self.starts, at) - 1
        if last < 0:
            return at
        start, end = self.origins[last]
        return start if at < self.ends[last] else end + at - self.ends[last]

    def end(self, at: int) -> int:
        """Where the character before `at` ends in the text below."""
        last = bisect_left(self.starts, at) - 1
        if last < 0:
            return at
        end = self.origins[last][1]
        return end if at <= self.ends[last] else end + at - self.ends[last]


class Reading:
    """`text` as it reads: `plain`. Spans of `plain` can be cut out of `text`."""

    def __init__(self, text: str, *, undo: bool) -> None:
        self.text = text
        self.plain = text
        self._layers: list[_Layer] = []
        while undo and len(self._layers) < _DEEPEST and any(mark in self.plain for mark in "\\%&\x1b"):
            below = self.plain
            layer = self._undo()
            if self.plain == below:
                break
            self._layers.append(layer)

    @property
    def escaped(self) -> bool:
        """Whether `plain` differs from `text`."""
        return bool(self._layers)

    def replaced(self, spans: list[tuple[int, int, str]]) -> str:
        """`text` with each (start, end, what is shown) of `plain` replaced; colours within a span stay in force."""
        pieces = []
        at = 0
        for first, last, shown in sorted(spans, key=lambda span: (span[0], -span[1])):
            start, end = first, last
            for layer in reversed(self._layers):
                start, end = layer.begin(start), layer.end(end)
            if start >= at:  # else what is shown for the one before stands for both
                pieces += [self.text[at:start], shown]
            pieces += _COLOUR.findall(self.text[max(start, at) : end])
            at = max(at, end)
        return "".join((*pieces, self.text[at:]))

    def _undo(self) -> _Layer:
        below = self.plain
        layer = _Layer([], [], [])
        pieces = []
        at = length = 0
        for found in _ESCAPE.finditer(below):
            meant = _meaning(found)
            pieces += [below[at : found.start()], meant]
            length += found.start() - at
            layer.starts.append(length)
            length += len(meant)
            layer.ends.append(length)
            layer.origins.append(found.span())
            at = found.end()
        self.plain = "".join((*pieces, below[at:]))
        return layer


def unescaped(text: str) -> str:
    """`text` as it reads once escapes are undone."""
    return Reading(text, undo=True).plain


def encodable(text: str) -> str:
    """`text` as UTF-8 can carry it: half a character, as JSON may hold, ends a worker of xdist."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def _meaning(found: re.Match[str]) -> str:
    text = found[0]
    match found.lastgroup:
        case "colour":
            return ""
        case "simple":
            return _SIMPLE[text[1]]
        case "entity":
            return html.unescape(text)
        case "unicode" if text[1] == "U":
            return chr(int.from_bytes(bytes.fromhex(text[2:])))
        case "unicode":
            return bytes.fromhex(text.replace("\\u", "")).decode("utf-16-be", "replace")
        case _:
            return _of_bytes(bytes.fromhex(text.replace("\\x", "").replace("%", "")))


def _of_bytes(encoded: bytes) -> str:
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        return encoded.decode("latin-1")
