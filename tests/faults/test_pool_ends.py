"""Tests that end their process, time out, run again, fork or stop the run."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .kit import SOON, Site, default_signals

pytestmark = pytest.mark.timeout(60)

PLAIN = ("-p", "no:xdist")
QUIET = "--klavis-prefetch=off"
BOTH = {"seed.txt", "work.txt"}
SIX = """
@pytest.mark.parametrize("number", range(6))
def test_it(local_sandbox, number):
    box = fresh(local_sandbox)
    if number == 2:
        {body}
"""


@pytest.mark.parametrize(
    ("body", "by"),
    [("os._exit(7)", "run"), ("ctypes.string_at(0)", "run"), ("os._exit(7)", "keeper"), ("os.abort()", "keeper")],
)
def test_the_process_ends_in_the_test(place: Site, body: str, by: str) -> None:
    place.suite(SIX.format(body=body))
    run = place.run(*(("-n2",) if by == "run" else PLAIN), "-p", "no:faulthandler")
    if by == "run":
        assert "1 failed, 5 passed" in run.output
        assert run.code == pytest.ExitCode.TESTS_FAILED
        assert ", 0 leaked" in run.output
    place.check("run" if by == "run" else "keeper", keeper_ends=by == "run")
    assert place.saved() == {"test_it[2] killed": BOTH}


def test_no_other_worker_takes_over(place: Site) -> None:
    place.suite(SIX.format(body="os._exit(7)"))
    run = place.run("-n2", "--max-worker-restart=0")
    assert run.code == pytest.ExitCode.TESTS_FAILED
    assert "worker 'gw0' crashed" in run.output or "worker 'gw1' crashed" in run.output
    place.check("run")
    assert place.saved()["test_it[2] killed"] == BOTH


@pytest.mark.parametrize("method", ["signal", "thread"])
def test_a_timeout(place: Site, method: str) -> None:
    place.suite(SIX.format(body="time.sleep(40)"))
    run = place.run("-n2", "--timeout=5", f"--timeout-method={method}")
    assert "1 failed, 5 passed" in run.output
    assert ("Timeout (>" if method == "signal" else "crashed while running") in run.output
    place.check("run")
    assert place.saved() == {f"test_it[2] {'failed' if method == 'signal' else 'killed'}": BOTH}


def test_a_sandbox_whose_test_timed_out_is_not_used_again(place: Site) -> None:
    place.suite(SIX.format(body='tell(f"id-{box.id}"); time.sleep(40)'))
    run = place.run(*PLAIN, QUIET, "--timeout=5")
    (number,) = [one.name[3:] for one in place.folder.glob("id-*")]
    asked = [one.partition(number)[2] for one in place.cloud.requests if number in one]
    after = asked[len(asked) - asked[::-1].index("/dump") :]
    assert "/reset" not in after
    assert after[-1] == ""  # its release
    assert "1 failed, 5 passed" in run.output
    assert ", 0 leaked" in run.output
    place.check("run")
    assert place.saved() == {"test_it[2] failed": BOTH}


def test_a_failure_runs_again(place: Site) -> None:
    place.suite(SIX.format(body="assert (HERE / 'enough').exists()"))
    run = place.run("-n2", "--reruns=2")
    assert "1 failed, 5 passed, 2 rerun" in run.output
    place.check("run")
    attempts = list(place.folder.glob("klavis-artifacts/2*/*/attempt-*/local/workspace.tar.gz"))
    assert sorted(one.parts[-3] for one in attempts) == ["attempt-1", "attempt-2", "attempt-3"]


def test_a_crash_runs_again(place: Site) -> None:
    place.suite(SIX.format(body="os._exit(7)"))
    run = place.run("-n2", "--reruns=2")
    assert run.code == pytest.ExitCode.TESTS_FAILED
    assert "5 passed" in run.output
    place.check("run")
    assert place.saved() == {"test_it[2] killed": BOTH}
    assert len(list(place.folder.glob("klavis-artifacts/2*/*/attempt-*/local/workspace.tar.gz"))) == 3


@pytest.mark.parametrize(
    "child", ["raise SystemExit(0)", "raise AssertionError('the child falls through')", "os._exit(0)", "return"]
)
def test_a_forked_child(place: Site, child: str) -> None:
    body = f"""if os.fork() == 0:
            {child}
        os.wait()
        assert "work.txt" in box.list_files()
    """
    place.suite(SIX.format(body=body))
    run = place.run(*PLAIN)
    assert run.code == 0, run.output
    assert "6 passed" in run.output
    place.check("run")


def test_the_run_ends_from_a_test(place: Site) -> None:
    place.suite(SIX.format(body="pytest.exit('enough', 4)"))
    run = place.run(*PLAIN)
    assert run.code == 4
    assert ", 0 leaked" in run.output
    place.check("run")


def test_the_run_ends_from_a_worker(place: Site) -> None:
    place.suite(SIX.format(body="pytest.exit('enough', 4)"))
    run = place.run("-n2")
    assert run.code != 0
    place.recover("keeper")  # xdist breaks inside when a worker leaves like this
    assert place.cloud.books.troubles() == []


def test_maxfail(place: Site) -> None:
    place.suite(SIX.format(body="assert 0"))
    run = place.run("-n2", "-x")
    assert run.code != 0
    assert ", 0 leaked" in run.output
    place.check("run")
    assert place.saved()["test_it[2] failed"] == BOTH


@pytest.mark.parametrize("arguments", [PLAIN, ("-n2",)], ids=["plain", "workers"])
def test_the_reader_of_the_output_goes(place: Site, arguments: tuple[str, ...]) -> None:
    """As in `pytest | head`."""
    place.suite(SIX.format(body="assert 0"))
    command = [sys.executable, "-m", "pytest", *arguments, "-p", "no:cacheprovider", "-v"]
    with subprocess.Popen(
        command,
        cwd=place.folder,
        env=place.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=default_signals,
    ) as run:
        assert run.stdout is not None
        while b"PASSED" not in run.stdout.readline():
            assert run.poll() is None
        run.stdout.close()
        assert run.wait(SOON) != 0
    place.check("keeper", keeper_ends=False)
