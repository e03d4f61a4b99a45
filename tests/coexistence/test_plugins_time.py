"""Tests that stop the clock or replace `time.sleep`: our deadlines, waits and figures go on by the real one."""

from __future__ import annotations

import re

import pytest

from tests.cloud import Cloud, Fault

from .leaks import acquired

SLOW = """
        box = local_sandbox("filesystem", workspace={"a.txt": "x"})
        assert box.run(["sleep", "20"], timeout=0.5).stopped == "timeout"
        assert box.read_text("a.txt") == "x"
        box.upload({"b.txt": "y"})
        assert box.diff().added == ("b.txt",)
"""


@pytest.mark.plugins
@pytest.mark.parametrize("year", [2001, 2040])
@pytest.mark.parametrize(
    ("first", "freeze"),
    [
        ("from freezegun import freeze_time", "freeze_time('{year}-01-14')"),
        ("import time_machine", "time_machine.travel('{year}-01-14', tick=False)"),
    ],
    ids=["freezegun", "time-machine"],
)
def test_frozen_time(pytester: pytest.Pytester, first: str, freeze: str, year: int) -> None:
    """The first sandbox of the run too, whose imports happen while the clock stands."""
    frozen = freeze.format(year=year)
    pytester.makepyfile(
        f"""
    import datetime
    import unittest
    import pytest
    {first}

    @{frozen}
    def test_body(local_sandbox):
        {SLOW}
        assert datetime.datetime.now().year == {year}

    @{frozen}
    class TestAgent(unittest.TestCase):
        @pytest.fixture(autouse=True)
        def acquire(self, local_sandbox):
            self.box = local_sandbox("filesystem", workspace={{"a.txt": "x"}})

        def test_it(self):
            assert self.box.read_text("a.txt") == "x"

    @pytest.fixture
    def standing():
        with {frozen}:
            yield

    @pytest.mark.local_sandbox("filesystem")
    def test_from_setup_to_teardown(standing, sandbox, class_local_sandbox):
        sandbox.upload({{"a.txt": "x"}})
        assert class_local_sandbox("filesystem").list_files() == []
        assert 0
    """
    )
    result = pytester.runpytest_subprocess("--timeout=60")
    result.assert_outcomes(passed=2, failed=1)
    assert acquired(result) == 4
    assert len(list(pytester.path.glob("klavis-artifacts/latest/*/attempt-1/local/workspace.tar.gz"))) == 1
    [held] = re.findall(r"sandboxes held for ([\d.]+) s", str(result.stdout))
    assert 0.5 < float(held) < 60


@pytest.mark.plugins
def test_deadlines_hold_in_frozen_time(pytester: pytest.Pytester, cloud: Cloud) -> None:
    cloud.faults = [Fault("GET /local-sandbox", delay=4)]
    pytester.makepyfile(
        """
        from freezegun import freeze_time

        @freeze_time("2001-01-14")
        def test_it(klavis_client):
            klavis_client.list_local_sandboxes(deadline=1.5)
        """
    )
    result = pytester.runpytest_subprocess("--timeout=60")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*TransportError*no whole answer within 1.5 s*"])


def test_waits_are_real_when_a_test_replaces_sleep(pytester: pytest.Pytester, cloud: Cloud) -> None:
    """Else an API that asks for patience would be stormed."""
    cloud.faults = [Fault("GET /local-sandbox", status=429)]
    pytester.makepyfile(
        """
        import time

        def test_it(klavis_client, monkeypatch):
            monkeypatch.setattr(time, "sleep", lambda seconds: None)
            klavis_client.list_local_sandboxes(deadline=2.5)
        """
    )
    result = pytester.runpytest_subprocess("--timeout=60")
    result.assert_outcomes(errors=1)
    assert 1 <= cloud.count("GET /local-sandbox") <= 4


@pytest.mark.plugins
def test_pytest_mock(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        f"""
    def test_it(mocker, local_sandbox):
        mocker.patch("time.sleep")
        mocker.patch("time.monotonic", return_value=1.0)
        mocker.patch("time.time", return_value=1.0)
        mocker.patch("httpx.Client.send", side_effect=AssertionError)
        mocker.patch("socket.gethostname", return_value="host")
        mocker.patch("random.uniform", return_value=0.0)
        {SLOW}
    """
    )
    result = pytester.runpytest_subprocess("--timeout=60")
    result.assert_outcomes(passed=1)
    assert acquired(result) == 1
