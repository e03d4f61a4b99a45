"""A thousand tests on sixteen workers, while processes are killed and the API misbehaves: nothing may come of it.

    KLAVIS_SOAK_TESTS=1000 KLAVIS_SOAK_WORKERS=16 KLAVIS_SOAK_SECONDS=900 KLAVIS_SOAK_SEED=... KLAVIS_SOAK_DIALECT=newer

`_SECONDS` is what the run may take before it counts as hung; `_SEED` makes the same choices again, though the
processes will not do the same at the same moment. Afterwards all is released by the run and its keeper, or, if both
were killed, by one `pytest-klavis reap`.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_klavis.pool.ledger import Ledger
from tests.cloud import KEY, NEWER, SEED, simulated_cloud

from .fire import Fire, keepers
from .verdicts import counted, shared, verdicts

if sys.platform != "linux":
    pytest.skip("reads /proc", allow_module_level=True)

TESTS = int(os.environ.get("KLAVIS_SOAK_TESTS", "1000"))
WORKERS = int(os.environ.get("KLAVIS_SOAK_WORKERS", "16"))
SECONDS = float(os.environ.get("KLAVIS_SOAK_SECONDS", "900"))
CHOICES = int(os.environ.get("KLAVIS_SOAK_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
DIALECT = {"newer": NEWER, "seed": SEED}[os.environ.get("KLAVIS_SOAK_DIALECT", "newer")]
LATENCY = {"acquire": 0.3, "reset": 0.05, "initialize": 0.05, "release": 0.05}
KEEPER = 180.0
"""Seconds that the keeper may take after the end of the run."""
BOUNDS = {"keeper": 160, "worker": 200, ".sqlite3": 2048, ".sqlite3-wal": 8192}
"""MB of memory, kB of files."""
HERE = Path(__file__).parent


def test_nothing_comes_of_kills_and_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def tell(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"{text}\n")

    began = time.monotonic()
    tell(f"\nKLAVIS_SOAK_SEED={CHOICES}: {TESTS} tests, {WORKERS} workers, in {tmp_path}")
    state, reports, journals = tmp_path / "state", tmp_path / "reports", tmp_path / "journals"
    for folder in (state, journals):
        folder.mkdir(mode=0o700)
    with simulated_cloud(DIALECT, latency=LATENCY, reuses_ids=True) as cloud:
        environment = _environment(tmp_path) | {"KLAVIS_BASE_URL": cloud.url}
        run = _started(tmp_path, environment)
        fire = Fire(cloud, run, journals, state, random.Random(CHOICES))
        try:
            ended = fire.burn(began + SECONDS)
        finally:
            _end(run)
        took = time.monotonic() - began
        fire.quench()
        left_by_run = len(cloud.state()["open"])
        _wait_for_keeper(fire)
        left_by_keeper = cloud.state()["open"]
        swept = _reaped(environment, tmp_path) if _entries(state) or left_by_keeper else ""
        found, wrong = verdicts(reports)
        seen = cloud.state()
        output = (tmp_path / "output").read_text()
        tell(
            f"{took:.0f} s; {counted(found)}; killed: {dict(fire.kills)}; peaks: {dict(fire.peaks)}\n"
            f"requests: {seen['requests']}; most at once {seen['most']}\n"
            f"left by the run {left_by_run}, by its keeper {len(left_by_keeper)}, at the end {len(seen['open'])}\n"
            f"{output[-300:]}\n{swept}\ntroubles: {seen['troubles']}\nopen: {seen['open']}\nledger: {_entries(state)}"
        )
        assert ended, f"it was not over after {SECONDS:.0f} s (KLAVIS_SOAK_SECONDS)"
        assert not wrong, "\n\n".join(wrong[:5])
        assert len(found) == TESTS
        assert shared(journals, fire.killed) == []
        assert seen["troubles"] == []
        assert seen["open"] == []
        assert _entries(state) == []
        assert keepers(state) == []
        assert {name: peak for name, peak in fire.peaks.items() if peak > BOUNDS.get(name, 10**6)} == {}


def _environment(folder: Path) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | {
        "KLAVIS_API_KEY": KEY,
        "KLAVIS_STATE_DIR": str(folder / "state"),
        "KLAVIS_ARTIFACTS_DIR": str(folder / "artifacts"),
        "KLAVIS_RATE": "off",
        "KLAVIS_EXCLUSIVE_ACCOUNT": "on",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "SOAK_TESTS": str(TESTS),
        "SOAK_JOURNALS": str(folder / "journals"),
        "SOAK_REPORTS": str(folder / "reports"),
    }


def _started(folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    suite = folder / "suite"
    (suite / "seed" / "b").mkdir(parents=True)
    (suite / "seed" / "a.txt").write_text("a")
    (suite / "seed" / "b" / "c.txt").write_text("c")
    (suite / "pytest.ini").write_text("[pytest]\n")
    shutil.copy(HERE / "soaked.py", suite / "test_soaked.py")
    shutil.copy(HERE / "soaked_conftest.py", suite / "conftest.py")
    plugins = ["-p", "xdist", "-p", "klavis", "-p", "no:cacheprovider"]
    how = ["-n", str(WORKERS), "--max-worker-restart", "100000", "--tb=short", "-q", "-rN"]
    with (folder / "output").open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", *plugins, *how],
            cwd=suite,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def _end(run: subprocess.Popen[str]) -> None:
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()


def _wait_for_keeper(fire: Fire) -> None:
    end = time.monotonic() + KEEPER
    while keepers(fire.state) and time.monotonic() < end:
        fire.look()
        time.sleep(0.1)


def _entries(state: Path) -> list[str]:
    """What is on the ledger."""
    found = []
    for path in state.glob("*/ledger-*.sqlite3"):
        ledger = Ledger(path.parent)
        found += [f"{one.name}: {one.state}, {one.owner}, {one.test}" for one in ledger.entries()]
        ledger.close()
    return found


def _reaped(environment: dict[str, str], folder: Path) -> str:
    command = [sys.executable, "-m", "pytest_klavis.cli", "reap"]
    done = subprocess.run(
        command, check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    return f"reap ended with {done.returncode}:\n{done.stdout[-1500:]}{done.stderr[-1500:]}"
