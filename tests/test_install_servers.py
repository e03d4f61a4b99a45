"""Upstream servers seen from a test: missing, installed on first use, and what "ALL" gives."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from .side import Tiny, held_index

ONE = """
    def test_it(local_sandbox):
        box = local_sandbox("excel")
        assert [tool.name for tool in box.tools()] == ["tiny"]
        environment = box.run(["env"]).stdout
        assert not any(word in environment for word in ("PIP_", "KLAVIS_", "XDG_", "tok3n"))
"""
ALL = """
    def test_all(local_sandbox):
        box = local_sandbox("ALL")
        assert "filesystem" in box.servers
        assert "excel" not in box.servers
        assert "excel" not in box.mcp_config()["mcpServers"]
        assert box.missing["excel"].endswith("is not there): pytest-klavis servers install")
        assert box.missing["arxiv"].startswith("the embedded backend has no server 'arxiv'")
        assert not set(box.missing) & set(box.servers)
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """No server is installed; the lock names tiny ones, and the folder with their wheels is pip's index."""
    tiny = Tiny(tmp_path)
    for name, value in tiny.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tiny.wheels))
    monkeypatch.setenv("PIP_TRUSTED_HOST", "tok3n")
    return tiny


def test_a_missing_one_is_a_skip_that_says_what_to_do(pytester: pytest.Pytester, tiny: Tiny) -> None:
    pytester.makepyfile(ONE)
    result = pytester.runpytest_subprocess("-rs", "--klavis-require=off")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(
        ["*excel cannot be served: the servers are not installed (*): pytest-klavis servers install", "*require=on*"]
    )
    assert not tiny.servers.exists()


def test_a_missing_one_is_an_error_where_it_is_required(pytester: pytest.Pytester, tiny: Tiny) -> None:
    pytester.makepyfile(ONE)
    result = pytester.runpytest_subprocess("--klavis-require=on")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*UnavailableError*", "*excel cannot be served*: pytest-klavis servers install"])


@pytest.mark.usefixtures("tiny")
def test_all_is_what_there_is_and_says_what_is_not(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(ALL)
    pytester.runpytest_subprocess("--klavis-require=off").assert_outcomes(passed=1)


@pytest.mark.usefixtures("tiny")
def test_all_is_an_error_where_all_is_required(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(ALL)
    result = pytester.runpytest_subprocess("--klavis-require=on")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines_random(
        [
            "*UnavailableError: the embedded backend lacks some of all servers:",
            "*arxiv: the embedded backend has no server 'arxiv' yet*",
            "*excel: the servers are not installed (*): pytest-klavis servers install",
            "1 acquired, 1 released, 0 leaked on the embedded backend*",
        ]
    )


def test_they_are_installed_once_when_the_first_test_needs_one(pytester: pytest.Pytester, tiny: Tiny) -> None:
    pytester.makepyfile(test_a=ONE, test_b=ONE)
    result = pytester.runpytest_subprocess("--klavis-install-servers=on", "--klavis-require=on", "-n2")
    result.assert_outcomes(passed=2)
    assert len(tiny.environments()) == 1


def test_a_wait_that_is_too_long_says_what_goes_on(
    pytester: pytest.Pytester, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    pytester.makepyfile(ONE)
    with held_index() as index:
        for name, value in index.variables.items():
            monkeypatch.setenv(name, value)
        result = pytester.runpytest_subprocess("--klavis-install-servers=on", "--klavis-acquire-timeout=8s")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*HTTP 503: the servers are being installed on first use: *(pytest-klavis servers install*"]
    )
    end = time.monotonic() + 30
    while tiny.environments() and time.monotonic() < end:  # the server ends it, and itself, after pytest
        time.sleep(0.05)
    assert tiny.environments() == []


def test_a_failed_one_is_told_to_every_test(pytester: pytest.Pytester, tiny: Tiny) -> None:
    next(tiny.wheels.glob("tiny_helper*")).unlink()
    pytester.makepyfile(test_a=ONE, test_b=ONE)
    result = pytester.runpytest_subprocess("--klavis-install-servers=on", "--klavis-require=off")
    result.assert_outcomes(errors=2)
    told = "*HTTP 500: the servers could not be installed: installing packages failed (exit status 1)"
    result.stdout.fnmatch_lines([told, "*No matching distribution found for tiny-helper==0.1.8", told])
    assert tiny.environments() == []
