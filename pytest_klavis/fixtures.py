"""The fixtures, nothing else; the types of the factories are in factories.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from . import spec
from .arguments import bind
from .errors import BackendError, InfraError, SpecError
from .factories import BlackboxWorkspaceFactory, Factory, LocalSandboxFactory, RemoteSandboxFactory, SandboxSetFactory
from .logs import redact_logs
from .markers import declared
from .session import KEY, KlavisSession, Scope
from .settings import Settings
from .spec import Ask

if TYPE_CHECKING:
    from .api.client import KlavisClient
    from .handles import Sandbox, SandboxSet

__tracebackhide__ = True  # users read their own frames


def _acquiring_one(scope: Scope, check: Callable[..., Ask]) -> Callable[..., Sandbox]:
    """The function that acquires one sandbox from the arguments of a factory."""

    def make(*args: Any, **kwargs: Any) -> Sandbox:
        return scope.lease([bind(check, args, kwargs)])[0].sandbox

    return make


def _session(request: pytest.FixtureRequest) -> KlavisSession:
    return request.config.stash[KEY]


def _local(request: pytest.FixtureRequest) -> Iterator[LocalSandboxFactory]:
    """Factory of local sandboxes: real MCP servers over a private workspace."""
    with _session(request).leases(request) as scope:
        make = _acquiring_one(scope, spec.local_sandbox)
        yield cast("LocalSandboxFactory", Factory(str(request.fixturename), scope.session, make))


def _remote(request: pytest.FixtureRequest) -> Iterator[RemoteSandboxFactory]:
    """Factory of remote sandboxes: one SaaS server over a test account."""
    with _session(request).leases(request) as scope:
        make = _acquiring_one(scope, spec.klavis_sandbox)
        yield cast("RemoteSandboxFactory", Factory(str(request.fixturename), scope.session, make))


local_sandbox = pytest.fixture(_local, name="local_sandbox")
klavis_local_sandbox = pytest.fixture(_local, name="klavis_local_sandbox")  # where a project's own fixture hides it
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
def klavis_sandboxes(request: pytest.FixtureRequest) -> Iterator[SandboxSetFactory]:
    """Factory of several sandboxes at once: all of them, or none."""
    with _session(request).leases(request) as scope:

        def make(*args: Any, **kwargs: Any) -> SandboxSet:
            names = bind(spec.klavis_sandboxes, args, kwargs)
            asks = spec.split_by_kind(names, kwargs, scope.benchmark())
            leases = scope.lease([ask for _, ask in asks])
            by_name = {name: lease.sandbox for (own, _), lease in zip(asks, leases, strict=True) for name in own}
            return _sandbox_set({name: by_name[name] for name in names})

        yield cast("SandboxSetFactory", Factory("klavis_sandboxes", scope.session, make))


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
def blackbox_workspace(request: pytest.FixtureRequest) -> Iterator[BlackboxWorkspaceFactory]:
    """Factory of directories with what a Blackbox run left in its workspace."""
    from . import blackbox  # noqa: PLC0415  only for those who use it

    session = _session(request)
    settings = session.settings
    redact_logs(request.config)
    workspaces = blackbox.Workspaces(
        settings.blackbox_url, settings.blackbox_key, session.run.id, patience=settings.acquire_timeout
    )

    def make(*args: Any, **kwargs: Any) -> Path:
        wanted = bind(blackbox.blackbox_workspace, args, kwargs)
        with _recorded(session), session.waiting():
            return workspaces.fetch(wanted)

    with closing(workspaces):
        factory = Factory("blackbox_workspace", session, make, noun="directory", like="workspace")
        yield cast("BlackboxWorkspaceFactory", factory)


@pytest.fixture(scope="session")
def klavis_settings(request: pytest.FixtureRequest) -> Settings:
    """The settings of this run, each with its source."""
    return _session(request).settings


@pytest.fixture
def klavis_artifacts(request: pytest.FixtureRequest) -> Path:
    """A folder for the test's own evidence, kept by the same rule as workspaces."""
    return _session(request).files(request.node)


@contextmanager
def _recorded(session: KlavisSession) -> Iterator[None]:
    """Trouble in here makes the running test an ERROR, whatever it does with it."""
    try:
        yield
    except InfraError as error:
        session.record(error)
        raise
    except OSError as error:
        trouble = BackendError(f"blackbox_workspace: the download could not be stored: {error}")
        session.record(trouble)
        raise trouble from error


def _only(declared_sandboxes: dict[str, Sandbox]) -> Sandbox:
    if len(declared_sandboxes) != 1:
        raise SpecError(f"the marks declare {', '.join(declared_sandboxes)}: ask for `sandboxes`, not for `sandbox`")
    return next(iter(declared_sandboxes.values()))


def _asked_for(request: pytest.FixtureRequest) -> str:
    return next((name for name in ("sandboxes", "klavis_box") if name in request.fixturenames), "sandbox")


def _sandbox_set(sandboxes: Mapping[str, Sandbox]) -> SandboxSet:
    from .handles import SandboxSet  # noqa: PLC0415  httpx loads with the first sandbox

    return SandboxSet(sandboxes)
