"""The evidence of one sandbox: its workspace or state, what changed against the seed, and the facts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from . import clock, redaction
from .artifacts import shown
from .errors import ApiError, InfraError, NotFoundError, TransportError
from .handles import LocalSandbox, RemoteSandbox
from .handles.data import state_of
from .workspace.archive import Limits
from .workspace.archive import extract as extract_archive
from .workspace.diff import diff_archives

TEXT_LIMIT = 200_000
"""Bytes of diff that `changes.txt` holds at most."""
SHOWN_CHANGES = 20
ARCHIVE = "workspace.tar.gz"
NO_ROUTE = ("", "Not Found")
CONFIRM = 5.0
"""Seconds for asking whether a sandbox still exists."""


@dataclass(frozen=True)
class Saved:
    """What became of the evidence of one sandbox."""

    text: str
    """For the failure report."""
    gone: InfraError | None = None
    """The sandbox was not there any more: nothing that the test saw of it counts."""
    again: bool = False
    """A call could not even be sent: what stopped it may be over with the test."""


def save(
    sandbox: LocalSandbox | RemoteSandbox,
    directory: Path,
    *,
    seed: Path | None,
    facts: Mapping[str, Any],
    extract: bool,
    patience: float,
    unreachable_is_gone: bool,
) -> Saved:
    """Save what `sandbox` holds. `patience` is how many seconds the download may take.

    `unreachable_is_gone`: the server lives for this run alone, so one that does not answer is no passing trouble.
    Trouble with the state is told in the text and in `sandbox.json`; the facts are saved all the same.
    """
    directory.mkdir(parents=True, exist_ok=True)
    record = dict(facts)
    lines: list[str] = []
    troubles: list[str] = []
    gone: InfraError | None = None
    again, complete = False, True
    until = clock.monotonic() + patience
    for what, step in _steps(sandbox, directory, seed, extract=extract, patience=patience):
        try:
            lines += step()
        except (InfraError, OSError) as error:
            complete = False
            exists = _exists(sandbox, error, until)
            if exists and _has_no_dump(error):
                lines.append(f"{what}: the server holds no data that could be saved")
                continue
            troubles.append(redaction.redact(str(error)))
            lines.append(f"{what} could NOT be saved: {troubles[-1]}")
            again = again or (isinstance(error, TransportError) and error.sent is False)
            unreachable = unreachable_is_gone and isinstance(error, TransportError)
            if isinstance(error, InfraError) and (exists is False or unreachable):
                gone = error
    if troubles:
        record["dump_error"] = "\n".join(troubles)
    lines.append(f"{'saved in' if complete else 'what is known of it:'} {shown(directory)}")
    _write(directory / "sandbox.json", redaction.redact_mapping(record))
    return Saved("\n".join(lines), gone, again)


def _exists(sandbox: LocalSandbox | RemoteSandbox, error: InfraError | OSError, until: float) -> bool | None:
    """Whether the API still knows the sandbox; None where that is not known.

    A dump can fail for many reasons, and only the end of the sandbox takes the verdict from its test.
    """
    if isinstance(error, OSError) or (isinstance(error, TransportError) and error.sent is False):
        return None
    api, deadline = sandbox._context.api, min(CONFIRM, max(until - clock.monotonic(), 0.5))  # noqa: SLF001
    try:
        if isinstance(sandbox, RemoteSandbox):
            api.get_sandbox(sandbox._name, sandbox.id, deadline=deadline)  # noqa: SLF001
        else:
            api.get_local_sandbox(sandbox.id, deadline=deadline)
    except NotFoundError:
        return False
    except InfraError:
        return None
    return True


def _has_no_dump(error: InfraError | OSError) -> bool:
    """Whether the route is what does not exist: then the answer does not say what was not found."""
    return isinstance(error, ApiError) and (error.status == 405 or (error.status == 404 and error.body in NO_ROUTE))


def _steps(
    sandbox: LocalSandbox | RemoteSandbox, directory: Path, seed: Path | None, *, extract: bool, patience: float
) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """What there is to save, each by itself: trouble with one does not cost the others."""
    if isinstance(sandbox, RemoteSandbox):
        file, dump = directory / "data.json", partial(_state, sandbox, patience)
        yield "its state", partial(_save_data, file, "its state", dump)
        return
    archive = directory / ARCHIVE
    yield "its state", lambda: _save_workspace(sandbox, archive, seed, patience)
    if extract and archive.exists():
        yield "its files", lambda: _unpack(archive)
    for name, holder in sandbox._holders.items():  # noqa: SLF001
        dump = partial(holder.dump, deadline=patience)
        file = directory / f"data-{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}.json"
        yield f"the data of {name}", partial(_save_data, file, f"the data of {name}", dump)


def _state(sandbox: RemoteSandbox, patience: float) -> dict[str, Any]:
    api, server = sandbox._context.api, sandbox._name  # noqa: SLF001
    return state_of(api.dump_sandbox(server, sandbox.id, deadline=patience), repr(sandbox))


def _save_data(file: Path, what: str, dump: Callable[[], Mapping[str, Any]]) -> list[str]:
    _write(file, dump())
    return [f"{what}: {file.name}"]


def _write(file: Path, content: Any) -> None:
    text = json.dumps(content, indent=2, sort_keys=True, default=str, ensure_ascii=False)
    file.write_text(redaction.redact(text) + "\n", "utf-8", errors="backslashreplace")


def _unpack(archive: Path) -> list[str]:
    extract_archive(archive, archive.with_name("workspace"), limits=Limits(portable=False))
    return []


def _save_workspace(sandbox: LocalSandbox, archive: Path, seed: Path | None, patience: float) -> list[str]:
    diff = sandbox._download(archive, lambda path: diff_archives(seed, path), patience)  # noqa: SLF001
    summary = diff.summary()
    against = "the seed" if seed else "an empty workspace"
    if not summary:
        return [f"nothing changed against {against}"]
    body = "\n".join(summary) + "\n\n" + diff.text(TEXT_LIMIT)
    archive.with_name("changes.txt").write_text(redaction.redact(body), "utf-8", errors="backslashreplace")
    lines = [f"changed against {against}:", *(f"  {line}" for line in summary[:SHOWN_CHANGES])]
    if len(summary) > SHOWN_CHANGES:
        lines.append(f"  ... and {len(summary) - SHOWN_CHANGES} more (changes.txt)")
    return lines
