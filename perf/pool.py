"""The time of suites over the ideal, on a simulated cloud: `python perf/pool.py [--quick]`. Prints; asserts nothing.

The cloud takes 2 s for an acquire, 0.5 s for a reset, 0.3 s for an initialize and 0.5 s for a release, with and without
2 requests/s. The suites are in `pool_suites/`: no sandbox at all, this plugin, and two by hand. The ideal is the sum of
the bodies over the workers; a suite's time is from the start of its first test to the end of its process, and the net
ratio is without what the workers' end took in the suite without sandboxes. With the limit, the floor is the ideal or
what the requests take at that rate, whichever is longer. All of it takes three hours, `--quick` eight minutes; --only
and the other options choose rows.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # the stand-in for the cloud is the tests'

from tests.cloud import KEY, simulated_cloud  # noqa: E402

LATENCY = {"acquire": 2.0, "reset": 0.5, "initialize": 0.3, "release": 0.5}
RATE = 2.0
SUITES = ("nothing", "plugin", "per_test", "session_pool")
HEAD = (
    "suite         workers  body  seed  limit  tests  ideal s  suite s  over ideal   net  over floor  calls/test"
    "   429s  most  leaks"
)


@dataclass(frozen=True)
class Case:
    """One row: a suite of so many tests, each with a body of so many seconds."""

    suite: str
    workers: int
    body: float
    seeded: bool
    rate: float | None
    tests: int

    @property
    def ideal(self) -> float:
        return self.tests * self.body / self.workers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 workers, bodies of 1 s, seeded, fewer tests")
    parser.add_argument("--only", nargs="*", choices=SUITES, default=SUITES, help="these suites")
    parser.add_argument("--workers", nargs="*", type=int, help="default: 1 4 8 16")
    parser.add_argument("--body", nargs="*", type=float, help="seconds; default: 0.5 1 5")
    parser.add_argument("--limit", choices=("off", "on", "both"), default="both")
    parser.add_argument("--workspace", choices=("directory", "mapping"), default="directory", help="the plugin's seed")
    parser.add_argument("--kinds", action="store_true", help="requests by kind, after each row")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}; latency {LATENCY}; the limit is {RATE:g}/s\n")
    print(HEAD)
    ends: dict[tuple[int, float], float] = {}
    for case in cases(given):
        took, state = run(case, given.workspace)
        key = case.workers, case.body
        if case.suite == "nothing":
            ends[key] = took - case.ideal
        print(row(case, took, ends.get(key, 0.0), state), flush=True)
        if given.kinds:
            print(f"    {state['requests']}; load {os.getloadavg()[0]:.1f}", flush=True)


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """The rows that were asked for, those to be compared next to each other."""
    workers = given.workers or ([8] if given.quick else [1, 4, 8, 16])
    bodies = given.body or ([1.0] if given.quick else [0.5, 1.0, 5.0])
    limits: dict[str, list[float | None]] = {"off": [None], "on": [RATE], "both": [None, RATE]}
    seeds = [True] if given.quick else [True, False]
    rows = itertools.product(limits[given.limit], seeds, itertools.product(bodies, workers), SUITES)
    for rate, seeded, (body, count), suite in rows:
        if suite not in given.only or (suite == "nothing" and (rate or not seeded)):
            continue
        per_worker = max(4, round((10 if given.quick else 15) / body))
        most = 24 if given.quick else max(48, 3 * count)
        yield Case(suite, count, body, seeded, rate, min(per_worker * count, most if rate else 10**6))


def run(case: Case, workspace: str) -> tuple[float, dict[str, Any]]:
    """Seconds that the suite took, and what the cloud has seen of it."""
    with tempfile.TemporaryDirectory() as folder, simulated_cloud(latency=LATENCY, rate=case.rate) as cloud:
        work = Path(folder)
        began = work / "began"
        (work / "pytest.ini").write_text("[pytest]\n")
        # The plugin's own default is the limit.
        settings = {"KLAVIS_RATE": "off"} if case.rate is None else {}
        environment = {key: value for key, value in os.environ.items() if not key.startswith("KLAVIS_")}
        environment |= settings | {
            "KLAVIS_BASE_URL": cloud.url,
            "KLAVIS_API_KEY": KEY,
            "KLAVIS_STATE_DIR": str(work / "state"),
            "KLAVIS_ARTIFACTS_DIR": str(work / "artifacts"),
            "POOL_BEGAN": str(began),
            "POOL_BODY": str(case.body),
            "POOL_SEEDED": "yes" if case.seeded else "no",
            "POOL_TESTS": str(case.tests),
            "POOL_WORKSPACE": workspace,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        file = HERE / "pool_suites" / f"test_{case.suite}.py"
        options = ["-q", "-n", str(case.workers), "-p", "xdist", "-p", "klavis", "-p", "no:cacheprovider"]
        places = ["-c", str(work / "pytest.ini"), "--rootdir", str(file.parent)]
        command = [sys.executable, "-m", "pytest", *options, *places, str(file)]
        done = subprocess.run(command, check=False, env=environment, cwd=folder, capture_output=True, text=True)
        took = time.monotonic() - float(began.read_text()) if began.exists() else float("nan")
        if done.returncode:
            print("\n".join(done.stdout.splitlines()[-15:]), file=sys.stderr)
        # What is left to a helper process is given its time; a leak is what stays.
        deadline = time.monotonic() + 15
        while (state := cloud.state())["open"] and time.monotonic() < deadline:
            time.sleep(0.1)
        return took, state


def row(case: Case, took: float, end: float, state: dict[str, Any]) -> str:
    """The row as it is printed, under `HEAD`."""
    calls = sum(count for kind, count in state["requests"].items() if kind not in ("put", "fetch")) - state["refused"]
    floor = max(case.ideal, calls / case.rate if case.rate else 0)
    case_is = f"{case.suite:<13} {case.workers:>7}  {case.body:>4g}  {'yes' if case.seeded else 'no':>4}"
    times = f"{case.rate or 'off':>5}  {case.tests:>5}  {case.ideal:>7.1f}  {took:>7.1f}"
    ratios = f"{took / case.ideal:>10.2f}  {(took - end) / case.ideal:>4.2f}  {took / floor:>10.2f}"
    seen = f"{calls / case.tests:>10.2f}  {state['refused']:>5}  {state['most']:>4}  {len(state['open']):>5}"
    troubles = f"  {len(state['troubles'])} TROUBLES: {state['troubles'][0]}" if state["troubles"] else ""
    return f"{case_is}  {times}  {ratios}  {seen}{troubles}"


if __name__ == "__main__":
    main()
