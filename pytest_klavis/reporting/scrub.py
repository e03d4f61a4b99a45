"""Takes registered secrets out of a report before anybody sees it: traceback, sections, properties."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from typing import Any

import pytest


def scrub(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Replace every registered secret in `report` in place. Free while no secret was registered."""
    redaction = sys.modules.get("pytest_klavis.redaction")
    if redaction is None:
        return
    redact = redaction.redact
    report.sections = [(redact(title), redact(text)) for title, text in report.sections]
    if report.longrepr is not None:
        report.longrepr = _scrubbed(report.longrepr, redact, set())
    if "context" in vars(report):  # of a subtest: its message and values
        vars(report)["context"] = _scrubbed(vars(report)["context"], redact, set())
    if isinstance(report, pytest.TestReport):
        report.user_properties = [
            (name, redact(value) if isinstance(value, str) else value) for name, value in report.user_properties
        ]


def scrub_warning(recorded: warnings.WarningMessage) -> None:
    """Replace every registered secret in a warning in place."""
    redaction = sys.modules.get("pytest_klavis.redaction")
    if redaction is not None and isinstance(recorded.message, Warning):
        recorded.message.args = _scrubbed(recorded.message.args, redaction.redact, set())


def _scrubbed(value: Any, redact: Any, seen: set[int]) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, tuple):
        return tuple(_scrubbed(one, redact, seen) for one in value)
    if isinstance(value, Mapping):
        return {key: _scrubbed(one, redact, seen) for key, one in value.items()}
    if isinstance(value, list):
        return [_scrubbed(one, redact, seen) for one in value]
    # pytest's representations are trees of small objects; anything else is left alone.
    if type(value).__module__.startswith("_pytest.") and hasattr(value, "__dict__") and id(value) not in seen:
        seen.add(id(value))
        attributes = vars(value)
        for name, one in list(attributes.items()):
            attributes[name] = _scrubbed(one, redact, seen)
    return value
