"""A workspace with real isolation, for the tests of the tools that start processes."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_klavis.embedded.files import WorkspaceFiles
from pytest_klavis.embedded.isolation import Isolation, Jail, Limits
from pytest_klavis.embedded.tools import ToolContext, ToolResult, tools
from tests.embedded import isolation_support

if TYPE_CHECKING:
    from collections.abc import Iterator

_UID = 59_321  # of the workspace, when the tests run as root


@dataclass
class Box:
    """Calls tools as an agent would, one event loop for all of a test's calls."""

    workspace: Path
    root: str
    files: WorkspaceFiles
    jail: Jail
    isolation: Isolation
    runner: asyncio.Runner
    limits: Limits = field(default_factory=Limits)
    states: dict[str, dict[str, Any]] = field(default_factory=dict)

    def call(self, server: str, name: str, benchmark: str | None = "MCP_Atlas", **arguments: Any) -> ToolResult:
        return self.runner.run(tools(server, benchmark)[name].call(self.context(server), arguments))

    def context(self, server: str) -> ToolContext:
        """What a call of a tool of this server works with."""
        state = self.states.setdefault(server, {})
        return ToolContext(self.files, self.jail, self.isolation, self.root, self.limits, state)

    def text(self, server: str, name: str, **arguments: Any) -> str:
        """The answer of a call that must succeed."""
        result = self.call(server, name, **arguments)
        assert not result.is_error, result.content
        return "".join(part["text"] for part in result.content)

    def failure(self, server: str, name: str, **arguments: Any) -> str:
        """What a call that must fail says."""
        result = self.call(server, name, **arguments)
        assert result.is_error, result.content
        return "".join(part["text"] for part in result.content)


@contextmanager
def new_box(level: str = "auto") -> Iterator[Box]:
    """A new, empty workspace; skips the test where the level (or, for "auto", every level) does not work."""
    isolation = isolation_support.level(level)
    if isolation.level == "unavailable":
        pytest.skip(f"isolation {level!r} does not work on this machine: {isolation.reason}")
    # Not pytest's tmp_path: another user cannot go through that.
    home = Path(tempfile.mkdtemp(prefix="pytest-klavis-test-"))
    uid = _UID if os.geteuid() == 0 else None
    home.chmod(0o711 if uid else 0o700)
    workspace, scratch = home / "workspace", home / "scratch"
    workspace.mkdir(0o711)  # bubblewrap enters it before it becomes the sandbox's user
    scratch.mkdir(0o711)
    if uid:
        os.chown(workspace, uid, uid)
    jail = Jail(workspace, scratch, uid)
    try:
        with asyncio.Runner() as runner:
            yield Box(workspace, isolation.root(jail), WorkspaceFiles(workspace, uid), jail, isolation, runner)
    finally:
        shutil.rmtree(home)
