"""`pytest-klavis servers`: the environment that the embedded Klavis takes upstream servers from."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from pytest_klavis.embedded.side import environment
from pytest_klavis.embedded.side.environment import Missing, SideEnvironment, locate
from pytest_klavis.embedded.side.install import Installation
from pytest_klavis.embedded.side.pip import Progress
from pytest_klavis.embedded.side.trouble import InstallError

from .words import span

Say = Callable[[str], None]


def show(say: Say) -> int:
    """Say what is installed and where; the exit status: 1 where it is missing."""
    found = locate()
    if isinstance(found, SideEnvironment):
        for line in installed(found):
            say(line)
    else:
        say(found.reason)
    with contextlib.suppress(OSError):  # told by then
        for line in _others(found):
            say(line)
    return int(isinstance(found, Missing))


def installed(found: SideEnvironment) -> Iterator[str]:
    """What is in an environment, line by line."""
    record = environment.record_of(found.prefix)
    versions = record.get("packages")
    yield f"installed for Python {record.get('python', '(unknown)')}, {size(record)}, in"
    yield f"  {found.prefix}"
    for server, package in environment.PACKAGES.items():
        version = versions.get(package) if isinstance(versions, dict) else None
        yield f"  {server:<24}{package} {version or 'is not in it'}"


def size(record: dict[str, object]) -> str:
    """How large an environment is, by what was noted of it."""
    found = record.get("bytes")
    return f"{found / 1e6:,.0f} MB" if isinstance(found, int | float) else "of unknown size"


def _others(found: SideEnvironment | Missing) -> Iterator[str]:
    """Environments of other versions; somebody else may need them."""
    own = found.prefix if isinstance(found, SideEnvironment) else None
    records = sorted(environment.folder().glob(f"[!.]*/{environment.RECORD}"))
    others = [path.parent for path in records if path.parent != own]
    if others:
        yield "There are also those of other versions of pytest-klavis or Python, which go by"
    for path in others:
        yield f"  rm -r {path}  # {size(environment.record_of(path))}"


def install(say: Say, complain: Say, *, wheels: Path | None, force: bool) -> int:
    """Make the environment, telling how far it is; the exit status: 1 where it failed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was begun goes
    began = time.monotonic()
    telling = _Telling(say, sys.stderr if sys.stderr.isatty() else None)
    installation = Installation(wheels=wheels, force=force, tell=telling)
    try:
        found = installation.run()
    except InstallError as error:
        telling.clear()
        complain(f"error: {error}")
        return 1
    finally:
        telling.clear()
    if installation.has_made:
        say(f"done in {span(time.monotonic() - began)}")
    else:
        say("the servers are installed already (--force makes them anew)")
    for line in installed(found):
        say(line)
    return 0


class _Telling:
    """Says each step once; on a terminal, one line with each package."""

    def __init__(self, say: Say, terminal: TextIO | None) -> None:
        self._say = say
        self._terminal = terminal
        self._last = ""

    def __call__(self, progress: Progress) -> None:
        if self._terminal is not None:
            self._terminal.write(f"\r\x1b[K{str(progress)[:78]}")
            self._terminal.flush()
        elif progress.what != self._last and not progress.total:
            self._say(progress.what)
        self._last = progress.what

    def clear(self) -> None:
        if self._terminal is not None:
            self._terminal.write("\r\x1b[K")
            self._terminal.flush()


def lock(say: Say, complain: Say) -> int:
    """Print the lock, for `pip download`; the exit status: 1 where it cannot be read."""
    try:
        text = environment.read_lock().text.decode()
    except OSError as error:
        complain(f"error: {error}")
        return 1
    say(text.rstrip("\n"))
    return 0
