"""The threads in which one sandbox's tools work with files, apart from those that reset, dump and remove."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
AT_ONCE = 4
PATIENCE = 5.0  # seconds that a cancelled call waits for its thread; less than who cancels waits for the call


class Threads:
    """A thread per call, few at once.

    They are daemons: neither the end of the event loop nor that of the process waits for one that is stuck.
    """

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(AT_ONCE)

    async def run(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """What `function` returns or raises. When this is cancelled, the thread may come to its end first."""
        job: Future[T] = Future()

        def work() -> None:
            try:
                outcome = function(*arguments, **named)
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                job.set_exception(error)
            else:
                job.set_result(outcome)

        await self._places.acquire()
        done = asyncio.wrap_future(job)
        done.add_done_callback(lambda _: self._places.release())
        threading.Thread(target=work, name="tool", daemon=True).start()
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            await asyncio.wait([done], timeout=PATIENCE)
            raise
