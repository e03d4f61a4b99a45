"""What counts as equal: outcome, shape, words and workspace of one call on two sides, without what has to differ."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from difflib import unified_diff
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .stdio import Answer

Aspect = Literal["outcome", "shape", "words", "workspace"]

# What differs between two runs of the same server, and what has its place.
_VARIES = [
    (re.compile(r"\b(Sun|Mon|Tue|Wed|Thu|Fri|Sat) \w{3} \d{2} \d{4} [\d:]{8} GMT\+0000 \([\w ]+\)"), "<date>"),
    (re.compile(r"\b20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?[+-]\d\d:?\d\d|Z)?"), "<time>"),
    (re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{40}\b"), "<hash>"),
    (re.compile(r"(?i)(?<=search.id[: ][ '])[0-9a-f]{8}\b"), "<random>"),
    (re.compile(r"(?<=_)[0-9a-f]{8}(?=\.py)"), "<random>"),
    (re.compile(r"(?:/[\w.-]+)+/(?=tmp\.(?:python|shellscript|js|perl|crystal)\b)"), ""),
    (re.compile(r"(?<= at )0x[0-9a-f]+|(?<= id: )\d{12,}|(?<='modified': )\d+\.\d+|(?<='size': )\d+"), "<varies>"),
    (re.compile(r"\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d? \w{3} \d{4} [\d:]{8} (?:[+-]\d{4}|GMT)"), "<date>"),
    (re.compile(r"<\d[\w.=+$-]+@[\w.-]+>"), "<message id>"),
    (re.compile(r"(?<=_export_)\d{8}_\d{6}(?:\(\d\))?"), "<time>"),
    # What the Python library puts before the words of a tool that fails.
    (re.compile(r"\AError executing tool \w+: (?!\d+ validation)"), ""),
    # How arguments are refused is told in the words of each one's library.
    (
        re.compile(
            r"\A(?:MCP error -32602: )?Input validation error: Invalid arguments for tool ([\w-]+):.*", re.DOTALL
        ),
        r"Input validation error: Invalid arguments for tool \1",
    ),
    (
        re.compile(r"\A(?:Error executing tool (\w+): )?\d+ validation errors? for [^\n]+\n.*", re.DOTALL),
        r"Input validation error: Invalid arguments for tool \1",
    ),
    (re.compile(r"\AInput validation error: .* is (?:a required property|not of type '\w+')\Z"), "Invalid arguments"),
    (re.compile(r"\AInput validation error: Invalid arguments for tool [\w-]+\Z"), "Invalid arguments"),
    (
        re.compile(
            r"\A(?:MCP error -32602: |Invalid params: )*(?:[Uu]nknown tool:? .*|Tool [\w-]+ not found)\Z", re.DOTALL
        ),
        "Unknown tool",
    ),
]


@dataclass(frozen=True)
class Seen:
    """One call as one side answered it, and what it changed in the workspace."""

    answer: Answer
    effect: Mapping[str, str]
    roots: tuple[str, ...]  # the names of the workspace on this side, longest first

    def words(self) -> str:
        """All that the answer says, the workspace named `<root>`."""
        parts = [self._general(self.answer.text)]
        if self.answer.structured is not None:
            parts.append(f"structured: {_sorted(self._general(self.answer.structured))}")
        parts += [_sorted(self._general(part)) for part in self.answer.content if part.get("type") != "text"]
        return "\n".join(parts)

    def changes(self) -> str:
        """The effect, a path a line."""
        lines = (f"{name}: {content}" for name, content in self.effect.items())
        return "\n".join(str(self._general(line)) for line in lines) or "nothing changed"

    def _general(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._general(one) for key, one in value.items()}
        if isinstance(value, list):
            return [self._general(one) for one in value]
        if not isinstance(value, str):
            return value
        for root in self.roots:
            value = re.sub(rf"(?<!\w){re.escape(root)}(?!\w)", "<root>", value)
        for pattern, word in _VARIES:
            value = pattern.sub(word, value)
        return value

    def shape(self) -> Any:
        """Content types, and the keys and types of structured content and of JSON that is text."""
        return [
            *({key: _shape(value) for key, value in part.items() if key != "text"} for part in self.answer.content),
            "structured",
            _shape(self.answer.structured),
            "JSON text",
            _shape(_json(self.answer.text)),
        ]


def differences(ours: Seen, theirs: Seen) -> dict[Aspect, str]:
    """What differs in one call, by aspect, told as "- theirs, + ours"."""
    found: dict[Aspect, str] = {}
    outcomes = [("error" if side.answer.is_error else "success") for side in (theirs, ours)]
    if outcomes[0] != outcomes[1]:
        found["outcome"] = f"upstream: {outcomes[0]}, ours: {outcomes[1]}"
    shapes = [json.dumps(side.shape(), sort_keys=True, indent=1) for side in (theirs, ours)]
    if shapes[0] != shapes[1]:
        found["shape"] = _diff(*shapes)
    words = [side.words() for side in (theirs, ours)]
    if words[0] != words[1]:
        found["words"] = _diff(*words)
    trees = [side.changes() for side in (theirs, ours)]
    if trees[0] != trees[1]:
        found["workspace"] = _diff(*trees)
    return found


def _diff(theirs: str, ours: str) -> str:
    lines = list(unified_diff(theirs.splitlines(), ours.splitlines(), "upstream", "ours", lineterm="", n=1))
    return "\n".join(line if len(line) < 400 else f"{line[:400]}..." for line in lines[:80]) or f"{theirs!r}\n{ours!r}"


def _sorted(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _json(text: str) -> Any:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict | list) else None


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_shape(value[0])] if value else []
    return "number" if isinstance(value, float) else type(value).__name__.replace("int", "number")
