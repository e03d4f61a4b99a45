"""`python -m pytest_klavis.embedded`: the server of one pytest run; started by backend.py, ends with its last owner."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from pytest_klavis.embedded.serving import Choice, serve_run
from pytest_klavis.errors import BackendError
from pytest_klavis.limits import Limits, argument
from pytest_klavis.rundir import RunDir


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pytest_klavis.embedded", description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True, help="the run's directory; exists")
    parser.add_argument("--isolation", choices=["auto", "strict", "landlock", "seatbelt", "none"], default="auto")
    parser.add_argument("--python", help="interpreter for code in sandboxes (default: the base interpreter)")
    parser.add_argument("--ready-fd", type=int, help="descriptor to write to when server.json is there")
    parser.add_argument("--limits", type=argument, default=Limits(), help="what a command may use")
    text = "install upstream servers when needed; pip's environment is a JSON object on standard input"
    parser.add_argument("--install-servers", action="store_true", help=text)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        for_pip = json.load(sys.stdin) if options.install_servers else None
        choice = Choice(options.isolation, options.python, options.limits, for_pip)
        return serve_run(RunDir(options.run_dir), choice, options.ready_fd)
    except BackendError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the log
        return 2


if __name__ == "__main__":
    sys.exit(main())
