"""Every call of every table, on the real server and on ours: the same in kind, or listed as different with a reason."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .calls import TABLES
from .compare import differences
from .differences import KNOWN, expected
from .ours import Box, embedded_server
from .playing import Table, play

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from .compare import Seen
    from .scenario import Scenario

INSTALLED = Path(os.environ.get("KLAVIS_REPLAY_UPSTREAM", ""))
if not INSTALLED.name:
    pytest.skip("the real servers are not installed; run: tox -e replay", allow_module_level=True)

STEPS = [
    pytest.param(
        table,
        scenario,
        label,
        id=f"{table.name}/{scenario.name}/{label}",
        marks=pytest.mark.xdist_group(f"{table.name}/{scenario.name}"),
    )
    for table in TABLES
    for scenario in table.scenarios
    for label in scenario.calls
]


@dataclass
class Stage:
    """Our server, a place for files, and what scenarios came to: each is played once."""

    api: httpx.Client
    place: Path
    played: dict[str, list[tuple[Seen, Seen]] | Exception] = field(default_factory=dict)

    def play(self, table: Table, scenario: Scenario) -> list[tuple[Seen, Seen]]:
        key = f"{table.name}/{scenario.name}"
        if key not in self.played:
            own = Path(tempfile.mkdtemp(dir=self.place))
            try:
                self.played[key] = play(table, scenario, self.api, installed=INSTALLED, served=self.place, place=own)
            except Exception as error:  # noqa: BLE001 - every call of the scenario fails with it
                self.played[key] = error
        result = self.played[key]
        if isinstance(result, list):
            return result
        raise AssertionError(f"scenario {key} could not be played") from result


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    # Not tmp_path: a sandbox's own uid has to be able to walk there.
    place = Path(tempfile.mkdtemp(prefix="klavis-replay-")).resolve()
    place.chmod(0o711)
    with embedded_server(place) as api:
        yield Stage(api, place)
    shutil.rmtree(place, ignore_errors=True)


@pytest.mark.parametrize(("table", "scenario", "label"), STEPS)
def test_a_call_comes_to_the_same(table: Table, scenario: Scenario, label: str, stage: Stage) -> None:
    if reason := table.missing(INSTALLED):
        pytest.skip(reason)
    ours, theirs = stage.play(table, scenario)[list(scenario.calls).index(label)]
    found = differences(ours, theirs)
    listed = expected(f"{table.name}/{scenario.name}", label)
    new = {aspect: text for aspect, text in found.items() if aspect not in listed}
    if new:
        told = "\n".join(f"{aspect}:\n{text}" for aspect, text in new.items())
        pytest.fail(f"{str(scenario.calls[label])[:500]}\n{told}", pytrace=False)
    gone = {aspect: reason for aspect, reason in listed.items() if aspect not in found}
    assert not gone, f"listed in differences.py, but no difference any more: {gone}"


def test_every_listed_difference_is_of_a_call_that_there_is() -> None:
    known = {f"{table.name}/{one.name}/{label}" for table in TABLES for one in table.scenarios for label in one.calls}
    assert not [path for difference in KNOWN for path in difference.calls if path not in known]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_tool_of_a_server_is_called(table: Table, stage: Stage) -> None:
    box = Box(stage.api, stage.place, table.server, table.benchmark)
    try:
        called = {one.tool for scenario in table.scenarios for one in scenario.calls.values()}
        assert not set(box.tools()) - called
    finally:
        box.release()
