"""The conftest of the suite that is soaked: its controller writes each report to `$SOAK_REPORTS`, as lines of JSON."""

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
        text = str(report.longrepr or "")
        told = {"test": report.nodeid, "when": report.when, "outcome": report.outcome, "text": text}
        self._file.write(json.dumps(told) + "\n")
