"""pytest-timeout judges the test, not the time that we wait for a sandbox."""

from __future__ import annotations

import pytest

from .cloud import Cloud, Fault


@pytest.mark.parametrize("method", ["signal", "thread"])
def test_waiting_for_the_backend_does_not_count(pytester: pytest.Pytester, cloud: Cloud, method: str) -> None:
    cloud.faults = [Fault("POST /local-sandbox", delay=2.2), Fault("DELETE /local-sandbox/.*", delay=2.2)]
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.local_sandbox("filesystem")
        def test_setup(sandbox):
            pass

        def test_body(local_sandbox):
            local_sandbox("filesystem")
        """
    )
    result = pytester.runpytest_subprocess("--timeout=2", f"--timeout-method={method}")
    result.assert_outcomes(passed=2)
    assert cloud.held() == []


def test_the_test_itself_still_times_out_and_keeps_its_evidence(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import time

        def test_hangs(local_sandbox):
            box = local_sandbox("filesystem")
            box.upload({"a.txt": "x"})
            time.sleep(30)
        """
    )
    result = pytester.runpytest_subprocess("--timeout=2", "--timeout-method=signal")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Failed: Timeout*", "1 acquired, 1 released, 0 leaked*"])
    assert len(list(pytester.path.glob("klavis-artifacts/latest/*/attempt-1/local/workspace.tar.gz"))) == 1


def test_waits_at_the_same_time_do_not_count_either(pytester: pytest.Pytester, cloud: Cloud) -> None:
    cloud.faults = [Fault("POST /local-sandbox", delay=0.5, times=1), Fault("POST /local-sandbox", delay=3.5)]
    pytester.makepyfile(
        """
        import anyio, pytest

        @pytest.mark.anyio
        async def test_it(local_sandbox):
            async with anyio.create_task_group() as group:
                group.start_soon(local_sandbox.acquire, "filesystem")
                await anyio.sleep(0.2)
                group.start_soon(local_sandbox.acquire, "filesystem")
        """
    )
    result = pytester.runpytest_subprocess("--timeout=2", "--timeout-method=signal")
    result.assert_outcomes(passed=2)  # on asyncio and on trio
    assert cloud.held() == []
