"""The marks: their signatures, checked at collection by calling a typed function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from . import spec
from .arguments import bind
from .errors import SpecError
from .spec import Ask

SCOPES = ("", "class_", "module_", "package_", "session_")
FIXTURES = frozenset(
    {f"{scope}{kind}_sandbox" for scope in SCOPES for kind in ("local", "klavis")}
    | {"klavis_local_sandbox", "klavis_sandboxes", "klavis_client", "blackbox_workspace", "_klavis_declared"}
)
"""A test with one of these can hold a sandbox: it gets the mark `klavis`."""
FACTORIES = FIXTURES - {"klavis_client", "blackbox_workspace", "_klavis_declared"}
"""Those that acquire when the test calls them."""
CHECKED = pytest.StashKey[bool]()
DECLARED = ("sandbox", "sandboxes", "klavis_box")


SIGNATURES: Mapping[str, Callable[..., Any]] = {
    "local_sandbox": spec.local_sandbox,
    "klavis_sandbox": spec.klavis_sandbox,
    "klavis_benchmark": spec.klavis_benchmark,
}
_TEXTS = {
    "local_sandbox": "declare a local sandbox, given by the fixture `sandbox` or `sandboxes`",
    "klavis_sandbox": "declare a remote sandbox, given by the fixture `sandbox` or `sandboxes`",
    "klavis_benchmark": "the benchmark of every acquire of the test that names none",
}


def register(config: pytest.Config) -> None:
    """Make the marks known, with their signatures."""
    for name, function in SIGNATURES.items():
        parameters = ", ".join(_shown(one) for one in inspect.signature(function).parameters.values())
        config.addinivalue_line("markers", f"{name}({parameters}): {_TEXTS[name]}")
    config.addinivalue_line("markers", "klavis: set on every test that can hold a sandbox (-m 'not klavis' is offline)")


def _shown(parameter: inspect.Parameter) -> str:
    return parameter.name if parameter.default is parameter.empty else f"{parameter.name}={parameter.default!r}"


def declared(item: pytest.Item) -> dict[str, Ask]:
    """What the marks of `item` declare, in reading order: the nearest mark of a name wins, new names add up."""
    found: list[tuple[str, Ask]] = []
    for marks in _layers(item):
        here = [spec_of(mark) for mark in marks if mark.name in ("local_sandbox", "klavis_sandbox")]
        names = [ask.key for ask in here]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SpecError(f"two marks declare a sandbox {twice[0]!r}: give one of them a name=")
        known = {name for name, _ in found}
        found = [(ask.key, ask) for ask in here if ask.key not in known] + found
    return dict(found)


def spec_of(mark: pytest.Mark) -> Ask:
    """The checked arguments of a mark that declares a sandbox."""
    ask: Ask = bind(SIGNATURES[mark.name], mark.args, mark.kwargs)
    return ask


def _layers(item: pytest.Item) -> Iterator[list[pytest.Mark]]:
    """The marks on `item` by where they stand, nearest first; each place's in reading order.

    Decorators apply from the bottom up and people read from the top down, so theirs are turned round.
    """
    of_parameters = list(getattr(getattr(item, "callspec", None), "marks", ()))
    yield of_parameters
    for node in reversed(item.listchain()):
        if isinstance(node, pytest.Class):
            for cls in node.obj.__mro__:
                found: Any = cls.__dict__.get("pytestmark", [])
                marks: list[Any] = found if isinstance(found, list) else [found]
                yield [getattr(mark, "mark", mark) for mark in reversed(marks)]
        elif isinstance(node, pytest.Item):
            yield [mark for mark in reversed(node.own_markers) if mark not in of_parameters]
        else:
            yield list(node.own_markers)


def check(item: pytest.Item) -> None:
    """Raise SpecError for marks of `item` that cannot be right."""
    for mark in item.iter_markers():
        if mark.name in SIGNATURES:
            _check_mark(mark)
    asks = declared(item)
    if not asks:
        return
    fixtures: tuple[str, ...] = tuple(getattr(item, "fixturenames", ()))
    own = [name for name in DECLARED if name in fixtures]
    if not own:
        raise SpecError(
            f"a mark declares a sandbox ({', '.join(asks)}), but the test asks for neither `sandbox` nor `sandboxes`: "
            "add one to its arguments"
        )
    if len(asks) > 1 and "sandboxes" not in fixtures:
        raise SpecError(f"the marks declare {', '.join(asks)}: ask for `sandboxes`, not for `{own[0]}`")
    if "_klavis_declared" not in fixtures:
        where = _where(item, own[0])
        raise SpecError(
            f"a mark declares a sandbox ({', '.join(asks)}), but `{own[0]}` is a fixture of your own{where}: "
            "ask for `klavis_box` instead, or rename yours"
        )


def _check_mark(mark: pytest.Mark) -> None:
    try:
        bind(SIGNATURES[mark.name], mark.args, mark.kwargs)
    except SpecError as error:
        raise SpecError(f"@pytest.mark.{mark.name}: {error}") from None


def _where(item: pytest.Item, fixture: str) -> str:
    definitions = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {}).get(fixture)
    if not definitions:
        return ""
    code = getattr(inspect.unwrap(definitions[-1].func), "__code__", None)
    return f" ({Path(code.co_filename).name}:{code.co_firstlineno})" if code else ""


def check_collected(collector: pytest.Collector, item: pytest.Item) -> None:
    """Fail the collection of `item`'s module when its marks cannot be right."""
    item.stash[CHECKED] = True
    try:
        check(item)
    except SpecError as error:
        raise collector.CollectError(f"{item.nodeid}: {error}") from None


def check_at_setup(item: pytest.Item) -> None:
    """Check an item whose collector does not come by `check_collected`: the methods of unittest classes."""
    if CHECKED not in item.stash:
        check(item)


def mark_klavis(items: list[pytest.Item]) -> int:
    """Put the mark `klavis` on every test that can hold a sandbox; the most that the marks of one of them declare."""
    largest = 1
    for item in items:
        if FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("klavis")
            largest = max(largest, len(declared(item)))
    return largest
