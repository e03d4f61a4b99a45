"""What a bridge makes of a child that hangs, floods, says too much or fills the disk; real processes, in isolation."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from pytest_klavis.embedded import bridge
from pytest_klavis.embedded.bridge.channel import Channel, ChannelError, RefusedError
from pytest_klavis.embedded.isolation import Limits
from pytest_klavis.embedded.isolation.supervisor import descendants
from pytest_klavis.embedded.side.first_use import FirstUse
from tests.embedded.conftest import alive, wait_until
from tests.embedded.isolation_support import Box, level_or_skip, make_box, open_folder
from tests.embedded.office import skip_without_servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_klavis.embedded.isolation import Isolation

T = TypeVar("T")


@pytest.fixture
def box() -> Iterator[Box]:
    with open_folder() as place:
        yield make_box(level_or_skip("strict"), place)


def talk(box: Box, program: str, work: Callable[[Channel], Coroutine[Any, Any, T]]) -> T:
    """Work with a channel to a program in Python."""

    async def run() -> T:
        channel = await Channel.open(await box.isolation.start(["python", "-uc", program], box.jail))
        try:
            return await asyncio.wait_for(work(channel), 60)
        finally:
            channel.end("the test is over")
            await channel.ended()

    before = descendants(os.getpid())
    found = asyncio.run(run())
    assert not [pid for pid in descendants(os.getpid()) if alive(pid) and pid not in before]
    return found


ANSWERING = """
import json, sys
def answer(result): print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}))
asked = json.loads(sys.stdin.readline())
"""


def test_what_is_no_answer_is_skipped(box: Box) -> None:
    noise = "; ".join(
        f"print({line!r})" for line in ("Loading...", "[1, 2]", "\0{", '{"id": 99, "result": 1}', "1e999")
    )
    said = talk(box, f"{ANSWERING}{noise}; answer({{'a': float('nan')}})", lambda channel: channel.request("x", {}))
    assert said == {"a": None}


def test_what_the_child_asks_is_answered(box: Box) -> None:
    program = ANSWERING + (
        "for method in ('ping', 'sampling/createMessage'): print(json.dumps({'id': method, 'method': method}))\n"
        "answer([json.loads(sys.stdin.readline()) for _ in range(2)])"
    )
    pong, refusal = talk(box, program, lambda channel: channel.request("x", {}))
    assert pong == {"jsonrpc": "2.0", "id": "ping", "result": {}}
    assert refusal["error"]["code"] == -32601


def test_what_has_a_method_is_no_answer(box: Box) -> None:
    program = ANSWERING + "print(json.dumps({'id': asked['id'], 'method': 'x', 'result': 'no'})); answer('yes')"
    assert talk(box, program, lambda channel: channel.request("x", {})) == "yes"


def test_little_of_what_the_child_asks_is_said_back(box: Box) -> None:
    program = ANSWERING + (
        "print(json.dumps({'id': 'i' * 9999, 'method': 'ping'}))\n"
        "print(json.dumps({'id': 'i', 'method': 'm' * 9999}))\n"
        "answer(json.loads(sys.stdin.readline()))"
    )
    refusal = talk(box, program, lambda channel: channel.request("x", {}))
    assert refusal["error"]["message"] == f"Method not found: {'m' * 100}"


@pytest.mark.parametrize(
    "flood",
    [
        "while True: print('x' * 9999)",
        "while True: print('x' * 9999, end='')",
        "while True: print('x' * 9999, file=sys.stderr)",
        "while True: print(json.dumps({'jsonrpc': '2.0', 'method': 'notifications/message', 'params': 'x' * 999}))",
        "while True: print(json.dumps({'jsonrpc': '2.0', 'id': 'x', 'method': 'ping'}))",
        "while True: print(json.dumps({'jsonrpc': '2.0', 'id': asked['id'], 'method': 'x' * 99999}))",
        "while True: sys.stdout.write('\\n' * 65536)",
    ],
)
def test_a_flood_ends_the_child(box: Box, flood: str) -> None:
    with pytest.raises((ChannelError, RefusedError), match=r"wrote more than|is longer than|answers unread"):
        talk(box, ANSWERING + flood, lambda channel: channel.request("x", {}))


def test_an_answer_that_is_too_long_is_an_error_and_no_end(box: Box) -> None:
    program = ANSWERING + "answer('x' * (17 << 20))\nasked = json.loads(sys.stdin.readline()); answer('fine')"

    async def work(channel: Channel) -> Any:
        with pytest.raises(RefusedError, match="longer than 4,194,304 bytes"):
            await channel.request("x", {})
        return await channel.request("x", {})

    assert talk(box, program, work) == "fine"


def test_the_end_of_a_child_says_what_it_wrote(box: Box) -> None:
    with pytest.raises(ChannelError, match="ended with exit code 7: no such thing"):
        talk(
            box,
            ANSWERING + "print('no such thing', file=sys.stderr); sys.exit(7)",
            lambda channel: channel.request("x", {}),
        )


def test_a_large_argument_to_a_child_that_reads_nothing(box: Box) -> None:
    async def work(channel: Channel) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(channel.request("x", {"text": "x" * (1 << 20)}), 0.2)

    talk(box, "import time; time.sleep(600)", work)


# -- a real server


class Executing:
    """A level that executes and does not fork, as those of other systems."""

    def __init__(self, isolation: Isolation) -> None:
        self._isolation = isolation
        self.level, self.reason, self.python = isolation.level, isolation.reason, isolation.python
        self.root, self.run, self.start = isolation.root, isolation.run, isolation.start


def serve(
    box: Box,
    limits: Limits,
    work: Callable[[bridge.Children], Coroutine[Any, Any, T]],
    isolation: Isolation | None = None,
) -> T:
    skip_without_servers()
    level = isolation or box.isolation

    async def run() -> T:
        environment = bridge.Environment(level, FirstUse(), box.isolation.place)  # type: ignore[attr-defined]
        seat = bridge.Seat(box.jail, level, limits, level.root(box.jail))
        children = bridge.Children(environment, seat, None)
        try:
            return await asyncio.wait_for(work(children), 120)
        finally:
            await children.end()
            environment.close()

    return asyncio.run(run())


def text_of(result: dict[str, Any]) -> str:
    return str(result["content"][0]["text"])


def _of(box: Box) -> list[int]:
    """The processes of a sandbox that are not bubblewrap's."""
    found = []
    for pid in descendants(os.getpid()):
        with suppress(OSError):
            program = Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0]
            mounts = Path(f"/proc/{pid}/mountinfo").read_text()
            if str(box.workspace) in mounts and program.rpartition(b"/")[2].startswith(b"python") and alive(pid):
                found.append(pid)
    return found


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_call_that_hangs_is_ended_and_the_next_one_works(box: Box) -> None:
    async def work(children: bridge.Children) -> list[dict[str, Any]]:
        await children.call("excel", "create_workbook", {"filepath": "/data/a.xlsx"})
        (pid,) = _of(box)
        os.kill(pid, signal.SIGSTOP)
        late = await children.call("excel", "create_workbook", {"filepath": "/data/b.xlsx"})
        return [late, await children.call("excel", "create_workbook", {"filepath": "/data/c.xlsx"})]

    late, fine = serve(box, Limits(wall_seconds=2), work)
    assert late["isError"]
    assert "create_workbook timed out after 2 seconds; the server excel is started anew" in text_of(late)
    assert "Created workbook" in text_of(fine)


def test_where_nothing_is_forked_servers_are_executed(box: Box) -> None:
    async def work(children: bridge.Children) -> list[str]:
        made = [
            await children.call("excel", "create_workbook", {"filepath": "/data/a.xlsx"}),
            await children.call("word", "create_document", {"filename": "/data/a.docx"}),
            await children.call("powerpoint", "create_presentation", {"id": "mine"}),
        ]
        assert all(b"Serves one upstream server" in _words(pid)[5] for pid in _of(box))
        assert len(_of(box)) == 3
        return [text_of(result) for result in made]

    made = serve(box, Limits(), work, Executing(box.isolation))
    assert "Created workbook" in made[0]
    assert "created successfully" in made[1]
    assert "mine" in made[2]


def _words(pid: int) -> list[bytes]:
    """Its command line, with something in the place of each word that there is not."""
    return [*Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"), *[b""] * 9]


def test_a_zygote_that_died_is_replaced(box: Box) -> None:
    async def work(children: bridge.Children) -> list[str]:
        said = []
        for name in "abc":
            said.append(text_of(await children.call("excel", "create_workbook", {"filepath": f"/data/{name}.xlsx"})))
            for pid in descendants(os.getpid()):
                with suppress(OSError):
                    if b"isolation.forking" in _words(pid)[5] and pid not in _of(box):
                        os.kill(pid, signal.SIGKILL)
            await children.end()
        return said

    assert all("Created workbook" in text for text in serve(box, Limits(), work))


def test_a_cancelled_call_does_not_end_the_server(box: Box) -> None:
    async def work(children: bridge.Children) -> str:
        made = text_of(await children.call("powerpoint", "create_presentation", {"id": "mine"}))
        assert "mine" in made
        task = asyncio.create_task(children.call("powerpoint", "add_slide", {"presentation_id": "mine"}))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return text_of(await children.call("powerpoint", "get_presentation_info", {"presentation_id": "mine"}))

    assert '"slide_count": 1' in serve(box, Limits(), work)


def test_a_full_workspace_is_told(box: Box) -> None:
    box.put("filling", "x" * 200_000)
    full = serve(
        box, Limits(disk=100_000), lambda children: children.call("excel", "create_workbook", {"filepath": "a"})
    )
    assert full["isError"]
    assert "the workspace may hold at most 100000 bytes" in text_of(full)


def test_frozen_servers_do_nothing_and_go_on_afterwards(box: Box) -> None:
    async def work(children: bridge.Children) -> str:
        await children.call("powerpoint", "create_presentation", {"id": "mine"})
        async with children.frozen():
            (pid,) = _of(box)
            assert _state(pid) == "T"
            call = asyncio.create_task(children.call("powerpoint", "add_slide", {"presentation_id": "mine"}))
            assert not (await asyncio.wait([call], timeout=0.2))[0]
        return text_of(await call)

    assert "slide_index" in serve(box, Limits(), work)


def test_the_list_is_asked_once_for_all_sandboxes(box: Box) -> None:
    async def work(children: bridge.Children) -> tuple[int, int]:
        listed = await children.list("word")
        await children.end()
        again = await children.list("word")  # of a server that does not run
        assert not _of(box)
        return len(listed), len(again)

    assert serve(box, Limits(), work) == (54, 54)


def test_no_call_starts_a_server_anew_behind_its_end(box: Box) -> None:
    async def work(children: bridge.Children) -> None:
        for turns in range(10):
            await children.call("excel", "create_workbook", {"filepath": f"/data/{turns}.xlsx"})
            before = asyncio.all_tasks()
            (pid,) = _of(box)
            os.kill(pid, signal.SIGKILL)
            while asyncio.all_tasks() <= before:  # noqa: ASYNC110 - one more ends it, and every turn of the loop counts
                await asyncio.sleep(0)
            call = asyncio.create_task(children.call("excel", "create_workbook", {"filepath": "/data/c.xlsx"}))
            for _ in range(turns):
                await asyncio.sleep(0)
            await children.end()
            call.cancel()
            if left := asyncio.all_tasks() - before:
                await asyncio.wait(left, timeout=2)
            assert not _of(box), f"after {turns} turns of the event loop"

    serve(box, Limits(), work)


def test_text_that_is_no_utf8_reaches_a_server_without_what_is_none(box: Box) -> None:
    made = serve(
        box,
        Limits(wall_seconds=20),
        lambda children: children.call("excel", "create_workbook", {"filepath": "/data/\ud800.xlsx"}),
    )
    assert text_of(made) == "Created workbook at /data/\ufffd.xlsx"


@pytest.mark.parametrize(("depth", "told"), [(99, False), (100, True), (900, True)])
def test_arguments_that_are_nested_too_deep_are_refused(box: Box, depth: int, told: bool) -> None:
    data: list[Any] = []
    for _ in range(depth - 1):
        data = [data]
    arguments = {"filepath": "/data/a.xlsx", "sheet_name": "Sheet1", "data": data}
    said = serve(
        box,
        Limits(wall_seconds=20),
        lambda children: children.call("excel", "write_data_to_excel", arguments),
    )
    assert ("nested more than 100 deep" in text_of(said)) == told
    assert "timed out" not in text_of(said)


def test_servers_start_again_after_the_environment_was_closed(box: Box) -> None:
    skip_without_servers()

    async def run() -> int:
        environment = bridge.Environment(box.isolation, FirstUse(), box.isolation.place)  # type: ignore[attr-defined]
        seat = bridge.Seat(box.jail, box.isolation, Limits(), "/data")
        first, later = (bridge.Children(environment, seat, None) for _ in range(2))
        before = set(descendants(os.getpid()))
        first.ahead(["excel"])
        await asyncio.to_thread(wait_until, lambda: set(descendants(os.getpid())) - before)
        await first.end()
        environment.close()
        try:
            return len(await asyncio.wait_for(later.list("excel"), 60))
        finally:
            await later.end()
            environment.close()

    assert asyncio.run(run()) == 25
