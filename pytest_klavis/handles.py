"""What a test holds: RemoteSandbox and LocalSandbox. They speak to the API and the servers, and know no pytest."""

from __future__ import annotations

import functools
import io
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import anyio.to_thread

from .errors import InfraError, SpecError, ToolError
from .mcp.client import McpClient, ToolInfo, ToolResult
from .mcp.config import Style, mcp_config
from .mcp.connect import connect
from .workspace.archive import pack, pack_mapping
from .workspace.diff import NOISE, Diff, diff_archives
from .workspace.snapshot import Snapshot

if TYPE_CHECKING:
    from mcp import ClientSession

    from .api.client import KlavisClient
    from .spec import Spec

P = ParamSpec("P")
T = TypeVar("T")

MAX_DUMP = 2 << 30
"""Bytes of a workspace archive that are downloaded at most."""
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


@dataclass(frozen=True)
class RunResult:
    """How a command ended: its exit code, what it printed, and the seconds it took.

    `stopped` says which limit ended it ("timeout", "disk", ...), else it is None.
    """

    exit_code: int
    stdout: str
    stderr: str
    seconds: float
    stopped: str | None = None


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


def _guarded(method: Callable[P, T]) -> Callable[P, T]:
    """Refuse use after the end of the lease, and report infra errors on their way out."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        __tracebackhide__ = True
        sandbox: Any = args[0]
        with sandbox._guard():  # noqa: SLF001
            return method(*args, **kwargs)

    return call


async def _in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
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

    @contextmanager
    def _guard(self) -> Iterator[None]:
        __tracebackhide__ = True
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

    @_guarded
    def connect(self, server: str | None = None) -> AbstractAsyncContextManager[ClientSession]:
        """An initialised MCP `ClientSession` to one server, under asyncio or trio. Needs the extra `[mcp]`."""
        chosen = self._server(server)
        return connect(chosen.url, chosen.headers, name=chosen.name, on_error=self._context.report)

    @_guarded
    def tools(self, server: str | None = None) -> list[ToolInfo]:
        """The tools of one server, or of all of them."""
        names = [self._server(server).name] if server else list(self.servers)
        return [tool for name in names for tool in self._client(name).list_tools()]

    @_guarded
    def call_tool(
        self, tool: str, arguments: Mapping[str, Any] | None = None, *, server: str | None = None, check: bool = True
    ) -> ToolResult:
        """Call a tool by our own small client.

        Without `server` the server that has the tool is looked up. With `check`, an answer
        marked as an error raises ToolError; without, it is returned.
        """
        chosen = self._server(server) if server or len(self.servers) == 1 else self._owner_of(tool)
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

    def _owner_of(self, tool: str) -> Server:
        owners = [name for name in self.servers if any(one.name == tool for one in self._client(name).list_tools())]
        if len(owners) == 1:
            return self.servers[owners[0]]
        if owners:
            raise SpecError(f"{tool!r} is a tool of {', '.join(owners)}: say which by server=")
        raise SpecError(f"no server of {self!r} has a tool {tool!r}; .tools() lists them")

    def _close(self, why: str) -> None:
        self._context.ended = why
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    async def atools(self, server: str | None = None) -> list[ToolInfo]:
        """Async form of `tools`."""
        return await _in_thread(self.tools, server)

    async def acall_tool(
        self, tool: str, arguments: Mapping[str, Any] | None = None, *, server: str | None = None, check: bool = True
    ) -> ToolResult:
        """Async form of `call_tool`."""
        return await _in_thread(self.call_tool, tool, arguments, server=server, check=check)

    async def ainfo(self) -> Mapping[str, Any]:
        """Async form of `info`."""
        return await _in_thread(self.info)


class RemoteSandbox(Sandbox):
    """One SaaS server over a test account of its own."""

    @property
    def _name(self) -> str:
        return self._spec.servers[0]

    @_guarded
    def info(self) -> Mapping[str, Any]:
        """Ask the API for the details of this sandbox; the repr does not show them."""
        self._details.update(self._context.api.get_sandbox(self._name, self.id).model_dump())
        return Private(self._details)

    @_guarded
    def reset(self) -> None:
        """Empty the sandbox. Data that a benchmark brought is gone as well."""
        self._context.api.reset_sandbox(self._name, self.id)

    @_guarded
    def initialize(self, data: Mapping[str, Any]) -> None:
        """Put `data`, shaped as the server's typed initialize takes it, into the account."""
        self._context.api.initialize_sandbox(self._name, self.id, data)

    @_guarded
    def dump(self) -> dict[str, Any]:
        """The account's state as the server's typed dump gives it."""
        return self._context.api.dump_sandbox(self._name, self.id)

    def find(self, collection: str, **fields: Any) -> dict[str, Any]:
        """The one object of `dump()[collection]` whose fields equal `fields`; LookupError for none or several."""
        state = self.dump()
        if collection not in state:
            raise LookupError(f"the dump has no {collection!r}; it has {', '.join(state) or 'nothing'}")
        found = [one for one in state[collection] if all(one.get(key) == value for key, value in fields.items())]
        if len(found) != 1:
            raise LookupError(f"{len(found)} of {len(state[collection])} {collection} have {fields!r}, not one")
        result: dict[str, Any] = found[0]
        return result

    async def areset(self) -> None:
        """Async form of `reset`."""
        await _in_thread(self.reset)

    async def ainitialize(self, data: Mapping[str, Any]) -> None:
        """Async form of `initialize`."""
        await _in_thread(self.initialize, data)

    async def adump(self) -> dict[str, Any]:
        """Async form of `dump`."""
        return await _in_thread(self.dump)

    async def afind(self, collection: str, **fields: Any) -> dict[str, Any]:
        """Async form of `find`."""
        return await _in_thread(self.find, collection, **fields)


class LocalSandbox(Sandbox):
    """One VM with several MCP servers over one workspace."""

    @property
    def root(self) -> str:
        """The workspace as the agent sees it: a path to put into prompts."""
        return str(self._details.get("root") or "/data")

    @_guarded
    def info(self) -> Mapping[str, Any]:
        """Ask the API for the details of this sandbox; the repr does not show them."""
        answer = self._context.api.get_local_sandbox(self.id).model_dump()
        by_server = {str(item.get("server_name")): item for item in answer["servers"]}
        answer["auth_data"] = {name: item["auth_data"] for name, item in by_server.items() if item.get("auth_data")}
        answer["metadata"] = {name: item["metadata"] for name, item in by_server.items() if item.get("metadata")}
        self._details.update(answer)
        return Private(self._details)

    @_guarded
    def reset(self) -> None:
        """Bring the sandbox back to its initial state: an empty workspace and fresh servers."""
        self._context.api.reset_local_sandbox(self.id)

    @_guarded
    def read_bytes(self, path: str) -> bytes:
        """The bytes of one file of the workspace, as it is now."""
        with self.snapshot() as tree:
            return tree.read_bytes(path)

    @_guarded
    def read_text(self, path: str, *, encoding: str = "utf-8") -> str:
        """The text of one file of the workspace, as it is now."""
        with self.snapshot() as tree:
            return tree.read_text(path, encoding=encoding)

    @_guarded
    def list_files(self, pattern: str = "**/*", *, everything: bool = False) -> list[str]:
        """The files of the workspace that match `pattern`, as they are now, sorted.

        Skips what is in `.git` and in caches, as `diff` does, unless `everything`.
        """
        with self.snapshot() as tree:
            found = tree.glob(pattern)
        return [path for path in found if everything or NOISE.isdisjoint(path.split("/")[:-1])]

    @_guarded
    def snapshot(self) -> Snapshot:
        """The workspace as it is now, as a frozen tree that is safe to read on the host."""
        with self._temporary_archive() as archive:
            return Snapshot.of(archive, self._context.scratch)

    @_guarded
    def download(self, dest: str | Path) -> Path:
        """Save the workspace as a `.tar.gz`; `dest` is the file, or a directory to put `workspace.tar.gz` in."""
        target = Path(dest)
        target = target / "workspace.tar.gz" if target.is_dir() else target
        self._download(target)
        return target

    @_guarded
    def upload(self, src: str | Path | Mapping[str, str | bytes], to: str = ".") -> None:
        """Put a directory, file, `.tar.gz` or mapping of path to text into the workspace, below `to`."""
        from .workspace.seed import pack_tree  # noqa: PLC0415  with the seeds, as it packs the same things

        with TemporaryDirectory(dir=self._context.scratch) as folder:
            archive = Path(folder, "upload.tar.gz")
            pack_tree(src if isinstance(src, Mapping) else self._context.find(src), archive, below=to)
            self._upload(archive)

    @_guarded
    def diff(self, *, everything: bool = False) -> Diff:
        """What changed since the seed: added, removed, modified. Skips `.git` and caches unless `everything`."""
        with self._temporary_archive() as archive:
            return diff_archives(self._context.seed, archive, everything=everything)

    @_guarded
    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 60.0,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        files: str | Path | Mapping[str, str | bytes] | None = None,
    ) -> RunResult:
        """Run a command inside the sandbox, isolated, as the oracle of a test.

        `timeout` is in seconds; `cwd` is relative to the workspace. `files` (a directory or a
        mapping of path to text) are laid over `cwd` for this call, win over whatever the agent
        left there, and are gone afterwards.
        """
        if isinstance(argv, str) or not argv or not all(isinstance(part, str) for part in argv):
            raise SpecError(f"run() takes a list of texts such as ['python', '-m', 'unittest'], not {argv!r}")
        answer = self._context.api.run_command(
            self.id, list(argv), cwd=cwd or ".", env=dict(env or {}), timeout=timeout, files=self._packed(files)
        )
        return RunResult(answer.exit_code, answer.stdout, answer.stderr, answer.seconds, answer.stopped)

    def _packed(self, files: str | Path | Mapping[str, str | bytes] | None) -> bytes | None:
        if files is None:
            return None
        buffer = io.BytesIO()
        if isinstance(files, Mapping):
            pack_mapping(files, buffer)
        else:
            pack(self._context.find(files), buffer)
        return buffer.getvalue()

    def _download(self, target: Path, deadline: float = 300.0) -> None:
        answer = self._context.api.dump_local_sandbox(self.id)
        self._context.api.download_archive(answer.download_url, target, limit=MAX_DUMP, deadline=deadline)

    def _upload(self, archive: Path) -> None:
        answer = self._context.api.create_upload_url(self.id)
        self._context.api.upload_archive(answer.upload_url, archive)
        self._context.api.initialize_local_sandbox(self.id)

    @contextmanager
    def _temporary_archive(self) -> Iterator[Path]:
        with TemporaryDirectory(dir=self._context.scratch) as folder:
            archive = Path(folder, "workspace.tar.gz")
            self._download(archive)
            yield archive

    async def areset(self) -> None:
        """Async form of `reset`."""
        await _in_thread(self.reset)

    async def aread_bytes(self, path: str) -> bytes:
        """Async form of `read_bytes`."""
        return await _in_thread(self.read_bytes, path)

    async def aread_text(self, path: str, *, encoding: str = "utf-8") -> str:
        """Async form of `read_text`."""
        return await _in_thread(self.read_text, path, encoding=encoding)

    async def alist_files(self, pattern: str = "**/*", *, everything: bool = False) -> list[str]:
        """Async form of `list_files`."""
        return await _in_thread(self.list_files, pattern, everything=everything)

    async def asnapshot(self) -> Snapshot:
        """Async form of `snapshot`."""
        return await _in_thread(self.snapshot)

    async def adownload(self, dest: str | Path) -> Path:
        """Async form of `download`."""
        return await _in_thread(self.download, dest)

    async def aupload(self, src: str | Path | Mapping[str, str | bytes], to: str = ".") -> None:
        """Async form of `upload`."""
        await _in_thread(self.upload, src, to)

    async def adiff(self, *, everything: bool = False) -> Diff:
        """Async form of `diff`."""
        return await _in_thread(self.diff, everything=everything)

    async def arun(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 60.0,  # noqa: ASYNC109  the sandbox enforces it, not the event loop
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        files: str | Path | Mapping[str, str | bytes] | None = None,
    ) -> RunResult:
        """Async form of `run`."""
        return await _in_thread(self.run, argv, timeout=timeout, cwd=cwd, env=env, files=files)


class SandboxSet(Mapping[str, Sandbox]):
    """Several sandboxes at once, keyed by the names that the caller gave."""

    def __init__(self, sandboxes: Mapping[str, Sandbox]) -> None:
        self._sandboxes = dict(sandboxes)

    def __getitem__(self, name: str) -> Sandbox:
        try:
            return self._sandboxes[name]
        except KeyError:
            raise KeyError(f"no sandbox {name!r}; there are {', '.join(self._sandboxes)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._sandboxes)

    def __len__(self) -> int:
        return len(self._sandboxes)

    def __repr__(self) -> str:
        return f"<SandboxSet {self._sandboxes!r}>"

    def mcp_config(self, style: Style = "standard") -> Any:
        """One configuration with the servers of all; a server that two sandboxes have is a SpecError."""
        servers: dict[str, Server] = {}
        for sandbox in {id(one): one for one in self._sandboxes.values()}.values():
            for name, server in sandbox.servers.items():
                if name in servers:
                    raise SpecError(f"two sandboxes have a server {name!r}: use the mcp_config() of each")
                servers[name] = server
        return mcp_config(servers, style)


__all__ = ["LocalSandbox", "RemoteSandbox", "RunResult", "Sandbox", "SandboxSet", "Server"]
