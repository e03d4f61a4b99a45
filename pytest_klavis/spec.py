"""What a test asks for, checked before anything is acquired; knows neither pytest nor the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from . import catalog
from .arguments import listed, ttl_seconds
from .catalog import Kind
from .errors import SpecError

__tracebackhide__ = True  # users read their own frames

Workspace = str | Path | Mapping[str, str | bytes]
Data = str | Path | Mapping[str, Any]


class Inherit(Enum):
    """The type of `INHERIT`: take the benchmark from the mark, the flag or the settings."""

    INHERIT = "inherit"

    def __repr__(self) -> str:
        return self.name


INHERIT: Final = Inherit.INHERIT


@dataclass(frozen=True)
class Spec:
    """What makes two sandboxes interchangeable: the key of the pool."""

    kind: Kind
    servers: tuple[str, ...]
    """Canonical names; `("ALL",)` for everything that the backend has."""
    benchmark: str | None = None
    account: str | None = None
    tags: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        flavour = f", benchmark {self.benchmark}" if self.benchmark else ""
        return f"{self.kind} sandbox ({', '.join(self.servers)}{flavour})"


@dataclass(frozen=True)
class Ask:
    """The arguments of one factory call or mark, as given and already checked for shape."""

    kind: Kind
    servers: tuple[str, ...]
    workspace: Workspace | None = None
    data: Data | None = None
    git: bool = False
    benchmark: str | Inherit | None = INHERIT
    account: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    ttl: int | None = None
    name: str | None = None

    @property
    def key(self) -> str:
        """What `sandboxes[...]` calls it."""
        return self.name or (self.servers[0] if self.kind == "remote" else "local")

    def resolve(self, benchmark: str | None) -> tuple[Spec, dict[str, str]]:
        """The spec under `benchmark` (used where the ask names none), and canonical name -> name as given."""
        chosen = benchmark if isinstance(self.benchmark, Inherit) else self.benchmark
        given: dict[str, str] = {}
        for name in self.servers:
            canonical = catalog.resolve(name, chosen)
            if canonical in given:
                raise SpecError(f"{name!r} and {given[canonical]!r} are the same server, {canonical!r}: name it once")
            kind = catalog.kind_of(canonical)
            if kind is not None and kind != self.kind:
                raise SpecError(f"{name} is a {kind} sandbox: use {FACTORY_OF[kind]}")
            given[canonical] = name
        return Spec(self.kind, tuple(given), chosen, self.account, self.tags), given


FACTORY_OF: Mapping[str, str] = {"local": "local_sandbox", "remote": "klavis_sandbox"}


def local_sandbox(
    servers: str | Sequence[str],
    *,
    workspace: Workspace | None = None,
    data: Data | None = None,
    git: bool = False,
    benchmark: str | Inherit | None = INHERIT,
    account: str | None = None,
    ttl: float | str | None = None,
    name: str | None = None,
) -> Ask:
    """Check the arguments of the `local_sandbox` factory and mark."""
    names = (servers,) if isinstance(servers, str) else _sequence(servers, "servers")
    if git and workspace is None:
        raise SpecError("git=True makes the workspace a repository, but there is no workspace=; give one ({} is empty)")
    _check_type("workspace", workspace, (str, Path, Mapping), "a directory, a .tar.gz or a mapping of path to text")
    return Ask(
        kind="local",
        servers=_server_names(names),
        workspace=workspace,
        data=_data(data),
        git=_check_type("git", git, (bool,), "True or False"),
        benchmark=_checked_benchmark(benchmark),
        account=_text("account", account),
        ttl=_ttl(ttl),
        name=_text("name", name),
    )


def klavis_sandbox(
    server: str,
    *,
    data: Data | None = None,
    benchmark: str | Inherit | None = INHERIT,
    account: str | None = None,
    tags: Mapping[str, str] | None = None,
    ttl: float | str | None = None,
    name: str | None = None,
) -> Ask:
    """Check the arguments of the `klavis_sandbox` factory and mark."""
    if not isinstance(server, str):
        raise SpecError(
            f"klavis_sandbox takes one server name, not {server!r}; for several use klavis_sandboxes([...])"
        )
    return Ask(
        kind="remote",
        servers=_server_names((server,)),
        data=_data(data),
        benchmark=_checked_benchmark(benchmark),
        account=_text("account", account),
        tags=_tags(tags),
        ttl=_ttl(ttl),
        name=_text("name", name),
    )


def klavis_sandboxes(
    servers: str | Sequence[str],
    *,
    workspace: Workspace | None = None,
    data: Mapping[str, Data] | None = None,
    git: bool = False,
    benchmark: str | Inherit | None = INHERIT,
    account: str | None = None,
    tags: Mapping[str, str] | None = None,
    ttl: float | str | None = None,
) -> tuple[str, ...]:
    """Check the arguments of the `klavis_sandboxes` factory that do not depend on the benchmark; returns the names."""
    names = _server_names((servers,) if isinstance(servers, str) else _sequence(servers, "servers"))
    if data is not None and not isinstance(data, Mapping):
        raise SpecError(f"data= of klavis_sandboxes maps a server's name to its data, not {data!r}")
    strange = sorted(set(data or ()) - set(names))
    if strange:
        raise SpecError(f"data= names {listed(strange)}, not among the servers asked for: {listed(names)}")
    for one in (data or {}).values():
        _data(one)
    local_sandbox("filesystem", workspace=workspace, git=git, benchmark=benchmark, account=account, ttl=ttl)
    _tags(tags)
    return names


def data_by_server(data: Mapping[str, Any], wanted: Spec, given: Mapping[str, str]) -> dict[str, Data]:
    """The data of a local sandbox by its servers' canonical names; SpecError for a server that takes none.

    `data` has the names that were `given` (canonical name -> name as given), or the canonical ones.
    """
    canonical = {name: one for one, name in given.items()}
    found: dict[str, Data] = {}
    for name, one in data.items():
        server = canonical.get(name) or catalog.resolve(name, wanted.benchmark)
        holders = listed(catalog.DATA_SERVERS)
        if server not in wanted.servers and wanted.servers != ("ALL",):
            raise SpecError(
                f"data= of a local sandbox maps a server's name to its data, and {name!r} is not among the servers "
                f"asked for: {listed(list(given.values()))}; data is taken by {holders}"
            )
        if catalog.kind_of(server) and server not in catalog.DATA_SERVERS:
            raise SpecError(f"data= for {name!r}: it takes none, but files by workspace=; data is taken by {holders}")
        found[server] = _check_type(
            f"data[{name!r}]", one, (str, Path, Mapping), "a mapping or the path of a JSON file"
        )
    return found


def klavis_benchmark(name: Any) -> str | None:
    """Check a benchmark's name (known ones ignore case), or None for none: the argument of the mark."""
    if name is not None and (not isinstance(name, str) or not name):
        raise SpecError(f"benchmark {name!r}: give a name such as {listed(catalog.BENCHMARKS)}, or None for none")
    return None if name is None else catalog.benchmark(name)


def split_by_kind(
    names: Sequence[str], arguments: Mapping[str, Any], benchmark: str | None
) -> list[tuple[tuple[str, ...], Ask]]:
    """The asks behind one `klavis_sandboxes` call: one per remote server, one for all local ones together."""
    chosen = arguments.get("benchmark", INHERIT)
    flavour = benchmark if isinstance(chosen, Inherit) else chosen
    shared = {key: arguments[key] for key in ("benchmark", "account", "ttl") if key in arguments}
    data: Mapping[str, Data] = arguments.get("data") or {}
    asks: list[tuple[tuple[str, ...], Ask]] = []
    local: list[str] = []
    known: dict[str, str] = {}
    for name in names:
        canonical = catalog.resolve(name, flavour)
        if canonical in known:
            raise SpecError(f"{known[canonical]!r} and {name!r} are the same server, {canonical!r}: name it once")
        known[canonical] = name
        kind = catalog.kind_of(canonical)
        if kind is None:
            raise SpecError(
                f"{name!r} is not in the catalog, so its kind is unknown: ask for it by local_sandbox or klavis_sandbox"
            )
        if kind == "local":
            local.append(name)
        else:
            asks.append(((name,), klavis_sandbox(name, data=data.get(name), tags=arguments.get("tags"), **shared)))
    if local:
        own = {name: data[name] for name in local if name in data} or None
        ask = local_sandbox(
            local, workspace=arguments.get("workspace"), git=arguments.get("git", False), data=own, **shared
        )
        asks.append((tuple(local), ask))
    elif arguments.get("workspace") is not None:
        raise SpecError(f"workspace= needs a local server, and {listed(names)} has none")
    return asks


def _server_names(names: Sequence[Any]) -> tuple[str, ...]:
    if not names:
        raise SpecError('no server was named; give at least one, for example local_sandbox(["filesystem"])')
    for name in names:
        if not isinstance(name, str) or not name.strip() or name != name.strip():
            raise SpecError(f"{name!r} is no server name; names look like {listed(catalog.LOCAL_SERVERS[:3])}")
        if "/" in name or "?" in name or "#" in name:
            raise SpecError(f"{name!r} is no server name: it must not hold '/', '?' or '#'")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SpecError(f"{listed(twice)} is named more than once; a sandbox has one server of each name")
    if "ALL" in names and len(names) > 1:
        raise SpecError('"ALL" stands for every server there is: name nothing beside it')
    return tuple(names)


def _sequence(value: Any, what: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence | set | frozenset):
        raise SpecError(f"{what}= takes a list of names, not {value!r}")
    return tuple(value)


def _data(data: Any) -> Data | None:
    _check_type("data", data, (str, Path, Mapping), "a mapping or the path of a JSON file")
    return data  # type: ignore[no-any-return]


def _checked_benchmark(value: Any) -> str | Inherit | None:
    return value if isinstance(value, Inherit) else klavis_benchmark(value)


def _tags(tags: Any) -> tuple[tuple[str, str], ...]:
    if tags is None:
        return ()
    if not isinstance(tags, Mapping) or not all(isinstance(x, str) for pair in tags.items() for x in pair):
        raise SpecError(f"tags={tags!r}: a mapping of text to text is taken")
    return tuple(sorted(tags.items()))


def _ttl(value: Any) -> int | None:
    if value is None:
        return None
    try:
        return ttl_seconds(value)
    except ValueError as error:
        raise SpecError(f"ttl={value!r}: {error}") from None


def _text(what: str, value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        raise SpecError(f"{what}={value!r}: a text that is not empty is taken, or nothing")
    return value


def _check_type(what: str, value: Any, types: tuple[type, ...], allowed: str) -> Any:
    if value is not None and not isinstance(value, types):
        raise SpecError(f"{what}={value!r} is a {type(value).__name__}; taken is {allowed}")
    return value
