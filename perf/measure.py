"""Speed and size as ratios measured in one run: `python perf/measure.py [--quick]`. Prints medians; asserts nothing."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pytest_klavis.api.client import KlavisClient
from pytest_klavis.backend import Endpoint, Owner, start_embedded
from pytest_klavis.embedded.files import WorkspaceFiles
from pytest_klavis.embedded.isolation import Jail, choose
from pytest_klavis.mcp.client import McpClient
from pytest_klavis.rundir import RunDir

RUN = f"perf-{os.getpid()}"
TEST = "def test_nothing():\n    pass\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of the rounds")
    rounds = 4 if parser.parse_args().quick else 20
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {rounds} rounds; medians (min .. max)\n")
    pytest_start(rounds)
    server(rounds)
    idle(200 if rounds < 20 else 1000)
    asyncio.run(isolation(rounds * 5))


def pytest_start(rounds: int) -> None:
    """User time of a run without any sandbox, with the plugin and without."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_it.py").write_text(TEST)
        base = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio"]
        with_plugin, without = [], []
        for _ in range(rounds + 1):
            with_plugin.append(user_seconds(base, folder))
            without.append(user_seconds([*base, "-p", "no:klavis"], folder))
        show("pytest, one test, no sandbox: user s", with_plugin[1:])
        show("  the same with -p no:klavis", without[1:])
        ratios = [one / other for one, other in zip(with_plugin[1:], without[1:], strict=True)]
        show("  ratio", ratios)


def server(rounds: int) -> None:
    """Start, acquire, first tool answer, tool call."""
    starts, acquires, firsts, calls, direct = [], [], [], [], []
    for number in range(min(rounds, 10)):
        began = time.perf_counter()
        _, owner = start_embedded(f"perf-{os.getpid()}-{number}")
        starts.append(time.perf_counter() - began)
        owner.close()
    show("embedded server: start ms", [1000 * one for one in starts])
    with running() as (_, client):
        for _ in range(rounds):
            began = time.perf_counter()
            answer = client.acquire_local_sandbox(["filesystem"])
            acquires.append(time.perf_counter() - began)
            with McpClient(str(answer.servers[0].mcp_server_url)) as mcp:
                mcp.call_tool("filesystem_write_file", {"path": "a.txt", "content": "x" * 1000})
                firsts.append(time.perf_counter() - began)
                read = partial(mcp.call_tool, "filesystem_read_file", {"path": "a.txt"})
                calls += [timed(read) for _ in range(10)]
            client.release_local_sandbox(answer.local_sandbox_id)
    with tempfile.TemporaryDirectory() as folder:
        files = WorkspaceFiles(Path(folder))
        files.write_bytes("a.txt", b"x" * 1000)
        direct = [timed(lambda: files.read_bytes("a.txt", 1 << 20)) for _ in range(rounds * 10)]
    show("acquire ms", [1000 * one for one in acquires])
    show("acquire to first tool answer ms", [1000 * one for one in firsts])
    show("tool call (read 1 kB) ms", [1000 * one for one in calls])
    show("  the same as a direct function call ms", [1000 * one for one in direct])
    print(f"  ratio {statistics.median(calls) / statistics.median(direct):.0f}")


def idle(count: int) -> None:
    """Memory of the server with many idle sandboxes."""
    with running() as (_, client):
        pid = int(json.loads(RunDir.of(RUN).server_json.read_text())["pid"])
        before = resident(pid)
        for _ in range(count):
            client.acquire_local_sandbox(["filesystem", "git", "terminal"])
        after = resident(pid)
    print(f"server memory MB: {before:.0f} empty, {after:.0f} with {count} idle sandboxes")


async def isolation(rounds: int) -> None:
    """What one process costs at each level, against a bare one."""

    async def bare() -> None:
        process = await asyncio.create_subprocess_exec("/bin/true")
        await process.wait()

    costs = {"bare": await spawned(bare, rounds)}
    for level in ("strict", "landlock"):
        chosen = await choose(level)
        if chosen.level != level:
            print(f"isolation {level}: not on this machine: {chosen.reason}")
            continue
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o711)
            uid = 64_000 if os.geteuid() == 0 else None
            jail = Jail(Path(folder, "data"), Path(folder, "scratch"), uid)
            for place in (jail.workspace, jail.scratch):
                place.mkdir()
                if uid is not None:
                    os.chown(place, uid, uid)

            async def confined(jail: Jail = jail, chosen: object = chosen) -> None:
                await chosen.run(["/bin/true"], jail)  # type: ignore[attr-defined]

            costs[level] = await spawned(confined, rounds)
    for level, seconds in costs.items():
        show(f"one process, {level}: ms", [1000 * one for one in seconds])
        if level != "bare":
            added = statistics.median(seconds) - statistics.median(costs["bare"])
            print(f"  added ms {1000 * added:.1f}")


async def spawned(call: Callable[[], object], rounds: int) -> list[float]:
    seconds = []
    for _ in range(rounds + 3):
        began = time.perf_counter()
        await call()  # type: ignore[misc]
        seconds.append(time.perf_counter() - began)
    return seconds[3:]


@contextmanager
def running() -> Iterator[tuple[Endpoint, KlavisClient]]:
    endpoint, owner = start_embedded(RUN)
    try:
        with KlavisClient(endpoint.base_url, endpoint.api_key, headers=endpoint.headers) as client:
            yield endpoint, client
    finally:
        end(owner)


def end(owner: Owner) -> None:
    owner.close()


def resident(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def user_seconds(command: list[str], folder: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def show(name: str, values: list[float]) -> None:
    print(f"{name}: {statistics.median(values):.3g} ({min(values):.3g} .. {max(values):.3g})")


if __name__ == "__main__":
    main()
