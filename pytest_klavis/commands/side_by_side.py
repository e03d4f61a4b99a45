"""Several pieces of work at once, in threads that Ctrl-C does not wait for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

THREADS = 8

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def side_by_side(work: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> Iterator[tuple[ItemT, ResultT]]:
    """Each item with the result of `work`, as they come. The first error that `work` raises is raised here."""
    waiting: queue.SimpleQueue[ItemT] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[ItemT, ResultT] | BaseException] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)

    def go_on() -> None:
        while True:
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((item, work(item)))
            except BaseException as error:  # noqa: BLE001  whoever waits gets it
                done.put(error)
                return

    for _ in range(min(THREADS, len(items))):
        threading.Thread(target=go_on, name="reap", daemon=True).start()
    for _ in items:
        result = done.get()
        if isinstance(result, BaseException):
            raise result
        yield result
