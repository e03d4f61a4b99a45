"""What the bodies and queries of the REST calls must be, with 422 items that say what is allowed."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_klavis import catalog
from pytest_klavis.embedded import bridge, tools
from pytest_klavis.embedded.web import Refusal, invalid, parse, refuse_invalid
from pytest_klavis.rundir import OWNER_HEADER

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVERS: tuple[str, ...] = (*tools.SERVERS, *bridge.SERVERS)
"""What this backend has, where the machine allows it."""
TTL_RANGE = range(60, 86_401)  # seconds
DEFAULT_TTL = 7_200
REGIONS = ("us", "asia")
MAX_TIMEOUT = 3_600.0  # seconds of one run
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OWNER = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True)
class AcquireOrder:
    """A checked acquire body: what this backend serves of it, what it does not and why."""

    servers: tuple[str, ...]
    everything: bool  # "ALL": what cannot be served is listed instead of refused
    missing: dict[str, str]
    benchmark: str | None
    ttl: int


@dataclass(frozen=True)
class RunOrder:
    """A checked run body."""

    argv: tuple[str, ...]
    cwd: str
    env: dict[str, str]
    timeout: float | None
    files: bytes | None


class _Problems(list[dict[str, Any]]):
    """The 422 items of one body; all of them are told at once."""

    def add(self, field: str | tuple[str | int, ...], message: str, kind: str, given: Any = None) -> None:
        where = (field,) if isinstance(field, str) else field
        self.append(invalid(["body", *where], message, kind, given))

    def refuse(self) -> None:
        if self:
            refuse_invalid(*self)


def acquire_order(body: Mapping[str, Any]) -> AcquireOrder:
    """Raises Refusal 422."""
    problems = _Problems()
    servers, missing = _servers(body, problems)
    benchmark = _benchmark(body.get("benchmark"), problems)
    ttl = body.get("ttl_seconds")
    if ttl is None:
        ttl = DEFAULT_TTL
    elif isinstance(ttl, bool) or not (isinstance(ttl, int) or (isinstance(ttl, float) and ttl.is_integer())):
        problems.add("ttl_seconds", "Input should be a valid integer (seconds) or null", "int_type", ttl)
    elif ttl not in TTL_RANGE:
        low, high = TTL_RANGE[0], TTL_RANGE[-1]
        problems.add("ttl_seconds", f"Input should be from {low} to {high} seconds", "value_error", ttl)
    account = body.get("test_account_email")
    if account is not None and not isinstance(account, str):
        problems.add("test_account_email", "Input should be a valid string or null", "string_type", account)
    problems.refuse()
    everything = body.get("server_names") == "ALL"
    return AcquireOrder(tuple(dict.fromkeys(servers)), everything, missing, benchmark, int(ttl))


def _servers(body: Mapping[str, Any], problems: _Problems) -> tuple[list[str], dict[str, str]]:
    names = body.get("server_names")
    if names == "ALL":
        absent = [name for name in catalog.LOCAL_SERVERS if name not in SERVERS]
        return list(SERVERS), {name: _absent(name) for name in absent}
    if "server_names" not in body:
        problems.add("server_names", "Field required", "missing")
    elif not isinstance(names, list):
        problems.add("server_names", "Input should be a list of server names or 'ALL'", "list_type", names)
    elif not names:
        problems.add("server_names", f"Input should name at least one of {_listed()}, or be 'ALL'", "too_short", names)
    else:
        for position, name in enumerate(names):
            if name not in SERVERS:
                problems.add(("server_names", position), _absent(name), "enum", name)
        return names, {}
    return [], {}


def _absent(name: Any) -> str:
    what = f"the embedded backend has no server {name!r} yet"
    if isinstance(name, str):
        kind = catalog.kind_of(name)
        if kind == "remote":
            what = f"{name!r} is a remote server (/sandbox/{name}), and the embedded backend has no such server yet"
        elif kind is None:
            near = catalog.suggest(name)
            hint = f" (did you mean {near!r}?)" if near else ""
            what = f"{name!r} is not a local server{hint}"
    return f"{what}; it has {_listed()}"


def _listed() -> str:
    return ", ".join(f"'{name}'" for name in SERVERS)


def _benchmark(given: Any, problems: _Problems) -> str | None:
    if given is None or given in catalog.BENCHMARKS:
        return given if given is None else str(given)
    allowed = " or ".join(f"'{name}'" for name in catalog.BENCHMARKS)
    problems.add("benchmark", f"Input should be {allowed} or null", "enum", given)
    return None


def refuse_remote(server: str) -> None:
    """Answer an acquire at `/sandbox/{server}`: the embedded backend has none. Raises Refusal 422."""
    kind = catalog.kind_of(server)
    if kind == "local":
        text = f"{server!r} is a local server: acquire it with POST /local-sandbox"
    elif kind == "remote":
        text = f"the embedded backend has no remote server yet, so not {server!r}; its local servers are {_listed()}"
    else:
        near = catalog.suggest(server)
        hint = f" (did you mean {near!r}?)" if near else ""
        text = f"there is no server {server!r}{hint}; the embedded backend has the local servers {_listed()}"
    refuse_invalid(invalid(["path", "server_name"], text, "enum", server))


def check_region(query: Mapping[str, str]) -> None:
    """`region` is accepted as the cloud accepts it; it makes no difference here. Raises Refusal 422."""
    region = query.get("region", "us")
    if region not in REGIONS:
        refuse_invalid(invalid(["query", "region"], "Input should be 'us' or 'asia'", "enum", region))


def check_tags(query: Mapping[str, str]) -> None:
    """`tags`, by which remote sandboxes are listed, is a JSON object as a string. Raises Refusal 422."""
    tags = query.get("tags")
    try:
        meant = {} if not tags else parse(tags)
    except ValueError:
        meant = None
    if not isinstance(meant, dict):
        text = "Input should be a JSON object as a string"
        refuse_invalid(invalid(["query", "tags"], text, "json_invalid", tags))


def owner_of(headers: Mapping[str, str]) -> str | None:
    """The process that sends the request, None without the header. Raises Refusal 422."""
    owner = headers.get(OWNER_HEADER)
    if owner is not None and not OWNER.fullmatch(owner):
        refuse_invalid(invalid(["header", OWNER_HEADER], f"Input should match {OWNER.pattern}", "pattern", owner))
    return owner


def run_order(body: Mapping[str, Any]) -> RunOrder:
    """Raises Refusal 422."""
    problems = _Problems()
    argv = body.get("argv")
    if not isinstance(argv, list) or not argv or not all(_is_word(word) for word in argv):
        problems.add("argv", "Input should be a list of at least one string, without NUL characters", "list_type")
    cwd = body.get("cwd")
    cwd = "." if cwd is None or cwd == "" else cwd
    if not _is_word(cwd) or cwd.startswith("/") or ".." in cwd.split("/"):
        problems.add("cwd", "Input should be a path relative to the workspace, without '..'", "value_error", cwd)
    env = {} if body.get("env") is None else body["env"]
    if not isinstance(env, dict) or not all(
        VARIABLE.fullmatch(name) and _is_word(value) for name, value in env.items()
    ):
        text = f"Input should map names that match {VARIABLE.pattern} to strings, without NUL characters"
        problems.add("env", text, "dict_type")
    timeout = body.get("timeout")
    if timeout is not None and not _is_seconds(timeout):
        problems.add("timeout", f"Input should be seconds, above 0 and up to {MAX_TIMEOUT:.0f}", "value_error", timeout)
    files = _archive(body.get("files"), problems)
    problems.refuse()
    return RunOrder(tuple(argv or ()), cwd, env, timeout, files)


def _is_word(value: Any) -> bool:
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_TIMEOUT


def _archive(value: Any, problems: _Problems) -> bytes | None:
    if value is None:
        return None
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        problems.add("files", f"Input should be a tar.gz as base64 ({error})", "value_error")
        return None


def unknown_sandbox(sandbox_id: str) -> Refusal:
    """The 404 of an id that is not, or no more, a live sandbox's."""
    return Refusal(404, f"Local sandbox {sandbox_id} not found: it never was, or it was released")
