"""`pytest-klavis`: one subcommand per thing that is done outside a test run."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import TYPE_CHECKING

from pytest_klavis.errors import KlavisError

if TYPE_CHECKING:
    from collections.abc import Sequence

KEY = "KLAVIS_API_KEY"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; the exit status."""
    parser = argparse.ArgumentParser(prog="pytest-klavis", description="Sandboxes for agent tests, outside pytest.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_serve(commands)
    options = parser.parse_args(argv)
    try:
        status: int = options.run(options)
    except KlavisError as error:
        print(f"pytest-klavis: error: {error}", file=sys.stderr)
        return 2
    return status


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "serve",
        help="run the embedded Klavis API until Ctrl-C",
        description="Run the embedded Klavis API until Ctrl-C. The first line on stdout is 'READY URL'; "
        f"the key is ${KEY}, or is made and printed on the second line.",
    )
    parser.add_argument("--port", type=_port, default=0, help="TCP port (default: any free one)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a host name, besides this machine's own, under which clients may address the server; can be repeated",
    )
    parser.add_argument(
        "--isolation",
        choices=["auto", "strict", "landlock", "none"],
        default="auto",
        help="how code in sandboxes is kept in (default: the best level that works here)",
    )
    parser.add_argument("--python", help="interpreter for code in sandboxes (default: the base interpreter)")
    parser.set_defaults(run=_serve)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:
        raise argparse.ArgumentTypeError(f"{port} is no TCP port (0 to 65535)")
    return port


def _serve(options: argparse.Namespace) -> int:
    from pytest_klavis.embedded.serving import Choice, serve_alone  # noqa: PLC0415 - only this command needs a server

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    key = os.environ.pop(KEY, "") or None
    choice = Choice(options.isolation, options.python)
    return serve_alone(options.host, options.port, options.allow_host, key, choice)


if __name__ == "__main__":
    sys.exit(main())
