"""From what a test asks for to an order with everything resolved; whatever can be known wrong is refused here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import spec
from .arguments import Template, bind, load_data
from .errors import SpecError
from .settings import WIDE_TTL
from .spec import Ask
from .state import STATE

if TYPE_CHECKING:
    import pytest

    from .lease import Order
    from .session import KlavisSession
    from .spec import Spec

__tracebackhide__ = True  # users read their own frames


def order(session: KlavisSession, ask: Ask, request: pytest.FixtureRequest, item: pytest.Item) -> Order:
    """The order for an ask of `item` by the fixture of `request`; SpecError for what cannot be right."""
    from .lease import Order  # noqa: PLC0415  httpx and pydantic load with the first sandbox
    from .workspace.seed import find, resolve_seed  # noqa: PLC0415

    start, root = item.path.parent, session.config.rootpath
    template = Template(getattr(getattr(item, "callspec", None), "params", {}))

    def look_up(path: str | Path) -> Path:
        return find(path, start=start, root=root)

    wanted, given = ask.resolve(benchmark_of(session, request))
    workspace = template.fill(ask.workspace)
    data = load_data(template.fill(ask.data), look_up)
    if data is not None and wanted.kind == "local":
        of_servers = spec.data_by_server(data, wanted, given)
        data = {server: load_data(template.fill(one), look_up) for server, one in of_servers.items()}
    _check_json(data)
    settings = session.settings
    ttl = ask.ttl or _default_ttl(session, wide=request.scope != "function")
    return Order(
        spec=wanted,
        given=given,
        ttl=ttl,
        needs=needed(ask, ttl),
        whole=settings.require,
        seed=None if workspace is None else resolve_seed(workspace, start=start, root=root, git=ask.git),
        data=data,
        evidence=None if settings.artifacts == "never" else session.new_folder(item, ask.key),
        test=item.nodeid,
        patience=settings.acquire_timeout,
        find=look_up,
        report=session.record,
    )


def foreseen(
    session: KlavisSession, ask: Ask, item: pytest.Item
) -> tuple[Spec, Path | Mapping[str, str | bytes] | None]:
    """What the marks of an item that is still to come ask for: the spec, and the workspace."""
    from .workspace.seed import find  # noqa: PLC0415

    mark = item.get_closest_marker("klavis_benchmark")
    benchmark = session.settings.benchmark if mark is None else bind(spec.klavis_benchmark, mark.args, mark.kwargs)
    wanted, _ = ask.resolve(benchmark)
    workspace = Template(getattr(getattr(item, "callspec", None), "params", {})).fill(ask.workspace)
    if workspace is None or isinstance(workspace, Mapping):
        return wanted, workspace
    return wanted, find(workspace, start=item.path.parent, root=session.config.rootpath)


def needed(ask: Ask, ttl: int) -> float:
    """Seconds that a used sandbox must have left: most of what was asked for, else half of what a new one has."""
    return ttl * 0.9 if ask.ttl else ttl / 2


def _check_json(data: Mapping[str, Any] | None) -> None:
    if data is None:
        return
    try:
        json.dumps(dict(data), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(f"data= cannot be sent, as it is no JSON: {error}") from None


def benchmark_of(session: KlavisSession, request: pytest.FixtureRequest) -> str | None:
    """The benchmark for acquires that name none: the nearest mark, else the setting."""
    item = session.item
    # A wide factory that is called in a test's body acquires for that test.
    node: Any = item if item is not None and item.stash[STATE].in_body else request.node
    mark = node.get_closest_marker("klavis_benchmark")
    if mark is None:
        return session.settings.benchmark
    chosen: str | None = bind(spec.klavis_benchmark, mark.args, mark.kwargs)
    return chosen


def _default_ttl(session: KlavisSession, *, wide: bool) -> int:
    return WIDE_TTL if wide and session.settings.source("ttl") == "default" else session.settings.ttl
