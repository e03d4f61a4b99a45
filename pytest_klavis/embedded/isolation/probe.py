"""Finds the best level that works on this machine, by running each once with something to lose."""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from pytest_klavis.embedded.isolation import landlock, none, strict
from pytest_klavis.embedded.isolation.advice import advice
from pytest_klavis.embedded.isolation.bubblewrap import find_bwrap
from pytest_klavis.embedded.isolation.interpreter import AUTO, Interpreter, candidates, describe
from pytest_klavis.embedded.isolation.model import Completed, Isolation, IsolationError, Jail

LEVELS = ("auto", "strict", "landlock", "seatbelt", "none")
_BEST_FIRST = ("seatbelt",) if sys.platform == "darwin" else ("strict", "landlock")
_PROBE_UID = 65534

_CHECK = """
import os, socket, sys
secret, port = sys.argv[1], int(sys.argv[2])
with open("probe", "w") as file:
    file.write("written")
try:
    open(secret).close()
except OSError:
    pass
else:
    sys.exit("a file outside of the workspace can be read")
try:
    socket.create_connection(("127.0.0.1", port), 1).close()
except OSError:
    pass
else:
    sys.exit("the network of this machine can be reached")
assert os.getuid() != 0
print("confined")
"""
_CHECK_NONE = 'open("probe", "w").write("written"); print("confined")'


async def choose(level: str = "auto", python: str | None = None, *, place: Path | None = None) -> Isolation:
    """The isolation to use.

    level: "auto" (the best that works: "strict", then "landlock"; on macOS "seatbelt"; never "none"), or one by name.
    python: the interpreter of sandboxes: None or "auto" for this process's base interpreter without its packages;
    a path for a virtual environment (or interpreter) with its packages.
    place: an empty directory, owned by this process and readable by the sandboxes' users, in which links to the
    interpreter are made; by default a temporary directory that is removed when the process ends.

    Where nothing works the answer has the level "unavailable" and its `run` says why. Raises ValueError for an
    unknown level.
    """
    if level not in LEVELS:
        raise ValueError(f"isolation {level!r} is unknown; there are {', '.join(LEVELS)}")
    made = place or _temporary_place()
    made.chmod(0o755)
    (made / "empty").mkdir(mode=0o755, exist_ok=True)
    failures: list[str] = []
    for name in _BEST_FIRST if level == "auto" else (level,):
        found = await _try_level(name, python, made, failures)
        if found is not None:
            return found
    hint = "" if level == "none" else "\nCommands that you trust can be run with --klavis-isolation none."
    return none.Unavailable(_explained(failures) + hint)


def probe_sync(level: str = "auto", python: str | None = None) -> Isolation:
    """`choose` for callers without an event loop, `doctor` for one. The answer is for reading, not for running."""
    return asyncio.run(choose(level, python))


async def _try_level(level: str, python: str | None, place: Path, failures: list[str]) -> Isolation | None:
    own_packages = python is not None and python.lower() != AUTO
    why = ""
    for candidate in candidates(python):
        try:
            make = _MAKERS[level](_explained(failures))
            isolation = make(describe(candidate, place, own_packages=own_packages), place)
            await prove(isolation, partial(_executed, isolation))
        except (IsolationError, OSError) as error:
            why = why or f"{level}: {error}"  # of the first interpreter: the others are stand-ins
        else:
            return isolation
    failures.append(why)
    return None


_Make = Callable[[Interpreter, Path], Isolation]


def _strict(_reason: str) -> _Make:
    bwrap = find_bwrap()
    return lambda interpreter, place: strict.Strict(bwrap, interpreter, place)


def _landlock(reason: str) -> _Make:
    abi = landlock.check_kernel()
    return lambda interpreter, _place: landlock.Landlock(abi, interpreter, reason)


def _seatbelt(_reason: str) -> _Make:
    from pytest_klavis.embedded.isolation import seatbelt  # noqa: PLC0415 - for one system only

    program = seatbelt.find_sandbox_exec()
    return lambda interpreter, _place: seatbelt.Seatbelt(program, interpreter)


def _none(_reason: str) -> _Make:
    none.check_machine()
    return lambda interpreter, _place: none.NoIsolation(interpreter)


_MAKERS: dict[str, Callable[[str], _Make]] = {
    "strict": _strict,
    "landlock": _landlock,
    "seatbelt": _seatbelt,
    "none": _none,
}


_Run = Callable[[str, Sequence[str], Jail], Awaitable[Completed]]


async def _executed(isolation: Isolation, code: str, arguments: Sequence[str], jail: Jail) -> Completed:
    return await isolation.run([isolation.python, "-c", code, *arguments], jail, timeout=20)


async def prove(isolation: Isolation, run: _Run) -> None:
    """Run the real thing: it must write to its workspace and, unless it is "none", reach nothing else.

    run: takes Python code, its arguments and a sandbox. Raises IsolationError, OSError.
    """
    uid = _PROBE_UID if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="pytest-klavis-probe-") as folder, socket.socket() as listener:
        top = Path(folder)
        secret = top / "secret"
        secret.write_text("outside", encoding="utf-8")
        for path in (top, secret):
            path.chmod(0o755)  # so that it is the level that hides it, not its mode
        jail = Jail(top / "workspace", top / "scratch", uid)
        for path in (jail.workspace, jail.scratch):
            path.mkdir(mode=0o755)
        if uid is not None:
            try:
                os.chown(jail.workspace, uid, uid)
            except OSError as error:
                raise IsolationError(f"root cannot give files to another user here ({error.strerror})") from error
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        code = _CHECK_NONE if isolation.level == "none" else _CHECK
        done = await run(code, [str(secret), str(listener.getsockname()[1])], jail)
        if done.exit_code != 0 or b"confined" not in done.stdout or not (jail.workspace / "probe").exists():
            said = (done.stderr or done.stdout).decode(errors="replace").strip()[-500:]
            raise IsolationError(
                f"a trial run with {isolation.python} failed ({done.stopped or f'exit code {done.exit_code}'}): {said}"
            )


def _explained(failures: list[str]) -> str:
    """The failures, and what can be done about those that are known."""
    return advice("; ".join(failures)) if failures else ""


def _temporary_place() -> Path:
    folder = tempfile.mkdtemp(prefix="pytest-klavis-python-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
