"""Names, input schemas, output schemas and annotations against what the real servers were recorded to list."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from pytest_klavis.embedded.tools import SERVERS, UnknownToolsError, tools
from tests.embedded.golden_differences import BENCHMARKS, BUILDS, DIFFERENCES, ELSEWHERE, NOTHING, Benchmark

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.embedded.conftest import User

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "data" / "mcp-tools"


def bare(schema: Any) -> Any:
    """Without titles and descriptions, which the recordings do not hold; a property may well be called so."""
    if not isinstance(schema, dict):
        return [bare(item) for item in schema] if isinstance(schema, list) else schema
    return {
        key: {name: bare(value) for name, value in value.items()} if key == "properties" else bare(value)
        for key, value in schema.items()
        if not (key in {"description", "title"} and isinstance(value, str))
    }


def flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The leaves of a tree of objects, by path. An empty object and a list are leaves; `required` has no order."""
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from flat(below, f"{path}.{key}")
    elif path.endswith(".required") and isinstance(value, list):
        yield path, sorted(value)
    else:
        yield path, value


def leaves(listed: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"tools": [tool["name"] for tool in listed]}
    for tool in listed:
        for part in ("inputSchema", "outputSchema", "annotations"):
            if part in tool:
                found |= dict(flat(bare(tool[part]), f"{tool['name']}.{part}"))
    return found


def listed(user: User, server: str, benchmark: Benchmark) -> list[dict[str, Any]]:
    """What a real server answers to `tools/list`."""
    answer = user.api.post("/local-sandbox", json={"server_names": [server], "benchmark": benchmark})
    if answer.status_code != 201 and server in ELSEWHERE:
        pytest.skip(f"{server} cannot be served here: {answer.text}")
    assert answer.status_code == 201, answer.text
    sandbox = answer.json()
    (served,) = sandbox["servers"]
    if served.get("status") == "error" and server in ELSEWHERE:
        pytest.skip(f"{server} cannot be served here: {served}")
    try:
        asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
        found: dict[str, Any] = httpx.post(served["mcp_server_url"], json=asked, timeout=60).json()
    finally:
        user.api.delete(f"/local-sandbox/{sandbox['local_sandbox_id']}")
    assert "result" in found, found
    return list(found["result"]["tools"])


@pytest.mark.parametrize("benchmark", BENCHMARKS)
@pytest.mark.parametrize("server", BUILDS)
def test_tools_are_those_of_the_real_build(user: User, server: str, benchmark: Benchmark) -> None:
    build = BUILDS[server][BENCHMARKS.index(benchmark)]
    if not RECORDINGS.is_dir():
        pytest.skip(f"the recordings of the real servers are not beside this checkout ({RECORDINGS.name} is missing)")
    ours = leaves(listed(user, server, benchmark))
    recorded = leaves(json.loads((RECORDINGS / f"{build}.json").read_text(encoding="utf-8")))
    found = {
        path: (recorded.get(path, NOTHING), ours.get(path, NOTHING))
        for path in ours.keys() | recorded.keys()
        if recorded.get(path, NOTHING) != ours.get(path, NOTHING)
    }
    for item in DIFFERENCES:
        if item.server == server and benchmark in item.benchmarks:
            same = [path for path in fnmatch.filter(found, item.path) if found[path] == (item.recorded, item.ours)]
            assert same, f"listed, but not there any more: {item}"
            for path in same:
                del found[path]
    assert not found, "path: (recorded, ours), not listed in golden_differences.py"


def test_every_difference_has_a_reason_and_belongs_to_a_build() -> None:
    for item in DIFFERENCES:
        assert len(item.reason) > 20, item
        assert item.server in BUILDS
        assert item.benchmarks
        assert set(item.benchmarks) <= set(BENCHMARKS)
        assert item.recorded != item.ours


def test_every_server_is_held_against_a_build() -> None:
    assert set(SERVERS) <= set(BUILDS)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
@pytest.mark.parametrize("server", SERVERS)
def test_every_tool_says_what_it_does(server: str, benchmark: Benchmark) -> None:
    for tool in tools(server, benchmark).values():
        assert tool.description
        assert "\n" not in tool.description
        json.dumps(tool.input_schema)


def test_an_unknown_server_or_benchmark_is_named_with_what_there_is() -> None:
    with pytest.raises(UnknownToolsError, match="no embedded server 'jira'; there are: filesystem, git, terminal"):
        tools("jira", None)
    with pytest.raises(UnknownToolsError, match="benchmark 'Universe'; there are: none, MCP_Atlas, Toolathlon"):
        tools("git", "Universe")
