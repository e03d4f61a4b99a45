"""What became of the soaked tests, and who had which sandbox when, as reports and journals tell."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_CRASHED = re.compile(r"^worker '\w+' crashed while running", re.MULTILINE)
_INFRA = re.compile(
    r"\b(pytest_klavis|klavis)[\w.]*\.(\w*Error)\b|was answered with HTTP|was not answered by|No sandbox for"
)


def verdicts(reports: Path) -> tuple[dict[str, str], list[str]]:
    """Test -> `passed`, `failed as it should`, `killed`, `infra` or `WRONG`; and the texts of what is wrong."""
    found: dict[str, str] = {}
    wrong: list[str] = []
    for line in reports.read_text().splitlines():
        told = json.loads(line)
        verdict = _verdict(told)
        if verdict == "WRONG":
            wrong.append(f"{told['test']} ({told['when']}): {told['text'][-1500:]}")
        if verdict and found.get(told["test"], "passed") == "passed":
            found[told["test"]] = verdict
    return found, wrong


def _verdict(told: Mapping[str, str]) -> str:
    if told["outcome"] != "failed":
        return "passed" if told["when"] == "call" and told["outcome"] == "passed" else ""
    if _CRASHED.search(told["text"]):
        return "killed"
    if told["text"] == "as it should":
        return "failed as it should"
    return "infra" if told["when"] == "setup" and _INFRA.search(told["text"]) else "WRONG"


@dataclass(frozen=True, order=True)
class Hold:
    """A test's use of a sandbox, by the monotonic clock; to the end of its process, if that came first."""

    sandbox: str
    began: float
    ended: float
    test: str


def shared(journals: Path, killed: Mapping[int, float]) -> list[str]:
    """Sandboxes that two tests had at the same time."""
    holds = defaultdict(list)
    for path in journals.iterdir():
        for one in _holds(path, killed.get(int(path.name), float("inf"))):
            holds[one.sandbox].append(one)
    return [
        f"{one.sandbox} of {one.test} was given to {other.test}"
        for of_one in holds.values()
        for one, other in zip(sorted(of_one), sorted(of_one)[1:], strict=False)
        if other.began < one.ended
    ]


def _holds(path: Path, end: float) -> list[Hold]:
    begun: dict[tuple[str, str], float] = {}
    found = []
    for line in path.read_text().splitlines():
        at, word, test, sandbox = line.split()
        if word == "begin":
            begun[test, sandbox] = float(at)
        else:
            found.append(Hold(sandbox, begun.pop((test, sandbox)), float(at), test))
    return found + [Hold(sandbox, began, end, test) for (test, sandbox), began in begun.items()]


def counted(found: Mapping[str, str]) -> str:
    """The verdicts in words."""
    return ", ".join(f"{count} {verdict}" for verdict, count in Counter(found.values()).most_common())
