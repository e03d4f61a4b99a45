"""The handle of a local sandbox: its workspace in, out and compared, and commands that run inside."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pytest_klavis.arguments import seconds
from pytest_klavis.errors import RequestRefusedError, SpecError
from pytest_klavis.workspace.archive import pack, pack_mapping
from pytest_klavis.workspace.diff import NOISE, Diff, diff_archives
from pytest_klavis.workspace.seed import pack_tree
from pytest_klavis.workspace.snapshot import Snapshot

from .base import Private, Sandbox, guarded, in_thread

__tracebackhide__ = True  # users read their own frames

MAX_DUMP = 2 << 30
"""Bytes of a workspace archive that are downloaded at most."""


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


class LocalSandbox(Sandbox):
    """One VM with several MCP servers over one workspace."""

    @property
    def root(self) -> str:
        """The workspace as the agent sees it: a path to put into prompts."""
        return str(self._details.get("root") or "/data")

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
        with self._temporary_archive() as archive:
            return Snapshot.of(archive, self._context.scratch)

    @guarded
    def download(self, dest: str | Path) -> Path:
        """Save the workspace as a `.tar.gz`; `dest` is the file, or a directory to put `workspace.tar.gz` in."""
        target = Path(dest)
        target = target / "workspace.tar.gz" if target.is_dir() else target
        if not target.parent.is_dir():
            raise SpecError(f"download({str(dest)!r}): there is no directory {target.parent}; make it first")
        self._download(target)
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
        with self._temporary_archive() as archive:
            return diff_archives(self._context.seed, archive, everything=everything)

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
        if isinstance(argv, str) or not argv or not all(isinstance(part, str) for part in argv):
            raise SpecError(f"run() takes a list of texts such as ['python', '-m', 'unittest'], not {argv!r}")
        try:
            limit = seconds(timeout)
        except ValueError as error:
            raise SpecError(f"run(timeout=...): {error}") from None
        try:
            answer = self._context.api.run_command(
                self.id, list(argv), cwd=cwd or ".", env=dict(env or {}), timeout=limit, files=self._packed(files)
            )
        except RequestRefusedError as error:
            if error.status == 422 and "working directory" in error.body:
                raise FileNotFoundError(f"run(cwd={cwd!r}): {error.body}") from None
            raise
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

    def _upload(self, archive: Path, patience: float = 600.0) -> None:
        until = time.monotonic() + patience
        api = self._context.api
        answer = api.create_upload_url(self.id)
        api.upload_archive(answer.upload_url, archive, deadline=max(until - time.monotonic(), 1.0))
        api.initialize_local_sandbox(self.id, deadline=max(until - time.monotonic(), 1.0))

    @contextmanager
    def _temporary_archive(self) -> Iterator[Path]:
        with TemporaryDirectory(dir=self._context.scratch) as folder:
            archive = Path(folder, "workspace.tar.gz")
            self._download(archive)
            yield archive

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
