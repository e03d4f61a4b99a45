"""What a holder left that died or was cut short: its sandbox's state is saved as evidence, its own folder removed."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_klavis import catalog, redaction, rundir
from pytest_klavis.artifacts import begin_run, run_of
from pytest_klavis.errors import InfraError
from pytest_klavis.evidence import save
from pytest_klavis.handles import Context, LocalSandbox, RemoteSandbox
from pytest_klavis.handles.data import ServerData

if TYPE_CHECKING:
    from pytest_klavis.api.client import KlavisClient
    from pytest_klavis.kinds import Acquired

    from .entries import Entry

__tracebackhide__ = True  # users read their own frames

SCRATCH = "pytest-klavis-"
"""How the folders of our processes are called, in the directory for temporary files."""
FACTS = "sandbox.json"

log = logging.getLogger(__name__)


def save_evidence(
    api: KlavisClient, entry: Entry, answer: Acquired | None, *, outcome: str, why: str, patience: float
) -> str:
    """Save what a sandbox holds where its will says. What there is to tell of it in the summary: what went wrong.

    Nothing happens where the will names no folder, or the evidence is there. `patience` is in seconds.
    """
    if not entry.will.get("evidence"):
        return ""
    folder = Path(entry.will["evidence"])
    if (folder / FACTS).exists():
        return ""
    scratch = Path(tempfile.mkdtemp(prefix=SCRATCH))
    try:
        begin_run(run_of(folder))
        save(
            handle(api, entry, answer, scratch),
            folder,
            seed=_seed(entry),
            facts=_facts(entry, outcome, why),
            extract=False,
            patience=patience,
            unreachable_is_gone=False,
        )
        trouble = json.loads((folder / FACTS).read_text("utf-8")).get("dump_error", "")
    except (InfraError, OSError, ValueError) as error:
        trouble = redaction.redact(str(error))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return f"what {entry.name} of {entry.test} held could not be saved: {trouble}" if trouble else ""


def handle(api: KlavisClient, entry: Entry, answer: Acquired | None, scratch: Path) -> LocalSandbox | RemoteSandbox:
    """A handle that can dump the sandbox of an entry, and no more."""
    assert entry.sandbox_id is not None  # noqa: S101  (for mypy)
    context = Context(api, scratch, report=lambda _error: None, find=Path)
    if entry.spec.kind == "remote":
        return RemoteSandbox(context, entry.spec, entry.sandbox_id, {}, {})
    sandbox = LocalSandbox(context, entry.spec, entry.sandbox_id, {}, {})
    items: Iterable[Any] = getattr(answer, "servers", ())
    ids = {catalog.resolve(one.server_name or ""): one.id for one in items}
    sandbox._holders = {  # noqa: SLF001
        name: ServerData(api, name, tuple(dict.fromkeys(filter(None, (ids.get(name), entry.sandbox_id)))))
        for name in entry.spec.servers
        if name in catalog.DATA_SERVERS
    }
    return sandbox


def remove_scratch(entry: Entry, others: Iterable[Entry]) -> None:
    """Remove the folder that a dead holder worked in: one of ours, and not what another entry's will still names."""
    name = entry.will.get("scratch")
    if not name or any(one.number != entry.number and one.will.get("scratch") == name for one in others):
        return
    path = Path(name)
    if _is_ours(path):
        rundir.remove_tree(path)
        if path.parent.name.startswith(SCRATCH):
            with suppress(OSError):  # it still holds something of another lease
                path.parent.rmdir()
    elif os.path.lexists(path):
        log.warning("%s is left: it is no folder of ours", path)


def _is_ours(path: Path) -> bool:
    top = Path(tempfile.gettempdir()).resolve()
    try:
        found = path.lstat()
        below = path.parent.resolve().joinpath(path.name).relative_to(top)
    except (OSError, ValueError):
        return False
    return (
        path.is_dir() and not path.is_symlink() and found.st_uid == os.geteuid() and below.parts[0].startswith(SCRATCH)
    )


def _seed(entry: Entry) -> Path | None:
    seed = Path(entry.will.get("seed", ""))
    return seed if entry.will.get("seed") and seed.is_file() else None


def _facts(entry: Entry, outcome: str, why: str) -> Mapping[str, Any]:
    return {
        "test": entry.test,
        "sandbox_id": entry.sandbox_id,
        "kind": entry.spec.kind,
        "servers": list(entry.spec.servers),
        "benchmark": entry.spec.benchmark,
        "backend": "cloud",
        "seconds_held": round(entry.age, 3),
        "outcome": outcome,
        "why": why,
    }
