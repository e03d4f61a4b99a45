"""Workspaces of Blackbox runs as directories on this machine; knows nothing of pytest or the wire."""

from __future__ import annotations

import logging
import os
import posixpath
import re
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from .arguments import listed
from .backend import Owner
from .errors import ArchiveError, BackendError, SpecError
from .rundir import RunDir, remove_tree

if TYPE_CHECKING:
    from .api.blackbox import BlackboxClient
    from .workspace.archive import Extracted

__tracebackhide__ = True  # users read their own frames

ROOT = "/vercel/sandbox"
"""Where a run's workspace is in its sandbox (reference of the download, default of `path`)."""
Format = Literal["tar", "zip"]
FORMATS: tuple[Format, ...] = get_args(Format)
_NAMED_LINKS = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """The checked arguments of one download."""

    run_id: str
    path: str
    format: Format


def blackbox_workspace(run_id: str, *, path: str | None = None, format: Format = "tar") -> Wanted:  # noqa: A002
    """Check the arguments of the `blackbox_workspace` factory."""
    if not _is_text(run_id) or not run_id.strip(".") or re.search(r"[\s/\\]", run_id):
        raise SpecError(
            f"run_id={run_id!r} is no run id: give the `runId` that POST /tasks answered, such as "
            "'a1b2c3d4-e5f6-7890-abcd-ef1234567890', without slashes or spaces"
        )
    where = ROOT if path is None else path
    if not _is_text(where) or not where.startswith("/") or ".." in where.split("/"):
        raise SpecError(
            f"path={path!r} is no path in the run's sandbox: give an absolute one without '..', as {ROOT!r}"
        )
    if format not in FORMATS:
        raise SpecError(f"format={format!r} is not known: allowed are {listed(FORMATS)}")
    return Wanted(run_id, posixpath.normpath(f"/{where.strip('/')}"), format)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()


class Workspaces:
    """The downloads of one process: each a directory of its own, all gone after `close()`. For several threads.

    `url` is the Agent API, `key` its key, `run` names the test run, `patience` is in seconds for one download.
    What a killed process leaves is removed by a later run's embedded server.
    """

    def __init__(self, url: str, key: str | None, run: str, *, patience: float) -> None:
        self._url = url
        self._key = key
        self._patience = patience
        self._run = f"{run}-blackbox-{os.getpid()}"
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._owner: Owner | None = None
        self._closed = False

    def fetch(self, wanted: Wanted) -> Path:
        """Download and unpack a workspace: a new directory, whole or not at all.

        Raises BackendError without a key, an ApiError or TransportError when the API fails, ArchiveError for an
        archive that is damaged, hostile or too large.
        """
        client = self._client()
        name = re.sub(r"[^\w.-]", "-", wanted.run_id)[:40]
        # Hidden, so that pytest collects nothing of it where the temporary directory is below the rootdir.
        folder = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=self._home()))
        try:
            archive, tree = folder / "archive", folder / "workspace"
            client.download_workspace(
                wanted.run_id, archive, path=wanted.path, format=wanted.format, deadline=self._patience
            )
            _tell(wanted, _unpack(wanted, archive, tree))
            archive.unlink()
        except BaseException:
            remove_tree(folder)
            raise
        return tree

    def close(self) -> None:
        """Remove every download. A forked child's call does nothing."""
        with self._lock:
            owner, self._owner, self._closed = self._owner, None, True
        if owner is not None and os.getpid() == self._pid:
            remove_tree(RunDir.of(self._run).path)
            owner.close()

    def _client(self) -> BlackboxClient:
        from .api.blackbox import BlackboxClient  # noqa: PLC0415  httpx loads with the first download

        if not self._key:
            raise BackendError(
                "blackbox_workspace needs a key: set BLACKBOX_API_KEY in the environment (the dashboard at "
                "app.blackbox.ai makes one; the Agent API needs the Pro plan)"
            )
        try:
            return BlackboxClient(self._url, self._key)
        except SpecError as error:  # not what the test asked for: the machine is not set up
            raise BackendError(f"blackbox_workspace: {error}") from None

    def _home(self) -> Path:
        """This process's folder of downloads; its lock keeps other runs from taking it for a dead one's."""
        with self._lock:
            if self._closed:
                raise SpecError("blackbox_workspace cannot give a workspace any more: the session is over")
            if self._owner is None:
                run = RunDir.of(self._run)
                run.make()
                self._owner = Owner(run)
            return self._owner.scratch


def _unpack(wanted: Wanted, archive: Path, tree: Path) -> Extracted:
    from .workspace.archive import Limits, extract  # noqa: PLC0415

    try:
        # An agent's names are taken as they are: what they mean on other systems is no trouble of this machine.
        return extract(archive, tree, limits=Limits(portable=False), packed_from=wanted.path)
    except ArchiveError as error:
        raise ArchiveError(f"the workspace of Blackbox run {wanted.run_id!r} cannot be unpacked: {error}") from None


def _tell(wanted: Wanted, found: Extracted) -> None:
    """Say what is not as the test may expect it."""
    if not found.files:
        log.warning("the workspace of Blackbox run %r is empty: %s holds no file", wanted.run_id, wanted.path)
    if found.skipped:
        lines = [f"  {path!r}: {why}" for path, why in found.skipped[:_NAMED_LINKS]]
        if len(found.skipped) > _NAMED_LINKS:
            lines.append(f"  and {len(found.skipped) - _NAMED_LINKS} more")
        text = "\n".join(lines)
        log.warning("the workspace of Blackbox run %r has links that were left out:\n%s", wanted.run_id, text)
