"""The examples are tests: they pass on both flavours, and unchanged against a stand-in for the cloud."""

from __future__ import annotations

from pathlib import Path

import pytest

from .cloud import NEWER, SEED, Cloud, Dialect

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def examples(pytester: pytest.Pytester, upstream_servers: None) -> pytest.Pytester:
    if not hasattr(pytest.importorskip("mcp"), "Client"):
        pytest.skip("the scripted agents use mcp 2")
    pytester.copy_example(".")
    return pytester


@pytest.mark.parametrize("benchmark", ["none", "Toolathlon", "MCP_Atlas"])
def test_on_the_embedded_backend(examples: pytest.Pytester, benchmark: str) -> None:
    result = examples.runpytest_subprocess("--ignore=on_failure", f"--klavis-benchmark={benchmark}", "-n2")
    result.assert_outcomes(passed=11)
    result.stdout.fnmatch_lines(["12 acquired, 12 released, 0 leaked on the embedded backend*"])


@pytest.mark.parametrize("dialect", [SEED, NEWER], ids=lambda one: one.name)
def test_on_the_cloud_unchanged(examples: pytest.Pytester, cloud: Cloud, dialect: Dialect) -> None:
    cloud.dialect = dialect
    # There are no executions in the seed's dialect, so no run().
    chosen = ["test_analysis.py", "test_tasks.py"] if dialect is SEED else ["--ignore=on_failure"]
    result = examples.runpytest_subprocess(*chosen, timeout=240)
    result.assert_outcomes(passed=4 if dialect is SEED else 11)
    result.stdout.fnmatch_lines(["* acquired, * released, 0 leaked on the cloud backend*"])
    assert cloud.held() == []


def test_the_one_that_fails_on_purpose(examples: pytest.Pytester) -> None:
    result = examples.runpytest_subprocess("on_failure")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*A done.txt (+1)*", "*M todo.md (-1)*", "*evidence in on_failure/klavis-artifacts/*"])
