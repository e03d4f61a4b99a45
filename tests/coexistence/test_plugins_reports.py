"""Plugins that measure and report: pytest-cov, with workers and without, and subtests of their own package."""

from __future__ import annotations

import pytest

from .leaks import acquired

pytestmark = pytest.mark.plugins


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "workers"])
def test_pytest_cov(pytester: pytest.Pytester, workers: list[str]) -> None:
    pytester.makepyfile(
        agent="def act(box):\n    box.upload({'a.txt': 'x'})\n    return box.list_files()\n",
        test_it="""
        import agent
        import pytest

        @pytest.mark.parametrize("number", range(2))
        def test_it(local_sandbox, number):
            box = local_sandbox(["filesystem", "terminal"])
            assert agent.act(box) == ["a.txt"]
            assert box.run(["cat", "a.txt"]).stdout == "x"
        """,
    )
    result = pytester.runpytest_subprocess("--cov=agent", "--cov-report=term-missing", *workers)
    result.assert_outcomes(passed=2)
    result.stdout.re_match_lines([r"agent\.py +3 +0 +100%"])
    assert acquired(result) == 2
    assert [path.name for path in pytester.path.glob(".coverage*")] == [".coverage"]


def test_subtests(pytester: pytest.Pytester) -> None:
    """Of pytest 9, or of pytest-subtests before it."""
    pytester.makepyfile(
        """
        def test_it(local_sandbox, subtests):
            box = local_sandbox("filesystem", workspace={"a.txt": "x"})
            for name in ("a.txt", "b.txt"):
                with subtests.test(name):
                    assert name in box.list_files()
        """
    )
    result = pytester.runpytest_subprocess()
    assert result.parseoutcomes()["failed"] >= 1
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert acquired(result) == 1
    assert len(list(pytester.path.glob("klavis-artifacts/latest/*/attempt-1/local/workspace.tar.gz"))) == 1
