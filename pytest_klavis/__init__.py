"""Sandbox fixtures for agent benchmarks; the public names. Heavy ones load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    ApiError,
    ArchiveError,
    AuthError,
    BackendError,
    InfraError,
    KlavisError,
    NotFoundError,
    RateLimitError,
    RequestRefusedError,
    SeedError,
    ServerError,
    SpecError,
    ToolError,
    TransportError,
    UnavailableError,
)

if TYPE_CHECKING:
    from .factories import BlackboxWorkspaceFactory, LocalSandboxFactory, RemoteSandboxFactory, SandboxSetFactory
    from .handles import LocalSandbox, RemoteSandbox, RunResult, Sandbox, SandboxSet, Server
    from .mcp.client import ToolInfo, ToolResult
    from .settings import Settings
    from .workspace.diff import Diff
    from .workspace.snapshot import Snapshot

_HOME = {
    "BlackboxWorkspaceFactory": "factories",
    "Diff": "workspace.diff",
    "LocalSandbox": "handles",
    "LocalSandboxFactory": "factories",
    "RemoteSandbox": "handles",
    "RemoteSandboxFactory": "factories",
    "RunResult": "handles",
    "Sandbox": "handles",
    "SandboxSet": "handles",
    "SandboxSetFactory": "factories",
    "Server": "handles",
    "Settings": "settings",
    "Snapshot": "workspace.snapshot",
    "ToolInfo": "mcp.client",
    "ToolResult": "mcp.client",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


__all__ = [
    "ApiError",
    "ArchiveError",
    "AuthError",
    "BackendError",
    "BlackboxWorkspaceFactory",
    "Diff",
    "InfraError",
    "KlavisError",
    "LocalSandbox",
    "LocalSandboxFactory",
    "NotFoundError",
    "RateLimitError",
    "RemoteSandbox",
    "RemoteSandboxFactory",
    "RequestRefusedError",
    "RunResult",
    "Sandbox",
    "SandboxSet",
    "SandboxSetFactory",
    "SeedError",
    "Server",
    "ServerError",
    "Settings",
    "Snapshot",
    "SpecError",
    "ToolError",
    "ToolInfo",
    "ToolResult",
    "TransportError",
    "UnavailableError",
]
