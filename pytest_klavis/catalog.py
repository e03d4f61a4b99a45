"""Names that the Klavis API knows (servers, benchmarks, statuses), and what else people call them; no list is closed.

Source: the API reference (`SandboxMCPServer`, `LocalSandboxMCPServer`, `BenchmarkEnum`, `SandboxStatus`). What newer
documents add stands in a `NEWER_*` tuple of its own. Aliases are those of the benchmarks' own task files.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["remote", "local"]

REMOTE_SERVERS: tuple[str, ...] = (
    *("jira", "github", "salesforce", "hubspot", "notion", "airtable", "linear", "asana", "google_sheets"),
    *("google_drive", "google_docs", "gmail", "google_calendar", "google_forms", "clickup", "close", "monday"),
    *("motion", "onedrive", "microsoft_teams", "outlook_mail", "cal.com", "quickbooks", "moneybird", "dropbox"),
    *("shopify", "woocommerce", "outlook_calendar", "resend", "wordpress", "mem0", "supabase", "slack"),
    *("confluence", "discord", "snowflake", "postgres", "mongodb", "youtube", "googleworkspaceatlas"),
    *("arxiv_latex", "calculator", "clinicaltrialsgov", "met_museum", "open_library", "osm", "pubmed"),
    *("us_weather", "whois", "wikipedia", "weather", "twelvedata", "national_parks", "lara_translate", "e2b"),
    *("context7", "alchemy", "weights_and_biases", "huggingface"),
)
LOCAL_SERVERS: tuple[str, ...] = (
    *("filesystem", "git", "terminal", "desktop-commander", "arxiv", "excel", "word", "powerpoint"),
    *("code-executor", "code-runner", "pdf-tools", "google_cloud", "poste_email_toolathlon", "localmemory"),
)
DATA_SERVERS: tuple[str, ...] = ("google_cloud", "poste_email_toolathlon", "canvas")
"""Local servers that hold data beside the workspace (OpenAPI document of 2026)."""
BENCHMARKS: tuple[str, ...] = ("MCP_Atlas", "Toolathlon")
STATUSES: tuple[str, ...] = ("idle", "occupied", "error")

NEWER_REMOTE_SERVERS: tuple[str, ...] = (
    *("fetch", "duckduckgo", "scholarly", "howtocook", "yahoo_finance", "12306", "youtube_transcript", "oxylabs"),
    *("google_maps", "brave_search", "exa", "serper", "mock_notion"),
)
NEWER_LOCAL_SERVERS: tuple[str, ...] = ("canvas", "playwright")
NEWER_BENCHMARKS: tuple[str, ...] = ("MCP_Mark",)

ALIASES: Mapping[str, Mapping[str, str]] = {
    "Toolathlon": {
        "arxiv-latex": "arxiv_latex",
        "arxiv_local": "arxiv",
        "emails": "poste_email_toolathlon",
        "google_sheet": "google_sheets",
        "pptx": "powerpoint",
        "python_execute": "code-executor",
        "wandb": "weights_and_biases",
    },
    "MCP_Atlas": {
        "brave-search": "brave_search",
        "cli-mcp-server": "terminal",
        "clinicaltrialsgov-mcp-server": "clinicaltrialsgov",
        "ddg-search": "duckduckgo",
        "e2b-server": "e2b",
        "google-maps": "google_maps",
        "google-workspace": "googleworkspaceatlas",
        "lara-translate": "lara_translate",
        "mcp-code-executor": "code-executor",
        "mcp-server-code-runner": "code-runner",
        "memory": "localmemory",
        "met-museum": "met_museum",
        "national-parks": "national_parks",
        "open-library": "open_library",
        "osm-mcp-server": "osm",
        # A chain that must not be followed: this benchmark's `weather-data` is Klavis' `weather`,
        # and its `weather` is Klavis' `us_weather`.
        "weather-data": "weather",
        "weather": "us_weather",
    },
}
FORMER_NAMES: Mapping[str, str] = {
    "calcom": "cal.com",
    "canvas_toolathlon": "canvas",
    "github_atlas": "github",
    "playwright_toolathlon": "playwright",
    "teams": "microsoft_teams",
}

_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys((*REMOTE_SERVERS, *NEWER_REMOTE_SERVERS), "remote"),
    **dict.fromkeys((*LOCAL_SERVERS, *NEWER_LOCAL_SERVERS), "local"),
}


def kind_of(name: str) -> Kind | None:
    """`"remote"` or `"local"` for a server's own name in any case, None for a name that is not in the catalog.

    An alias has no kind: resolve it first.
    """
    return _KINDS.get(name.lower())


def resolve(name: str, flavour: str | None = None) -> str:
    """The name that the API uses for what the benchmark `flavour` (or nobody in particular, None) calls `name`.

    Case is ignored, an unknown name is returned as it is. Resolve what the user wrote, once: a result that is
    resolved again under the same benchmark can become another server (`weather-data`, `weather`, `us_weather`).
    """
    known = name.lower()
    aliases = _aliases(flavour)
    if known in aliases:
        return aliases[known]
    if known in _KINDS:
        return known
    return FORMER_NAMES.get(known, name)


def benchmark(name: str) -> str:
    """A benchmark's name as the API spells it; case is ignored, an unknown name is returned as it is."""
    return {known.lower(): known for known in (*BENCHMARKS, *NEWER_BENCHMARKS)}.get(name.lower(), name)


def _aliases(flavour: str | None) -> Mapping[str, str]:
    return ALIASES.get(benchmark(flavour), {}) if flavour else {}


def suggest(name: str, flavour: str | None = None) -> str | None:
    """The known name nearest to an unknown one, for a "did you mean"; None when nothing is near.

    It is a name that `resolve(..., flavour)` understands: a server, a former name or one of the benchmark's aliases.
    """
    aliases = _aliases(flavour)
    names = (*_KINDS, *aliases, *FORMER_NAMES)
    # Hyphen for underscore is the commonest slip, so neither counts.
    spelled = {known.replace("-", "_"): known for known in reversed(names)}
    near = difflib.get_close_matches(name.lower().replace("-", "_"), spelled, n=1, cutoff=0.7)
    return spelled[near[0]] if near else None
