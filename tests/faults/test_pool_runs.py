"""Several runs at once, and every way of xdist to hand out tests."""

from __future__ import annotations

import pytest

from .kit import Site

pytestmark = pytest.mark.timeout(60)

CLASSES = """
@pytest.mark.xdist_group("{group}")
class Test{name}:
    @pytest.mark.parametrize("number", range(3))
    def test_it(self, local_sandbox, number):
        fresh(local_sandbox)
"""


@pytest.mark.parametrize("dist", ["load", "loadscope", "loadgroup", "loadfile", "worksteal", "each"])
def test_every_distribution(place: Site, dist: str) -> None:
    place.suite(CLASSES.format(group="a", name="One") + CLASSES.format(group="b", name="Two"), "test_a.py")
    place.suite(CLASSES.format(group="a", name="Three"), "test_b.py")
    run = place.run("--dist", dist, *(["--tx", "2*popen"] if dist == "each" else ["-n2"]))
    assert f"{18 if dist == 'each' else 9} passed" in run.output
    assert ", 0 leaked" in run.output
    place.check("run")


@pytest.mark.parametrize("dist", ["load", "worksteal"])
def test_a_crash_in_every_distribution(place: Site, dist: str) -> None:
    place.suite("def test_dies(local_sandbox):\n    fresh(local_sandbox)\n    os._exit(3)\n", "test_a.py")
    place.suite(CLASSES.format(group="a", name="One"), "test_b.py")
    place.suite(CLASSES.format(group="b", name="Two"), "test_c.py")
    run = place.run("--dist", dist, "-n2")
    assert "1 failed, 6 passed" in run.output
    place.check("run")
    assert place.saved() == {"test_dies killed": {"seed.txt", "work.txt"}}


@pytest.mark.parametrize("dist", ["loadscope", "loadgroup", "loadfile"])
def test_a_crash_that_no_other_worker_takes_over(place: Site, dist: str) -> None:
    """With another worker xdist may wait for ever, which is its own."""
    place.suite("def test_dies(local_sandbox):\n    fresh(local_sandbox)\n    os._exit(3)\n", "test_a.py")
    place.suite(CLASSES.format(group="b", name="Two"), "test_b.py")
    run = place.run("--dist", dist, "-n2", "--max-worker-restart=0")
    assert run.code == pytest.ExitCode.TESTS_FAILED
    place.check("run")


def test_two_runs_share_the_places_of_an_account(place: Site) -> None:
    place.suite("@pytest.mark.parametrize('n', range(8))\ndef test_it(local_sandbox, n):\n    fresh(local_sandbox)\n")
    runs = [place.start("-n2", "--klavis-pool-size=3") for _ in range(2)]
    for run in runs:
        assert "8 passed" in run.finish()
        assert run.code == 0
    assert place.cloud.books.most <= 3
    place.check("run")


def test_a_run_that_is_killed_beside_another(place: Site) -> None:
    place.suite(
        "@pytest.mark.parametrize('n', range(8))\ndef test_it(local_sandbox, n):\n    fresh(local_sandbox)\n"
        "    if n == 6 and 'HELD' in os.environ: tell('victim'); time.sleep(40)\n"
    )
    other = place.start("-n2", "--klavis-pool-size=3")
    doomed = place.start("-n2", "--klavis-pool-size=3", HELD="1")
    doomed.wait_for("victim")
    place.strike("all but the keeper")()
    doomed.finish()
    assert "8 passed" in other.finish()
    place.check("keeper", keeper_ends=False)
    assert place.saved()["test_it[6] killed"] == {"seed.txt", "work.txt"}


def test_the_next_run_takes_the_places_of_a_killed_one(place: Site) -> None:
    place.victims()
    run = place.start("-n2", "--klavis-pool-size=1", "--klavis-prefetch=off")
    run.wait_for("victim")
    place.strike("all")()
    run.finish()
    place.suite("def test_it(local_sandbox):\n    fresh(local_sandbox)\n")
    again = place.run("-p", "no:xdist", "--klavis-pool-size=1")
    assert "1 passed" in again.output
    place.check("run", rows=False, keeper_ends=False)
