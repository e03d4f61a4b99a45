"""Processes that a test starts and kills: a few lines of Python each, which answer by lines."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest_klavis

_HOME = Path(pytest_klavis.__file__).parents[1]
_START = """
import os, signal, sys, time
from pathlib import Path
from pytest_klavis.pool.entries import Want
from pytest_klavis.pool.ledger import Ledger
from pytest_klavis.spec import Spec
folder = Path(sys.argv[1])
GITHUB = Spec("remote", ("github",))
def say(*what): print(*what, flush=True)
"""
SOON = 60.0
"""Seconds that a loaded machine may take for what takes milliseconds."""


class Process:
    """It has a `folder`, a `Ledger` to open, and `say`."""

    def __init__(self, folder: Path, code: str) -> None:
        self._run = subprocess.Popen(
            [sys.executable, "-c", _START + code, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(_HOME)},
            text=True,
        )
        self.pid = self._run.pid

    def line(self) -> str:
        assert self._run.stdout is not None
        return self._run.stdout.readline().strip()

    def go(self) -> None:
        assert self._run.stdin is not None
        print(file=self._run.stdin, flush=True)

    def send(self, number: int) -> None:
        self._run.send_signal(number)

    def kill(self) -> None:
        self._run.kill()
        self._run.communicate(timeout=SOON)

    def end(self) -> tuple[int, str]:
        """Its exit code, and the rest of what it said."""
        rest, _ = self._run.communicate(timeout=SOON)
        return self._run.returncode, rest


def soon(answer: Callable[[], object]) -> None:
    """Wait until it is so."""
    end = time.monotonic() + SOON
    while not answer():
        assert time.monotonic() < end
        time.sleep(0.005)
