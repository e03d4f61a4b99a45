"""Names, input schemas, output schemas and annotations against what the real servers were recorded to list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_klavis.embedded.tools import SERVERS, UnknownToolsError, tools

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "data" / "mcp-tools"

BUILDS = [
    ("filesystem", None, "filesystem_klavis_0.6.3"),
    ("filesystem", "MCP_Atlas", "filesystem_npm_2026.8.31"),
    ("filesystem", "Toolathlon", "filesystem_npm_2026.8.31"),
    ("git", None, "git_klavis_0.6.2"),
    ("git", "MCP_Atlas", "git_2026.10.19"),
    ("git", "Toolathlon", "git_2026.10.19"),
    ("terminal", None, "terminal_klavis"),
    ("terminal", "MCP_Atlas", "terminal_cli-mcp-server_0.2.5"),
    ("code-executor", None, "code-executor_geobio_0.2.0"),
    ("code-executor", "MCP_Atlas", "code-executor_geobio_0.2.0"),
]


def without_descriptions(schema: Any) -> Any:
    """The recordings hold no descriptions; a property may well be called so."""
    if not isinstance(schema, dict):
        return [without_descriptions(item) for item in schema] if isinstance(schema, list) else schema
    return {
        key: {name: without_descriptions(value) for name, value in value.items()}
        if key == "properties"
        else without_descriptions(value)
        for key, value in schema.items()
        if not (key == "description" and isinstance(value, str))
    }


@pytest.mark.parametrize(("server", "benchmark", "build"), BUILDS)
def test_tools_are_those_of_the_real_build(server: str, benchmark: str | None, build: str) -> None:
    if not RECORDINGS.is_dir():
        pytest.skip(f"the recordings of the real servers are not beside this checkout ({RECORDINGS.name} is missing)")
    recorded = json.loads((RECORDINGS / f"{build}.json").read_text())
    offered = tools(server, benchmark)
    assert list(offered) == [tool["name"] for tool in recorded]
    for tool in recorded:
        ours = offered[tool["name"]]
        assert without_descriptions(ours.input_schema) == tool["inputSchema"], tool["name"]
        assert ours.output_schema == tool.get("outputSchema"), tool["name"]
        assert ours.annotations == tool.get("annotations"), tool["name"]


@pytest.mark.parametrize("benchmark", [None, "MCP_Atlas", "Toolathlon"])
@pytest.mark.parametrize("server", SERVERS)
def test_every_tool_says_what_it_does(server: str, benchmark: str | None) -> None:
    for tool in tools(server, benchmark).values():
        assert tool.description
        assert "\n" not in tool.description
        json.dumps(tool.input_schema)


def test_an_unknown_server_or_benchmark_is_named_with_what_there_is() -> None:
    with pytest.raises(UnknownToolsError, match="no embedded server 'jira'; there are: filesystem, git, terminal"):
        tools("jira", None)
    with pytest.raises(UnknownToolsError, match="benchmark 'Universe'; there are: none, MCP_Atlas, Toolathlon"):
        tools("git", "Universe")
