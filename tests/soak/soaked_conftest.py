"""The conftest of the suite that is soaked: the controller writes each report down, as JSON lines in `$SOAK_REPORTS`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Writer(Path(os.environ["SOAK_REPORTS"])))


class _Writer:
    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told = {"test": report.nodeid, "when": report.when, "outcome": report.outcome, "text": str(report.longrepr or "")}
        self._file.write(json.dumps(told) + "\n")
