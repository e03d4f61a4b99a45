"""Pack and extract against tar, in one run: `python perf/archives.py [--quick]`. Prints ratios; asserts nothing."""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

FILES, BYTES = 18_000, 500 << 20
HAS_ISAL = importlib.util.find_spec("isal") is not None
WORDS = [f"{word}_{number}" for word in ("value", "return", "import", "self", "error") for number in range(200)]
ONE = """
import re, resource, sys
from pathlib import Path
from pytest_klavis.workspace.archive import extract, pack, verify
action, source, dest = sys.argv[1:]
if action == "pack with zlib":
    sys.modules["isal"] = None
if action.startswith("pack"):
    pack(Path(source), Path(dest))
elif action == "extract":
    extract(Path(source), Path(dest))
elif action == "verify":
    verify(Path(source))
status = Path("/proc/self/status")  # on Linux ru_maxrss begins with the parent's
if status.exists():
    print(int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]) * 1024)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the bytes and files, two rounds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, help="where to work (default: the temporary directory)")
    given = parser.parse_args()
    part, rounds = (10, 2) if given.quick else (1, given.rounds)
    with tempfile.TemporaryDirectory(dir=given.dir) as folder:
        work = Path(folder)
        make_tree(work / "small", FILES // 10, BYTES // 10)
        if part == 1:
            make_tree(work / "large", FILES, BYTES)
        tree = work / ("small" if part > 1 else "large")
        print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, isal {'in use' if HAS_ISAL else 'not there'}")
        print(f"{FILES // part:,} files, {BYTES // part >> 20} MB, {rounds} rounds: min / median / max\n")
        compare(tree, work, rounds)
        if part == 1:
            memory(work)


def make_tree(root: Path, files: int, size: int) -> None:
    """Source-like text, noise and repetition in equal parts; sizes as in a workspace: many small, few large."""
    choice = random.Random(1)  # the same tree each time
    weights = [min(choice.paretovariate(1.1), 400) for _ in range(files)]
    scale = size / sum(weights)
    for number, weight in enumerate(weights):
        place = root / f"d{number % 97}" / f"e{number % 7}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"f{number}.txt").write_bytes(contents(choice, number, int(weight * scale)))


def contents(choice: random.Random, number: int, size: int) -> bytes:
    if number % 3 == 0:
        return choice.randbytes(size)
    if number % 3 == 1:
        return b"%d," % number * (size // 6)
    lines = [" ".join(choice.choices(WORDS, k=8)) for _ in range(min(size // 60 + 1, 2_000))]
    text = "\n".join(lines).encode()
    return (text * (size // len(text) + 1))[:size]


def compare(tree: Path, work: Path, rounds: int) -> None:
    """Alternately, so that both meet the same machine; the first round of each warms the caches."""
    ours, theirs = work / "ours.tar.gz", work / "theirs.tar.gz"
    times: dict[str, list[float]] = {
        name: [] for name in ("pack", "pack with zlib", "tar czf", "extract", "tar xzf", "verify")
    }
    for _ in range(rounds + 1):
        times["tar czf"].append(timed(lambda: run("tar", "czf", theirs, "-C", tree, ".")))
        for how in ("pack with zlib", "pack"):
            times[how].append(timed(partial(run, sys.executable, "-c", ONE, how, tree, ours)))
        times["verify"].append(timed(lambda: run(sys.executable, "-c", ONE, "verify", ours, "-")))
        (work / "a").mkdir()
        times["tar xzf"].append(timed(lambda: run("tar", "xzf", ours, "-C", work / "a")))
        times["extract"].append(timed(lambda: run(sys.executable, "-c", ONE, "extract", ours, work / "b")))
        shutil.rmtree(work / "a")
        shutil.rmtree(work / "b")
    for name, values in times.items():
        show(f"{name}: s", values[1:])
    show("pack / tar czf", ratios(times["pack"], times["tar czf"]))
    show("pack with zlib / tar czf", ratios(times["pack with zlib"], times["tar czf"]))
    show("extract / tar xzf", ratios(times["extract"], times["tar xzf"]))
    print(f"{'size of ours / of tar':32}{ours.stat().st_size / theirs.stat().st_size:8.2f}")


def memory(work: Path) -> None:
    """Peak memory of a process of its own, with a bare import of the package taken off."""
    base = int(run(sys.executable, "-c", ONE, "nothing", "-", "-"))
    print("\npeak memory above an import, MB   " + "".join(f"{name:>10}" for name in ("pack", "extract", "verify")))
    for size in ("small", "large"):
        archive = work / f"{size}.tar.gz"
        peaks = [
            int(run(sys.executable, "-c", ONE, action, source, dest)) - base
            for action, source, dest in (
                ("pack", work / size, archive),
                ("extract", archive, work / f"{size}-out"),
                ("verify", archive, "-"),
            )
        ]
        print(f"{size:34}" + "".join(f"{peak / (1 << 20):10.1f}" for peak in peaks))


def ratios(one: list[float], other: list[float]) -> list[float]:
    return [a / b for a, b in zip(one[1:], other[1:], strict=True)]


def show(what: str, values: list[float]) -> None:
    print(f"{what:32}{min(values):8.2f}{statistics.median(values):8.2f}{max(values):8.2f}")


def timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
