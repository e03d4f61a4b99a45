"""The protocol's own conformance suite against the embedded filesystem server: its newest release, and the pre-release
that knows the stateless era. What may fail is listed with its reason; the list may be neither short nor long."""

from __future__ import annotations

import collections
import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .relay import Relay

if TYPE_CHECKING:
    from .embedded import Box

# A folder in which npm installed node@22, and the suite as `stable` and `next`.
PACKAGES = os.environ.get("KLAVIS_TESTS_CONFORMANCE", "")
SCENARIOS = {"stable": 32, "next": 65}

_RESULTS = ("basic-elicitation", "basic-list-roots", "basic-sampling", "capability-check", "multi-round")
_MORE_RESULTS = ("multiple-input-requests", "request-state", "result-type", "tampered-state", "non-tool-request")
_CALLS = ("audio", "elicitation", "embedded-resource", "error", "image", "mixed-content", "sampling", "simple-text")
# How many checks of a scenario fail, and why they may.
EXPECTED = {
    "it calls a tool that only the suite's own server has": {
        **{f"tools-call-{name}": 1 for name in (*_CALLS, "with-logging", "with-progress")},
        **{f"input-required-result-{name}": 1 for name in (*_RESULTS, *_MORE_RESULTS)},
        "elicitation-sep1034-defaults": 1,
        "elicitation-sep1330-enums": 1,
        "http-custom-header-server-validation": 5,
        "json-schema-2020-12": 1,
        "server-stateless": 4,
    },
    "these servers have tools only: no resources": {
        "resources-list": 1,
        "resources-read-binary": 1,
        "resources-read-text": 1,
        "resources-subscribe": 1,
        "resources-templates-read": 1,
        "resources-unsubscribe": 1,
    },
    "these servers have tools only: no prompts": {
        "completion-complete": 1,
        "prompts-get-embedded-resource": 1,
        "prompts-get-simple": 1,
        "prompts-get-with-args": 1,
        "prompts-get-with-image": 1,
        "prompts-list": 1,
    },
    "these servers have tools only: hints for lists of prompts, resources and templates": {"caching": 3},
    "these servers send no log messages": {"logging-set-level": 1},
    "these servers have no tasks, which are an extension": {
        "tasks-capability-negotiation": 4,
        "tasks-dispatch-and-envelope": 6,
        "tasks-lifecycle": 8,
        "tasks-mrtr-composition": 1,
        "tasks-mrtr-input": 3,
        "tasks-request-headers": 3,
        "tasks-request-state-removal": 1,
        "tasks-required-task-error": 1,
        "tasks-wire-fields": 3,
    },
}

pytestmark = pytest.mark.skipif(
    not PACKAGES,
    reason="needs Node 22 and the suite in the folder that KLAVIS_TESTS_CONFORMANCE names: tox -e clients-conformance",
)


@pytest.mark.parametrize("line", ["stable", "next"])
def test_the_conformance_suite_finds_what_is_expected(box: Box, line: str, tmp_path: Path) -> None:
    with Relay(box.servers["filesystem"].url) as relay:  # some scenarios lose the URL's query
        modules = Path(PACKAGES) / "node_modules"
        program = [modules / ".bin" / "node", modules / line / "dist" / "index.js"]
        options = ["--url", relay.url, "--suite", "all", "-o", str(tmp_path)]
        done = subprocess.run([*program, "server", *options], capture_output=True, text=True, timeout=300, check=False)
    found = _found(tmp_path)
    assert len(found) == SCENARIOS[line], done.stdout + done.stderr
    failing = {scenario: count["FAILURE"] for scenario, count in found.items() if count["FAILURE"]}
    expected = {name: count for listed in EXPECTED.values() for name, count in listed.items() if name in found}
    if line == "stable":
        expected = dict.fromkeys(expected, 1)  # this line stops a scenario at its first failure
    else:
        assert not [name for listed in EXPECTED.values() for name in listed if name not in found]
    assert failing == expected
    assert sum(count["SUCCESS"] for count in found.values()) == {"stable": 6, "next": 114}[line]


def _found(place: Path) -> dict[str, collections.Counter[str]]:
    """How many checks of each scenario ended in which way."""
    found = {}
    for file in place.glob("*/checks.json"):
        scenario = re.sub(r"^server-|-\d{4}-\d\d-\d\dT[\d-]+Z$", "", file.parent.name)
        found[scenario] = collections.Counter(check["status"] for check in json.loads(file.read_text()))
    return found
