"""Several sandboxes in one hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_klavis.errors import SpecError
from pytest_klavis.mcp.config import Style, mcp_config

from .base import Sandbox, Server

__tracebackhide__ = True  # users read their own frames


class SandboxSet(Mapping[str, Sandbox]):
    """Several sandboxes at once, keyed by the names that the caller gave."""

    def __init__(self, sandboxes: Mapping[str, Sandbox]) -> None:
        self._sandboxes = dict(sandboxes)

    def __getitem__(self, name: str) -> Sandbox:
        try:
            return self._sandboxes[name]
        except KeyError:
            raise KeyError(f"no sandbox {name!r}; there are {', '.join(self._sandboxes)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._sandboxes)

    def __len__(self) -> int:
        return len(self._sandboxes)

    def __repr__(self) -> str:
        return f"<SandboxSet {self._sandboxes!r}>"

    def mcp_config(self, style: Style = "standard") -> Any:
        """One configuration with the servers of all; a server that two sandboxes have is a SpecError."""
        servers: dict[str, Server] = {}
        for sandbox in {id(one): one for one in self._sandboxes.values()}.values():
            for name, server in sandbox.servers.items():
                if name in servers:
                    raise SpecError(f"two sandboxes have a server {name!r}: use the mcp_config() of each")
                servers[name] = server
        return mcp_config(servers, style)
