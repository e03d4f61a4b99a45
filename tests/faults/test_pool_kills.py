"""SIGKILL of a worker, the controller, the keeper or all of them, at each step of a sandbox's life."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..cloud import SEED
from .kit import Recovery, Site, Who, fault, site, until

pytestmark = pytest.mark.timeout(60)

ACQUIRE = "POST /local-sandbox"
SEEDING = "POST /local-sandbox/.*/initialize"
DUMP = "GET /local-sandbox/.*/dump"
RESET = "POST /local-sandbox/.*/reset"
RELEASE = "DELETE /local-sandbox/.*"
QUIET = "--klavis-prefetch=off"
WAYS: list[tuple[Who, Recovery]] = [
    ("worker", "run"),
    ("controller", "keeper"),
    ("all but the keeper", "keeper"),
    ("all", "next run"),
    ("all", "reap"),
]
BOTH = {"seed.txt", "work.txt"}


@pytest.mark.parametrize(("who", "by"), WAYS)
def test_in_the_test(place: Site, who: Who, by: Recovery) -> None:
    place.victims()
    run = place.start("-n2", QUIET)
    run.wait_for("victim")
    until(lambda: place.cloud.count(SEEDING) >= 2, "{}", lambda: run.output)
    place.strike(who)()
    output = run.finish()
    if who == "worker":
        assert "1 failed, 3 passed" in output
        assert "crashed while running 'test_it.py::test_it[0]'" in output
        assert "/attempt-1/local" in output
        assert ", 0 leaked" in output
    place.check(by, keeper_ends=by != "keeper")
    # An orphan is interrupted by xdist.
    assert place.saved() == {f"test_it[0] {'interrupted' if who == 'controller' else 'killed'}": BOTH}


@pytest.mark.parametrize(("who", "by"), [WAYS[0], WAYS[1], WAYS[3]])
def test_while_a_failure_is_dumped(place: Site, who: Who, by: Recovery) -> None:
    place.victims(body="assert 0")
    place.cloud.faults = [fault(DUMP, place.strike(who), after=1)]  # the look at its files is one, too
    place.start("-n2", QUIET).finish()
    place.check(by, keeper_ends=by != "keeper")
    assert place.saved() == {f"test_it[0] {'failed' if who == 'controller' else 'killed'}": BOTH}


@pytest.mark.parametrize(("who", "by"), [("worker", "run"), ("all but the keeper", "keeper"), ("all", "next run")])
def test_while_a_workspace_is_seeded(place: Site, who: Who, by: Recovery) -> None:
    place.victims()
    place.cloud.faults = [fault(SEEDING, place.strike(who))]
    place.start("-n2", QUIET).finish()
    place.check(by, keeper_ends=by != "keeper")
    assert set(place.saved()) == {"test_it[0] killed"}


@pytest.mark.parametrize(("who", "by"), [("worker", "run"), ("all but the keeper", "keeper"), ("all", "next run")])
def test_before_the_acquire_is_carried_out(place: Site, who: Who, by: Recovery) -> None:
    place.victims()
    place.cloud.faults = [fault(ACQUIRE, place.strike(who), status=503)]
    run = place.start("-n2", QUIET)
    output = run.finish()
    if who == "worker":
        assert "1 failed, 3 passed" in output
        assert "MAYBE not released, as its acquire was not answered: a local sandbox (filesystem)" in output
    place.check(by, rows=False, keeper_ends=False)  # it is looked for over a minute
    assert {one.state for one in place.entries()} <= {"lost", "intent"}


@pytest.mark.parametrize(
    ("who", "by", "options"),
    [
        ("worker", "run", ["--klavis-exclusive-account=on"]),
        ("worker", "reap --suspects", []),
        ("all", "reap --suspects", []),
    ],
    ids=["worker-run-exclusive", "worker-reap", "all-reap"],
)
def test_after_the_acquire_was_carried_out(place: Site, who: Who, by: Recovery, options: list[str]) -> None:
    place.victims()
    place.cloud.faults = [fault(ACQUIRE, place.strike(who))]
    run = place.start("-n2", QUIET, *options)
    output = run.finish()
    if by == "reap --suspects" and who == "worker":
        assert "SUSPECT, in the account and on nobody's ledger" in output
    place.check(by, keeper_ends=by != "keeper")


@pytest.mark.parametrize(("who", "by"), [("worker", "run"), ("all but the keeper", "keeper"), ("all", "reap")])
def test_after_a_labelled_acquire_was_carried_out(tmp_path: Path, who: Who, by: Recovery) -> None:
    with site(tmp_path, SEED) as place:
        place.suite(
            "def test_it(klavis_sandbox):\n    tell('victim')\n    klavis_sandbox('github')\n"
            "def test_other(klavis_sandbox):\n    wait_for('struck')\n    klavis_sandbox('slack')\n"
        )
        place.cloud.faults = [fault("POST /sandbox/github", place.strike(who), after=1)]  # without a TTL
        place.start("-n2", QUIET).finish()
        place.check(by, keeper_ends=by != "keeper")


# -- the keeper ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "carried_out"),
    [
        (ACQUIRE, True),
        (ACQUIRE, False),
        (SEEDING, True),
        (DUMP, True),
        (RESET, True),
        (RESET, False),
        (RELEASE, True),
        (RELEASE, False),
    ],
)
def test_the_keeper(place: Site, step: str, carried_out: bool) -> None:
    place.suite(
        """
@pytest.mark.parametrize("number", range(5))
def test_it(local_sandbox, number):
    fresh(local_sandbox)
    assert number != 3
"""
    )
    place.cloud.faults = [fault(step, place.strike("keeper"), status=None if carried_out else 503)]
    run = place.run("-n2", QUIET)
    assert "1 failed, 4 passed" in run.output
    assert ", 0 leaked" in run.output
    place.check("run")
    assert place.saved() == {"test_it[3] failed": BOTH}


def test_the_keeper_while_it_acquires_ahead(place: Site) -> None:
    place.suite(
        """
@pytest.mark.local_sandbox("filesystem", workspace={"seed.txt": "x"})
@pytest.mark.parametrize("number", range(4))
def test_it(sandbox, number):
    clean(sandbox)
    if not number:
        wait_for("struck")
"""
    )
    place.cloud.faults = [fault(ACQUIRE, place.strike("keeper"), after=1)]
    run = place.run("-p", "no:xdist", "--klavis-exclusive-account=on")
    assert "4 passed" in run.output
    place.check("run")


def test_the_keeper_again_and_again(place: Site) -> None:
    place.suite("@pytest.mark.parametrize('n', range(12))\ndef test_it(local_sandbox, n):\n    fresh(local_sandbox)\n")
    place.cloud.faults = [fault(RESET, place.strike("keeper"), times=6)]
    run = place.run("-n2", QUIET)
    assert "12 passed" in run.output
    place.check("run")


@pytest.mark.parametrize(("step", "by"), [(RESET, "reap"), (RELEASE, "next run")])
def test_all_while_the_keeper_is_at_work(place: Site, step: str, by: Recovery) -> None:
    place.suite(
        """
@pytest.mark.parametrize("number", range(3))
def test_it(local_sandbox, klavis_sandbox, number):
    fresh(local_sandbox)
    empty(klavis_sandbox)
"""
    )
    place.cloud.faults = [fault(step, place.strike("all"))]
    place.start("-n2", QUIET).finish()
    place.check(by)


def test_all_between_two_tests_with_idle_ones(place: Site) -> None:
    """What is idle in the pool is nobody's, and the next run's to release."""
    place.suite("def test_one(local_sandbox):\n    fresh(local_sandbox)\n\ndef test_two():\n    time.sleep(40)\n")
    run = place.start("-p", "no:xdist", QUIET)
    until(lambda: [one.state for one in place.entries()] == ["idle"] if place.state.exists() else False, "", str)
    place.strike("all")()
    run.finish()
    place.check("next run")
