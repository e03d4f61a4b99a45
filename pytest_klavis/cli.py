"""`pytest-klavis`: one subcommand per thing that is done outside a test run."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pytest_klavis.errors import KlavisError
from pytest_klavis.limits import Limits, argument, spelled

if TYPE_CHECKING:
    from collections.abc import Sequence

KEY = "KLAVIS_API_KEY"
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; the exit status."""
    parser = argparse.ArgumentParser(prog="pytest-klavis", description="Sandboxes for agent tests, outside pytest.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_serve(commands)
    _add_leases(commands)
    _add_reap(commands)
    _add_servers(commands)
    _add_doctor(commands)
    options = parser.parse_args(argv)
    try:
        status: int = options.run(options)
    except KlavisError as error:
        _complain(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
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
        choices=["auto", "strict", "landlock", "seatbelt", "none"],
        default="auto",
        help="how code in sandboxes is kept in (default: the best level that works here)",
    )
    parser.add_argument("--python", help="interpreter for code in sandboxes (default: the base interpreter)")
    parser.add_argument(
        "--limits",
        type=argument,
        default=Limits(),
        metavar="LIMIT=VALUE,...",
        help=f"what a command may use, such as memory=2G,processes=256,wall=5m (default: {spelled(Limits())})",
    )
    parser.add_argument(
        "--install-servers",
        action="store_true",
        help="install upstream servers when the first sandbox needs one",
    )
    parser.set_defaults(run=_serve)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:
        raise argparse.ArgumentTypeError(f"{port} is no TCP port (0 to 65535)")
    return port


def _serve(options: argparse.Namespace) -> int:
    from pytest_klavis.embedded.serving import Choice, serve_alone  # noqa: PLC0415 - only this command needs a server
    from pytest_klavis.processes import environment_for_pip  # noqa: PLC0415

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    key = os.environ.pop(KEY, "") or None
    for_pip = environment_for_pip() if options.install_servers else None
    choice = Choice(options.isolation, options.python, options.limits, for_pip)
    return serve_alone(options.host, options.port, options.allow_host, key, choice)


def _add_leases(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "leases",
        help="list the cloud sandboxes that this machine holds",
        description="List the cloud sandboxes of all accounts that this machine holds, by whom, since when and for how "
        "long still. No key is needed. The records are in $KLAVIS_STATE_DIR, or ~/.local/state/pytest-klavis.",
    )
    parser.add_argument("--json", action="store_true", help="a JSON list instead of a table")
    parser.set_defaults(run=_leases)


def _leases(options: argparse.Namespace) -> int:
    from pytest_klavis.commands.leases import leases  # noqa: PLC0415 - only this command needs a ledger

    width = max(shutil.get_terminal_size().columns, 80)
    return leases(_say, _complain, as_json=options.json, width=width)


def _add_reap(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "reap",
        help="release the cloud sandboxes that dead runs of this machine left",
        description="Release the cloud sandboxes that dead runs of this machine left, after saving what their tests "
        f"held. The account is that of ${KEY}. What a living process or a living keeper's run holds is not "
        "touched. Exit status: 0 when nothing is left that should have been released, 1 when something is, 2 for "
        "wrong usage, 130 after Ctrl-C.",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument(
        "--older-than",
        type=_duration,
        default=0.0,
        metavar="DURATION",
        help="only what was acquired longer ago than that: 90s, 30m, 2h",
    )
    parser.add_argument(
        "--suspects",
        action="store_true",
        help="also what the account holds that may come from an acquire whose answer was lost",
    )
    parser.add_argument(
        "--wait",
        type=_duration,
        default=0.0,
        metavar="DURATION",
        help="first let living keepers of runs that have ended finish, for so long at most",
    )
    parser.add_argument(
        "--account",
        action="store_true",
        help="instead list what the account holds and no ledger of this machine knows of",
    )
    parser.add_argument("--yes", action="store_true", help="with --account: release all of that")
    parser.add_argument(
        "--base-url", metavar="URL", help="address of the API (default: $KLAVIS_BASE_URL, or the cloud)"
    )
    parser.set_defaults(run=_reap, usage_error=parser.error)


def _duration(text: str) -> float:
    from pytest_klavis.arguments import seconds  # noqa: PLC0415

    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _reap(options: argparse.Namespace) -> int:
    if options.yes and not options.account:
        options.usage_error("--yes is for --account")
    beside = [name for name in ("dry_run", "suspects", "wait") if options.account and getattr(options, name)]
    if beside:
        options.usage_error(
            f"--account and --{beside[0].replace('_', '-')} do not go together: --account only lists, unless --yes"
        )
    from pytest_klavis.commands.reap import Wanted  # noqa: PLC0415 - only this command needs a client
    from pytest_klavis.commands.reaping import Asked, reap, reap_account  # noqa: PLC0415

    wanted = Wanted(options.older_than, options.suspects)
    asked = Asked(wanted, options.base_url, dry_run=options.dry_run, wait=options.wait)
    if options.account:
        return reap_account(asked, _say, _complain, yes=options.yes)
    return reap(asked, _say, _complain)


def _add_servers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "servers",
        help="install the upstream servers that the embedded Klavis runs",
        description="Say which upstream servers (excel, word, powerpoint, mail) are installed for the embedded Klavis. "
        "They are in a virtual environment of their own, in $KLAVIS_SERVERS_DIR or a folder of this user's, with "
        "the exact versions of a lock file. Exit status: 0 when they are installed, 1 when they are not.",
    )
    parser.set_defaults(run=_servers)
    actions = parser.add_subparsers(title="commands", metavar="COMMAND")
    make = actions.add_parser(
        "install",
        help="install them; nothing happens where they are",
        description="Install the servers with pip, whose own configuration says from which index. Every file is "
        "checked against the lock file, and nothing is built. Exit status: 0 when they are installed, 1 when that "
        "failed, 130 after Ctrl-C. What did not come to its end leaves nothing.",
    )
    make.add_argument(
        "--offline",
        type=Path,
        metavar="DIR",
        help="take all packages from this folder of wheels; `servers lock` is what to fill it by",
    )
    make.add_argument("--force", action="store_true", help="make the environment anew where there is one")
    make.set_defaults(run=_install_servers)
    printed = actions.add_parser(
        "lock",
        help="print the lock file, for pip download",
        description="Print the lock file. A folder for --offline, filled by the same Python and kind of machine: "
        "pytest-klavis servers lock > servers.lock; pip download -r servers.lock --require-hashes --no-deps "
        "--only-binary :all: -d DIR",
    )
    printed.set_defaults(run=_lock_of_servers)


def _servers(_options: argparse.Namespace) -> int:
    from pytest_klavis.commands.servers import show  # noqa: PLC0415 - only this command needs it

    return show(_say)


def _install_servers(options: argparse.Namespace) -> int:
    from pytest_klavis.commands.servers import install  # noqa: PLC0415

    return install(_say, _complain, wheels=options.offline, force=options.force)


def _lock_of_servers(_options: argparse.Namespace) -> int:
    from pytest_klavis.commands.servers import lock  # noqa: PLC0415

    return lock(_say, _complain)


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "doctor",
        help="say what works here, what is missing, and what mends it",
        description="Look at what sandboxes need on this machine, without using the network. Exit status: 0 when all "
        "is there that is needed by default, 1 when something of that is broken or missing.",
    )
    parser.add_argument("--json", action="store_true", help="a JSON list instead of lines")
    parser.add_argument("--start", action="store_true", help="also start each upstream server, and list its tools")
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from pytest_klavis.commands.doctor import doctor  # noqa: PLC0415 - only this command needs an isolation

    return doctor(_say, as_json=options.json, start=options.start)


def _say(line: str) -> None:
    _write(sys.stdout, line)


def _complain(line: str) -> None:
    _write(sys.stderr, f"pytest-klavis: {line}")


def _write(stream: TextIO, line: str) -> None:
    """Nobody who reads is no reason to stop releasing."""
    encoding = stream.encoding or "utf-8"
    try:
        print(line.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except BrokenPipeError:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())


if __name__ == "__main__":
    sys.exit(main())
