"""Names, aliases and suggestions."""

from __future__ import annotations

import pytest

from pytest_klavis import catalog


def test_the_reference_names_59_remote_and_14_local_servers() -> None:
    assert len(set(catalog.REMOTE_SERVERS)) == len(catalog.REMOTE_SERVERS) == 59
    assert len(set(catalog.LOCAL_SERVERS)) == len(catalog.LOCAL_SERVERS) == 14
    assert catalog.BENCHMARKS == ("MCP_Atlas", "Toolathlon")
    assert catalog.STATUSES == ("idle", "occupied", "error")
    newer = {*catalog.NEWER_REMOTE_SERVERS, *catalog.NEWER_LOCAL_SERVERS}
    assert not newer & {*catalog.REMOTE_SERVERS, *catalog.LOCAL_SERVERS}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("github", "remote"),
        ("cal.com", "remote"),
        ("12306", "remote"),
        ("git", "local"),
        ("code-executor", "local"),
        ("playwright", "local"),
        ("GitHub", "remote"),
        ("wandb", None),
        ("quantum", None),
    ],
)
def test_kind(name: str, kind: str | None) -> None:
    assert catalog.kind_of(name) == kind


@pytest.mark.parametrize(
    ("name", "benchmark", "resolved"),
    [
        ("weather-data", "MCP_Atlas", "weather"),
        ("weather", "MCP_Atlas", "us_weather"),
        ("weather", None, "weather"),
        ("weather", "Toolathlon", "weather"),
        ("us_weather", "MCP_Atlas", "us_weather"),
        ("memory", "mcp_atlas", "localmemory"),
        ("memory", "Toolathlon", "memory"),
        ("wandb", "TOOLATHLON", "weights_and_biases"),
        ("Emails", "Toolathlon", "poste_email_toolathlon"),
        ("python_execute", "Toolathlon", "code-executor"),
        ("filesystem", "Toolathlon", "filesystem"),
        ("FileSystem", None, "filesystem"),
        ("Cal.com", None, "cal.com"),
        ("calcom", None, "cal.com"),
        ("github_atlas", "MCP_Atlas", "github"),
        ("Quantum-Server", None, "Quantum-Server"),
        ("Quantum-Server", "New_Bench", "Quantum-Server"),
    ],
)
def test_resolve(name: str, benchmark: str | None, resolved: str) -> None:
    assert catalog.resolve(name, benchmark) == resolved


def test_every_alias_leads_to_a_known_server() -> None:
    for benchmark, aliases in catalog.ALIASES.items():
        assert catalog.benchmark(benchmark) == benchmark
        assert all(catalog.kind_of(name) for name in aliases.values())
        assert all(alias == alias.lower() for alias in aliases)
    assert all(catalog.kind_of(name) for name in catalog.FORMER_NAMES.values())


@pytest.mark.parametrize(
    ("given", "name"),
    [("toolathlon", "Toolathlon"), ("MCP_ATLAS", "MCP_Atlas"), ("mcp_mark", "MCP_Mark"), ("Mine", "Mine"), ("", "")],
)
def test_benchmarks_ignore_case(given: str, name: str) -> None:
    assert catalog.benchmark(given) == name


@pytest.mark.parametrize(
    ("name", "benchmark", "near"),
    [
        ("filesytem", None, "filesystem"),
        ("google-sheets", None, "google_sheets"),
        ("code_executor", None, "code-executor"),
        ("GitHubb", None, "github"),
        ("python_exec", "Toolathlon", "python_execute"),
        ("xyzzy", None, None),
        ("", None, None),
    ],
)
def test_suggest(name: str, benchmark: str | None, near: str | None) -> None:
    assert catalog.suggest(name, benchmark) == near
