"""The embedded servers, spoken to by the TypeScript SDK: both of its lines, each in its modes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_klavis.mcp.client import McpClient
from tests.embedded.conftest import processes_with, wait_until

from .modes import STATELESS
from .relay import Relay

if TYPE_CHECKING:
    from .embedded import Box

NODE = shutil.which("node")
PACKAGES = os.environ.get("KLAVIS_TESTS_TYPESCRIPT")  # a folder in which npm installed both lines
SCRIPT = Path(__file__).with_name("client.mjs")
GO = "cancel now"

pytestmark = pytest.mark.skipif(
    not (NODE and PACKAGES),
    reason="needs node, and both lines of the SDK in the folder KLAVIS_TESTS_TYPESCRIPT: tox -e clients-typescript",
)


@pytest.mark.parametrize("mode", ["v1", "legacy", "auto", STATELESS])
def test_the_typescript_client_goes_through_a_sandbox(box: Box, mode: str) -> None:
    runs = box.isolation != "unavailable"
    seconds = f"300.{time.monotonic_ns()}"
    with Relay(box.servers["filesystem"].url) as relay:
        given = {
            "filesystem": relay.url,
            "terminal": box.servers["terminal"].url,
            "nowhere": box.servers["filesystem"].url.replace(box.id, str(uuid.uuid4())),
            "root": box.root,
            "sleep": f"sleep {seconds}" if runs else "",
            "cancelled": GO,
        }
        seen = _run(mode, given, seconds)
    with McpClient(box.servers["filesystem"].url) as own:
        assert seen["list"]["tools"] == {tool.name: tool.input_schema for tool in own.list_tools()}
    for step in ("unicode", "large", "parallel", "reconnect"):
        assert seen[step]["same"], step
    assert seen["error"]["isError"]
    assert "ENOENT" in seen["error"]["text"]
    assert seen["unknown"]["isError"]
    assert "Unknown tool: no_such_tool" in seen["unknown"]["text"]
    assert seen["nowhere"]["failed"]
    has_session = mode in ("v1", "legacy")
    assert seen["session"]["had"] == has_session
    ended = [status for method, status in relay.answered if method == "DELETE"]
    assert ended == ([200, 200] if has_session else [])
    if runs:
        assert "this is 3" in seen["servers"]["text"]
        assert seen["cancel"]["cancelled"]
        assert "still here" in seen["after"]["text"]


def _run(mode: str, given: dict[str, str], seconds: str) -> dict[str, Any]:
    """What the script saw, by step. When its long call runs it is told to cancel it; no process may be left then."""
    assert NODE is not None
    assert PACKAGES is not None
    command = [NODE, str(SCRIPT), PACKAGES, mode, json.dumps(given)]
    seen: dict[str, Any] = {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8") as node:
        assert node.stdin is not None
        assert node.stdout is not None
        for line in node.stdout:
            found = json.loads(line)
            seen[found.pop("step")] = found
            if "running" in seen and "cancel" not in seen:
                wait_until(lambda: processes_with(f"sleep {seconds}".split()[1]) != [node.pid])
                print(GO, file=node.stdin, flush=True)
            if "cancel" in seen and "after" not in seen:
                wait_until(lambda: processes_with(seconds) == [node.pid])
    assert node.returncode == 0, seen
    return seen
