"""What runs in a zygote (see warm.py), and in its forks until they are confined. Standard library and `isolation` only.

The server sends one message per fork over a socket, with descriptors. Nothing else is read by a zygote.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_klavis.embedded.isolation import syscalls
from pytest_klavis.embedded.isolation.confinement import Confinement
from pytest_klavis.embedded.isolation.spaces import Entry
from pytest_klavis.embedded.isolation.supervisor import default_signals, parting

if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGE = 1 << 20  # bytes
DESCRIPTORS = 32
_LAST = 1 << 20  # above every descriptor


def main(control: int, server: int, load: str, arguments: list[str]) -> NoReturn:
    """Load, say so, then fork for every message until the server is gone.

    control: descriptor of the socket. server: its process. load: "module:function", called with `arguments`.
    """
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)  # what a fork leaves when it enters a PID namespace comes to us
    sock = socket.socket(fileno=control)
    os.set_inheritable(control, False)
    module, _, function = load.partition(":")
    serve = getattr(importlib.import_module(module), function)(*arguments)
    if len(list(Path("/proc/self/task").iterdir())) != 1:
        sys.exit("a process with threads cannot be forked")
    gc.collect()
    gc.freeze()
    Forker(sock, serve).work()


def script(code: str, *arguments: str) -> Callable[[], None]:
    """To be loaded: runs Python code with these arguments, in place of a server."""

    def serve() -> None:
        sys.argv = ["-c", *arguments]
        exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})

    return serve


class Forker:
    """Forks, and tells the exit codes of its forks."""

    def __init__(self, sock: socket.socket, serve: Callable[[], None]) -> None:
        self._sock, self._serve = sock, serve
        self._statuses: dict[int, int] = {}  # process -> descriptor that its exit code is written to
        self._woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker)

    def work(self) -> NoReturn:
        self._sock.send(b"{}")
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        poller.register(self._woken, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poller.poll()}
            if self._woken in ready:
                with suppress(BlockingIOError):
                    os.read(self._woken, 4096)
                self._reap()
            if self._sock.fileno() in ready:
                message, descriptors, _, _ = socket.recv_fds(self._sock, MESSAGE, DESCRIPTORS)
                if not message:
                    os._exit(0)
                self._fork(json.loads(message), descriptors)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if (told := self._statuses.pop(pid, None)) is not None:
                code = os.waitstatus_to_exitcode(status)
                with suppress(OSError):  # nobody wants to know any more
                    os.write(told, str(code if code >= 0 else 128 - code).encode())
                os.close(told)

    def _fork(self, order: dict[str, Any], descriptors: list[int]) -> None:
        """Answers with the process of the fork (its supervisor, where it has one) and a descriptor of it."""
        told, streams, rest = descriptors[0], descriptors[1:4], descriptors[4:]
        report, reporting = os.pipe2(os.O_CLOEXEC)
        child = os.fork()
        if child == 0:
            become_fork(order, streams, rest, reporting, self._serve)
        for fd in (reporting, *streams, *rest):
            os.close(fd)
        with open(report, "rb") as reader:  # noqa: PTH123 - a descriptor
            said = reader.read().decode()  # until the fork is where it belongs, or is gone
        pid = child
        if order["entry"] == "spaces":
            os.waitpid(child, 0)
            pid = int(said) if said.isdigit() else 0
        elif said:
            pid = 0
        if pid == 0:
            os.close(told)
            self._sock.send(json.dumps({"error": said or "it ended on its way"}).encode())
            return
        self._statuses[pid] = told
        handle = os.pidfd_open(pid)  # it may be dead by now, but only we could have reaped it
        socket.send_fds(self._sock, [json.dumps({"pid": pid}).encode()], [handle])
        os.close(handle)


def become_fork(
    order: dict[str, Any], streams: list[int], rest: list[int], reporting: int, serve: Callable[[], None]
) -> NoReturn:  # forked child
    """Become what was ordered. Never returns."""
    try:
        signal.set_wakeup_fd(-1)
        for target, fd in enumerate(streams):
            os.dup2(fd, target)
        limits = tuple((kind, (soft, hard)) for kind, (soft, hard) in order["limits"])
        if order["entry"] == "spaces":
            entry = Entry(tuple(rest), order["cwd"], limits, order["uid"])
            entry.enter()
            if pid := os.fork():
                os.write(reporting, str(pid).encode())
                os._exit(0)
            os.setsid()
            default_signals()
            entry.confine()
        else:
            control, directory, ruleset, outer = (*rest, None, None)[:4]
            assert control is not None
            assert directory is not None
            confinement = Confinement(directory, limits, order["uid"], ruleset, outer)
            os.setsid()
            parting(control, confinement.enter if outer is not None else None, confinement.confine)()
        os.closerange(3, _LAST)  # what the zygote has open, and the way to report
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # as after execve: its own /proc is its own again
        _run(order, serve)
    except BaseException as error:  # noqa: BLE001 - it must not go on as a zygote
        with suppress(OSError):
            os.write(reporting, repr(error).encode())
        with suppress(Exception):
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(1)


def _run(order: dict[str, Any], serve: Callable[[], None]) -> NoReturn:  # forked child, confined
    os.environ.clear()
    os.environ.update(order["env"])
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - nothing is known of these pipes yet
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    try:
        serve()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)  # noqa: T201
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
