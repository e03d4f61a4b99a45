"""The tools that the embedded servers offer, by server and benchmark; what each does is in the module of its server."""

from __future__ import annotations

import functools
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_klavis.catalog import BENCHMARKS
from pytest_klavis.embedded.tools import (
    code_executor,
    code_runner,
    filesystem,
    git,
    localmemory,
    mail,
    pdf,
    terminal,
)
from pytest_klavis.embedded.tools.base import ToolContext, ToolFailureError, ToolResult
from pytest_klavis.embedded.tools.schema import Flavour, Tool

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "NEEDS_ISOLATION",
    "SERVERS",
    "Tool",
    "ToolContext",
    "ToolFailureError",
    "ToolResult",
    "UnknownToolsError",
    "tools",
]

_EVERY = (None, *BENCHMARKS)
# Which build of a server a benchmark pins; None is what Klavis serves without one.
_FLAVOURS: dict[str, dict[str | None, Flavour]] = {
    "filesystem": {
        None: filesystem.KLAVIS,
        "MCP_Atlas": filesystem.UPSTREAM,
        "Toolathlon": filesystem.UPSTREAM,
    },
    "git": {None: git.KLAVIS, "MCP_Atlas": git.UPSTREAM, "Toolathlon": git.UPSTREAM},
    "terminal": dict.fromkeys(_EVERY, terminal.FLAVOUR),
    "code-executor": dict.fromkeys(_EVERY, code_executor.FLAVOUR),
    "code-runner": dict.fromkeys(_EVERY, code_runner.FLAVOUR),
    "localmemory": {None: localmemory.KLAVIS, "MCP_Atlas": localmemory.ATLAS, "Toolathlon": localmemory.TOOLATHLON},
    "poste_email_toolathlon": dict.fromkeys(_EVERY, mail.FLAVOUR),
    "pdf-tools": {None: pdf.KLAVIS, "MCP_Atlas": pdf.UPSTREAM, "Toolathlon": pdf.UPSTREAM},
}

SERVERS: tuple[str, ...] = tuple(_FLAVOURS)
NEEDS_ISOLATION: frozenset[str] = frozenset({"git", "terminal", "code-executor", "code-runner", "pdf-tools"})


class UnknownToolsError(LookupError):
    """No such server, or no flavour of it for that benchmark."""


@functools.cache
def tools(server: str, benchmark: str | None) -> Mapping[str, Tool]:
    """The tools of `server` by name, as the benchmark's build of it offers them. Raises UnknownToolsError."""
    if server not in _FLAVOURS:
        raise UnknownToolsError(f"no embedded server {server!r}; there are: {', '.join(SERVERS)}")
    flavours = _FLAVOURS[server]
    if benchmark not in flavours:
        known = ", ".join(name or "none" for name in flavours)
        raise UnknownToolsError(f"no tools of {server!r} for benchmark {benchmark!r}; there are: {known}")
    return MappingProxyType(flavours[benchmark].tools())
