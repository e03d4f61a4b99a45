"""Tools' threads: what outlives its call changes nothing, delays nobody, and does not hold the process back."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pytest_klavis.embedded import isolation
from pytest_klavis.embedded.files import ClosedError
from pytest_klavis.embedded.sandbox import CallEnded
from pytest_klavis.embedded.sandboxes import Sandboxes
from pytest_klavis.embedded.threads import AT_ONCE, Threads
from pytest_klavis.embedded.tools import ToolContext
from pytest_klavis.embedded.tools.schema import Flavour
from pytest_klavis.rundir import RunDir

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_klavis.embedded.sandbox import Sandbox

_STUCK = """
import asyncio, time
from pytest_klavis.embedded.threads import Threads
async def main():
    call = asyncio.create_task(Threads().run(time.sleep, 120))
    await asyncio.sleep(0.2)
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()
asyncio.run(main())
"""


@pytest.fixture
def sandboxes(tmp_path: Path) -> Sandboxes:
    run = RunDir(tmp_path / "run")
    run.make()
    return Sandboxes(run, asyncio.run(isolation.choose("none")))


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - threads change it
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["reset", "release", "save"])
def test_a_thread_that_goes_on_changes_nothing_any_more(sandboxes: Sandboxes, how: str) -> None:
    made = 0
    refused: list[ClosedError] = []
    enough = threading.Event()

    def stubborn(context: ToolContext) -> str:
        nonlocal made
        while not enough.wait(0.005):
            try:
                made += 1
                context.files.write_bytes(f"{made}", b"late")
            except ClosedError as error:
                refused.append(error)
        return "done"

    tool = Flavour({"stubborn": stubborn}).tools()["stubborn"]

    async def end(sandbox: Sandbox) -> None:
        if how == "reset":
            await sandboxes.reset(sandbox)
        elif how == "release":
            sandboxes.release(sandbox)
            await sandboxes.settle()
        else:
            async with sandbox.alone("its owner is dead"):
                pass

    async def scene() -> None:
        sandbox = sandboxes.acquire(["filesystem"], {}, None, None, 60)
        call = asyncio.create_task(sandbox.call(lambda: tool.call(sandbox.context("filesystem"), {})))
        await _until(lambda: made > 3)
        ending = asyncio.create_task(end(sandbox))
        await _until(lambda: len(refused) > 3)
        files = sandbox.jail.workspace
        before = sorted(files.iterdir())
        assert not ending.done()  # it gives the thread time to end
        await ending
        with pytest.raises(CallEnded):
            await call
        count = len(refused)
        await _until(lambda: len(refused) > count + 3)
        if how == "save":
            assert sorted(files.iterdir()) == before
        elif how == "reset":
            assert list(files.iterdir()) == []
            sandbox.context("filesystem").files.write_bytes("new", b"")
            assert [path.name for path in files.iterdir()] == ["new"]
        else:
            assert not sandbox.home.exists()
        enough.set()
        await sandboxes.close()

    asyncio.run(scene())


def test_a_cancelled_call_waits_for_its_thread() -> None:
    over: list[bool] = []

    def work() -> None:
        time.sleep(0.5)
        over.append(True)

    async def scene() -> None:
        call = asyncio.create_task(Threads().run(work))
        await asyncio.sleep(0.1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert over

    asyncio.run(scene())


def test_few_run_at_once_and_those_of_others_are_not_in_the_way() -> None:
    go = threading.Event()

    async def scene() -> None:
        busy, free = Threads(), Threads()
        calls = [asyncio.create_task(busy.run(go.wait, 20)) for _ in range(AT_ONCE)]
        late = asyncio.create_task(busy.run(len, "four"))
        assert await asyncio.wait_for(free.run(len, "12345"), 5) == 5
        assert await asyncio.wait_for(asyncio.to_thread(len, "123456"), 5) == 6  # a reset, a dump
        await asyncio.sleep(0.1)
        assert not late.done()
        go.set()
        assert await late == 4
        assert all(await asyncio.gather(*calls))
        with pytest.raises(ZeroDivisionError):
            await busy.run(lambda: 1 // 0)

    asyncio.run(scene())


def test_a_thread_that_is_stuck_does_not_keep_the_process() -> None:
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", _STUCK], check=True, timeout=60)
    assert time.monotonic() - start < 30
