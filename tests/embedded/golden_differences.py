"""Which recorded build each server's tool list is held against, and every difference that there is on purpose.

The recordings (names, argument schemas, output schemas and annotations of the real servers) are not part of this
project: the test skips where they are not beside it. It fails for a difference that is not here as well as for one here
that is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

Benchmark = str | None

BENCHMARKS: tuple[Benchmark, ...] = (None, "MCP_Atlas", "Toolathlon")

# server -> the builds that Klavis's own flavour, MCP-Atlas's and Toolathlon's are held against.
BUILDS: dict[str, tuple[str, str, str]] = {
    "filesystem": ("filesystem_klavis_0.6.3", "filesystem_npm_2026.8.31", "filesystem_npm_2026.8.31"),
    "git": ("git_klavis_0.6.2", "git_2026.10.19", "git_2026.10.19"),
    "terminal": ("terminal_klavis", "terminal_cli-mcp-server_0.2.5", "terminal_cli-mcp-server_0.2.5"),
    "code-executor": ("code-executor_geobio_0.2.0",) * 3,
    "code-runner": ("code-runner_0.1.8",) * 3,
    "localmemory": ("localmemory_klavis", "localmemory_2025.8.4", "localmemory_2025.8.4"),
    "pdf-tools": ("pdf-tools_klavis_1.0.0", "pdf-tools_0.1.4", "pdf-tools_0.1.4"),
    "excel": ("excel_klavis_0.1.7", "excel_0.1.8", "excel_0.1.8"),
    "word": ("word_klavis", "word_1.1.11", "word_1.1.11"),
    "powerpoint": ("powerpoint_klavis", "powerpoint_2.0.7", "powerpoint_2.0.7"),
    "poste_email_toolathlon": ("emails_klavis_0.1.11", "emails-mcp_0.1.12", "emails-mcp_0.1.12"),
}

# Servers that need more than this package: where that is not installed their lists cannot be compared.
ELSEWHERE: frozenset[str] = frozenset({"excel", "word", "powerpoint", "poste_email_toolathlon"})


class _Nothing:
    def __repr__(self) -> str:
        return "nothing"


NOTHING: Final = _Nothing()


@dataclass(frozen=True)
class Difference:
    """At `path` ("tool.inputSchema.properties.x.type", or "tools" for their names in order) ours is not the recorded.

    Either may be NOTHING, where the other has something. A path may have `*` in it, where many differ in the same way.
    """

    server: str
    benchmarks: tuple[Benchmark, ...]
    path: str
    recorded: Any
    ours: Any
    reason: str


DIFFERENCES: tuple[Difference, ...] = ()
