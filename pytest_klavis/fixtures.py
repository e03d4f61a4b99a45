"""The fixtures, and the factories that they give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, cast

import pytest

from . import spec
from .arguments import bind
from .errors import SpecError
from .markers import declared
from .session import KEY, KlavisSession, Scope
from .settings import Settings
from .spec import INHERIT, Ask, Data, Inherit, Workspace

if TYPE_CHECKING:
    from .api.client import KlavisClient
    from .handles import LocalSandbox, RemoteSandbox, Sandbox, SandboxSet

__tracebackhide__ = True  # users read their own frames


class LocalSandboxFactory(Protocol):
    """The type of the fixture `local_sandbox` and its wider forms."""

    def __call__(
        self,
        servers: str | Sequence[str],
        *,
        workspace: Workspace | None = None,
        data: Data | None = None,
        git: bool = False,
        benchmark: str | Inherit | None = INHERIT,
        account: str | None = None,
        ttl: float | str | None = None,
        name: str | None = None,
    ) -> LocalSandbox:
        """Acquire a local sandbox with `servers`, or with one server, or with "ALL".

        `workspace` is a directory, a `.tar.gz` or a mapping of path to text or bytes; a relative
        path is looked for in the test's folder, then in each parent up to the rootdir. `git`
        makes it a repository with one commit. `benchmark` names the flavour of the servers
        (None: none, despite the flag), `account` pins a test account, `ttl` is in seconds or a
        text such as "30m", `name` is what the evidence is called.

        Raises SpecError, before anything is acquired, for what cannot be right, and InfraError
        for trouble with the backend, which pytest reports as an ERROR.
        """
        ...

    async def acquire(self, servers: str | Sequence[str], **arguments: Any) -> LocalSandbox:
        """The same for async tests: does not block the event loop."""
        ...


class RemoteSandboxFactory(Protocol):
    """The type of the fixture `klavis_sandbox` and its wider forms."""

    def __call__(
        self,
        server: str,
        *,
        data: Data | None = None,
        benchmark: str | Inherit | None = INHERIT,
        account: str | None = None,
        tags: Mapping[str, str] | None = None,
        ttl: float | str | None = None,
        name: str | None = None,
    ) -> RemoteSandbox:
        """Acquire a remote sandbox: one SaaS server over a test account.

        `data` is a mapping or the path of a JSON file, shaped as the server's typed initialize
        takes it; with a benchmark it adds to what the benchmark brings. `tags` are stored with
        the sandbox where the API has them. The rest is as for `local_sandbox`.
        """
        ...

    async def acquire(self, server: str, **arguments: Any) -> RemoteSandbox:
        """The same for async tests: does not block the event loop."""
        ...


class SandboxSetFactory(Protocol):
    """The type of the fixture `klavis_sandboxes`."""

    def __call__(
        self,
        servers: str | Sequence[str],
        *,
        workspace: Workspace | None = None,
        data: Mapping[str, Data] | None = None,
        git: bool = False,
        benchmark: str | Inherit | None = INHERIT,
        account: str | None = None,
        tags: Mapping[str, str] | None = None,
        ttl: float | str | None = None,
    ) -> SandboxSet:
        """Acquire several servers at once, remote and local: all of them, or none.

        Local servers share one sandbox with one workspace. `data` maps a server to its data.
        """
        ...

    async def acquire(self, servers: str | Sequence[str], **arguments: Any) -> SandboxSet:
        """The same for async tests: does not block the event loop."""
        ...


class _NotASandboxError(SpecError, AttributeError):
    """A factory was used as if it were a sandbox. An AttributeError too, so that hasattr() works."""


class _Factory:
    """Calls `make`; says so when it is taken for a sandbox."""

    def __init__(self, name: str, scope: Scope, make: Callable[..., Any]) -> None:
        self._name = name
        self._scope = scope
        self._make = make

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return self._make(*args, **kwargs)

    async def acquire(self, *args: Any, **kwargs: Any) -> Any:
        import anyio.to_thread  # noqa: PLC0415  only async tests need it

        # Here, as timers can only be set in the main thread.
        with self._scope.session.waiting():
            return await anyio.to_thread.run_sync(partial(self._make, *args, **kwargs))

    def __getattr__(self, attribute: str) -> NoReturn:
        raise _NotASandboxError(
            f"{self._name} is a factory, not a sandbox, and has no {attribute!r}: "
            f"call it first: box = {self._name}(...)"
        )

    def __repr__(self) -> str:
        return f"<factory {self._name}>"


def _acquiring_one(scope: Scope, check: Callable[..., Ask]) -> Callable[..., Sandbox]:
    """The function that acquires one sandbox from the arguments of a factory."""

    def make(*args: Any, **kwargs: Any) -> Sandbox:
        __tracebackhide__ = True
        return scope.lease([bind(check, args, kwargs)])[0].sandbox

    return make


def _session(request: pytest.FixtureRequest) -> KlavisSession:
    return request.config.stash[KEY]


def _local(request: pytest.FixtureRequest) -> Iterator[LocalSandboxFactory]:
    """Factory of local sandboxes: real MCP servers over a private workspace."""
    with _session(request).leases(request) as scope:
        make = _acquiring_one(scope, spec.local_sandbox)
        yield cast("LocalSandboxFactory", _Factory(str(request.fixturename), scope, make))


def _remote(request: pytest.FixtureRequest) -> Iterator[RemoteSandboxFactory]:
    """Factory of remote sandboxes: one SaaS server over a test account."""
    with _session(request).leases(request) as scope:
        make = _acquiring_one(scope, spec.klavis_sandbox)
        yield cast("RemoteSandboxFactory", _Factory(str(request.fixturename), scope, make))


local_sandbox = pytest.fixture(_local, name="local_sandbox")
class_local_sandbox = pytest.fixture(_local, name="class_local_sandbox", scope="class")
module_local_sandbox = pytest.fixture(_local, name="module_local_sandbox", scope="module")
package_local_sandbox = pytest.fixture(_local, name="package_local_sandbox", scope="package")
session_local_sandbox = pytest.fixture(_local, name="session_local_sandbox", scope="session")

klavis_sandbox = pytest.fixture(_remote, name="klavis_sandbox")
class_klavis_sandbox = pytest.fixture(_remote, name="class_klavis_sandbox", scope="class")
module_klavis_sandbox = pytest.fixture(_remote, name="module_klavis_sandbox", scope="module")
package_klavis_sandbox = pytest.fixture(_remote, name="package_klavis_sandbox", scope="package")
session_klavis_sandbox = pytest.fixture(_remote, name="session_klavis_sandbox", scope="session")


@pytest.fixture
def klavis_local_sandbox(local_sandbox: LocalSandboxFactory) -> LocalSandboxFactory:
    """`local_sandbox` under a name that nobody else has."""
    return local_sandbox


@pytest.fixture
def klavis_sandboxes(request: pytest.FixtureRequest) -> Iterator[SandboxSetFactory]:
    """Factory of several sandboxes at once: all of them, or none."""
    with _session(request).leases(request) as scope:

        def make(*args: Any, **kwargs: Any) -> SandboxSet:
            __tracebackhide__ = True
            names = bind(spec.klavis_sandboxes, args, kwargs)
            asks = spec.split_by_kind(names, kwargs, scope.benchmark())
            leases = scope.lease([ask for _, ask in asks])
            by_name = {name: lease.sandbox for (own, _), lease in zip(asks, leases, strict=True) for name in own}
            return _sandbox_set({name: by_name[name] for name in names})

        yield cast("SandboxSetFactory", _Factory("klavis_sandboxes", scope, make))


@pytest.fixture
def _klavis_declared(request: pytest.FixtureRequest) -> Iterator[dict[str, Sandbox]]:
    """What the marks of this test declare, acquired."""
    asks = declared(request.node)
    if not asks:
        raise SpecError(
            f"{request.node.nodeid} asks for the fixture {_asked_for(request)}, but no mark declares a sandbox: add "
            '@pytest.mark.local_sandbox(["filesystem"]) or @pytest.mark.klavis_sandbox("github")'
        )
    with _session(request).leases(request) as scope:
        leases = scope.lease(list(asks.values()))
        yield {name: lease.sandbox for name, lease in zip(asks, leases, strict=True)}


@pytest.fixture
def klavis_box(_klavis_declared: dict[str, Sandbox]) -> Sandbox:
    """The sandbox that the marks of this test declare."""
    return _only(_klavis_declared)


@pytest.fixture
def sandbox(_klavis_declared: dict[str, Sandbox]) -> Sandbox:
    """The sandbox that the marks of this test declare."""
    return _only(_klavis_declared)


@pytest.fixture
def sandboxes(_klavis_declared: dict[str, Sandbox]) -> SandboxSet:
    """The sandboxes that the marks of this test declare, keyed by `name=` (default: the server, or "local")."""
    return _sandbox_set(_klavis_declared)


@pytest.fixture
def klavis_client(request: pytest.FixtureRequest) -> Iterator[KlavisClient]:
    """A client of the API; what it acquires and has not released is released at the end of the test."""
    from .leased_client import leased_client  # noqa: PLC0415  httpx loads with the first sandbox

    with leased_client(_session(request).open_desk()) as client:
        yield client


@pytest.fixture(scope="session")
def klavis_settings(request: pytest.FixtureRequest) -> Settings:
    """The settings of this run, each with its source."""
    return _session(request).settings


@pytest.fixture
def klavis_artifacts(request: pytest.FixtureRequest) -> Path:
    """A folder for the test's own evidence, kept by the same rule as workspaces."""
    return _session(request).files(request.node)


def _only(declared_sandboxes: dict[str, Sandbox]) -> Sandbox:
    if len(declared_sandboxes) != 1:
        raise SpecError(f"the marks declare {', '.join(declared_sandboxes)}: ask for `sandboxes`, not for `sandbox`")
    return next(iter(declared_sandboxes.values()))


def _asked_for(request: pytest.FixtureRequest) -> str:
    return next((name for name in ("sandboxes", "klavis_box") if name in request.fixturenames), "sandbox")


def _sandbox_set(sandboxes: Mapping[str, Sandbox]) -> SandboxSet:
    from .handles import SandboxSet  # noqa: PLC0415  httpx loads with the first sandbox

    return SandboxSet(sandboxes)


__all__ = ["LocalSandboxFactory", "RemoteSandboxFactory", "SandboxSetFactory"]
