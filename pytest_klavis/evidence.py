"""The evidence of one sandbox: its workspace or state, what changed against the seed, and the facts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import redaction
from .artifacts import shown
from .errors import InfraError
from .handles import LocalSandbox, RemoteSandbox
from .workspace.archive import Limits
from .workspace.archive import extract as extract_archive
from .workspace.diff import diff_archives

TEXT_LIMIT = 200_000
"""Bytes of diff that `changes.txt` holds at most."""
SHOWN_CHANGES = 20


def save(
    sandbox: LocalSandbox | RemoteSandbox,
    directory: Path,
    *,
    seed: Path | None,
    facts: Mapping[str, Any],
    extract: bool,
) -> str:
    """Save what `sandbox` holds; returns what to say about it in the failure report.

    Trouble with one part is told in the text and in `sandbox.json`, and does not stop the others.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    record = dict(facts)
    try:
        lines += _save_state(sandbox, directory, seed, extract=extract)
    except (InfraError, OSError) as error:
        record["dump_error"] = redaction.redact(str(error))
        lines.append(f"the state could NOT be saved: {record['dump_error']}")
    text = json.dumps(redaction.redact_mapping(record), indent=2, sort_keys=True, default=str)
    (directory / "sandbox.json").write_text(text + "\n", "utf-8")
    lines.append(f"saved in {shown(directory)}")
    return "\n".join(lines)


def _save_state(
    sandbox: LocalSandbox | RemoteSandbox, directory: Path, seed: Path | None, *, extract: bool
) -> list[str]:
    if isinstance(sandbox, RemoteSandbox):
        state = sandbox._state()  # noqa: SLF001
        (directory / "data.json").write_text(json.dumps(state, indent=2, default=str) + "\n", "utf-8")
        return ["its state: data.json"]
    archive = directory / "workspace.tar.gz"
    sandbox._download(archive, deadline=120.0)  # noqa: SLF001
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
