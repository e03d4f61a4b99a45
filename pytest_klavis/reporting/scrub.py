"""Takes registered secrets out of what pytest is about to show: reports, warnings, errors of pytest itself, JUnit."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from xml.etree.ElementTree import Element

import pytest
from _pytest._code.code import TerminalRepr

from pytest_klavis.redaction import holds, known, redact
from pytest_klavis.unescaped import encodable

_NAMES = frozenset(("nodeid", "id", "location", "keywords", "when", "outcome", "result", "call"))
"""What says which test it is; a secret in there was refused at collection."""
_SHOWN_OF_ERRORS = ("filename", "filename2", "strerror", "msg", "text", "reason")
"""What errors of the operating system, of syntax and of decoding tell, besides `args`."""
_DEEPEST = 50
_NOT_SHOWN = "<not shown: could not be redacted>"
_HOW = """
A secret stands in the id of a test. Ids are in all that pytest and other tools print and keep, and cannot be
redacted later, so none of these was run. Give the parameter a name: pytest.param(value, id="name") or ids=[...];
or read the value in the test; or rename the file."""


def scrub(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Replace every registered secret in `report` in place, and what no worker of xdist could send."""
    attributes = vars(report)
    cleaner = _Cleaner()
    for name in attributes.keys() - _NAMES:
        attributes[name] = cleaner.clean(attributes[name])


def scrub_warning(recorded: warnings.WarningMessage) -> None:
    """Replace every registered secret in a warning in place."""
    if known() and isinstance(recorded.message, Warning):
        scrub_error(recorded.message)
        text = str(recorded.message)
        if redact(text) != text:  # one that makes its text itself
            recorded.message = UserWarning(redact(text))


def scrub_error(error: BaseException) -> None:
    """Replace every registered secret in an error that pytest is about to show without a report."""
    todo: list[BaseException | None] = [error] if known() else []
    seen: set[int] = set()
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        # What stopped a conftest's import is an attribute.
        todo += [value for value in vars(one).values() if isinstance(value, BaseException)]
        todo += [one.__cause__, one.__context__]
        todo += one.exceptions if isinstance(one, BaseExceptionGroup) else ()
        _scrub_one(one)


def _scrub_one(error: BaseException) -> None:
    for name in ("args", *vars(error), *_SHOWN_OF_ERRORS):
        with suppress(Exception):  # one that is read-only, or that raises
            value = getattr(error, name, None)
            if isinstance(value, str | tuple | list):
                setattr(error, name, _Cleaner().clean(value))


def scrub_internal(excrepr: TerminalRepr) -> None:
    """Replace every registered secret in an internal error."""
    if known():
        _Cleaner().clean(excrepr)


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
            plugin.global_properties = _Cleaner().clean(plugin.global_properties)
            for reporter in plugin.node_reporters_ordered:
                reporter.to_xml = _clean(reporter.to_xml())


def _clean(element: Element) -> Any:
    for one in element.iter():
        one.text = one.text and redact(one.text)
        one.attrib.update({name: redact(value) for name, value in one.attrib.items()})
    return lambda: element


class _Cleaner:
    """Cleans one tree of values: a value is the same object where nothing was in it, or where it is one of pytest's.

    What reports hold comes from tests and other plugins: it may hold itself, be very deep, or refuse to be read.
    """

    def __init__(self) -> None:
        self._done: dict[int, tuple[Any, Any]] = {}
        """By identity: the value, which is kept so that no other one takes its place, and what it became."""

    def clean(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, str):
            return _text(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        if id(value) not in self._done:
            self._done[id(value)] = value, value if _is_pytests(value) else _NOT_SHOWN  # what it is within itself
            self._done[id(value)] = value, self._within(value, depth + 1)
        return self._done[id(value)][1]

    def _within(self, value: Any, depth: int) -> Any:
        try:
            if _is_pytests(value):
                return self._in_place(value, depth)
            if depth > _DEEPEST:
                return _NOT_SHOWN
            if isinstance(value, Mapping):
                items = {self.clean(key, depth): self.clean(one, depth) for key, one in value.items()}
                same = all(key in items and items[key] is one for key, one in value.items())
                return value if same else items
            if isinstance(value, tuple | list | set | frozenset):
                return self._items(value, depth)
            return _of_others(value)
        except Exception:  # noqa: BLE001  whatever it is: one value must not end the run
            return _NOT_SHOWN

    def _items(self, value: Any, depth: int) -> Any:
        items = [(one, self.clean(one, depth)) for one in value]
        if all(one is clean for one, clean in items):
            return value
        if hasattr(value, "_make"):  # a named tuple; its own __new__ may take something else
            return value._make(clean for _, clean in items)
        kind = next(kind for kind in (tuple, list, set, frozenset) if isinstance(value, kind))
        return kind(clean for _, clean in items)

    def _in_place(self, value: Any, depth: int) -> Any:
        names = list(vars(value)) if hasattr(value, "__dict__") else []
        names += [one.name for one in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
        for name in dict.fromkeys(names):
            object.__setattr__(value, name, self.clean(getattr(value, name), depth))
        return value


def _is_pytests(value: Any) -> bool:
    """Whether it is one of pytest's representations, which are trees of small objects."""
    return isinstance(value, TerminalRepr) or (
        type(value).__module__.startswith("_pytest.") and dataclasses.is_dataclass(value)
    )


def _text(text: str) -> str:
    clean = encodable(redact(text) if known() else text)
    return text if clean == text else clean


def _of_others(value: Any) -> Any:
    """What another plugin made is shown as text: as its own, unless a secret is in it."""
    if not known():
        return value
    text = str(value)
    clean = redact(text)
    return value if clean == text else clean
