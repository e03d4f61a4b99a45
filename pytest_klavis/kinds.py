"""What differs by kind of sandbox: how one is acquired, what its answers say, how it is filled and released.

Answers to an acquire are not always as documented (other names, one URL instead of several, none at all), and nothing
that they hold or lack may lose the sandbox: all is read tolerantly, and asked for again where it is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast
from urllib.parse import parse_qs, urlsplit

from . import catalog, clock, redaction
from .errors import NotFoundError
from .handles import Context, LocalSandbox, RemoteSandbox, Server
from .handles.data import ServerData, headers_for

if TYPE_CHECKING:
    from .api.client import KlavisClient
    from .api.models import (
        AcquireLocalSandboxResponse,
        CreateSandboxResponse,
        LocalSandboxInfo,
        LocalSandboxServerItem,
        SandboxInfo,
    )
    from .lease import Lease, Order
    from .spec import Spec

    Acquired: TypeAlias = AcquireLocalSandboxResponse | CreateSandboxResponse

__tracebackhide__ = True  # users read their own frames

STORED = "stored"
"""In an answer that was kept: it lacks what only the API's own has, `auth_data` and most of `metadata`."""


class Kind(Protocol):
    """One kind of sandbox."""

    def acquire(self, api: KlavisClient, spec: Spec, asked: Acquire) -> Acquired:
        """Acquire one, whatever else the answer says."""
        ...

    def answer_of(self, text: str) -> Acquired:
        """The answer of a text that was made of one."""
        ...

    def handle(
        self, order: Order, context: Context, number: str, answer: Acquired | None
    ) -> LocalSandbox | RemoteSandbox:
        """The handle of a sandbox, with what the answer to its acquire says; that may be known no more."""
        ...

    def ask_again(self, api: KlavisClient, lease: Lease) -> None:
        """Let the handle learn from the sandbox's details what the answer to the acquire did not say."""
        ...

    def fill(self, api: KlavisClient, lease: Lease, until: float) -> None:
        """Put the seed and data of its order into the sandbox, until then by the monotonic clock."""
        ...

    def reset(self, api: KlavisClient, one: Held, deadline: float | None) -> str:
        """Empty the sandbox; the status that confirms it, as the API has it, or "" where the answer holds none."""
        ...

    def status(self, api: KlavisClient, one: Held, deadline: float | None) -> str:
        """The status of the sandbox, "" where the API does not say. Raises NotFoundError where it is gone."""
        ...

    def release(self, api: KlavisClient, one: Held, deadline: float | None) -> None:
        """Give the sandbox back. One that is gone, or somebody else's by now, is a success."""
        ...


@dataclass(frozen=True)
class Held:
    """What the API knows a sandbox by."""

    spec: Spec
    id: str
    instance: str | None = None
    """Which lease of a remote sandbox it is, where its URL tells."""


@dataclass(frozen=True)
class Acquire:
    """How a sandbox is acquired: with which time to live and labels, within how many seconds."""

    ttl: int | None
    deadline: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """Beside the tags of the spec, where the API takes any."""


class Local:
    """Several servers over one workspace."""

    def acquire(self, api: KlavisClient, spec: Spec, asked: Acquire) -> AcquireLocalSandboxResponse:
        return api.acquire_local_sandbox(
            "ALL" if spec.servers == ("ALL",) else list(spec.servers),
            benchmark=spec.benchmark,
            test_account_email=spec.account,
            ttl_seconds=asked.ttl,
            deadline=asked.deadline,
        )

    def answer_of(self, text: str) -> AcquireLocalSandboxResponse:
        from .api.models import AcquireLocalSandboxResponse  # noqa: PLC0415  pydantic loads with the first sandbox

        return AcquireLocalSandboxResponse.model_validate_json(text)

    def handle(self, order: Order, context: Context, number: str, answer: Acquired | None) -> LocalSandbox:
        sandbox = LocalSandbox(context, order.spec, number, {}, {})
        if answer is not None:
            self._learn(context.api, sandbox, order, cast("AcquireLocalSandboxResponse", answer))
        return sandbox

    def ask_again(self, api: KlavisClient, lease: Lease) -> None:
        assert isinstance(lease.sandbox, LocalSandbox)  # noqa: S101  (for mypy)
        self._learn(api, lease.sandbox, lease.order, api.get_local_sandbox(lease.sandbox.id))

    def fill(self, api: KlavisClient, lease: Lease, until: float) -> None:  # noqa: ARG002  (another kind needs it)
        sandbox, order = lease.sandbox, lease.order
        assert isinstance(sandbox, LocalSandbox)  # noqa: S101  (for mypy)
        if lease.context.seed is not None and not lease.is_seeded:
            sandbox._upload(lease.context.seed, clock.left(until))  # noqa: SLF001
        for server, data in (order.data or {}).items():
            sandbox._put_data(server, data, clock.left(until))  # noqa: SLF001

    def reset(self, api: KlavisClient, one: Held, deadline: float | None) -> str:
        api.reset_local_sandbox(one.id, deadline=deadline)
        return ""

    def status(self, api: KlavisClient, one: Held, deadline: float | None) -> str:
        return api.get_local_sandbox(one.id, deadline=deadline).status or ""

    def release(self, api: KlavisClient, one: Held, deadline: float | None) -> None:
        api.release_local_sandbox(one.id, deadline=deadline)

    def _learn(
        self,
        api: KlavisClient,
        sandbox: LocalSandbox,
        order: Order,
        answer: AcquireLocalSandboxResponse | LocalSandboxInfo,
    ) -> None:
        servers: dict[str, Server] = {}
        holders: dict[str, ServerData] = {}
        details: dict[str, Any] = {"auth_data": {}, "metadata": {}}
        missing = dict.fromkeys(order.spec.servers, "the answer does not name it")
        missing.pop("ALL", None)
        for name, item in _named(answer.servers, order.spec.servers):
            extra = item.metadata or {}
            details["metadata"][name] = extra
            details["auth_data"][name] = item.auth_data or {}
            details["root"] = extra.get("root", details.get("root"))
            details["isolation"] = extra.get("isolation", details.get("isolation"))
            if not item.mcp_server_url or item.status == "error":
                why = item.status if item.status == "error" else f"no URL, status {item.status!r}"
                missing[name] = str(extra.get("reason") or why)
                continue
            missing.pop(name, None)
            redaction.register_url(item.mcp_server_url)
            shown = order.given.get(name, name)
            servers[shown] = Server(shown, item.mcp_server_url, headers_for(name, (order.data or {}).get(name)))
            if name in catalog.DATA_SERVERS:
                ids = dict.fromkeys(one for one in (item.id, sandbox.id) if one)
                holders[shown] = ServerData(api, name, tuple(ids))
            if extra.get("backend") == "embedded":
                sandbox._has_run_route = True  # noqa: SLF001
        if (answer.model_extra or {}).get(STORED):  # it lacks what the API tells when it is asked
            del details["auth_data"], details["metadata"]
        told = {"status": answer.status, "message": getattr(answer, "message", None), "missing": missing}
        sandbox._holders = holders  # noqa: SLF001
        sandbox._learn(servers, details | told)  # noqa: SLF001


class Remote:
    """One SaaS server over a test account."""

    def acquire(self, api: KlavisClient, spec: Spec, asked: Acquire) -> CreateSandboxResponse:
        return api.acquire_sandbox(
            spec.servers[0],
            benchmark=spec.benchmark,
            test_account_email=spec.account,
            tags={**asked.labels, **dict(spec.tags)} or None,
            ttl_seconds=asked.ttl,
            deadline=asked.deadline,
        )

    def answer_of(self, text: str) -> CreateSandboxResponse:
        from .api.models import CreateSandboxResponse  # noqa: PLC0415  pydantic loads with the first sandbox

        return CreateSandboxResponse.model_validate_json(text)

    def handle(self, order: Order, context: Context, number: str, answer: Acquired | None) -> RemoteSandbox:
        sandbox = RemoteSandbox(context, order.spec, number, {}, {})
        if answer is not None:
            details = {"status": answer.status, "message": answer.message}
            sandbox._learn(_servers(cast("CreateSandboxResponse", answer), order), details)  # noqa: SLF001
        return sandbox

    def ask_again(self, api: KlavisClient, lease: Lease) -> None:
        answer = api.get_sandbox(lease.order.spec.servers[0], lease.sandbox.id)
        lease.sandbox._learn(_servers(answer, lease.order), answer.model_dump())  # noqa: SLF001

    def fill(self, api: KlavisClient, lease: Lease, until: float) -> None:
        if lease.order.data is not None:
            server = lease.order.spec.servers[0]
            api.initialize_sandbox(server, lease.sandbox.id, lease.order.data, deadline=clock.left(until))

    def reset(self, api: KlavisClient, one: Held, deadline: float | None) -> str:
        return api.reset_sandbox(one.spec.servers[0], one.id, deadline=deadline).status

    def status(self, api: KlavisClient, one: Held, deadline: float | None) -> str:
        return api.get_sandbox(one.spec.servers[0], one.id, deadline=deadline).status

    def release(self, api: KlavisClient, one: Held, deadline: float | None) -> None:
        until = None if deadline is None else clock.monotonic() + deadline
        server = one.spec.servers[0]
        # Where its time is over, the same id may be somebody else's by now: the API then skips the release.
        answer = api.release_sandbox(server, one.id, instance_id=one.instance, deadline=deadline)
        if one.instance is None or answer.status in ("", "idle"):
            return
        # Skipped, or only told in other words: nobody documents what the API compares with.
        if _is_still(api, server, one.id, one.instance, until):
            api.release_sandbox(server, one.id, deadline=_rest(until))


def id_of(answer: Acquired) -> str:
    """The id in the answer to an acquire."""
    found: str = getattr(answer, "local_sandbox_id", "") or getattr(answer, "sandbox_id", "")
    return found


def instance_of(urls: Iterable[str]) -> str | None:
    """Which lease of a remote sandbox URLs belong to."""
    found = (parse_qs(urlsplit(url).query).get("instance_id") for url in urls)
    return next((ids[0] for ids in found if ids), None)


def _is_still(api: KlavisClient, server: str, number: str, instance: str, until: float | None) -> bool:
    """Whether a sandbox is held, and by the same lease as when it was acquired."""
    try:
        details = api.get_sandbox(server, number, deadline=_rest(until))
    except NotFoundError:
        return False
    return details.status != "idle" and instance_of(details.urls.values()) == instance


def _rest(until: float | None) -> float | None:
    return None if until is None else max(until - clock.monotonic(), 0.3)


KINDS: Mapping[str, Kind] = {"local": Local(), "remote": Remote()}


def trouble_of(lease: Lease) -> str:
    """Why a sandbox cannot be used, by what the API says of it; empty where it can."""
    sandbox, details = lease.sandbox, lease.sandbox._details  # noqa: SLF001
    said = f" ({redaction.redact(str(details['message']))})" if details.get("message") else ""
    if details.get("status") == "error":
        return f"{sandbox!r} was acquired in the state 'error'{said}"
    missing = details.get("missing") or {}
    if missing and lease.order.spec.servers != ("ALL",):
        told = "; ".join(f"{name}: {why}" for name, why in missing.items())
        return f"{sandbox!r} came without some of its servers: {told}"
    if not sandbox.servers:
        return f"{sandbox!r} was acquired, but no answer holds a server URL{said}"
    return ""


def _named(
    items: Sequence[LocalSandboxServerItem], asked: Sequence[str]
) -> Iterable[tuple[str, LocalSandboxServerItem]]:
    """Each server of an answer under the name that was asked for, also where the API calls it a little otherwise."""
    names = [catalog.resolve(item.server_name or "") for item in items]
    lacking = [name for name in asked if name not in names and name != "ALL"]
    for name, item in zip(names, items, strict=True):
        meant = name
        if name not in asked and catalog.kind_of(name) is None:  # a server that is known is itself
            only = lacking[0] if len(lacking) == 1 and len(items) == len(asked) else name
            meant = next((one for one in lacking if name.startswith(one)), only)
            lacking = [one for one in lacking if one != meant]
        yield meant, item


def _servers(answer: CreateSandboxResponse | SandboxInfo, order: Order) -> dict[str, Server]:
    """The servers of an answer about a remote sandbox; the only one has the name that was asked for."""
    name = order.spec.servers[0]
    servers = {}
    for key, url in answer.urls.items():
        redaction.register_url(url)
        shown = order.given.get(name, name) if key == name or len(answer.urls) == 1 else key
        servers[shown] = Server(shown, url)
    return servers
