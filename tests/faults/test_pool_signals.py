"""Ctrl-C once and twice, SIGTERM and SIGHUP, to a process or to all: the keeper does what is not done in time."""

from __future__ import annotations

import os
import signal

import pytest

from ..cloud import Fault
from .kit import Run, Site, fault, lives, until

pytestmark = pytest.mark.timeout(60)

PLAIN = ("-p", "no:xdist")
WORKERS = ("-n2",)
QUIET = "--klavis-prefetch=off"
NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
BOTH = {"seed.txt", "work.txt"}


def in_the_test(place: Site, *arguments: str) -> Run:
    """A run whose test holds a sandbox with work in it."""
    place.victims(1 if arguments[:2] == PLAIN else 3)
    run = place.start(*arguments)
    run.wait_for("victim")
    until(lambda: place.cloud.count("POST /local-sandbox/.*/initialize") >= 2, "{}", lambda: run.output)
    return run


@pytest.mark.parametrize(
    ("arguments", "number", "whole_group"),
    [
        (PLAIN, signal.SIGINT, False),
        (PLAIN, signal.SIGTERM, True),
        (PLAIN, signal.SIGHUP, False),
        (WORKERS, signal.SIGINT, False),
        (WORKERS, signal.SIGINT, True),
        (WORKERS, signal.SIGTERM, False),
        (WORKERS, signal.SIGTERM, True),
        (WORKERS, signal.SIGHUP, True),
    ],
    ids=lambda one: (
        getattr(one, "name", None) or {PLAIN: "plain", WORKERS: "workers", True: "group"}.get(one, "process")
    ),
)
def test_a_signal_then_the_keeper(
    place: Site, arguments: tuple[str, ...], number: signal.Signals, whole_group: bool
) -> None:
    run = in_the_test(place, *arguments)
    (os.killpg if whole_group else os.kill)(run.process.pid, number)
    output = run.finish()
    if arguments == PLAIN or number is signal.SIGINT:
        assert run.code == pytest.ExitCode.INTERRUPTED, output
        assert ", 0 leaked" in output
    orphans = arguments == WORKERS and number is not signal.SIGINT
    place.check("keeper", keeper_ends=not orphans)
    assert place.saved() == {"test_it[0] interrupted": BOTH}


@pytest.mark.parametrize(
    ("arguments", "whole_group"), [(PLAIN, False), (WORKERS, True)], ids=["plain", "workers-group"]
)
def test_ctrl_c_twice_then_the_keeper(place: Site, arguments: tuple[str, ...], whole_group: bool) -> None:
    run = in_the_test(place, *arguments)
    send = os.killpg if whole_group else os.kill

    def again() -> None:
        send(run.process.pid, signal.SIGINT)

    place.cloud.faults = [fault("DELETE /local-sandbox/.*", again, delay=1)]
    send(run.process.pid, signal.SIGINT)
    output = run.finish()
    if arguments == PLAIN:  # the second one strikes xdist where it waits for its workers
        assert run.code == pytest.ExitCode.INTERRUPTED, output
    assert "left to the keeper" in output
    place.check("keeper", keeper_ends=arguments == PLAIN)
    assert place.saved() == {"test_it[0] interrupted": BOTH}


def test_ctrl_c_twice_at_once_then_the_keeper(place: Site) -> None:
    run = in_the_test(place, *PLAIN, QUIET)
    for _ in range(2):
        run.process.send_signal(signal.SIGINT)
    run.finish()
    place.check("keeper")
    assert place.saved() == {"test_it[0] interrupted": BOTH} or place.saved() == {"test_it[0] killed": BOTH}


@pytest.mark.parametrize("step", ["POST /local-sandbox", "POST /local-sandbox/.*/initialize"])
@pytest.mark.parametrize("number", NUMBERS, ids=lambda one: one.name)
def test_a_signal_while_a_sandbox_is_made_ready(place: Site, step: str, number: signal.Signals) -> None:
    place.victims(1)
    place.cloud.faults = [fault(step, lambda: run.process.send_signal(number), delay=0.3)]
    run = place.start(*PLAIN, QUIET)
    output = run.finish()
    assert run.code == pytest.ExitCode.INTERRUPTED, output
    assert "1 acquired, 1 released, 0 leaked" in output
    place.check("run")


def test_ctrl_c_while_the_server_does_not_answer_releases(place: Site) -> None:
    run = in_the_test(place, *PLAIN, QUIET)
    place.cloud.faults = [Fault("DELETE /local-sandbox/.*", delay=12, times=1)]
    run.process.send_signal(signal.SIGINT)
    until(lambda: "Ctrl-C leaves them to the keeper" in run.output, "{}", lambda: run.output)
    run.process.send_signal(signal.SIGINT)
    output = run.finish()
    assert run.code == pytest.ExitCode.INTERRUPTED, output
    assert "NOT released: " in output
    assert "the keeper goes on" in output
    place.check("keeper")
    assert place.saved() == {"test_it[0] interrupted": BOTH}


@pytest.mark.parametrize("whole_group", [False, True], ids=["process", "group"])
def test_sigterm_to_the_controller_of_workers_that_hold_sandboxes(place: Site, whole_group: bool) -> None:
    """It has none itself, and would be gone without a summary if their reports did not tell it."""
    place.suite(
        """
def test_first(local_sandbox):
    fresh(local_sandbox)

def test_second(local_sandbox):
    fresh(local_sandbox)
    tell("victim")
    time.sleep(40)
"""
    )
    run = place.start("-n1", "-v", QUIET)
    run.wait_for("victim")
    until(lambda: "PASSED" in run.output, "{}", lambda: run.output)
    (os.killpg if whole_group else os.kill)(run.process.pid, signal.SIGTERM)
    output = run.finish()
    assert run.code == pytest.ExitCode.INTERRUPTED, output
    assert ", 0 leaked" in output
    place.check("keeper")
    assert place.saved() == {"test_second interrupted": BOTH}


def test_evidence_that_takes_longer_than_the_process_lives(place: Site) -> None:
    """The keeper compares with the seed, which is in a folder of the worker that has ended."""
    run = in_the_test(place, "-n1", QUIET)
    worker = run.wait_for("victim")
    gone = fault("POST .*/dump|GET .*/dump", lambda: until(lambda: not lives(worker), "the end of {}", lambda: worker))
    place.cloud.faults = [gone]
    os.killpg(run.process.pid, signal.SIGINT)
    output = run.finish()
    assert "could not be saved" not in output
    place.check("keeper")
    assert place.saved() == {"test_it[0] interrupted": BOTH}
    (changes,) = place.folder.glob("klavis-artifacts/2*/*/attempt-*/*/changes.txt")
    assert "work.txt" in changes.read_text()
    assert "seed.txt" not in changes.read_text()
    assert not list(place.temporary.glob("pytest-klavis-*"))


@pytest.mark.parametrize("keep", ["on-failure", "always"])
def test_what_is_kept_is_saved_when_ctrl_c_comes(place: Site, keep: str) -> None:
    run = in_the_test(place, *PLAIN, QUIET, f"--klavis-keep={keep}")
    run.process.send_signal(signal.SIGINT)
    output = run.finish()
    assert run.code == pytest.ExitCode.INTERRUPTED, output
    assert place.saved() == {"test_it[0] interrupted": BOTH}
    assert [one.state for one in place.entries()] == ["kept"]
    assert len(place.cloud.books.open()) == 1
    until(lambda: not place.keepers(), "keepers {}", place.keepers)


def test_sigterm_and_then_sigkill_of_all_then_reap(place: Site) -> None:
    """As hosted runners of CI end a job."""
    run = in_the_test(place, *PLAIN, QUIET)
    place.cloud.faults = [fault("DELETE /local-sandbox/.*", place.strike("all"), status=500)]
    run.process.send_signal(signal.SIGTERM)
    run.finish()
    place.check("reap")
    assert place.saved() == {"test_it[0] interrupted": BOTH}
