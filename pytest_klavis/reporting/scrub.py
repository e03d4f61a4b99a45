"""Takes registered secrets out of what pytest is about to show: reports, warnings, errors of pytest itself, JUnit."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

import pytest

from pytest_klavis.redaction import holds, known, redact

if TYPE_CHECKING:
    from _pytest._code.code import TerminalRepr

_NAMES = frozenset(("nodeid", "id", "location", "keywords", "when", "outcome", "result", "call"))
"""What says which test it is; a secret in there was refused at collection."""
_HOW = """
A secret stands in the id of a test. Ids are in all that pytest and other tools print and keep, and cannot be
redacted later, so none of these was run. Give the parameter a name: pytest.param(value, id="name") or ids=[...];
or read the value in the test; or rename the file."""


def scrub(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Replace every registered secret in `report` in place. Free while no secret was registered."""
    if known():
        attributes = vars(report)
        for name in attributes.keys() - _NAMES:
            attributes[name] = _scrubbed(attributes[name], set())


def scrub_warning(recorded: warnings.WarningMessage) -> None:
    """Replace every registered secret in a warning in place."""
    if known() and isinstance(recorded.message, Warning):
        scrub_error(recorded.message)
        text = str(recorded.message)
        if redact(text) != text:  # one that makes its text itself
            recorded.message = UserWarning(redact(text))


def scrub_error(error: BaseException) -> None:
    """Replace every registered secret in an error that pytest is about to show without a report."""
    if known():
        error.args = _scrubbed(error.args, set())
        for name, value in vars(error).items():
            if isinstance(value, str):  # such as the `msg` of pytest.exit
                setattr(error, name, redact(value))
            elif isinstance(value, BaseException) and value is not error:  # what stopped a conftest's import
                scrub_error(value)


def scrub_internal(excrepr: TerminalRepr) -> None:
    """Replace every registered secret in an internal error."""
    if known():
        _scrubbed(excrepr, set())


def refuse_names(report: pytest.CollectReport) -> None:
    """Fail a collection that found a node whose id holds a registered secret: ids cannot be redacted later."""
    told = [redact(node.nodeid) for node in report.result if holds(node.nodeid)] if known() and report.result else []
    if told:
        report.outcome = "failed"
        report.longrepr = "\n".join(told) + _HOW
        report.result = []


def scrub_junit(config: pytest.Config) -> None:
    """Replace what reached the JUnit report past the test reports: attributes, and properties of the suite."""
    for plugin in config.pluginmanager.get_plugins() if known() else ():
        if hasattr(plugin, "global_properties") and hasattr(plugin, "node_reporters_ordered"):
            plugin.global_properties = _scrubbed(plugin.global_properties, set())
            for reporter in plugin.node_reporters_ordered:
                reporter.to_xml = _clean(reporter.to_xml())


def _clean(element: Element) -> Any:
    for one in element.iter():
        one.text = one.text and redact(one.text)
        one.attrib.update({name: redact(value) for name, value in one.attrib.items()})
    return lambda: element


def _scrubbed(value: Any, seen: set[int]) -> Any:
    """`value` without secrets: the same object where it is one of pytest's, else a copy where something was in it."""
    if isinstance(value, str):
        clean: Any = redact(value)
    elif isinstance(value, tuple):
        items = [_scrubbed(one, seen) for one in value]
        clean = type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    elif isinstance(value, list):
        clean = [_scrubbed(one, seen) for one in value]
    elif isinstance(value, Mapping):
        clean = {_scrubbed(key, seen): _scrubbed(one, seen) for key, one in value.items()}
    elif value is None or isinstance(value, bool | int | float) or id(value) in seen:
        clean = value
    elif type(value).__module__.startswith("_pytest."):  # pytest's representations are trees of small objects
        seen.add(id(value))
        names = list(vars(value)) if hasattr(value, "__dict__") else []
        names += [one.name for one in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
        for name in dict.fromkeys(names):
            object.__setattr__(value, name, _scrubbed(getattr(value, name), seen))
        clean = value
    else:
        clean = _of_others(value)
    return clean


def _of_others(value: Any) -> Any:
    """What another plugin made is shown as text: as its own, unless a secret is in it."""
    try:
        text = str(value)
    except Exception:  # noqa: BLE001  whoever shows it will tell
        return value
    clean = redact(text)
    return value if clean == text else clean
