"""Starting processes of our own that outlive their starter: nobody's child, in a session of their own, log on a file.

They get the default module path and the environment that is named for them: nothing of the user's is in their way.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pytest_klavis import clock
from pytest_klavis.errors import BackendError

__tracebackhide__ = True  # users read their own frames

# The package is taken from where this process has it, and the folders in which the requirements live are appended:
# last, so that a test's folder shadows nothing. It forks once so that the process is nobody's child here: no zombie,
# nothing for an os.wait() of the user's to meet.
_BOOT = """\
import os, runpy, sys
if os.fork():
    os._exit(0)
home, *extra = sys.argv.pop(1).split(os.pathsep)
sys.path.insert(0, home)
import pytest_klavis
sys.path.remove(home)
sys.path += extra
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
_FOR_PIP = re.compile(
    "PIP_.*|(?i:(https?|all|no)_proxy)|SSL_CERT_(FILE|DIR)|(REQUESTS|CURL)_CA_BUNDLE|NETRC"
    "|KLAVIS_SERVERS_.*|HOME|XDG_.*|PATH|LANG|LC_.*"
)
_KEPT_ENVIRONMENT = ("PATH", "LANG", "TZ", "TMPDIR", "COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")


def spawn(
    what: str,
    module: str,
    arguments: Sequence[str],
    log: Path,
    *,
    requirements: Iterable[str],
    until: float,
    keep: Iterable[str] = (),
    told: bytes = b"",
) -> None:
    """Start `module`, which gets `--ready-fd N` behind its arguments, and wait until it has written a byte there.

    Args:
        what: it is called in errors.
        log: file for its output, 0600.
        requirements: packages that it needs beside this one.
        until: by the monotonic clock.
        keep: more variables of the environment than those that every process gets.
        told: what it reads on its standard input.

    Raises:
        BackendError: it did not start, or not in time; the message ends with the last lines of its log.
    """
    if not sys.executable:
        raise BackendError(f"cannot start {what}: sys.executable is empty")
    ready, tell = os.pipe()
    try:
        folders = os.pathsep.join(_module_folders(requirements))
        command = [sys.executable, "-P", "-c", _BOOT, folders, module, *arguments, "--ready-fd", str(tell)]
        try:
            forked = _run(command, log, told, tell, cleared_environment(keep))
        except OSError as error:
            raise BackendError(f"cannot start {what}: {error}") from error
        finally:
            os.close(tell)
        if forked == 0 and _becomes_ready(ready, until):
            return
    finally:
        os.close(ready)
    late = clock.monotonic() >= until
    raise BackendError(f"{what} {'was not ready in time' if late else 'did not start'} (log: {log}){tail(log)}")


def tail(log: Path) -> str:
    """The last lines of a log, each on a line of its own."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "".join(f"\n  {line}" for line in lines[-20:])


def cleared_environment(keep: Iterable[str] = ()) -> Mapping[str, str]:
    """This process's environment without what is not named here, or in `keep`."""
    kept = {*_KEPT_ENVIRONMENT, *keep}
    return {key: value for key, value in os.environ.items() if key in kept or key.startswith("LC_")}


def environment_for_pip() -> dict[str, str]:
    """What of this process's environment says how pip reaches its index, and where servers are installed."""
    return {key: value for key, value in os.environ.items() if _FOR_PIP.fullmatch(key)}


def _run(command: Sequence[str], log: Path, told: bytes, tell: int, environment: Mapping[str, str]) -> int:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.run(
            command,
            **({"input": told} if told else {"stdin": subprocess.DEVNULL}),
            stdout=output,
            stderr=output,
            pass_fds=(tell,),
            env=environment,
            cwd="/",
            start_new_session=True,
            check=False,
        ).returncode
    finally:
        os.close(output)


def _becomes_ready(pipe: int, until: float) -> bool:
    """The process writes to the pipe when it is ready; its death closes the pipe."""
    poll = select.poll()  # select() fails on descriptors above 1023
    poll.register(pipe, select.POLLIN | select.POLLHUP)
    if not poll.poll(max(0.0, until - clock.monotonic()) * 1000):
        return False
    return os.read(pipe, 1) != b""


def _module_folders(requirements: Iterable[str]) -> list[str]:
    here = str(Path(__file__).resolve().parents[1])
    names = tuple(requirements)
    folders = [entry for entry in sys.path if entry and any((Path(entry) / name).is_dir() for name in names)]
    return [here, *(str(Path(entry).resolve()) for entry in folders)]
