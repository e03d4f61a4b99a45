"""The servers' environment: upstream MCP servers and mail, apart from the user's packages, with locked versions.

`locate` says where it is, `install` makes it (as `pytest-klavis servers install` does). Nothing here runs a server.
"""

from __future__ import annotations

from pytest_klavis.embedded.side.environment import Missing, SideEnvironment, locate

__all__ = ["Missing", "SideEnvironment", "locate"]
