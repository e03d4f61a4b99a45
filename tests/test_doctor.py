"""`pytest-klavis doctor`: its lines at 80 columns, its JSON, its exit status; and what it keeps to itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .side import Tiny


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    tiny = Tiny(tmp_path)
    tiny.variables |= {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
    return tiny


def _findings(said: str) -> dict[str, dict[str, Any]]:
    return {one["what"]: one for one in json.loads(said)}


def test_what_is_there_and_what_is_missing(tiny: Tiny) -> None:
    status, said = tiny.run("doctor", "--json")
    assert status == 0, said
    found = _findings(said)
    assert [found[name]["status"] for name in ("Python", "pytest", "pytest-xdist", "git", "isolation")] == ["ok"] * 5
    servers = found["upstream servers"]
    assert (servers["status"], servers["mend"]) == ("missing", "pytest-klavis servers install")
    assert found["records of cloud sandboxes"]["text"].startswith(f"{tiny.variables['XDG_STATE_HOME']}/pytest-klavis")
    assert found["backend"]["text"].startswith("embedded, by the environment alone")
    assert found["KLAVIS_API_KEY"]["status"] == "missing"


def test_its_lines(tiny: Tiny) -> None:
    status, said = tiny.run("doctor")
    assert status == 0
    lines = said.splitlines()
    assert [line for line in lines if len(line) > 80 and "/" not in line] == []
    assert "           -> pytest-klavis servers install" in lines
    assert "missing  KLAVIS_API_KEY: is not set; it is for the cloud backend" in lines
    assert "All that is needed by default is there." in lines
    assert " ".join(lines[-2:]).endswith("upstream servers, KLAVIS_API_KEY, BLACKBOX_API_KEY")


def test_keys_are_not_told(tiny: Tiny) -> None:
    variables = {
        "KLAVIS_API_KEY": "sk-tok3n",
        "BLACKBOX_API_KEY": "bb-tok3n",
        "KLAVIS_BASE_URL": "https://u:tok3n@host/a",
    }
    status, said = tiny.run("doctor", **variables)
    assert status == 0
    assert "tok3n" not in said
    assert "ok       KLAVIS_API_KEY: is set; it is for the cloud backend" in said
    assert "the API is host" in said


def test_a_backend_without_its_key_is_broken(tiny: Tiny) -> None:
    status, said = tiny.run("doctor", KLAVIS_BACKEND="cloud")
    assert status == 1
    assert "broken   backend: cloud, by the environment alone" in said
    assert "-> export KLAVIS_API_KEY=KEY" in said
    assert "\nbroken: backend\n" in said


def test_a_state_directory_that_others_can_write_to(tiny: Tiny, tmp_path: Path) -> None:
    state = tmp_path / "open"
    state.mkdir()
    state.chmod(0o777)
    status, said = tiny.run("doctor", "--json", KLAVIS_STATE_DIR=str(state))
    assert status == 0  # the embedded backend needs none
    found = _findings(said)["records of cloud sandboxes"]
    assert found["status"] == "missing"
    assert f"chmod go-w {state}" in found["text"]
    status, _ = tiny.run("doctor", KLAVIS_STATE_DIR=str(state), KLAVIS_API_KEY="key")
    assert status == 1


def test_programs_that_are_not_there(tiny: Tiny, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    status, said = tiny.run("doctor", "--json", PATH=str(empty))
    found = _findings(said)
    assert (found["git"]["status"], found["git"]["mend"]) == ("missing", "apt-get install git")
    assert found["bash"]["text"] == "is for the server terminal, which uses sh now"
    assert status == int(found["isolation"]["status"] == "broken")


def test_servers_are_started_on_demand(tiny: Tiny) -> None:
    assert tiny.install()[0] == 0
    _, said = tiny.run("doctor", "--start", "--json")
    found = _findings(said)
    assert found["upstream servers"]["status"] == "ok"
    assert "excel-mcp-server 0.1.8" in found["upstream servers"]["text"]
    assert found["server filesystem"]["text"] == "starts, and has 14 tools"
    assert found["server excel"]["text"] == "starts, and has 1 tool"
    assert found["server word"]["status"] == "broken"  # it is not in the tiny lock
