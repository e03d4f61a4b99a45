"""A light cloud as a process: `python -m tests.cloud --rate 2 --latency acquire=2 reset=0.5`. Prints READY, URL."""

from __future__ import annotations

import argparse
import os
import sys
import threading

from .control import DIALECTS
from .server import light_server


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cloud", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--dialect", choices=DIALECTS, default="newer")
    parser.add_argument("--rate", type=float, help="requests per second")
    parser.add_argument("--capacity", type=int, help="sandboxes")
    parser.add_argument("--latency", nargs="*", default=[], metavar="KIND=SECONDS")
    parser.add_argument("--until-eof", action="store_true", help="end when stdin does")
    given = parser.parse_args()
    latency = {kind: float(seconds) for kind, seconds in (one.split("=") for one in given.latency)}
    server = light_server(
        DIALECTS[given.dialect], given.port, rate=given.rate, capacity=given.capacity, latency=latency
    )
    if given.until_eof:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    print("READY", server.url, flush=True)  # noqa: T201  (who started it waits for this)
    server.serve_forever()


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
