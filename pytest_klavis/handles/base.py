"""What both kinds of sandbox have in common: servers, tools, configuration, the end of their use."""

from __future__ import annotations

import difflib
import functools
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import anyio.to_thread

from pytest_klavis.errors import InfraError, SpecError, ToolError
from pytest_klavis.mcp.client import McpClient, ToolInfo, ToolResult
from pytest_klavis.mcp.config import Style, mcp_config
from pytest_klavis.mcp.connect import connect

if TYPE_CHECKING:
    from mcp import ClientSession

    from pytest_klavis.api.client import KlavisClient
    from pytest_klavis.spec import Spec

__tracebackhide__ = True  # users read their own frames

P = ParamSpec("P")
T = TypeVar("T")

TOOL_TIMEOUT = 300.0
"""Seconds that one tool call may take."""


class Private(Mapping[str, Any]):
    """A mapping that can be read but does not show its values: credentials and metadata of a sandbox."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{key!r}: '***'" for key in self._values) + "}"


@dataclass(frozen=True)
class Server:
    """One MCP server of a sandbox. The URL is a capability: who has it can use the sandbox."""

    name: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass
class Context:
    """What a handle needs from the lease behind it."""

    api: KlavisClient
    scratch: Path
    """Private directory for archives and snapshots; the lease removes it."""
    report: Callable[[InfraError], None]
    """Told of each infra error that leaves a handle, so that a test cannot swallow it."""
    find: Callable[[str | Path], Path]
    """Looks a relative path up beside the test, then in each parent folder; SpecError when it is nowhere."""
    seed: Path | None = None
    """The archive that the workspace began with."""
    ended: str = ""
    """Why the handle cannot be used any more; empty while it can."""


def guarded(method: Callable[P, T]) -> Callable[P, T]:
    """Refuse use after the end of the lease, and report infra errors on their way out."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        sandbox: Any = args[0]
        with sandbox._guard():  # noqa: SLF001
            return method(*args, **kwargs)

    return call


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await anyio.to_thread.run_sync(functools.partial(call, *args, **kwargs))


class Sandbox(ABC):
    """What both kinds of sandbox have in common."""

    def __init__(
        self, context: Context, spec: Spec, sandbox_id: str, servers: Mapping[str, Server], details: Mapping[str, Any]
    ) -> None:
        self._context = context
        self._spec = spec
        self.id = sandbox_id
        self.servers: Mapping[str, Server] = MappingProxyType(dict(servers))
        self._details = dict(details)
        self._clients: dict[str, McpClient] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(self.servers)} id={self.id}>"

    def _learn(self, servers: Mapping[str, Server], details: Mapping[str, Any]) -> None:
        """Take over what a later answer says of it."""
        self.servers = MappingProxyType(dict(servers))
        self._details.update(details)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        if self._context.ended:
            raise SpecError(f"{self!r} cannot be used any more: {self._context.ended}")
        try:
            yield
        except InfraError as error:
            self._context.report(error)
            raise

    @property
    def urls(self) -> Mapping[str, str]:
        """Server name -> URL of its MCP endpoint."""
        return {name: server.url for name, server in self.servers.items()}

    @property
    def url(self) -> str:
        """The URL of the only server; a SpecError when there are several."""
        return self._server(None).url

    @property
    def account(self) -> str | None:
        """The test account that was asked for, or that the API says it gave."""
        found = self._spec.account or self.metadata.get("test_account_email")
        return str(found) if found else None

    @property
    def auth_data(self) -> Mapping[str, Any]:
        """Credentials for the service behind the sandbox; the repr does not show them."""
        return Private(self._detail("auth_data"))

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the API tells beside; the repr does not show it."""
        return Private(self._detail("metadata"))

    def _detail(self, key: str) -> Mapping[str, Any]:
        if key not in self._details:
            self.info()
        return self._details.get(key) or {}

    def mcp_config(self, style: Style = "standard") -> Any:
        """The servers as a framework takes them; see `pytest_klavis.mcp.config` for each style's shape."""
        return mcp_config(self.servers, style)

    @guarded
    def connect(self, server: str | None = None) -> AbstractAsyncContextManager[ClientSession]:
        """An initialised MCP `ClientSession` to one server, under asyncio or trio. Needs the extra `[mcp]`."""
        chosen = self._server(server)
        return connect(chosen.url, chosen.headers, name=chosen.name, on_error=self._context.report)

    @guarded
    def tools(self, server: str | None = None) -> list[ToolInfo]:
        """The tools of one server, or of all of them."""
        names = [self._server(server).name] if server else list(self.servers)
        return [tool for name in names for tool in self._client(name).list_tools()]

    @guarded
    def call_tool(
        self, tool: str, arguments: Mapping[str, Any] | None = None, *, server: str | None = None, check: bool = True
    ) -> ToolResult:
        """Call a tool by our own small client.

        Without `server` the server that has the tool is looked up. With `check`, an answer
        marked as an error raises ToolError; without, it is returned.
        """
        if arguments is not None and not isinstance(arguments, Mapping):
            raise SpecError(f"call_tool({tool!r}) takes its arguments as a mapping, not {arguments!r}")
        chosen = self._server(server) if server or len(self.servers) == 1 else self._owner_of(tool)
        if isinstance(chosen, ToolResult):
            result = chosen
        else:
            result = self._client(chosen.name).call_tool(tool, dict(arguments or {}))
        if check and result.is_error:
            raise ToolError(tool, result.text)
        return result

    def env(self) -> dict[str, str]:
        """The environment for an agent's subprocess: this process's, without keys, with the URLs as JSON.

        `KLAVIS_MCP_SERVER_URLS` holds the JSON object of server name to URL. No proxy stands
        between the agent and an embedded server.
        """
        hidden = {"KLAVIS_API_KEY", "BLACKBOX_API_KEY"}
        environment = {key: value for key, value in os.environ.items() if key not in hidden}
        direct = [one for one in (environment.get("NO_PROXY"), "127.0.0.1") if one]
        return environment | {"KLAVIS_MCP_SERVER_URLS": json.dumps(self.urls), "NO_PROXY": ",".join(direct)}

    @abstractmethod
    def info(self) -> Mapping[str, Any]:
        """Ask the API for the details of this sandbox; the repr does not show them."""

    def _server(self, name: str | None) -> Server:
        if name is None:
            if len(self.servers) != 1:
                raise SpecError(f"{self!r} has {len(self.servers)} servers: name one of {', '.join(self.servers)}")
            name = next(iter(self.servers))
        if name not in self.servers:
            raise SpecError(f"{self!r} has no server {name!r}; it has {', '.join(self.servers)}")
        return self.servers[name]

    def _client(self, name: str) -> McpClient:
        if name not in self._clients:
            server = self.servers[name]
            self._clients[name] = McpClient(server.url, server.headers, timeout=TOOL_TIMEOUT, name=name)
        return self._clients[name]

    def _owner_of(self, tool: str) -> Server | ToolResult:
        """The server that has the tool, or what the agent is told when none has it."""
        by_server = {name: [one.name for one in self._client(name).list_tools()] for name in self.servers}
        owners = [name for name, tools in by_server.items() if tool in tools]
        if len(owners) == 1:
            return self.servers[owners[0]]
        if owners:
            raise SpecError(f"{tool!r} is a tool of {', '.join(owners)}: say which by server=")
        every = [one for tools in by_server.values() for one in tools]
        near = [one for one in every if one.endswith(f"_{tool}")] or difflib.get_close_matches(tool, every, n=1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        return ToolResult(
            f"Unknown tool {tool!r}{meant}: there are {', '.join(every)}", None, is_error=True, content=()
        )

    def _close(self, why: str) -> None:
        self._context.ended = why
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    async def atools(self, server: str | None = None) -> list[ToolInfo]:
        """Async form of `tools`."""
        return await in_thread(self.tools, server)

    async def acall_tool(
        self, tool: str, arguments: Mapping[str, Any] | None = None, *, server: str | None = None, check: bool = True
    ) -> ToolResult:
        """Async form of `call_tool`."""
        return await in_thread(self.call_tool, tool, arguments, server=server, check=check)

    async def ainfo(self) -> Mapping[str, Any]:
        """Async form of `info`."""
        return await in_thread(self.info)
