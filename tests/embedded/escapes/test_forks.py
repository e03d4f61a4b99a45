"""What is forked into a sandbox is kept in as well as what is executed there: the attacks of `escapes`, from a fork."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_klavis.embedded.isolation import Completed, Limits
from pytest_klavis.embedded.isolation.model import Forking, IsolationError
from pytest_klavis.embedded.isolation.supervisor import descendants
from pytest_klavis.embedded.isolation.warm import Zygote
from tests.embedded.conftest import alive, wait_until
from tests.embedded.escapes import test_bombs, test_files, test_kernel, test_network, test_processes
from tests.embedded.escapes.support import Attack, Target, new_target
from tests.embedded.isolation_support import Box, level, level_or_skip, make_box, open_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux forks into sandboxes")

SCRIPT = "pytest_klavis.embedded.isolation.forking:script"
# One zygote for all attacks: each comes in the environment of its fork.
READ = "import os, sys; sys.argv = ['-c']; exec(compile(os.environ.pop('PROGRAM'), '<attack>', 'exec'))"

ATTACKS: dict[str, Attack] = {
    f"{module.__name__.rpartition('_')[2]}: {name}": attack
    for module in (test_files, test_kernel, test_network, test_processes)
    for name, attack in module.ATTACKS.items()
}


@dataclass
class ForkedBox(Box):
    """A sandbox whose Python programs are forked into it."""

    runner: asyncio.Runner
    zygote: Zygote

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        if list(argv[:2]) != ["python", "-c"]:
            return super().run(argv, **options)
        return self.runner.run(self._fork(argv[2], **options))

    async def _fork(
        self,
        code: str,
        *,
        env: dict[str, str] | None = None,
        limits: Limits | None = None,
        timeout: float = 60,  # noqa: ASYNC109
    ) -> Completed:
        assert isinstance(self.isolation, Forking)
        known = {"PROGRAM": code, **(env or {})}
        running = await self.isolation.fork(self.zygote, self.jail, env=known, limits=limits or Limits())
        running.stdin.close()
        return await running.completed(timeout)


@contextmanager
def zygote_of(name: str, code: str = READ) -> Iterator[tuple[asyncio.Runner, Zygote]]:
    isolation = level_or_skip(name)
    with asyncio.Runner() as runner:

        async def ready() -> Zygote:
            python = str(isolation.interpreter.executable)  # type: ignore[attr-defined]
            zygote = Zygote(python, SCRIPT, [code], {"OF_THE_ZYGOTE": "1"})
            await zygote.ready(60)
            return zygote

        zygote = runner.run(ready())
        yield runner, zygote
        zygote.close()


@pytest.fixture(scope="module", params=["strict", "landlock"])
def warm(request: pytest.FixtureRequest) -> Iterator[tuple[str, asyncio.Runner, Zygote]]:
    with zygote_of(request.param) as (runner, zygote):
        yield request.param, runner, zygote


@pytest.fixture
def target(warm: tuple[str, asyncio.Runner, Zygote]) -> Iterator[Target]:
    name, runner, zygote = warm
    with open_folder() as place, new_target(name, place) as target:
        target.box = ForkedBox(target.box.isolation, target.box.jail, runner, zygote)
        yield target


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(target: Target, name: str) -> None:
    attack, at = ATTACKS[name], target.box.isolation.level
    if name == "processes: signal everybody" and at == "strict":
        target.attack(attack.program)
        target.is_untouched()  # it reaches what keeps up its namespaces, and ends with that
    elif not attack.is_gap(at):
        target.resists(attack)


def test_the_attacks_do_run(target: Target) -> None:
    assert target.attack("open('x', 'w').write('y'); print(open('x').read())").strip() == "y"


@pytest.mark.parametrize("name", ["forks", "threads", "open files", "memory", "a file"])
def test_bomb(target: Target, name: str) -> None:
    test_bombs.test_bomb(target, name)


# Without the one that starts sys.executable: that is the zygote's, outside.
@pytest.mark.parametrize("name", sorted(set(test_processes.SURVIVORS) - {"nohup"}))
def test_nothing_survives(target: Target, name: str) -> None:
    test_processes.survive(target, name)


def test_no_privilege_is_left(target: Target) -> None:
    test_processes.test_no_privilege_is_left(target)


def test_descriptors_are_not_inherited(target: Target) -> None:
    test_processes.test_descriptors_are_not_inherited(target)
    assert "ESCAPED" not in target.attack(
        "for fd in range(3, 512):\n    try: os.fstat(fd); print('ESCAPED', fd)\n    except OSError: pass"
    )


def test_the_hosts_own_files(target: Target) -> None:
    test_files.test_the_hosts_own_files(target)
    # Its own program is a file of the machine that is not on a read-only mount: there must be no way to write to it.
    said = target.attack(
        "import errno\ntry: os.open('/proc/self/exe', os.O_WRONLY)\nexcept OSError as error: print(error.errno)"
    )
    assert int(said) == (errno.ENOENT if target.box.isolation.level == "strict" else errno.EACCES)


def test_the_environment_is_the_commands_own(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLAVIS_API_KEY", "KLAVIS-TOKEN")
    said = target.box.python("import os, subprocess; print(sorted(os.environ)); subprocess.run(['env'])")
    assert b"KLAVIS" not in said.stdout
    assert b"OF_THE_ZYGOTE" not in said.stdout
    assert b"HOME" in said.stdout
    who = "import os; print(os.getuid(), os.getgid(), os.getgroups(), os.umask(0), os.getpriority(0, 0), os.getcwd())"
    executed = Box.run(target.box, ["python3", "-c", who])
    assert executed.exit_code == 0
    assert target.box.python(who).stdout == executed.stdout


# -- ends


BEAT = """
import os, time
while True:
    with open("beat", "a") as file:
        file.write("x")
    time.sleep(0.01)
"""


@pytest.fixture(params=["strict", "landlock", "none"])
def beating(request: pytest.FixtureRequest) -> Iterator[tuple[Box, asyncio.Runner, Zygote]]:
    with open_folder() as place, zygote_of(request.param, BEAT) as (runner, zygote):
        yield make_box(level(request.param), place), runner, zygote


def test_kill_ends_it(beating: tuple[Box, asyncio.Runner, Zygote]) -> None:
    box, runner, zygote = beating

    async def work() -> int:
        assert isinstance(box.isolation, Forking)
        running = await box.isolation.fork(zygote, box.jail)
        await _beats(box)
        running.kill()
        return await running.finish()

    assert runner.run(work()) == 128 + signal.SIGKILL
    assert not box.still_grows("beat")
    assert _children_of(zygote) == []


def test_a_fork_that_is_not_wanted_any_more_is_gone(beating: tuple[Box, asyncio.Runner, Zygote]) -> None:
    box, runner, zygote = beating

    async def work() -> None:
        assert isinstance(box.isolation, Forking)
        task = asyncio.create_task(box.isolation.fork(zygote, box.jail))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        end = time.monotonic() + 20
        while _children_of(zygote):
            assert time.monotonic() < end
            await asyncio.sleep(0.01)
        running = await box.isolation.fork(zygote, box.jail)  # its answer is its own
        await _beats(box)
        running.end()

    runner.run(work())
    assert not box.still_grows("beat")


def test_forks_are_ended_though_their_zygote_was_killed(beating: tuple[Box, asyncio.Runner, Zygote]) -> None:
    box, runner, zygote = beating

    async def work() -> None:
        assert isinstance(box.isolation, Forking)
        running = await box.isolation.fork(zygote, box.jail)
        await _beats(box)
        os.kill(zygote.pid, signal.SIGKILL)
        with pytest.raises(IsolationError):
            await box.isolation.fork(zygote, box.jail)
        running.kill()
        await running.finish()

    runner.run(work())
    assert not box.still_grows("beat")


def test_forks_end_while_their_zygote_is_dying(beating: tuple[Box, asyncio.Runner, Zygote]) -> None:
    """Until that is gone nobody but it can reap them."""
    box, runner, zygote = beating

    async def work() -> int:
        assert isinstance(box.isolation, Forking)
        running = await box.isolation.fork(zygote, box.jail)
        await _beats(box)
        os.kill(zygote.pid, signal.SIGSTOP)
        threading.Timer(0.3, os.kill, (zygote.pid, signal.SIGKILL)).start()
        running.kill()
        return await running.finish()

    assert runner.run(work()) == 128 + signal.SIGKILL
    assert not box.still_grows("beat")


async def _beats(box: Box) -> None:
    end = time.monotonic() + 20
    beat = box.workspace / "beat"
    while not beat.exists() or not beat.stat().st_size:
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def _children_of(zygote: Zygote) -> list[int]:
    return [pid for pid in descendants(zygote.pid) if alive(pid)]


SERVER = """
import asyncio, sys
from pathlib import Path
from pytest_klavis.embedded.isolation import Jail, choose
from pytest_klavis.embedded.isolation.warm import Zygote
async def main():
    isolation = await choose(sys.argv[1])
    zygote = Zygote(str(isolation.interpreter.executable), sys.argv[5], [sys.argv[6]])
    await zygote.ready(60)
    running = await isolation.fork(zygote, Jail(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]) or None))
    print(zygote.pid, flush=True)
    await running.ended()
asyncio.run(main())
"""


@pytest.mark.parametrize("name", ["strict", "landlock", "none"])
def test_forks_and_zygote_end_with_the_server(name: str) -> None:
    with open_folder() as place:
        box = make_box(level_or_skip(name), place)
        argv = [name, str(box.jail.workspace), str(box.jail.scratch), str(box.jail.uid or 0), SCRIPT, BEAT]
        server = subprocess.Popen([sys.executable, "-c", SERVER, *argv], stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        zygote = int(server.stdout.readline())
        wait_until((box.workspace / "beat").exists)
        server.kill()
        server.wait()
        server.stdout.close()
        wait_until(lambda: not alive(zygote))
        wait_until(lambda: not box.still_grows("beat"))


def test_a_zygote_that_cannot_load_is_told_of() -> None:
    isolation = level_or_skip("landlock")

    async def start() -> None:
        zygote = Zygote(str(isolation.interpreter.executable), "no_such_module:nothing")  # type: ignore[attr-defined]
        try:
            await zygote.ready(60)
        finally:
            zygote.close()

    with pytest.raises(IsolationError, match="has ended"):
        asyncio.run(start())
