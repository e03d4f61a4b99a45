"""The examples are tests: they pass on both flavours, and unchanged against a stand-in for the cloud."""

from __future__ import annotations

from pathlib import Path

import pytest

from .cloud import Cloud

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def examples(pytester: pytest.Pytester) -> pytest.Pytester:
    pytest.importorskip("mcp", "2", reason="the scripted agents use mcp 2")
    pytester.copy_example(".")
    return pytester


@pytest.mark.parametrize("benchmark", ["none", "Toolathlon", "MCP_Atlas"])
def test_on_the_embedded_backend(examples: pytest.Pytester, benchmark: str) -> None:
    result = examples.runpytest_subprocess("--ignore=on_failure", f"--klavis-benchmark={benchmark}", "-n2")
    result.assert_outcomes(passed=10)
    result.stdout.fnmatch_lines(["11 acquired, 11 released, 0 leaked on the embedded backend*"])


def test_on_the_cloud_unchanged(examples: pytest.Pytester, cloud: Cloud) -> None:
    result = examples.runpytest_subprocess("--ignore=on_failure")
    result.assert_outcomes(passed=10)
    result.stdout.fnmatch_lines(["11 acquired, 11 released, 0 leaked on the cloud backend*"])
    assert cloud.held() == []


def test_the_one_that_fails_on_purpose(examples: pytest.Pytester) -> None:
    result = examples.runpytest_subprocess("on_failure")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*A done.txt (+1)*", "*M todo.md (-1)*", "*evidence in on_failure/klavis-artifacts/*"])
