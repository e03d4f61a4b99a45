"""The evidence of one sandbox: its workspace or state, what changed against the seed, and the facts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import redaction
from .artifacts import shown
from .errors import InfraError, NotFoundError, TransportError
from .handles import LocalSandbox, RemoteSandbox
from .workspace.archive import Limits
from .workspace.archive import extract as extract_archive
from .workspace.diff import diff_archives

TEXT_LIMIT = 200_000
"""Bytes of diff that `changes.txt` holds at most."""
SHOWN_CHANGES = 20


@dataclass(frozen=True)
class Saved:
    """What became of the evidence of one sandbox."""

    text: str
    """For the failure report."""
    gone: InfraError | None = None
    """The sandbox was not there any more: nothing that the test saw of it counts."""


def save(
    sandbox: LocalSandbox | RemoteSandbox,
    directory: Path,
    *,
    seed: Path | None,
    facts: Mapping[str, Any],
    extract: bool,
    patience: float,
) -> Saved:
    """Save what `sandbox` holds. `patience` is how many seconds the download may take.

    Trouble with the state is told in the text and in `sandbox.json`; the facts are saved all the same.
    """
    directory.mkdir(parents=True, exist_ok=True)
    record = dict(facts)
    gone = None
    try:
        lines = _save_state(sandbox, directory, seed, extract=extract, patience=patience)
        lines.append(f"saved in {shown(directory)}")
    except (InfraError, OSError) as error:
        record["dump_error"] = redaction.redact(str(error))
        lines = [f"its state could NOT be saved: {record['dump_error']}", f"what is known of it: {shown(directory)}"]
        gone = error if isinstance(error, NotFoundError | TransportError) else None
    text = json.dumps(redaction.redact_mapping(record), indent=2, sort_keys=True, default=str)
    (directory / "sandbox.json").write_text(text + "\n", "utf-8")
    return Saved("\n".join(lines), gone)


def _save_state(
    sandbox: LocalSandbox | RemoteSandbox, directory: Path, seed: Path | None, *, extract: bool, patience: float
) -> list[str]:
    if isinstance(sandbox, RemoteSandbox):
        state = sandbox._state()  # noqa: SLF001
        (directory / "data.json").write_text(json.dumps(state, indent=2, default=str) + "\n", "utf-8")
        return ["its state: data.json"]
    archive = directory / "workspace.tar.gz"
    sandbox._download(archive, deadline=patience)  # noqa: SLF001
    if extract:
        extract_archive(archive, directory / "workspace", limits=Limits(portable=False))
    diff = diff_archives(seed, archive)
    summary = diff.summary()
    against = "the seed" if seed else "an empty workspace"
    if not summary:
        return [f"nothing changed against {against}"]
    body = "\n".join(summary) + "\n\n" + diff.text(TEXT_LIMIT)
    (directory / "changes.txt").write_text(body, "utf-8", errors="backslashreplace")
    lines = [f"changed against {against}:", *(f"  {line}" for line in summary[:SHOWN_CHANGES])]
    if len(summary) > SHOWN_CHANGES:
        lines.append(f"  ... and {len(summary) - SHOWN_CHANGES} more (changes.txt)")
    return lines
