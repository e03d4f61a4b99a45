"""What each suite of these tests must end with: as many sandboxes released as acquired, and none left."""

from __future__ import annotations

import re

import pytest

SUMMARY = re.compile(r"^(\d+) acquired, (\d+) released, (\d+) leaked on the embedded backend", re.MULTILINE)


def acquired(result: pytest.RunResult) -> int:
    """The number of sandboxes that a run acquired; it has released them all."""
    [(held, released, leaked)] = SUMMARY.findall(str(result.stdout))
    assert (released, leaked) == (held, "0"), str(result.stdout)
    return int(held)


def assert_untouched(pytester: pytest.Pytester, result: pytest.RunResult) -> None:
    """The run asked for no sandbox: no server was started, no summary shown, no folder made."""
    assert SUMMARY.findall(str(result.stdout)) == []
    assert not list(pytester.path.rglob("klavis-artifacts"))
