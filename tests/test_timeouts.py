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
