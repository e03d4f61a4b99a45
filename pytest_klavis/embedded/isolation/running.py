"""A long-lived command: its streams, and how it is ended. What is said over the streams is not decided here."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from pytest_klavis.embedded.isolation.model import Completed, IsolationError
from pytest_klavis.embedded.isolation.runner import Started, Streams, awaited, explained
from pytest_klavis.embedded.isolation.supervisor import descendants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_ROUNDS = 500  # looks at its processes until all must be still
_PATIENCE = 10  # seconds until a command that says when it is ready must have said so


class Running:
    """A command that lives until it ends by itself, is killed, or the server dies.

    `stdin`, `stdout` and `stderr` are our ends of its pipes, unbuffered, for the transports of the event loop; `finish`
    closes them. Everything here belongs to the thread of the event loop.
    """

    def __init__(self, command: Started, stdin: BinaryIO, stdout: BinaryIO, stderr: BinaryIO) -> None:
        self._command = command
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr
        self._waiting = ExitStack()
        self._ended = self._waiting.enter_context(awaited(command))
        self._code: int | None = None

    @classmethod
    def launch(cls, start: Callable[[Streams], Started], program: str) -> Running:
        """Start a command on pipes of its own. Raises IsolationError, BadCommandError."""
        with on_pipes(program) as (streams, running):
            return running(start(streams))

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that everything of the command is a descendant of."""
        return (self._command.pid, *getattr(self._command, "also", ()))

    def over(self) -> bool:
        """Has it ended?"""
        return self._code is not None or self._command.over()

    def kill(self) -> None:
        """End the command and all that it started. Returns at once; may be called again."""
        if self._code is None:
            self._command.kill()

    async def first_byte(self) -> None:
        """Read one byte of its output, before anybody else does. Raises IsolationError when it ends without one."""
        if not await readable(self.stdout.fileno(), _PATIENCE):
            raise IsolationError(f"a command said nothing for {_PATIENCE} s")
        if not self.stdout.read(1):
            os.set_blocking(self.stderr.fileno(), False)
            said = (self.stderr.read() or b"").decode(errors="replace").strip()[-2000:]
            raise IsolationError(f"a command ended before it had begun: {said}")

    async def completed(self, timeout: float) -> Completed:  # noqa: ASYNC109 - it is killed then
        """Wait for its end, or kill it after so many seconds: what came of a command that says little."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(timeout):
                await self.ended()
            stopped = None
        except TimeoutError:
            self.kill()
            await self.ended()
            stopped = "timeout"
        said = []
        for stream in (self.stdout, self.stderr):
            os.set_blocking(stream.fileno(), False)
            said.append(stream.read(1 << 16) or b"")
        return Completed(await self.finish(), said[0], said[1], time.monotonic() - began, stopped)

    async def freeze(self) -> bool:
        """Stop all its processes where they are, until `thaw`; False when they multiply too fast for that."""
        for _ in range(_ROUNDS):
            awake = [pid for pid in self._inside() if not _is_still(pid)]
            if not awake:
                return True
            _signal(awake, signal.SIGSTOP)
            await asyncio.sleep(0.001)
        return False

    def thaw(self) -> None:
        """Let them go on."""
        if not self.over():
            _signal(self._inside(), signal.SIGCONT)

    def _inside(self) -> list[int]:
        """Its processes, without those of ours that watch them."""
        own = getattr(self._command, "inside", ())
        return [*own, *(below for pid in self.pids for below in descendants(pid))]

    async def ended(self) -> None:
        """Returns when the command has ended, by itself or by `kill`."""
        if self._code is None:
            await asyncio.shield(self._ended)

    async def finish(self) -> int:
        """Wait until nothing of it is left; the exit code as a shell shows it. May be called again.

        When this is cancelled, the command is killed and waited for all the same. Raises IsolationError.
        """
        try:
            await self.ended()
        except asyncio.CancelledError:
            self.end()
            raise
        return self._finish()

    def end(self) -> int:
        """Kill it and wait until nothing of it is left, without giving way. Raises IsolationError."""
        self.kill()
        return self._finish()

    def _finish(self) -> int:
        if self._code is None:
            self._code = -1
            self._waiting.close()
            for stream in (self.stdin, self.stdout, self.stderr):
                stream.close()
            self._code = self._command.finish()
        return self._code


def _is_still(pid: int) -> bool:
    """Is it stopped, or dead?"""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in b"TtZX"
    except OSError:
        return True


def _signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


async def readable(fd: int, patience: float) -> bool:
    """Wait until there is something to read, or its end; False when that takes more than `patience` seconds."""
    loop = asyncio.get_running_loop()
    there = asyncio.Event()
    loop.add_reader(fd, there.set)
    try:
        async with asyncio.timeout(patience):
            await there.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
    return True


@contextmanager
def on_pipes(program: str) -> Iterator[tuple[Streams, Callable[[Started], Running]]]:
    """Streams to start a command on, and what makes it a `Running`. Raises IsolationError, BadCommandError."""
    with ExitStack() as ours, ExitStack() as theirs:
        try:
            stdin, our_stdin = _pipe(theirs, ours, "wb")
            stdout, our_stdout = _pipe(theirs, ours, "rb")
            stderr, our_stderr = _pipe(theirs, ours, "rb")

            def running(command: Started) -> Running:
                made = Running(command, our_stdin, our_stdout, our_stderr)
                ours.pop_all()
                return made

            with explained():
                yield Streams(stdin, stdout, stderr), running
        except OSError as error:
            raise IsolationError(f"{program} could not be started: {error}") from error


def _pipe(theirs: ExitStack, ours: ExitStack, mode: str) -> tuple[int, BinaryIO]:
    """The command's end and ours, each closed by its stack."""
    reading, writing = os.pipe()
    their_end, our_end = (reading, writing) if mode == "wb" else (writing, reading)
    theirs.callback(os.close, their_end)
    return their_end, ours.enter_context(cast("BinaryIO", os.fdopen(our_end, mode, 0)))
