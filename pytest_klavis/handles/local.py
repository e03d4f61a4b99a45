"""The handle of a local sandbox: its workspace in, out and compared, and commands that run inside."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, TypeVar

from pytest_klavis import clock
from pytest_klavis.errors import SpecError
from pytest_klavis.spec import Spec
from pytest_klavis.workspace.archive import pack, pack_mapping, verify
from pytest_klavis.workspace.diff import NOISE, Diff, diff_archives
from pytest_klavis.workspace.seed import pack_tree
from pytest_klavis.workspace.snapshot import Snapshot

from .base import Context, Private, Sandbox, Server, guarded, in_thread
from .data import ServerData
from .execution import run_by_execution
from .running import RunResult, command, run_by_route
from .signed import download, upload

__tracebackhide__ = True  # users read their own frames

T = TypeVar("T")


class LocalSandbox(Sandbox):
    """One VM with several MCP servers over one workspace."""

    _holders: Mapping[str, ServerData] = MappingProxyType({})
    """Those of its servers that hold data beside the workspace, by the names that were asked for."""
    _has_run_route = False
    """Whether the backend is the embedded one, which runs commands by a route of its own."""

    def __init__(
        self, context: Context, spec: Spec, sandbox_id: str, servers: Mapping[str, Server], details: Mapping[str, Any]
    ) -> None:
        super().__init__(context, spec, sandbox_id, servers, details)
        self._running = threading.Lock()
        """One command at a time: none sees the files of another, and none pays with its own time for another."""

    @property
    def root(self) -> str:
        """The workspace as the agent sees it: a path to put into prompts."""
        return str(self._details.get("root") or "/data")

    @property
    def missing(self) -> Mapping[str, str]:
        """What "ALL" was asked for and the backend does not have: name -> why. `servers` has the others."""
        return MappingProxyType(dict(self._details.get("missing") or {}))

    @guarded
    def initialize(self, data: Mapping[str, Any], *, server: str | None = None) -> None:
        """Put `data` into a server that holds some beside the workspace, in the server's own shape.

        `server` is needed when several do. Which do: google_cloud, poste_email_toolathlon, canvas.
        """
        self._put_data(server, data)

    def _put_data(self, server: str | None, data: Mapping[str, Any], deadline: float | None = None) -> None:
        self._data(server).initialize(data, deadline=deadline)
        self._details.pop("auth_data", None)  # accounts may have been added

    @guarded
    def dump(self, server: str | None = None) -> dict[str, Any]:
        """What a server that holds data beside the workspace holds now; `server` is needed when several do."""
        return self._data(server).dump()

    @guarded
    def info(self) -> Mapping[str, Any]:
        """Ask the API for the details of this sandbox; the repr does not show them."""
        answer = self._context.api.get_local_sandbox(self.id).model_dump()
        by_server = {str(item.get("server_name")): item for item in answer["servers"]}
        answer["auth_data"] = {name: item["auth_data"] for name, item in by_server.items() if item.get("auth_data")}
        answer["metadata"] = {name: item["metadata"] for name, item in by_server.items() if item.get("metadata")}
        self._details.update(answer)
        return Private(self._details)

    @guarded
    def reset(self) -> None:
        """Bring the sandbox back to its initial state: an empty workspace and fresh servers."""
        self._context.api.reset_local_sandbox(self.id)

    @guarded
    def read_bytes(self, path: str) -> bytes:
        """The bytes of one file of the workspace, as it is now."""
        with self.snapshot() as tree:
            return tree.read_bytes(path)

    @guarded
    def read_text(self, path: str, *, encoding: str = "utf-8") -> str:
        """The text of one file of the workspace, as it is now."""
        with self.snapshot() as tree:
            return tree.read_text(path, encoding=encoding)

    @guarded
    def list_files(self, pattern: str = "**/*", *, everything: bool = False) -> list[str]:
        """The files of the workspace that match `pattern`, as they are now, sorted.

        Skips what is in `.git` and in caches, as `diff` does, unless `everything`.
        """
        with self.snapshot() as tree:
            found = tree.glob(pattern)
        return [path for path in found if everything or NOISE.isdisjoint(path.split("/")[:-1])]

    @guarded
    def snapshot(self) -> Snapshot:
        """The workspace as it is now, as a frozen tree that is safe to read on the host."""
        return self._with_archive(lambda archive: Snapshot.of(archive, self._context.scratch))

    @guarded
    def download(self, dest: str | Path) -> Path:
        """Save the workspace as a `.tar.gz`; `dest` is the file, or a directory to put `workspace.tar.gz` in."""
        target = Path(dest)
        target = target / "workspace.tar.gz" if target.is_dir() else target
        if not target.parent.is_dir():
            raise SpecError(f"download({str(dest)!r}): there is no directory {target.parent}; make it first")
        self._download(target, verify)
        return target

    @guarded
    def upload(self, src: str | Path | Mapping[str, str | bytes], to: str = ".") -> None:
        """Put a directory, file, `.tar.gz` or mapping of path to text into the workspace, below `to`."""
        if not isinstance(src, str | Path | Mapping):
            raise SpecError(f"upload() takes a path or a mapping of path to text, not {src!r}")
        with TemporaryDirectory(dir=self._context.scratch) as folder:
            archive = Path(folder, "upload.tar.gz")
            pack_tree(src if isinstance(src, Mapping) else self._context.find(src), archive, below=to)
            self._upload(archive)

    @guarded
    def diff(self, *, everything: bool = False) -> Diff:
        """What changed since the seed: added, removed, modified. Skips `.git` and caches unless `everything`."""
        return self._with_archive(lambda archive: diff_archives(self._context.seed, archive, everything=everything))

    @guarded
    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float | str = 60.0,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        files: str | Path | Mapping[str, str | bytes] | None = None,
    ) -> RunResult:
        """Run a command inside the sandbox, isolated, as the oracle of a test.

        `timeout` is in seconds or a text such as "2m"; `cwd` is relative to the workspace, and a
        FileNotFoundError when the agent has left no such directory. `files` (a directory or a
        mapping of path to text) are laid over `cwd` for this call, win over whatever the agent
        left there, and are gone afterwards.
        """
        wanted = command(argv, timeout, cwd, env)
        with TemporaryDirectory(dir=self._context.scratch) as folder, self._running:
            laid = None if files is None else self._packed(files, Path(folder, "files.tar.gz"))
            if self._has_run_route:
                return run_by_route(self._context.api, self.id, wanted, laid)
            return run_by_execution(self._context.api, self.id, wanted, laid, Path(folder))

    def _packed(self, files: str | Path | Mapping[str, str | bytes], archive: Path) -> Path:
        if isinstance(files, Mapping):
            pack_mapping(files, archive)
        else:
            pack(self._context.find(files), archive)
        return archive

    def _download(self, target: Path, use: Callable[[Path], T], patience: float = 300.0) -> T:
        """Dump the workspace to `target`, and what `use` makes of it; `patience` is in seconds."""
        api = self._context.api

        def ask(seconds: float) -> str:
            return api.dump_local_sandbox(self.id, deadline=seconds).download_url

        return download(api, ask, target, clock.monotonic() + patience, use)

    def _upload(self, archive: Path, patience: float = 600.0) -> None:
        until = clock.monotonic() + patience
        api = self._context.api
        upload(api, lambda seconds: api.create_upload_url(self.id, deadline=seconds).upload_url, archive, until)
        api.initialize_local_sandbox(self.id, deadline=clock.left(until))

    def _with_archive(self, use: Callable[[Path], T]) -> T:
        with TemporaryDirectory(dir=self._context.scratch) as folder:
            return self._download(Path(folder, "workspace.tar.gz"), use)

    def _data(self, server: str | None) -> ServerData:
        """By the name that was asked for, or the one in the API."""
        if server is None and len(self._holders) == 1:
            return next(iter(self._holders.values()))
        for name, holder in self._holders.items():
            if server in (name, holder.server):
                return holder
        what = f"{server!r} holds none" if server else "say which server's is meant"
        raise SpecError(f"{self!r}: {what}; data is in {', '.join(self._holders) or 'no server of this sandbox'}")

    async def ainitialize(self, data: Mapping[str, Any], *, server: str | None = None) -> None:
        """Async form of `initialize`."""
        await in_thread(self.initialize, data, server=server)

    async def adump(self, server: str | None = None) -> dict[str, Any]:
        """Async form of `dump`."""
        return await in_thread(self.dump, server)

    async def areset(self) -> None:
        """Async form of `reset`."""
        await in_thread(self.reset)

    async def aread_bytes(self, path: str) -> bytes:
        """Async form of `read_bytes`."""
        return await in_thread(self.read_bytes, path)

    async def aread_text(self, path: str, *, encoding: str = "utf-8") -> str:
        """Async form of `read_text`."""
        return await in_thread(self.read_text, path, encoding=encoding)

    async def alist_files(self, pattern: str = "**/*", *, everything: bool = False) -> list[str]:
        """Async form of `list_files`."""
        return await in_thread(self.list_files, pattern, everything=everything)

    async def asnapshot(self) -> Snapshot:
        """Async form of `snapshot`."""
        return await in_thread(self.snapshot)

    async def adownload(self, dest: str | Path) -> Path:
        """Async form of `download`."""
        return await in_thread(self.download, dest)

    async def aupload(self, src: str | Path | Mapping[str, str | bytes], to: str = ".") -> None:
        """Async form of `upload`."""
        await in_thread(self.upload, src, to)

    async def adiff(self, *, everything: bool = False) -> Diff:
        """Async form of `diff`."""
        return await in_thread(self.diff, everything=everything)

    async def arun(
        self,
        argv: Sequence[str],
        *,
        timeout: float | str = 60.0,  # noqa: ASYNC109  the sandbox enforces it, not the event loop
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        files: str | Path | Mapping[str, str | bytes] | None = None,
    ) -> RunResult:
        """Async form of `run`."""
        return await in_thread(self.run, argv, timeout=timeout, cwd=cwd, env=env, files=files)
