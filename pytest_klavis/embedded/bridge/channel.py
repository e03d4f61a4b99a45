"""JSON-RPC over the stdin and stdout of a child: requests and their answers. Knows nothing of MCP or of sandboxes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_klavis.embedded.isolation import Running

LINE = 4 << 20  # bytes of one answer
FLOOD = 32 << 20  # bytes of what is no answer, between two requests
_LINE_COST = 256  # bytes that any line counts besides its own: an empty one is work too
_SLICE = 1000  # lines that are handled before others have a turn on the event loop
_CHUNK = 1 << 16  # bytes of stdout that are taken at once
_UNREAD = 1 << 20  # bytes of answers to what the child asked that it may leave unread
_ECHO = 100  # characters of the child's that are said back to it
_TAIL = 4096  # bytes of stderr that are kept
_ASIDE = 1 << 18  # bytes of a line that are not parsed on the event loop
_METHOD_NOT_FOUND = -32601


class ChannelError(Exception):
    """The child is gone, or was ended; the text says why. It gives no answer any more."""


class RefusedError(Exception):
    """The child answered with a JSON-RPC error."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class Channel:
    """Talks to one child until either side ends it. Belongs to the thread of the event loop."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._next = 0
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._noise = 0
        self._sent = 0  # bytes of the last request
        self._listening: asyncio.Task[None] | None = None
        self._tail = bytearray()
        self._why: str | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._transports: list[asyncio.BaseTransport] = []
        self._ending: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, running: Running) -> Channel:
        """Takes over a child that was just started."""
        channel = cls(running)
        loop = asyncio.get_running_loop()
        try:
            answers = asyncio.StreamReader(limit=_CHUNK)  # reads no further than this ahead of who listens
            listening = asyncio.StreamReaderProtocol(answers)
            channel._transports.append((await loop.connect_read_pipe(lambda: listening, running.stdout))[0])
            keeping = _Keeping(channel._keep)
            channel._transports.append((await loop.connect_read_pipe(lambda: keeping, running.stderr))[0])
            writing, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, running.stdin)
            channel._writer = asyncio.StreamWriter(writing, protocol, None, loop)
            channel._transports.append(writing)
            channel._listening = loop.create_task(channel._listen(answers))
        except BaseException:
            channel.end("it was not wanted any more")
            with contextlib.suppress(asyncio.CancelledError):
                await channel.ended()
            raise
        return channel

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that everything of the child is a descendant of."""
        return self._running.pids

    @property
    def why(self) -> str | None:
        """Why there is no child any more; None while there is one."""
        return self._why

    @property
    def said(self) -> str:
        """The last of what the child wrote to stderr."""
        return self._tail.decode(errors="replace").strip()

    async def request(self, method: str, params: dict[str, Any]) -> Any:
        """The result. Raises ChannelError, RefusedError."""
        if self._why is not None:
            raise ChannelError(self._why)
        self._next += 1
        number, self._noise = self._next, 0
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[number] = answered
        try:
            await self._send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
            return await answered
        finally:
            self._pending.pop(number, None)

    async def notify(self, method: str) -> None:
        """Raises ChannelError."""
        await self._send({"jsonrpc": "2.0", "method": method})

    async def freeze(self) -> None:
        """Stop the child where it is, until `thaw`; one that cannot be stopped is ended."""
        if self._why is None and not await self._running.freeze():
            self.end("it could not be held still")
            await self.ended()

    def thaw(self) -> None:
        if self._why is None:
            self._running.thaw()

    def end(self, why: str = "") -> None:
        """End the child. `why` is empty when it is thought to have ended by itself. Returns at once."""
        if self._ending is None:
            self._why = why or "it ended"
            if why:
                self._running.kill()
            self._ending = asyncio.get_running_loop().create_task(self._end(by_itself=not why))

    async def ended(self) -> None:
        """Returns when nothing of the child is left. Raises IsolationError when it could not be ended."""
        if self._ending is not None:
            await asyncio.shield(self._ending)

    async def _end(self, *, by_itself: bool) -> None:
        if by_itself:
            with_grace = asyncio.create_task(self._running.ended())
            await asyncio.wait([with_grace], timeout=1)  # it closed its output: its exit code is on the way
            with_grace.cancel()
            self._running.kill()
        for transport in self._transports:
            if isinstance(transport, asyncio.WriteTransport):
                if not transport.is_closing():
                    transport.abort()  # without waiting for what it has not read
            else:
                transport.close()
        try:
            code = await self._running.finish()
            if by_itself:
                self._why = f"it ended with exit code {code}" + (f": {self.said[-1000:]}" if self.said else "")
        finally:
            for answered in self._pending.values():
                if not answered.done():
                    answered.set_exception(ChannelError(self._why or ""))

    async def _send(self, message: dict[str, Any]) -> None:
        if self._writer is None or self._why is not None:
            raise ChannelError(self._why or "it has not started")
        line = json.dumps(message, allow_nan=False).encode() + b"\n"
        self._sent = len(line)
        self._writer.write(line)
        try:
            await self._writer.drain()
        except OSError:
            await self.ended()
            raise ChannelError(self._why) from None

    def _keep(self, data: bytes) -> None:
        self._tail += data
        del self._tail[:-_TAIL]
        self._make_noise(len(data))

    async def _listen(self, answers: asyncio.StreamReader) -> None:
        """Take what the child writes to stdout, line by line, until either side ends it."""
        rest, skipping, count = bytearray(), False, 0
        while self._why is None and (data := await _read(answers)):
            *lines, begun = data.split(b"\n")
            for line in lines:
                if skipping:
                    skipping = False
                    self._make_noise(len(line) + _LINE_COST)
                else:
                    await self._take(bytes(rest + line))
                rest.clear()
                count += 1
                if count % _SLICE == 0:
                    await asyncio.sleep(0)
                if self._why is not None:
                    return
            if skipping:
                self._make_noise(len(begun))
                continue
            rest += begun
            if len(rest) > LINE:
                self._make_noise(len(rest))
                self._too_long()
                rest, skipping = bytearray(), True
        self.end()

    def _make_noise(self, count: int) -> None:
        """Count what is no answer, in bytes."""
        self._noise += count
        if self._noise > FLOOD:
            self.end(f"it wrote more than {FLOOD:,} bytes that were no answer")

    async def _take(self, line: bytes) -> None:
        """An answer, a request of the child's, or noise: some servers print to stdout."""
        size = len(line) + _LINE_COST
        self._make_noise(size)  # an answer gives it back
        if self._why is not None or not line.strip():
            return
        message = await asyncio.to_thread(_parse, line) if len(line) > _ASIDE else _parse(line)
        if not isinstance(message, dict):
            return
        if "method" in message:
            self._decline(message)
        elif self._answer(message):
            self._noise -= size

    def _answer(self, message: dict[str, Any]) -> bool:
        """Hand on the answer to a request. Is it one?"""
        number = message.get("id")
        answered = self._pending.get(number) if isinstance(number, int) else None
        if answered is None or answered.done():
            return False
        if "error" in message:
            error = message["error"] if isinstance(message["error"], dict) else {}
            code = error.get("code")
            text = str(error.get("message", "no reason given"))
            answered.set_exception(RefusedError(code if isinstance(code, int) else -32603, text, error.get("data")))
        elif "result" in message:
            answered.set_result(message["result"])
        return answered.done()

    def _too_long(self) -> None:
        """A line that nobody wants to hold in memory: it may be the answer to any request."""
        for answered in self._pending.values():
            if not answered.done():
                answered.set_exception(RefusedError(-32603, f"the answer is longer than {LINE:,} bytes; ask for less"))

    def _decline(self, message: dict[str, Any]) -> None:
        """Answer what the child asks of its client: it gets a pong, and nothing else. A notification gets no answer."""
        number, method = message.get("id"), message["method"]
        if not isinstance(number, int | str) or len(str(number)) > _ECHO or not isinstance(method, str):
            return
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": number}
        if method == "ping":
            answer["result"] = {}
        else:
            answer["error"] = {"code": _METHOD_NOT_FOUND, "message": f"Method not found: {method[:_ECHO]}"}
        if self._writer is None or self._why is not None:
            return
        self._writer.write(json.dumps(answer).encode() + b"\n")
        if self._writer.transport.get_write_buffer_size() > self._sent + _UNREAD:
            self.end(f"it left more than {_UNREAD:,} bytes of answers unread")


class _Keeping(asyncio.Protocol):
    """Hands on what is read."""

    def __init__(self, keep: Callable[[bytes], None]) -> None:
        self._keep = keep

    def data_received(self, data: bytes) -> None:
        self._keep(data)


async def _read(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.read(_CHUNK)
    except OSError:
        return b""


def _parse(line: bytes) -> Any:
    """JSON, or None for what is none. Numbers that JSON does not have become null."""
    try:
        return json.loads(line, parse_constant=lambda _: None, parse_float=_finite)
    except (ValueError, RecursionError):
        return None


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None
