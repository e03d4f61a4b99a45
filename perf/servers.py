"""The embedded servers against what one would use instead: `python perf/servers.py [--quick]`. Asserts nothing.

Against: the upstream server started by stdio, the same behind mcp-proxy (when it is installed), and a server written by
hand with FastMCP. Upstream and FastMCP come from the side environment (`pytest-klavis servers install`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

from pytest_klavis.api.client import KlavisClient
from pytest_klavis.backend import Endpoint, start_embedded
from pytest_klavis.embedded.side import SideEnvironment, locate
from pytest_klavis.mcp.client import McpClient

AGENTS = 16
CALLS = 20
EXCEL = ["-m", "excel_mcp", "stdio"]
SHEET = {"filepath": "{root}/book.xlsx", "sheet_name": "Sheet1", "start_cell": "A1"}
BY_HAND = """
import pathlib, sys
from fastmcp import FastMCP
server = FastMCP("files")

@server.tool
def write_file(path: str, content: str) -> str:
    pathlib.Path(path).write_text(content)
    return "written"

@server.tool
def read_file(path: str) -> str:
    return pathlib.Path(path).read_text()

server.run("http", host="127.0.0.1", port=int(sys.argv[1]), show_banner=False, log_level="error")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of the rounds")
    rounds = 2 if parser.parse_args().quick else 10
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {rounds} rounds; medians (min .. max)\n")
    with running() as (endpoint, client):
        agents(endpoint)
        native(client, rounds)
    side = locate()
    if not isinstance(side, SideEnvironment):
        print(f"bridged servers, FastMCP: not measured: {side.reason}")
        return
    by_hand(side, rounds)
    bridged(side, rounds)


def agents(endpoint: Endpoint) -> None:
    """Sixteen agents at once, each in a sandbox of its own, with tools in the process and tools that start one."""
    errors: list[BaseException] = []
    seconds: list[float] = []
    start = threading.Barrier(AGENTS)

    def agent(number: int) -> None:
        try:
            with KlavisClient(endpoint.base_url, endpoint.api_key, headers=endpoint.headers) as client:
                start.wait()
                answer = client.acquire_local_sandbox(["filesystem", "terminal"])
                urls = {one.server_name: str(one.mcp_server_url) for one in answer.servers}
                with McpClient(urls["filesystem"]) as files, McpClient(urls["terminal"]) as shell:
                    for turn in range(CALLS):
                        said = {"path": "a.txt", "content": f"{number} {turn}"}
                        seconds.append(timed(partial(files.call_tool, "filesystem_write_file", said)))
                        seconds.append(timed(partial(shell.call_tool, "run_command", {"command": "cat a.txt"})))
                client.release_local_sandbox(answer.local_sandbox_id)
        except BaseException as error:  # noqa: BLE001 - counted and shown
            errors.append(error)

    began = time.perf_counter()
    with ThreadPoolExecutor(AGENTS) as pool:
        list(pool.map(agent, range(AGENTS)))
    took = time.perf_counter() - began
    print(f"{AGENTS} agents at once, {2 * CALLS} calls each: {took:.2f} s, {len(errors)} errors {errors[:2] or ''}")
    show("  one call among them ms", [1000 * one for one in seconds])


def native(client: KlavisClient, rounds: int) -> None:
    """From nothing to the first answer of a tool, and a call after that, of the native file server."""
    firsts, calls = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        answer = client.acquire_local_sandbox(["filesystem"])
        with McpClient(str(answer.servers[0].mcp_server_url)) as mcp:
            mcp.call_tool("filesystem_write_file", {"path": "a.txt", "content": "x" * 1000})
            firsts.append(time.perf_counter() - began)
            calls += [timed(partial(mcp.call_tool, "filesystem_read_file", {"path": "a.txt"})) for _ in range(20)]
        client.release_local_sandbox(answer.local_sandbox_id)
    show("files, ours: acquire to first answer ms", [1000 * one for one in firsts])
    show("  a call ms", [1000 * one for one in calls])


def by_hand(side: SideEnvironment, rounds: int) -> None:
    """The same with a server of one's own, started for each test because its state is the host's files."""
    firsts, calls = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            script = Path(folder, "server.py")
            script.write_text(BY_HAND)
            port = free_port()
            began = time.perf_counter()
            stack.enter_context(process([str(side.python), str(script), str(port)]))
            mcp = stack.enter_context(connected(f"http://127.0.0.1:{port}/mcp"))
            path = f"{folder}/a.txt"
            mcp.call_tool("write_file", {"path": path, "content": "x" * 1000})
            firsts.append(time.perf_counter() - began)
            calls += [timed(partial(mcp.call_tool, "read_file", {"path": path})) for _ in range(20)]
    show("files, FastMCP by hand: start to first answer ms", [1000 * one for one in firsts])
    show("  a call ms", [1000 * one for one in calls])


def bridged(side: SideEnvironment, rounds: int) -> None:
    """The Excel server: ours, upstream by stdio, upstream behind mcp-proxy."""
    cold: list[float] = []
    warm: list[float] = []
    calls: list[float] = []
    for _ in range(rounds):
        with running() as (_, client):
            for kind in (cold, warm, warm):
                began = time.perf_counter()
                answer = client.acquire_local_sandbox(["excel"])
                server = answer.servers[0]
                root = str((server.metadata or {})["root"])
                with McpClient(str(server.mcp_server_url)) as mcp:
                    first_use(mcp.call_tool, root)
                    kind.append(time.perf_counter() - began)
                    calls += [timed(partial(mcp.call_tool, "read_data_from_excel", at(root))) for _ in range(10)]
                client.release_local_sandbox(answer.local_sandbox_id)
    show("excel, ours: acquire to first answers, first sandbox of a run ms", [1000 * one for one in cold])
    show("  later sandboxes ms", [1000 * one for one in warm])
    show("  a call ms", [1000 * one for one in calls])
    command = [str(side.python), *EXCEL]
    firsts, calls = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            with Stdio(command, folder) as direct:
                first_use(direct.call, folder)
                firsts.append(time.perf_counter() - began)
                calls += [timed(partial(direct.call, "read_data_from_excel", at(folder))) for _ in range(10)]
    show("excel, upstream by stdio: start to first answers ms", [1000 * one for one in firsts])
    show("  a call ms", [1000 * one for one in calls])
    proxy = shutil.which("mcp-proxy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if proxy is None:
        print("excel, upstream behind mcp-proxy: not measured: mcp-proxy is not installed")
        return
    firsts, calls = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            port = free_port()
            began = time.perf_counter()
            stack.enter_context(process([proxy, "--port", str(port), "--", *command], folder))
            mcp = stack.enter_context(connected(f"http://127.0.0.1:{port}/mcp/"))
            first_use(mcp.call_tool, folder)
            firsts.append(time.perf_counter() - began)
            calls += [timed(partial(mcp.call_tool, "read_data_from_excel", at(folder))) for _ in range(10)]
    show("excel, upstream behind mcp-proxy: start to first answers ms", [1000 * one for one in firsts])
    show("  a call ms", [1000 * one for one in calls])


def first_use(call: Callable[[str, dict[str, Any]], object], root: str) -> None:
    call("create_workbook", {"filepath": f"{root}/book.xlsx"})
    call("write_data_to_excel", {**at(root), "data": [["quarter", "revenue"], ["Q3", 12]]})


def at(root: str) -> dict[str, Any]:
    return {name: value.format(root=root) for name, value in SHEET.items()}


class Stdio:
    """The least that speaks MCP to a process: one request at a time."""

    def __init__(self, command: list[str], folder: str) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=folder, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        self._number = 0

    def __enter__(self) -> Self:
        about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "perf", "version": "1"}}
        self._ask("initialize", about)
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def call(self, name: str, arguments: dict[str, Any]) -> None:
        self._ask("tools/call", {"name": name, "arguments": arguments})

    def _ask(self, method: str, params: dict[str, Any]) -> None:
        self._number += 1
        self._send({"jsonrpc": "2.0", "id": self._number, "method": method, "params": params})
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(b"{") and json.loads(line).get("id") == self._number:
                return
        raise RuntimeError(f"the server ended in {method}")

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()


@contextmanager
def running() -> Iterator[tuple[Endpoint, KlavisClient]]:
    endpoint, owner = start_embedded(f"perf-{os.getpid()}-{time.monotonic_ns()}")
    try:
        with KlavisClient(endpoint.base_url, endpoint.api_key, headers=endpoint.headers) as client:
            yield endpoint, client
    finally:
        owner.close()


@contextmanager
def process(command: list[str], folder: str | None = None) -> Iterator[None]:
    quiet = subprocess.DEVNULL
    started = subprocess.Popen(command, cwd=folder, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        yield
    finally:
        started.kill()
        started.wait()


@contextmanager
def connected(url: str) -> Iterator[McpClient]:
    """A client of a server that is about to come up."""
    host, port = url.split("/")[2].split(":")
    end = time.monotonic() + 60
    while True:
        try:
            socket.create_connection((host, int(port)), 1).close()
            break
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.005)
    with McpClient(url) as client:
        yield client


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def show(name: str, values: list[float]) -> None:
    print(f"{name}: {statistics.median(values):.3g} ({min(values):.3g} .. {max(values):.3g})")


if __name__ == "__main__":
    main()
