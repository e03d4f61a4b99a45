"""What the terminal shows at 80 columns: a header with sources, a summary of sandboxes and evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from pytest_klavis import artifacts

if TYPE_CHECKING:
    from pytest_klavis.session import KlavisSession
    from pytest_klavis.settings import Settings


SHOWN_FOLDERS = 30


def header(settings: Settings) -> list[str]:
    """Where sandboxes come from and under which limits, and which flavour, with their sources."""
    if settings.backend == "cloud":
        where = f"cloud at {urlsplit(settings.base_url).netloc.rpartition('@')[2]}, billed to your account"
    else:
        where = f"embedded, isolation {settings.isolation}"
    lines = [f"klavis: {where} (from {settings.source('backend')})"]
    if settings.backend == "cloud":
        rate = f"{settings.rate:g} requests/s" if settings.rate else "no limit of requests"
        budget = f", at most {settings.max_acquires} acquires" if settings.max_acquires else ""
        lines.append(f"klavis: pool size {settings.pool_size or 'auto'}, {rate}{budget}")
    if settings.benchmark:
        lines.append(f"klavis: benchmark {settings.benchmark} (from {settings.source('benchmark')})")
    return lines


def summary(reporter: pytest.TerminalReporter, session: KlavisSession) -> None:
    """What the run did with sandboxes; nothing at all when it asked for none."""
    tally = session.tally
    saved = artifacts.folders(session.run_folder)
    troubles = (
        ("NOT released", tally.leaked),
        ("MAYBE not released, as its acquire was not answered", tally.unknown),
        ("SUSPECT, in the account and on nobody's ledger", tally.suspects),
        ("NOTE", tally.notes),
    )
    if not (tally.acquired or saved or any(told for _, told in troubles)):
        return
    reporter.ensure_newline()
    reporter.section("klavis sandboxes", sep="=", blue=True)
    if tally.acquired or tally.unknown:  # workers that were cut short tell nothing
        _counts(reporter, session)
    for what, ids in (("kept until its TTL", tally.kept), *troubles):
        for sandbox_id in ids:
            reporter.write_line(f"{what}: {sandbox_id}", red=not what.startswith("kept"), bold=True)
    if tally.refused:
        fields = ", ".join(sorted(set(tally.refused)))
        reporter.write_line(f"left out, as the API does not know it: {fields}", yellow=True)
    for trouble in tally.unsaved:
        reporter.write_line(f"NOT saved: {trouble}", red=True, bold=True)
    if saved:
        reporter.write_line(f"evidence in {artifacts.shown(session.run_folder)}:")
    for folder in saved[:SHOWN_FOLDERS]:
        reporter.write_line(f"  {folder}")
    if len(saved) > SHOWN_FOLDERS:
        reporter.write_line(f"  ... and {len(saved) - SHOWN_FOLDERS} more")


def _counts(reporter: pytest.TerminalReporter, session: KlavisSession) -> None:
    tally = session.tally
    counts = [f"{tally.acquired} acquired", f"{tally.released} released"]
    if tally.resets:
        counts.insert(1, f"{tally.resets} reset")
    if tally.kept:
        counts.append(f"{len(tally.kept)} kept")
    counts.append(f"{len(tally.leaked)} leaked")
    level = f", isolation {tally.isolation}" if tally.isolation else ""
    reporter.write_line(f"{', '.join(counts)} on the {session.settings.backend} backend{level}")
    held, waited = _duration(tally.seconds_held), _duration(tally.seconds_waited)
    reporter.write_line(f"sandboxes held for {held}, waited {waited}, {tally.calls} API calls")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min"
