"""Runs one prepared command from the event loop: output with a cap, limits of time and disk, cancellation.

Knows nothing of levels: each brings a function that starts the command, and a `Started` to end it by.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import resource
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pytest_klavis.embedded.isolation import disk, syscalls
from pytest_klavis.embedded.isolation.model import BadCommandError, Completed, IsolationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_klavis.embedded.isolation.model import Jail
    from pytest_klavis.limits import Limits

TRUNCATED = b"\n[... truncated ...]\n"
NO_ROOM = b"\n[the workspace is over its disk limit: files could only be removed]\n"
_CHUNK = 1 << 16
_NO_CORE = (1, 1)  # bytes: no file, and unlike with 0 no handler of core_pattern is run for it either
_FLOOD = 64  # times the cap: nobody reads that, it only burns CPU
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_CANNOT_EXECUTE, _NOT_FOUND, _KILLED = 126, 127, 128 + 9


class Started(Protocol):
    """A command on its way."""

    @property
    def pid(self) -> int:
        """The process that everything of the command is a descendant of."""
        ...

    @property
    def ended(self) -> int | None:
        """A descriptor that becomes readable when the command has ended; None where there is no such thing (macOS)."""
        ...

    def over(self) -> bool:
        """Has it ended?"""
        ...

    def kill(self) -> None:
        """End the command and all that it started. Returns at once; may be called again."""
        ...

    def finish(self) -> int:
        """Wait until nothing of it is left; the exit code as a shell shows it. Raises IsolationError."""
        ...


@dataclass(frozen=True)
class Streams:
    """Descriptors for the command."""

    stdin: int
    stdout: int
    stderr: int


def check_command(argv: Sequence[str], env: Mapping[str, str] | None) -> None:
    """Refuse what execve could not take. Raises BadCommandError."""
    if isinstance(argv, str) or not argv or not argv[0]:
        raise BadCommandError(f"argv must be a list with a program first, not {argv!r}")
    try:
        for text in (*argv, *(env or {}), *(env or {}).values()):
            if b"\0" in os.fsencode(text):
                raise BadCommandError("an argument or a variable of the environment has a NUL byte in it")
    except UnicodeEncodeError as error:
        raise BadCommandError(f"an argument or a variable cannot be encoded: {error}") from error
    for name in env or {}:
        if not _NAME.match(name):
            raise BadCommandError(f"{name!r} is no name for a variable of the environment")


def resource_limits(limits: Limits, processes: int | None) -> list[tuple[int, tuple[int, int]]]:
    """The arguments of setrlimit. `processes`: how many the command's user may have, None for no limit."""
    wanted = [
        (resource.RLIMIT_CORE, *_NO_CORE),
        (resource.RLIMIT_CPU, limits.cpu_seconds, limits.cpu_seconds + 1),
        (resource.RLIMIT_FSIZE, limits.file_size, limits.file_size),
        (resource.RLIMIT_NOFILE, limits.open_files, limits.open_files),
    ]
    if syscalls.LINUX:  # macOS does not enforce it
        wanted.append((resource.RLIMIT_AS, limits.memory, limits.memory))
    if processes is not None:
        wanted.append((resource.RLIMIT_NPROC, processes, processes))
    chosen = []
    for kind, soft, hard in wanted:
        ceiling = resource.getrlimit(kind)[1]
        if ceiling == resource.RLIM_INFINITY:
            chosen.append((kind, (soft, hard)))
        else:
            chosen.append((kind, (min(soft, ceiling), min(hard, ceiling))))
    return chosen


def data_file(data: bytes) -> int:
    """A descriptor to read `data` from, without a name anywhere. To be closed by the caller."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("data")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


class _Capture:
    """Reads one stream as it comes and keeps its head."""

    def __init__(self, loop: asyncio.AbstractEventLoop, cap: int, flooded: Callable[[], None]) -> None:
        self._loop, self._cap, self._flooded = loop, cap, flooded
        self._fd, self.write_end = os.pipe()
        self._open = True
        self._kept = bytearray()
        self._total = 0
        os.set_blocking(self._fd, False)
        loop.add_reader(self._fd, self.read)

    def read(self) -> bool:
        """Read what is there, at most a few chunks. True when there may be more."""
        for _ in range(8):
            try:
                data = os.read(self._fd, _CHUNK)
            except BlockingIOError:
                return False
            if not data:
                self._loop.remove_reader(self._fd)
                return False
            self._total += len(data)
            self._kept += data[: self._cap - len(self._kept)]
            if self._total > self._cap * _FLOOD:
                self._flooded()
        return True

    def close(self) -> bytes:
        """What was kept, after everybody who could write is gone."""
        while self.read():
            pass
        self.discard()
        return bytes(self._kept) + (TRUNCATED if self._total > self._cap else b"")

    def discard(self) -> None:
        if self._open:
            self._open = False
            self._loop.remove_reader(self._fd)
            os.close(self._fd)


async def run(
    start: Callable[[Streams], Started],
    jail: Jail,
    *,
    timeout: float | None,  # noqa: ASYNC109
    limits: Limits,
    stdin: bytes,
) -> Completed:
    """Start a command and stay with it to the end.

    start: starts the command on the given descriptors. jail: what is in it counts against `limits.disk`.
    timeout: seconds of wall clock time; replaces `limits.wall_seconds`. Raises IsolationError.
    """
    return await _Run(jail, limits).complete(start, limits.wall_seconds if timeout is None else timeout, stdin)


class _Run:
    def __init__(self, jail: Jail, limits: Limits) -> None:
        self._watch, self._limits = (jail.workspace, jail.scratch), limits
        self._command: Started | None = None
        self._stopped: str | None = None

    def _stop(self, why: str) -> None:
        if self._stopped is None and self._command is not None:
            self._stopped = why
            self._command.kill()

    async def complete(self, start: Callable[[Streams], Started], seconds: float, stdin: bytes) -> Completed:
        loop = asyncio.get_running_loop()
        began = time.monotonic()
        with ExitStack() as stack:
            streams = []
            for _ in range(2):
                capture = _Capture(loop, self._limits.output, lambda: self._stop("output"))
                stack.callback(capture.discard)
                streams.append(capture)
            try:
                with explained():
                    self._command = self._start(start, streams, stdin)
            except FileNotFoundError as error:
                return _not_run(_NOT_FOUND, error, began)
            except OSError as error:
                return _not_run(_CANNOT_EXECUTE, error, began)
            try:
                await self._wait(self._command, seconds)
            except BaseException:  # a cancellation, mostly
                self._command.kill()
                self._command.finish()  # without giving way: a second cancellation must not leave anything behind
                raise
            code = self._command.finish()
            out, err = (capture.close() for capture in streams)
            if code and self._limits.file_size <= disk.SCRAP:
                err += NO_ROOM
        took = time.monotonic() - began
        return Completed(_KILLED if self._stopped else code, out, err, took, self._stopped)

    @staticmethod
    def _start(start: Callable[[Streams], Started], captures: list[_Capture], stdin: bytes) -> Started:
        with ExitStack() as ours:
            for capture in captures:
                ours.callback(os.close, capture.write_end)
            given = data_file(stdin) if stdin else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            ours.callback(os.close, given)
            return start(Streams(given, captures[0].write_end, captures[1].write_end))

    async def _wait(self, command: Started, seconds: float) -> None:
        """Until the command has ended; meanwhile look at the clock and the disk."""
        loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            stack.callback(loop.call_later(max(seconds, 0), self._stop, "timeout").cancel)
            ended = stack.enter_context(awaited(command))
            overflow = loop.create_task(disk.Watch(self._watch, self._limits.disk).overflow(command.pid))
            stack.callback(overflow.cancel)
            await asyncio.wait([ended, overflow], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                overflow.result()
                self._stop("disk")
                await ended


@contextmanager
def awaited(command: Started) -> Iterator[asyncio.Future[None]]:
    """A future that is done when the command has ended. To be left before `Started.finish`."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    if (descriptor := command.ended) is None:
        poll = loop.create_task(_poll(command, ended))
        try:
            yield ended
        finally:
            poll.cancel()
        return

    def set_ended() -> None:
        loop.remove_reader(descriptor)  # it stays readable
        if not ended.done():
            ended.set_result(None)

    loop.add_reader(descriptor, set_ended)
    try:
        yield ended
    finally:
        loop.remove_reader(descriptor)


async def _poll(command: Started, ended: asyncio.Future[None]) -> None:
    while not command.over():  # noqa: ASYNC110 - where there is no descriptor to wait for
        await asyncio.sleep(0.01)
    ended.set_result(None)


@contextmanager
def explained() -> Iterator[None]:
    """Why nothing was started, where that is not the program's fault: IsolationError, BadCommandError.

    What execve says of the program itself stays an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.E2BIG:
            raise BadCommandError("argv and the environment are longer than the kernel takes") from error
        if error.filename is None:  # not from execve: the machine has no more processes or descriptors
            raise IsolationError(f"no process could be started: {error}") from error
        raise
    except subprocess.SubprocessError as error:
        raise IsolationError(
            f"the command could not be confined and was not run ({error}); see the server's log"
        ) from error


def _not_run(code: int, error: OSError, began: float) -> Completed:
    reason = "not found" if error.errno == errno.ENOENT else os.strerror(error.errno or 0)
    text = f"{os.fsdecode(error.filename)}: {reason}\n"
    return Completed(code, b"", text.encode(errors="surrogateescape"), time.monotonic() - began)
