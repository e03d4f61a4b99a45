"""The server as a process: its socket, its signals, and how it begins and ends, for a run or standing alone."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import os
import resource
import secrets
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_klavis import rundir
from pytest_klavis.embedded import isolation
from pytest_klavis.embedded.side.first_use import FirstUse
from pytest_klavis.errors import BackendError
from pytest_klavis.limits import Limits
from pytest_klavis.rundir import RunDir, sweep_dead_runs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_klavis.embedded.isolation import Isolation
    from pytest_klavis.embedded.owners import Owners
    from pytest_klavis.embedded.sandboxes import Sandboxes

POLL = 0.2  # seconds between looks at the owners
LONELY = 0.5  # seconds without an owner after which a run's server ends

_OPEN_FILES = 1 << 16  # at most: one bridged server takes about 11, and many systems give 1,024 at first

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """How code in sandboxes is kept in: the level asked for, the interpreter it gets, and what it may use."""

    level: str
    python: str | None
    limits: Limits = field(default_factory=Limits)
    install_servers: Mapping[str, str] | None = field(default=None, repr=False)
    """The environment for pip, where upstream servers may be installed on first use."""


def serve_run(run: RunDir, choice: Choice, ready: int | None) -> int:
    """Serve one run until its last owner is gone. `ready` is a descriptor that is told when it can be used."""
    refuse_open_data(choice.level)
    _open_more_files()
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    with _locked(run):
        asyncio.run(_serve_run(run, choice, ready))
    return 0


def serve_alone(host: str, port: int, hosts: list[str], key: str | None, choice: Choice) -> int:
    """Serve whoever has the key until SIGINT or SIGTERM. Without a `key` one is made and printed."""
    refuse_open_data(choice.level)
    _open_more_files()
    run = RunDir.of(f"serve-{secrets.token_hex(6)}")
    run.make()
    try:
        with _locked(run):
            asyncio.run(_serve_alone(run, (host, port), hosts, key, choice))
    finally:
        rundir.remove_tree(run.path)
    return 0


def refuse_open_data(level: str, data: Path = Path("/data")) -> None:
    """Without isolation, what an agent calls /data would be the host's. Raises BackendError."""
    if level == "none" and data.exists():
        raise BackendError(
            f"isolation 'none' is refused because this host has a {data}: an agent that names /data means its "
            "workspace, and its commands would work on the host's files. Use isolation 'strict' or 'landlock'."
        )


def _open_more_files() -> None:
    """As many files and connections at once as this process may allow itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # the system has another limit besides
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def _locked(run: RunDir) -> Iterator[None]:
    """Hold `server.lock` for as long as the process lives."""
    end = time.monotonic() + 2  # a sweep of another run may be looking at it
    while (lock := rundir.take_lock(run.server_lock, create=True)) is None:
        if time.monotonic() > end:
            raise BackendError(f"{run.server_lock} is held: this run has a server already")
        time.sleep(0.01)
    try:
        yield
    finally:
        os.close(lock)


async def _isolation(run: RunDir, choice: Choice) -> Isolation:
    """The level that works. The slow imports are done while its trial run is waited for."""
    run.interpreter.mkdir(mode=0o755, exist_ok=True)
    chosen, _ = await asyncio.gather(
        isolation.choose(choice.level, choice.python, place=run.interpreter),
        asyncio.to_thread(importlib.import_module, "pytest_klavis.embedded.web_server"),
    )
    log.info("isolation: %s%s, python: %s", chosen.level, f" ({chosen.reason})" if chosen.reason else "", chosen.python)
    return chosen


async def _serve_run(run: RunDir, choice: Choice, ready: int | None) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    chosen = await _isolation(run, choice)
    from pytest_klavis.embedded import app, owners, sandboxes, web_server  # noqa: PLC0415 - loaded by now

    boxes = sandboxes.Sandboxes(run, chosen, choice.limits, FirstUse(choice.install_servers))
    users = owners.Owners(run.owners, boxes)
    sock, url = web_server.listen("127.0.0.1", 0)
    key = secrets.token_urlsafe(32)
    web = web_server.WebServer(sock, boxes, app.Doors(key, app.loopback_and()))
    await web.started()
    _announce(run, {"url": url, "key": key, "pid": os.getpid(), "isolation": chosen.level})
    if ready is not None:
        os.write(ready, b"1")
        os.close(ready)
    sweep = asyncio.create_task(asyncio.to_thread(_sweep, run.path))
    place = await _watch(run, users, boxes, stop)
    await web.stop()
    await boxes.close()
    await sweep
    await asyncio.to_thread(rundir.remove_tree, place)


async def _watch(run: RunDir, owners: Owners, sandboxes: Sandboxes, stop: asyncio.Event) -> Path:
    """Look after the owners until none is left or SIGTERM comes. The path that the run's directory has then."""
    lonely: float | None = None
    while not stop.is_set():
        try:
            live = owners.live()
        except FileNotFoundError:
            log.error("%s was removed under the server: ending", run.path)  # noqa: TRY400 - no traceback needed
            return run.path
        owners.settle(live)
        if live or owners.busy:
            lonely = None
        elif lonely is None:
            lonely = time.monotonic()
        elif time.monotonic() - lonely >= LONELY:
            await sandboxes.close()  # those that nobody owns
            if (gone := _retire(run, owners)) is not None:
                return gone
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), POLL)
    await owners.close()
    return rundir.set_aside(run.path)


def _retire(run: RunDir, owners: Owners) -> Path | None:
    """Take the directory away from under newcomers, unless there is one: whoever registers in a directory that is
    gone notices and makes it anew."""
    import filelock  # noqa: PLC0415 - not needed to start

    try:
        with filelock.FileLock(run.start_lock, timeout=0):
            return None if owners.live() else rundir.set_aside(run.path)
    except filelock.Timeout:
        return None


async def _serve_alone(
    run: RunDir, address: tuple[str, int], hosts: list[str], key: str | None, choice: Choice
) -> None:
    stop = asyncio.Event()
    for ending in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(ending, stop.set)
    chosen = await _isolation(run, choice)
    from pytest_klavis.embedded import app, sandboxes, web_server  # noqa: PLC0415 - loaded by now

    boxes = sandboxes.Sandboxes(run, chosen, choice.limits, FirstUse(choice.install_servers))
    sock, url = web_server.listen(*address)
    own = [] if address[0] in web_server.WILDCARDS else [address[0]]
    made = key or secrets.token_urlsafe(32)
    web = web_server.WebServer(sock, boxes, app.Doors(made, app.loopback_and(*own, *hosts)))
    await web.started()
    print(f"READY {url}", flush=True)  # noqa: T201 - what `serve` promises
    if key is None:
        print(f"KLAVIS_API_KEY={made}", flush=True)  # noqa: T201
    sweep = asyncio.create_task(asyncio.to_thread(_sweep, run.path))
    await stop.wait()
    await web.stop()
    await boxes.close()
    await sweep


def _sweep(own: Path) -> None:
    try:
        sweep_dead_runs(skip=own)
    except OSError:
        log.exception("sweeping dead runs failed")


def _announce(run: RunDir, content: dict[str, str | int]) -> None:
    """Write server.json, all at once and for us only."""
    unfinished = run.path / ".server.json"
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(content, file)
    unfinished.replace(run.server_json)
