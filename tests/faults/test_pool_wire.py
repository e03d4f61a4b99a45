"""A cloud that limits, refuses, loses answers or hangs: everybody is served in the end, and all is released."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ..cloud import SEED, Fault, Odd
from .kit import Site, site, until

pytestmark = pytest.mark.timeout(60)

PLAIN = ("-p", "no:xdist")
QUIET = "--klavis-prefetch=off"
MANY = """
@pytest.mark.parametrize("number", range({tests}))
def test_it(local_sandbox, number):
    fresh(local_sandbox)
"""
ACQUIRE = "POST /local-sandbox"
RELEASE = "DELETE /local-sandbox/.*"


# -- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("retry_after", ["0", None], ids=["zero", "none"])
def test_a_storm_of_refusals(place: Site, retry_after: str | None) -> None:
    """Far more is asked for than the API allows; each process hears of it."""
    place.cloud.rate, place.cloud.retry_after = 20, retry_after
    place.suite(MANY.format(tests=12))
    run = place.run("-n4")
    assert "12 passed" in run.output
    assert ", 0 leaked" in run.output
    place.check("run")


def test_a_limit_that_is_kept_has_no_refusals(place: Site) -> None:
    place.cloud.rate, place.cloud.refused_count = 20, True
    place.suite(MANY.format(tests=12))
    run = place.run("-n4", "--klavis-rate=20/s")
    assert "12 passed" in run.output
    assert place.cloud.window.refused == 0
    place.check("run")


@pytest.mark.parametrize("status", [404, 429, 503])
def test_fewer_sandboxes_than_workers(place: Site, status: int) -> None:
    place.cloud.capacity, place.cloud.full_status = 2, status
    place.suite(MANY.format(tests=8))
    run = place.run("-n4")
    assert "8 passed" in run.output
    assert place.cloud.books.most == 2
    place.check("run")


def test_nobody_starves_for_a_place(place: Site) -> None:
    place.cloud.capacity = 2
    place.suite(
        """
@pytest.mark.parametrize("number", range(12))
def test_it(local_sandbox, klavis_sandbox, number):
    if number % 3 == 2:
        empty(klavis_sandbox)
    else:
        fresh(local_sandbox)
"""
    )
    run = place.run("-n4")
    assert "12 passed" in run.output
    place.check("run")


def test_sets_that_fill_the_pool(place: Site) -> None:
    """Each test wants two at once, each by itself has room for one: nobody waits for ever."""
    place.suite(
        """
@pytest.mark.local_sandbox("filesystem", workspace={"seed.txt": "x"})
@pytest.mark.klavis_sandbox("github")
@pytest.mark.parametrize("number", range(6))
def test_it(sandboxes, number):
    clean(sandboxes["local"])
"""
    )
    run = place.run("-n3", "--klavis-pool-size=3")
    assert "6 passed" in run.output
    assert place.cloud.books.most <= 3
    place.check("run")


@pytest.mark.parametrize("status", [404, 409])
def test_sets_that_fill_the_account(place: Site, status: int) -> None:
    """Each worker gets a part of its set, and gives it back rather than wait for the rest with it in hand."""
    place.cloud.capacity, place.cloud.full_status = 2, status
    place.cloud.latency = {"acquire": 0.5}
    place.suite(
        """
@pytest.mark.parametrize("number", range(4))
def test_it(klavis_sandboxes, worker_id, number):
    tell(worker_id)
    wait_for("gw0")
    wait_for("gw1")
    boxes = klavis_sandboxes(["github", "slack"])
    assert not any(box.dump() for box in boxes.values()), "DIRTY"
"""
    )
    run = place.run("-n2", "--klavis-acquire-timeout=60s")
    assert "4 passed" in run.output
    assert ", 0 leaked" in run.output
    assert place.cloud.books.most == 2
    place.check("run")


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_what_lies_idle_makes_room_for_another_server(place: Site, workers: str) -> None:
    """The account is full of our own, though the pool has places: they go one by one until the API has one again."""
    place.cloud.capacity = 2
    place.suite(
        """
@pytest.mark.parametrize("server", ["github", "slack", "notion", "jira", "github", "linear"])
def test_it(klavis_sandbox, server):
    assert not klavis_sandbox(server).dump(), "DIRTY"
"""
    )
    run = place.run(workers, QUIET, "--klavis-acquire-timeout=60s")
    assert "6 passed" in run.output
    assert place.cloud.books.most == 2
    place.check("run")


# -- acquires --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 503, 409])
def test_no_acquires_for_a_while(place: Site, status: int) -> None:
    place.cloud.faults = [Fault(ACQUIRE, status=status, times=4)]
    place.suite(MANY.format(tests=4))
    run = place.run("-n2", QUIET)
    if status == 500:  # which may have made one
        assert "ERROR" in run.output
        assert run.code == pytest.ExitCode.TESTS_FAILED
        assert "500" in run.output
    else:
        assert "4 passed" in run.output
    place.check("run" if status != 500 else "keeper", rows=status != 500, keeper_ends=status != 500)


@pytest.mark.parametrize(
    ("way", "exclusive"), [("reset", True), ("cut", True), ("garbage", True), ("reset", False), ("garbage", False)]
)
def test_the_answer_to_an_acquire_is_lost(place: Site, way: str, exclusive: bool) -> None:
    place.cloud.faults = [Fault(ACQUIRE, way=way, times=1)]  # type: ignore[arg-type]
    place.suite(MANY.format(tests=4))
    run = place.run("-n2", QUIET, f"--klavis-exclusive-account={'on' if exclusive else 'off'}")
    assert re.search(r"3 passed, 1 error|4 passed", run.output)
    if not exclusive and "error" in run.output:  # half an answer may tell what has to be released
        assert "SUSPECT, in the account and on nobody's ledger" in run.output
    place.check("run" if exclusive else "reap --suspects")


@pytest.mark.parametrize("way", ["reset", "garbage"])
def test_the_answer_to_a_labelled_acquire_is_lost(tmp_path: Path, way: str) -> None:
    with site(tmp_path, SEED) as place:
        place.suite(
            "@pytest.mark.parametrize('n', range(3))\ndef test_it(klavis_sandbox, n):\n    klavis_sandbox('github')\n"
        )
        place.cloud.faults = [Fault("POST /sandbox/github", way=way, times=1, after=1)]  # type: ignore[arg-type]
        run = place.run(*PLAIN, QUIET)
        assert run.code == pytest.ExitCode.TESTS_FAILED
        place.check("run")


def test_a_slow_answer_to_an_acquire(place: Site) -> None:
    place.cloud.latency = {"acquire": 2.0}
    place.suite(MANY.format(tests=4))
    run = place.run("-n2")
    assert "4 passed" in run.output
    place.check("run")


def test_an_answer_that_comes_after_the_wait_is_over(place: Site) -> None:
    place.cloud.faults = [Fault(ACQUIRE, delay=4, times=1)]
    place.suite(MANY.format(tests=2))
    run = place.run(*PLAIN, QUIET, "--klavis-acquire-timeout=2s", "--klavis-exclusive-account=on")
    assert "1 passed, 1 error" in run.output
    place.check("keeper", rows=False, keeper_ends=False)


def test_broken_sandboxes_are_given_back(place: Site) -> None:
    place.cloud.odd = Odd("error", times=1)
    place.suite(MANY.format(tests=3))
    run = place.run(*PLAIN, QUIET)
    assert "3 passed" in run.output
    place.check("run")


# -- in the test -----------------------------------------------------------------------------------


def test_a_sandbox_that_expires_in_the_test(place: Site) -> None:
    """Somebody else has the account by then: it is left alone."""
    place.suite(
        "def test_it(klavis_sandbox):\n    empty(klavis_sandbox)\n    tell('ready')\n    wait_for('go')\n    assert 0\n"
    )
    run = place.start(*PLAIN, QUIET)
    run.wait_for("ready")
    place.cloud.accounts.reuse("github-1")
    (place.folder / "go").touch()
    run.finish()
    place.check("run")


def test_trouble_with_a_seed_is_an_error(place: Site) -> None:
    place.cloud.faults = [Fault("POST /local-sandbox/.*/initialize", status=422, times=1)]
    place.suite(MANY.format(tests=3))
    run = place.run(*PLAIN, QUIET)
    assert "2 passed, 1 error" in run.output
    assert "could not be put into it" in run.output
    place.check("run")


# -- resets and releases ---------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 404}, {"way": "reset"}, {"way": "cut"}], ids=str)
def test_resets_that_cannot_be_believed(place: Site, fault: dict[str, str]) -> None:
    place.cloud.faults = [Fault("POST /local-sandbox/.*/reset", times=6, **fault)]  # type: ignore[arg-type]
    place.suite(MANY.format(tests=6))
    run = place.run("-n2", QUIET)
    assert "6 passed" in run.output
    place.check("run")


def test_resets_that_leave_what_was_there(place: Site) -> None:
    """Only a dump shows it."""
    place.cloud.reset_leaves_dirt = True
    place.suite("@pytest.mark.parametrize('n', range(4))\ndef test_it(klavis_sandbox, n):\n    empty(klavis_sandbox)\n")
    run = place.run(*PLAIN, QUIET, "--klavis-verify-reset=on")
    assert "4 passed" in run.output
    place.check("run")


@pytest.mark.parametrize("fault", [{"status": 500}, {"way": "reset"}, {"way": "cut"}], ids=str)
def test_releases_that_fail_for_a_while(place: Site, fault: dict[str, str]) -> None:
    place.cloud.faults = [Fault(RELEASE, times=3, **fault)]  # type: ignore[arg-type]
    place.suite(MANY.format(tests=4))
    run = place.run("-n2", QUIET)
    assert "4 passed" in run.output
    assert run.code == 0
    place.check("run")


def test_a_release_that_is_not_answered_then_the_keeper(place: Site) -> None:
    """The end of the run waits for it, and can be told not to."""
    place.cloud.faults = [Fault(RELEASE, status=500, delay=0.2)]
    place.suite(MANY.format(tests=2))
    run = place.start(*PLAIN, QUIET)
    until(lambda: place.cloud.count(RELEASE) >= 2, "{}", lambda: run.output)
    until(lambda: "Ctrl-C leaves them to the keeper" in run.output, "{}", lambda: run.output)
    run.process.send_signal(2)
    output = run.finish()
    assert "left to the keeper" in output
    assert "(releasing; the keeper goes on)" in output
    place.cloud.faults = []
    place.check("keeper")
