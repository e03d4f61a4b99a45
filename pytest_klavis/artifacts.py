"""Where evidence goes: a folder per run, test, attempt and sandbox; the last runs are kept."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from pathlib import Path

KEPT_RUNS = 20
MARKER = ".klavis-run"


def slug(nodeid: str, worker: str = "") -> str:
    """A folder name for a test: readable, unique by a hash of the node id, at most 100 characters.

    `worker` is given where several workers run the same test.
    """
    nodeid += f"@{worker}" if worker else ""
    file, _, rest = nodeid.partition("::")
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{Path(file).stem}-{rest}").strip("-.")[:80]
    return f"{readable}-{hashlib.sha256(nodeid.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def sandbox_folder(attempt: Path, key: str, taken: set[Path]) -> Path:
    """The folder of one sandbox of an attempt: its name, numbered where the test has several of that name."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", key).strip("-.")[:60] or "sandbox"
    folder, number = attempt / readable, 1
    while folder in taken:
        number += 1
        folder = attempt / f"{readable}-{number}"
    return folder


def begin_run(run: Path) -> None:
    """Make a run's folder and point `latest` at it. Safe to call from several processes."""
    root = run.parent
    if not root.exists():
        root.mkdir(parents=True, exist_ok=True)
        (root / ".gitignore").write_text("*\n")
    run.mkdir(exist_ok=True)
    (run / MARKER).touch()
    pending = root / f".latest-{os.getpid()}-{threading.get_ident()}"
    pending.unlink(missing_ok=True)
    pending.symlink_to(run.name)
    latest = root / "latest"
    if latest.is_symlink() or not latest.exists():
        pending.replace(latest)
    else:
        pending.unlink()


def is_ours(path: Path, root: Path) -> bool:
    """Whether nothing below `path` is to be collected: evidence, which agents wrote, of this run or another."""
    try:
        return path == root or (path / MARKER).exists()
    except OSError:  # a directory that is closed to us
        return False


def folders(run: Path) -> list[str]:
    """What was saved in a run, as paths relative to it: one per sandbox, and the tests' own files."""
    return sorted(str(path.relative_to(run)) for path in run.glob("*/attempt-*/*") if path.is_dir())


def run_of(folder: Path) -> Path:
    """The run's folder that a sandbox's folder (run/test/attempt/sandbox) belongs to."""
    return folder.parents[2]


def forget_old_runs(root: Path) -> None:
    """Remove the runs beyond the last twenty; only folders that this plugin made."""
    runs = sorted(path.parent for path in root.glob(f"*/{MARKER}") if not path.parent.is_symlink())
    for run in runs[:-KEPT_RUNS]:
        shutil.rmtree(run, ignore_errors=True)


def new_attempt(test: Path, first: int) -> Path:
    """The first free `attempt-N` of a test, from `first` on. Nothing is made."""
    number = first
    while (test / f"attempt-{number}").exists():
        number += 1
    return test / f"attempt-{number}"


def shown(path: Path) -> str:
    """A path as people want to read it: relative to where they are, if it is below."""
    try:
        relative = os.path.relpath(path)
    except OSError:  # the test removed the directory that we are in
        return str(path)
    return str(path) if relative.startswith("..") else relative
