"""The evidence of one sandbox: its workspace or state, what changed against the seed, and the facts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from . import redaction
from .artifacts import shown
from .errors import ArchiveError, InfraError, NotFoundError, TransportError
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
    lines: list[str] = []
    troubles: list[str] = []
    gone = None
    for what, step in _steps(sandbox, directory, seed, extract=extract, patience=patience):
        try:
            lines += step()
        except (InfraError, OSError) as error:
            troubles.append(redaction.redact(str(error)))
            lines.append(f"{what} could NOT be saved: {troubles[-1]}")
            gone = error if isinstance(error, NotFoundError | TransportError) else gone
    if troubles:
        record["dump_error"] = "\n".join(troubles)
    lines.append(f"{'what is known of it:' if troubles else 'saved in'} {shown(directory)}")
    _write(directory / "sandbox.json", redaction.redact_mapping(record))
    return Saved("\n".join(lines), gone)


def _steps(
    sandbox: LocalSandbox | RemoteSandbox, directory: Path, seed: Path | None, *, extract: bool, patience: float
) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """What there is to save, each by itself: trouble with one does not cost the others."""
    if isinstance(sandbox, RemoteSandbox):
        yield "its state", lambda: _save_data(directory / "data.json", "its state", sandbox._state)  # noqa: SLF001
        return
    yield "its state", lambda: _save_workspace(sandbox, directory, seed, extract=extract, patience=patience)
    for name, holder in sandbox._holders.items():  # noqa: SLF001
        dump = partial(holder.dump, deadline=patience)
        file = directory / f"data-{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}.json"
        yield f"the data of {name}", partial(_save_data, file, f"the data of {name}", dump)


def _save_data(file: Path, what: str, dump: Callable[[], Mapping[str, Any]]) -> list[str]:
    _write(file, dump())
    return [f"{what}: {file.name}"]


def _write(file: Path, content: Any) -> None:
    text = json.dumps(content, indent=2, sort_keys=True, default=str, ensure_ascii=False)
    file.write_text(redaction.redact(text) + "\n", "utf-8", errors="backslashreplace")


def _save_workspace(
    sandbox: LocalSandbox, directory: Path, seed: Path | None, *, extract: bool, patience: float
) -> list[str]:
    archive = directory / "workspace.tar.gz"
    try:
        diff = sandbox._download(archive, lambda path: diff_archives(seed, path), patience)  # noqa: SLF001
        if extract:
            extract_archive(archive, directory / "workspace", limits=Limits(portable=False))
    except ArchiveError:
        if archive.exists():  # what did come may be all that there is
            archive.rename(archive.with_name(f"{archive.name}.damaged"))
        raise
    summary = diff.summary()
    against = "the seed" if seed else "an empty workspace"
    if not summary:
        return [f"nothing changed against {against}"]
    body = "\n".join(summary) + "\n\n" + diff.text(TEXT_LIMIT)
    (directory / "changes.txt").write_text(redaction.redact(body), "utf-8", errors="backslashreplace")
    lines = [f"changed against {against}:", *(f"  {line}" for line in summary[:SHOWN_CHANGES])]
    if len(summary) > SHOWN_CHANGES:
        lines.append(f"  ... and {len(summary) - SHOWN_CHANGES} more (changes.txt)")
    return lines
