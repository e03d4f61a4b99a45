"""The processes that use this server: who is alive, and what the dead wanted done with their sandboxes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_klavis import artifacts, rundir
from pytest_klavis.workspace import archive

if TYPE_CHECKING:
    from pytest_klavis.embedded.sandbox import Sandbox
    from pytest_klavis.embedded.sandboxes import Sandboxes

log = logging.getLogger(__name__)


@dataclass
class Will:
    """What an owner noted about its sandboxes: where evidence goes, what stays alive."""

    evidence: dict[str, tuple[Path, Path | None]] = field(default_factory=dict)
    """Sandbox -> the folder for its evidence, and the folder of the run that this belongs to."""
    kept: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> Will:
        """A line that was cut by the owner's death, or makes no sense, is skipped."""
        will = cls()
        for line in path.read_bytes().splitlines():
            try:
                record = json.loads(line)
                sandbox = str(record["sandbox"])
            except (ValueError, TypeError, KeyError):
                continue
            if record.get("keep"):
                will.kept.add(sandbox)
            if isinstance(record.get("artifacts"), str):
                run = record.get("run")
                will.evidence[sandbox] = Path(record["artifacts"]), Path(run) if isinstance(run, str) else None
        return will


class Owners:
    """The directory of owner files. An owner holds the lock of its file while it lives."""

    def __init__(self, directory: Path, sandboxes: Sandboxes) -> None:
        self._directory = directory
        self._sandboxes = sandboxes
        self._wills: dict[str, Will] = {}  # of the dead
        self._settling: dict[str, asyncio.Task[None]] = {}  # by sandbox

    def live(self) -> set[str]:
        """The owners that are alive. The wills of those that are not are read, once."""
        found: set[str] = set()
        for entry in os.scandir(self._directory):
            if entry.name.startswith(".new-"):  # not registered yet
                continue
            try:
                lock = rundir.take_lock(Path(entry.path))
            except FileNotFoundError:
                continue
            if lock is None:
                found.add(entry.name)
                continue
            try:
                if entry.name not in self._wills:
                    log.info("owner %s is gone", entry.name)
                    self._wills[entry.name] = Will.read(Path(entry.path))
            finally:
                os.close(lock)
        return found

    def settle(self, live: set[str], reason: str = "the process that held it ended without releasing it") -> None:
        """Start what has to be done with the sandboxes of everyone who is not alive."""
        for sandbox in self._sandboxes:
            if sandbox.owner is None or sandbox.owner in live or sandbox.id in self._settling:
                continue
            will = self._wills.get(sandbox.owner, Will())
            if sandbox.id in will.kept:
                sandbox.owner, sandbox.kept = None, True
                log.info("sandbox %s is kept until its time to live is over", sandbox.id)
                continue
            task = asyncio.create_task(self._carry_out(sandbox, will.evidence.get(sandbox.id), reason))
            self._settling[sandbox.id] = task
        for owner in self._wills.keys() - live - {sandbox.owner for sandbox in self._sandboxes}:
            (self._directory / owner).unlink(missing_ok=True)

    async def _carry_out(self, sandbox: Sandbox, evidence: tuple[Path, Path | None] | None, reason: str) -> None:
        try:
            if evidence is not None:
                async with sandbox.alone(reason):
                    if not sandbox.gone:
                        await asyncio.to_thread(_save, sandbox, *evidence, reason)
        except Exception:
            log.exception("sandbox %s: its workspace could not be saved in %s", sandbox.id, evidence)
        finally:
            self._settling.pop(sandbox.id, None)
            self._sandboxes.release(sandbox, reason)

    @property
    def busy(self) -> bool:
        """Whether a will is being carried out, or a kept sandbox lives."""
        return bool(self._settling) or any(sandbox.kept for sandbox in self._sandboxes)

    async def close(self, patience: float = 15.0) -> None:
        """The server ends under its users: save what their wills want saved."""
        for owner in self.live():
            self._wills[owner] = Will.read(self._directory / owner)
        self.settle(set(), "the embedded server was told to end")
        if self._settling:
            await asyncio.wait(list(self._settling.values()), timeout=patience)


def _save(sandbox: Sandbox, folder: Path, run: Path | None, reason: str) -> None:
    saved = folder / "workspace.tar.gz"
    if saved.exists():
        return  # the owner did it before it died
    if run is not None:
        artifacts.begin_run(run)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".workspace-{sandbox.id}.tar.gz"
    archive.pack(sandbox.jail.workspace, unfinished, special="skip", limit=archive.Limits().total)
    about: dict[str, Any] = {
        "sandbox_id": sandbox.id,
        "servers": list(sandbox.servers),
        "benchmark": sandbox.benchmark,
        "reason": reason,
    }
    (folder / "sandbox.json").write_text(json.dumps(about, indent=2) + "\n")
    unfinished.replace(saved)  # last: who sees it finds the rest
