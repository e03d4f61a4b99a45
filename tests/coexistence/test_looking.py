"""Runs that only look: collecting, planning, help. They pay nothing, and `--setup-only` gives back what it takes."""

from __future__ import annotations

import sys

import pytest

from .leaks import acquired, assert_untouched


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="module")
        def shared(module_local_sandbox):
            return module_local_sandbox("filesystem")

        @pytest.mark.local_sandbox("filesystem", workspace={"a.txt": "x"})
        def test_declared(sandbox):
            assert sandbox.read_text("a.txt") == "x"

        def test_factory(local_sandbox, shared, klavis_artifacts, klavis_client):
            assert local_sandbox("filesystem").id != shared.id
        """
    )
    return pytester


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        (["--collect-only", "-q"], ["test_*::test_declared", "test_*::test_factory"]),
        (["--setup-plan"], ["*SETUP    F local_sandbox*", "*test_factory*fixtures used: *local_sandbox*"]),
        (
            ["--fixtures"],
            ["local_sandbox*", "*Factory of local sandboxes*", "sandbox*", "*The sandbox that the marks*declare*"],
        ),
        (["--fixtures-per-test"], ["local_sandbox*", "*Factory of local sandboxes*"]),
        (
            ["--markers"],
            [
                "@pytest.mark.local_sandbox(servers, workspace=None, *",
                "@pytest.mark.klavis_sandbox(server, data=None, *",
                "@pytest.mark.klavis_benchmark(name): *",
                "@pytest.mark.klavis: *",
            ],
        ),
        (["--help"], ["sandboxes for agent tests (pytest-klavis):", "*--klavis-backend=*", "*klavis_backend *"]),
        (["--version", "--version"], ["*pytest-klavis-*"]),
    ],
    ids=lambda flags: flags[0].strip("-") if flags[0].startswith("-") else "",
)
def test_looking_costs_nothing(suite: pytest.Pytester, flags: list[str], shown: list[str]) -> None:
    result = suite.runpytest_subprocess(*flags)
    assert result.ret == 0
    lines = [line.strip() for line in result.outlines + result.errlines]
    missing = [pattern for pattern in shown if not any(_matches(line, pattern) for line in lines)]
    assert missing == [], lines
    assert_untouched(suite, result)


def _matches(line: str, pattern: str) -> bool:
    from fnmatch import fnmatchcase

    return fnmatchcase(line, pattern.replace("[", "[[]").strip())


def test_looking_needs_no_cloud(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLAVIS_API_KEY", "sk-planted-and-never-sent")
    monkeypatch.setenv("KLAVIS_BASE_URL", "http://127.0.0.1:9")  # nobody listens
    for flag in ("--collect-only", "--setup-plan"):
        result = suite.runpytest(flag)
        assert result.ret == 0
        assert_untouched(suite, result)
        result.stdout.no_fnmatch_line("*sk-planted*")


def test_setup_only_gives_back_what_it_takes(suite: pytest.Pytester) -> None:
    result = suite.runpytest("--setup-only")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*SETUP    F local_sandbox*"])
    assert acquired(result) == 2  # what the mark declares, and the module's


def test_setup_show(suite: pytest.Pytester) -> None:
    result = suite.runpytest("--setup-show")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*SETUP    M module_local_sandbox*", "*TEARDOWN M module_local_sandbox*"])
    assert acquired(result) == 3


def test_the_debugger_finds_the_sandbox_alive(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        def test_fails(local_sandbox):
            box = local_sandbox("filesystem", workspace={"a.txt": "x"})
            assert box.read_text("a.txt") == "y"
        """
    )
    typed = b"p 'listed', box.list_files()\nq\n"
    result = pytester.run(sys.executable, "-m", "pytest", "--pdb", "test_it.py", stdin=typed)
    result.stdout.re_match_lines([r"\(Pdb\) \('listed', \['a.txt'\]\)"])
    assert acquired(result) == 1
    assert len(list(pytester.path.glob("klavis-artifacts/latest/*/attempt-1/local/workspace.tar.gz"))) == 1
