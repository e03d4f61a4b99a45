"""The server's side of warm starts: a process that has everything imported and forks itself into sandboxes.

What it does there is in forking.py; how a fork is confined is said by the levels. It handles nothing of an agent's.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_klavis.embedded.isolation.confinement import Confinement
from pytest_klavis.embedded.isolation.model import IsolationError
from pytest_klavis.embedded.isolation.running import Running, on_pipes, readable
from pytest_klavis.embedded.isolation.supervisor import spare

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_klavis.embedded.isolation.spaces import Entry

_PATIENCE = 10  # seconds that a fork, or ending killed processes, may take
_KILLED = 128 + signal.SIGKILL
_PACKAGE = Path(__file__).parents[2]
# Packages without their __init__: only the modules that are needed, and only this package of the place where it is.
_BOOT = """
import sys, types
for name in ("", ".embedded", ".embedded.isolation", ".embedded.bridge"):
    module = types.ModuleType("pytest_klavis" + name)
    module.__path__ = [sys.argv[1] + name.replace(".", "/")]
    sys.modules[module.__name__] = module
from pytest_klavis.embedded.isolation.forking import main
main(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5:])
"""


class Zygote:
    """A process to be forked. Belongs to the thread of the event loop, and ends with this process."""

    def __init__(
        self, python: str, load: str, arguments: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> None:
        """Start it.

        python: an interpreter. load: "module:function" of this package, called in it with `arguments`; what that
        returns is called in each fork. env: its environment, beside a few of our own. Raises IsolationError.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            known = [str(_PACKAGE), str(theirs.fileno()), str(os.getpid()), load]
            try:
                self._process = subprocess.Popen(
                    [python, "-I", "-B", "-Wignore", "-c", _BOOT, *known, *arguments],
                    env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent", **(env or {})},
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise IsolationError(f"{python} could not be started: {error}") from error
        spare(self._process.pid)
        ours.setblocking(False)
        self._socket = ours
        self._turn = asyncio.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    def over(self) -> bool:
        """Has it ended?"""
        return self._process.poll() is not None

    async def ready(self, patience: float) -> None:
        """Returns when everything is loaded. Raises IsolationError when it is not in `patience` seconds."""
        await self._answer(patience)

    async def fork(
        self, env: Mapping[str, str], confinement: Confinement | Entry, holder: Running | None = None
    ) -> Running:
        """A fork of it, confined. Its end is that of `holder`, and the other way round. Raises IsolationError.

        env: all of its environment. holder: what keeps up the namespaces that it enters.
        """
        order: dict[str, Any] = {"env": dict(env), "limits": confinement.limits, "uid": confinement.uid}
        if isinstance(confinement, Confinement):
            order["entry"] = "confinement"
            given = [confinement.directory, confinement.ruleset, confinement.outer]
        else:
            order |= {"entry": "spaces", "cwd": confinement.cwd}
            given = [*confinement.spaces]
        descriptors = [os.dup(fd) for fd in given if fd is not None]  # the caller may close its own
        forking = asyncio.get_running_loop().create_task(self._fork(order, descriptors, holder))
        try:
            return await asyncio.shield(forking)
        except asyncio.CancelledError:
            forking.add_done_callback(_unwanted)  # the answer must be taken all the same
            await asyncio.wait([forking])
            raise

    async def _fork(self, order: dict[str, Any], descriptors: list[int], holder: Running | None) -> Running:
        with ExitStack() as ours, ExitStack() as theirs:
            for fd in descriptors:
                theirs.callback(os.close, fd)
            status, told = os.pipe()
            ours.callback(os.close, status)
            theirs.callback(os.close, told)
            control: int | None = None
            if holder is None:
                controlled, control = os.pipe()
                ours.callback(os.close, control)
                theirs.callback(os.close, controlled)
                descriptors = [controlled, *descriptors]
            async with self._turn:
                with on_pipes("a fork") as (streams, running):
                    sent = [told, streams.stdin, streams.stdout, streams.stderr, *descriptors]
                    try:
                        socket.send_fds(self._socket, [json.dumps(order).encode()], sent)
                    except OSError as error:
                        raise IsolationError(f"the process to be forked is gone: {error}") from error
                    answer, handles = await self._answer(_PATIENCE)
                    if "pid" not in answer or len(handles) != 1:
                        raise IsolationError(f"a process could not be forked into its sandbox: {answer.get('error')}")
                    made = running(Forked(answer["pid"], handles[0], status, control, holder))
                    ours.pop_all()
                    return made

    async def _answer(self, patience: float) -> tuple[dict[str, Any], list[int]]:
        if not await readable(self._socket.fileno(), patience):
            self._process.kill()  # what it would answer later must not be taken for another answer
            raise IsolationError(f"the process to be forked said nothing for {patience} s")
        message, handles, _, _ = socket.recv_fds(self._socket, 1 << 16, 4)
        if not message:
            raise IsolationError("the process to be forked has ended; the server's log may say why")
        return json.loads(message), handles

    def close(self) -> None:
        """End it. What was forked is not ended by that."""
        self._socket.close()
        self._process.kill()
        self._process.wait()
        spare(self._process.pid, no_more=True)


class Forked:
    """A fork of a zygote. A `runner.Started`, though it is no child of ours."""

    def __init__(self, pid: int, handle: int, status: int, control: int | None, holder: Running | None) -> None:
        """`control` is the pipe of its supervisor; without one it lives in the namespaces of `holder`."""
        self.pid, self.ended = pid, handle
        self._status, self._control, self._holder = status, control, holder
        self.also = () if holder is None else holder.pids
        self.inside = () if holder is None else (pid,)  # else that is its supervisor
        self._handle = handle

    def over(self) -> bool:
        return _readable(self._handle, 0)

    def kill(self) -> None:
        if self._control is not None:
            os.close(self._control)
            self._control = None
        if self._holder is not None:
            self._holder.kill()

    def finish(self) -> int:
        try:
            if self._holder is not None:
                self._holder.kill()
            if not _readable(self._handle, _PATIENCE):
                raise IsolationError(f"processes of the command could not be ended within {_PATIENCE} s")
            self._wait_until_reaped()
            if self._holder is not None:
                self._holder.end()  # after that: process 1 waits until this one is reaped
            code = os.read(self._status, 16) if _readable(self._status, 1) else b""
            return int(code) if code else _KILLED
        finally:
            self.kill()
            os.close(self._handle)
            os.close(self._status)

    def _wait_until_reaped(self) -> None:
        """Its zygote does that; of one that is dying too, it comes to us only when that is gone."""
        until = time.monotonic() + _PATIENCE
        with suppress(ProcessLookupError):
            while time.monotonic() < until:
                signal.pidfd_send_signal(self._handle, 0)
                with suppress(ChildProcessError):
                    os.waitid(os.P_PIDFD, self._handle, os.WEXITED | os.WNOHANG)
                time.sleep(0.001)


def _readable(fd: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def _unwanted(forking: asyncio.Task[Running]) -> None:
    if not forking.cancelled() and forking.exception() is None:
        forking.result().end()
