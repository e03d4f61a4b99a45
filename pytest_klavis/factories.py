"""What the factory fixtures give: their types, for annotations, and the object behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol

from .errors import SpecError
from .spec import INHERIT, Data, Inherit, Workspace

if TYPE_CHECKING:
    from .handles import LocalSandbox, RemoteSandbox, SandboxSet
    from .session import KlavisSession

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


class BlackboxWorkspaceFactory(Protocol):
    """The type of the fixture `blackbox_workspace`."""

    def __call__(self, run_id: str, *, path: str | None = None, format: Literal["tar", "zip"] = "tar") -> Path:  # noqa: A002
        """Download what a Blackbox run left in its workspace: a new directory, which `workspace=` takes.

        `path` is an absolute path in the run's sandbox (default: its whole workspace, `/vercel/sandbox`), `format`
        how it travels, "tar" or "zip". The directory is the test's to change and goes at the end of the session. A
        run without a sandbox is waited for until it is over, at most `klavis-acquire-timeout`; of one that still
        runs, the workspace is as it is now.

        Raises SpecError, before any request, for what cannot be right, and InfraError for trouble with the API or
        the archive, which pytest reports as an ERROR.
        """
        ...

    async def acquire(self, run_id: str, **arguments: Any) -> Path:
        """The same for async tests: does not block the event loop."""
        ...


class _NotASandboxError(SpecError, AttributeError):
    """A factory was used as if it were what it gives. An AttributeError too, so that hasattr() works."""


class Factory:
    """Calls `make`; says so when it is taken for what it gives: `noun`, for which `like` is a good name."""

    def __init__(
        self,
        name: str,
        session: KlavisSession,
        make: Callable[..., Any],
        *,
        noun: str = "sandbox",
        like: str = "box",
    ) -> None:
        self._name = name
        self._session = session
        self._make = make
        self._noun = noun
        self._like = like

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._make(*args, **kwargs)

    async def acquire(self, *args: Any, **kwargs: Any) -> Any:
        import anyio.to_thread  # noqa: PLC0415  only async tests need it

        # Here, as timers and signal handlers can only be set in the main thread.
        self._session.take_signals()
        with self._session.waiting():
            return await anyio.to_thread.run_sync(partial(self._make, *args, **kwargs))

    def __getattr__(self, attribute: str) -> NoReturn:
        raise _NotASandboxError(
            f"{self._name} is a factory, not a {self._noun}, and has no {attribute!r}: "
            f"call it first: {self._like} = {self._name}(...)"
        )

    def __repr__(self) -> str:
        return f"<factory {self._name}>"
