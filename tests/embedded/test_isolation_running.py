"""Commands that are talked to for as long as they live, and what is shown to commands besides, at each level."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_klavis.embedded.isolation import IsolationError, Limits, Running
from pytest_klavis.embedded.isolation.supervisor import descendants
from tests.embedded.conftest import alive, wait_until
from tests.embedded.isolation_support import Box, level_or_skip, make_box, open_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the levels are Linux's")

# Says each line back, after it has started a daemon that beats into a file.
ECHO = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    while True:
        with open("beat", "a") as file:
            file.write("x")
        time.sleep(0.01)
while not os.path.exists("beat"):
    time.sleep(0.005)
for line in sys.stdin:
    print(line.strip().upper(), sorted(os.environ), flush=True)
print("bye", file=sys.stderr)
sys.exit(7)
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.fixture(params=["strict", "landlock", "none"])
def box(request: pytest.FixtureRequest, place: Path) -> Box:
    return make_box(level_or_skip(request.param), place)


async def _said(running: Running) -> str:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), running.stdout)
    try:
        return (await asyncio.wait_for(reader.readline(), 20)).decode()
    finally:
        transport.close()


@pytest.fixture(autouse=True)
def no_child_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    before = descendants(os.getpid())
    yield
    if request.function is not test_it_ends_with_the_server:  # what that server leaves comes to this process, dead
        wait_until(lambda: not [pid for pid in descendants(os.getpid()) if pid not in before and alive(pid)])


def test_it_is_talked_to_and_ends_by_itself_with_all_it_started(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLAVIS_API_KEY", "secret")

    async def talk() -> tuple[str, int, bytes]:
        running = await box.isolation.start(["python", "-c", ECHO], box.jail, env={"MINE": "1"})
        running.stdin.write(b"hello\n")
        said = await _said(running)
        assert not running.over()
        running.stdin.close()
        await running.ended()
        errors = running.stderr.read()
        code = await running.finish()
        assert await running.finish() == code
        assert running.over()
        return said, code, errors

    said, code, errors = asyncio.run(talk())
    assert said.startswith("HELLO ")
    assert "MINE" in said
    assert "KLAVIS" not in said
    assert (code, errors) == (7, b"bye\n")
    assert not box.still_grows("beat")


def test_kill_ends_all_that_it_started(box: Box) -> None:
    async def talk() -> int:
        running = await box.isolation.start(["python", "-c", ECHO], box.jail)
        running.stdin.write(b"hello\n")
        await _said(running)
        running.kill()
        running.kill()
        return await running.finish()

    assert asyncio.run(talk()) == 128 + signal.SIGKILL
    assert not box.still_grows("beat")


def test_a_cancelled_finish_leaves_nothing_behind(box: Box) -> None:
    async def talk() -> None:
        running = await box.isolation.start(["python", "-c", ECHO], box.jail)
        running.stdin.write(b"hello\n")
        await _said(running)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(running.finish(), 0.05)

    asyncio.run(talk())
    assert not box.still_grows("beat")


_SERVER = """
import asyncio, sys
from pathlib import Path
from pytest_klavis.embedded.isolation import Jail, choose
async def main():
    isolation = await choose(sys.argv[1])
    uid = int(sys.argv[4]) or None
    running = await isolation.start(["python", "-c", sys.argv[5]], Jail(Path(sys.argv[2]), Path(sys.argv[3]), uid))
    running.stdin.write(b"hello\\n")
    print("started", flush=True)
    await running.ended()
asyncio.run(main())
"""


def test_it_ends_with_the_server(box: Box) -> None:
    jail = box.jail
    argv = [box.isolation.level, str(jail.workspace), str(jail.scratch), str(jail.uid or 0), ECHO]
    server = subprocess.Popen([sys.executable, "-c", _SERVER, *argv], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "started\n"
    end = time.monotonic() + 20
    while not (box.workspace / "beat").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    server.kill()
    server.wait()
    server.stdout.close()
    while box.still_grows("beat"):
        assert time.monotonic() < end


def test_limits_of_the_kernel_hold(box: Box) -> None:
    code = "import resource as r; print([r.getrlimit(k)[0] for k in (r.RLIMIT_CPU, r.RLIMIT_FSIZE, r.RLIMIT_AS)])"
    limits = Limits(cpu_seconds=77, file_size=4 << 20, memory=512 << 20)

    async def talk() -> str:
        running = await box.isolation.start(["python", "-c", code], box.jail, limits=limits)
        said = await _said(running)
        await running.finish()
        return said

    assert asyncio.run(talk()) == f"{[77, 4 << 20, 512 << 20]}\n"


def test_a_program_that_is_not_there(box: Box) -> None:
    async def start() -> int:
        running = await box.isolation.start(["no-such-program"], box.jail)
        return await running.finish()

    if box.isolation.level == "strict":  # found out inside
        assert asyncio.run(start()) == 127
    else:
        with pytest.raises(IsolationError, match="no-such-program could not be started"):
            asyncio.run(start())


def test_no_descriptor_is_left_in_the_server(box: Box) -> None:
    async def talk() -> None:
        for _ in range(3):
            running = await box.isolation.start(["cat"], box.jail)
            running.kill()
            await running.finish()

    asyncio.run(talk())
    before = len(list(Path("/proc/self/fd").iterdir()))
    asyncio.run(talk())
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# -- what is shown besides


def test_a_readable_directory_is_seen_and_not_written(box: Box, place: Path) -> None:
    shown, hidden = place / "shown", place / "hidden"
    for folder in (shown, hidden):
        folder.mkdir()
        folder.chmod(0o755)
        (folder / "file").write_text("inside")
    (place / "link").symlink_to("shown")
    script = f"cat {shown}/file && cat {place}/link/file && ! echo x 2>/dev/null > {shown}/file; cat {hidden}/file"
    done = box.sh(script, readable=[shown, place / "link"])
    if box.isolation.level == "none":
        assert done.stdout.endswith(b"inside")
        return
    assert done.stdout == b"insideinside", done.stderr
    assert done.exit_code != 0
    assert (shown / "file").read_text() == "inside"
    assert box.sh(f"cat {shown}/file").exit_code != 0, "it was asked for one command only"


def test_one_package_of_many_can_be_shown(box: Box, place: Path) -> None:
    import iniconfig

    package = place / "elsewhere"
    shutil.copytree(Path(iniconfig.__file__).parent, package)  # where it is may be closed to other users
    folder = place / "packages"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "iniconfig").symlink_to(package)
    code = (
        f"import sys; sys.path.append({str(folder)!r})\n"
        "import iniconfig\ntry:\n    import pytest\nexcept ImportError:\n    print('alone')"
    )
    done = box.python(code, readable=[folder, package])
    assert done.stdout == b"alone\n", done.stderr


def test_a_package_of_the_hidden_ones_can_be_shown(place: Path) -> None:
    box = make_box(level_or_skip("strict"), place)  # the others hide nothing of the interpreter
    packages = Path(sysconfig.get_path("purelib", vars={"base": sys.base_prefix, "platbase": sys.base_prefix}))
    if not (packages / "pip").is_dir():
        pytest.skip(f"the base interpreter has no package pip in {packages} to show")
    assert box.sh(f"ls -A {packages}").stdout == b""
    done = box.sh(
        f"test -s {packages}/pip/__init__.py && ls -A {packages}; touch {packages}/x", readable=[packages / "pip"]
    )
    assert done.stdout == b"pip\n", done.stderr
    assert done.exit_code != 0
