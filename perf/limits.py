"""One account's limit shared by processes: `python perf/limits.py [--quick]`. Prints ratios; asserts nothing.

Against a server with a strict sliding window that answers 429 with `Retry-After: 1`; the stricter one counts what it
refused as well. pyrate-limiter is compared where it is importable. Whole: about seven minutes, quick: one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from pytest_klavis import clock
from pytest_klavis.api.client import KlavisClient
from pytest_klavis.api.pace import Pace
from pytest_klavis.pool.limiter import Limiter

RATE = 2.0
SPAWN = multiprocessing.get_context("spawn")
MakePace = Callable[[Path], Pace]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="ours only, and one row per question")
    quick = parser.parse_args().quick
    print(f"{RATE:g} requests/s, Python {sys.version.split()[0]}; total over (requests - 1) / rate;")
    print("longest call over processes / rate; and between processes: longest over shortest sum of their calls\n")
    print(f"{'':66} {'total':>6} {'429s':>5} {'longest call':>13} {'processes':>10}")
    paces: dict[str, MakePace] = {"ours": ours}
    if not quick and find_spec("pyrate_limiter"):
        paces["pyrate-limiter"] = partial(PyratePace, window=1000)
        paces["pyrate-limiter, window 1050 ms"] = partial(PyratePace, window=1050)
    for name, make in paces.items():
        for harsh in (False, True):
            if not (quick and not harsh):
                show(f"{name}{', refused ones count' if harsh else ''}", make, processes=8, requests=4, harsh=harsh)
        if not quick:
            show(name, make, processes=32, requests=4, harsh=False)
    show("ours, acquires", ours, processes=8 if quick else 32, requests=4, harsh=False, patient=True)


def show(name: str, make: MakePace, *, processes: int, requests: int, harsh: bool, patient: bool = False) -> None:
    with tempfile.TemporaryDirectory() as folder, server(harsh) as url:
        answers: Queue[list[float]] = SPAWN.Queue()
        barrier = SPAWN.Barrier(processes + 1)
        work = partial(worker, url, make, Path(folder, "limiter"), requests=requests, patient=patient)
        workers: list[BaseProcess] = [SPAWN.Process(target=work, args=(barrier, answers)) for _ in range(processes)]
        for one in workers:
            one.start()
        barrier.wait()
        began = time.monotonic()
        took = [answers.get() for _ in workers]
        total = time.monotonic() - began
        for one in workers:
            one.join()
        with urllib.request.urlopen(f"{url}/refused") as response:
            refused = json.load(response)
    ideal = (processes * requests - 1) / RATE
    longest = max(max(one) for one in took) / (processes / RATE)
    sums = [sum(one) for one in took]
    label = f"{processes} processes x {requests}, {name}"
    print(f"{label:66} {total / ideal:6.2f} {refused:5} {longest:13.2f} {max(sums) / min(sums):10.2f}", flush=True)


def worker(
    url: str, make: MakePace, path: Path, barrier: Barrier, answers: Queue[list[float]], *, requests: int, patient: bool
) -> None:
    client = KlavisClient(url, "a-key", pace=make(path))
    KlavisClient(f"{url}/not-counted", "a-key").get_sandbox("github", "s-1")  # loads what is loaded on first use
    barrier.wait()
    took = []
    for _ in range(requests):
        began = time.monotonic()
        if patient:
            client.acquire_sandbox("github", deadline=300)
        else:
            client.get_sandbox("github", "s-1", deadline=300)
        took.append(time.monotonic() - began)
    answers.put(took)


def ours(path: Path) -> Pace:
    return Limiter(path, RATE)


class PyratePace:
    """pyrate-limiter on the SQLite file and file lock that it has for processes; each keeps its own pause after 429."""

    def __init__(self, path: Path, *, window: int) -> None:
        import pyrate_limiter  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

        rates = [pyrate_limiter.Rate(int(RATE), window)]
        bucket = pyrate_limiter.SQLiteBucket.init_from_file(rates, db_path=str(path), use_file_lock=True)
        self._limiter = pyrate_limiter.Limiter(bucket)
        self._blocked = 0.0

    def turn(self, *, patient: bool, until: float) -> float:  # noqa: ARG002  it has no classes and no deadline
        began = clock.monotonic()
        clock.sleep(max(0.0, self._blocked - began))
        self._limiter.try_acquire("account")
        return clock.monotonic() - began

    def refused(self, asked: float | None) -> None:
        self._blocked = clock.monotonic() + (asked or 1.0)


@contextmanager
def server(harsh: bool) -> Iterator[str]:
    """The limit, in a process of its own."""
    ports: Queue[int] = SPAWN.Queue()
    process = SPAWN.Process(target=serve, args=(harsh, ports))
    process.start()
    try:
        yield f"http://127.0.0.1:{ports.get()}"
    finally:
        process.kill()
        process.join()


def serve(harsh: bool, ports: Queue[int]) -> None:
    lock = threading.Lock()
    window: deque[float] = deque()
    refused = 0

    def allowed() -> bool:
        nonlocal refused
        with lock:
            now = time.monotonic()
            while window and window[0] <= now - 1:
                window.popleft()
            free = len(window) < RATE
            refused += not free
            if free or harsh:
                window.append(now)
            return free

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/refused":
                self.say(200, refused)
            elif self.path.startswith("/not-counted") or allowed():
                self.say(200, {"sandbox_id": "s-1", "server_name": "github", "status": "occupied"})
            else:
                self.say(429, {"detail": "slow down"})

        do_POST = do_GET  # noqa: N815

        def say(self, status: int, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Retry-After", "1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    listening = Server(("127.0.0.1", 0), Handler)
    ports.put(listening.server_port)
    listening.serve_forever()


if __name__ == "__main__":
    main()
