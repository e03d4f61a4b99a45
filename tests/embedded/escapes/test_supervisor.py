"""The process between the server and a command: what kernels before Landlock's ABI 6 leave within a command's reach."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_klavis.embedded.isolation import IsolationError
from tests.embedded.escapes.support import Target
from tests.embedded.isolation_support import level_or_skip, make_box

ON_SUPERVISOR = {
    "kill": "os.kill(boss, 0)",
    "killpg": "os.killpg(boss, 0)",
    "tgkill": "check(libc.syscall({'x86_64': 234}.get(os.uname().machine, 131), boss, boss, 0))",
    "tkill": "check(libc.syscall({'x86_64': 200}.get(os.uname().machine, 130), boss, 0))",
    "sigqueue": "check(libc.sigqueue(boss, 0, None))",
    "pidfd": "signal.pidfd_send_signal(os.pidfd_open(boss), 0)",
    "owner of a file": "import fcntl; fcntl.fcntl(0, fcntl.F_SETOWN, boss)",
    "owner of a socket": ("import fcntl, struct; fcntl.ioctl(socket.socketpair()[0], 0x8901, struct.pack('i', boss))"),
}


@pytest.mark.parametrize("name", ON_SUPERVISOR)
def test_old_kernels_do_not_let_the_supervisor_be_signalled(place: Path, name: str) -> None:
    isolation = replace(level_or_skip("landlock"), abi=5)  # type: ignore[type-var]
    code = (
        "import ctypes, os, signal, socket\n"
        "boss, libc = os.getppid(), ctypes.CDLL(None, use_errno=True)\n"
        "def check(result):\n    if result < 0: raise OSError(ctypes.get_errno(), 'refused')\n"
        f"try: {ON_SUPERVISOR[name]}; print('ESCAPED')\n"
        "except PermissionError: print('refused')"
    )
    done = make_box(isolation, place).python(code)
    assert (done.stdout, done.exit_code) == (b"refused\n", 0), done


@pytest.mark.parametrize("name", ON_SUPERVISOR)
def test_without_isolation_it_can_be_signalled(unprotected: Target, name: str) -> None:
    program = ON_SUPERVISOR[name].replace("check(", "print(")
    said = unprotected.attack(f"boss = os.getpid()\n{program}; print('ESCAPED')")
    assert "ESCAPED" in said
    assert "-1" not in said


def test_a_supervisor_that_is_killed_leaves_nothing_behind(place: Path) -> None:
    box = make_box(replace(level_or_skip("landlock"), abi=5), place)  # type: ignore[type-var]
    runs_on = (
        "import os, time\nopen('boss', 'w').write(str(os.getppid()))\n"
        "if os.fork() == 0:\n    os.setsid(); os.fork()\n"
        "while True: open('beat', 'a').write('x'); time.sleep(0.01)"
    )

    async def killed() -> int:
        other = asyncio.create_task(box.isolation.run(["sh", "-c", "sleep 1.5; exit 4"], box.jail))
        run = asyncio.create_task(box.isolation.run(["python", "-c", runs_on], box.jail))
        while not (box.workspace / "beat").exists():  # noqa: ASYNC110 - a process makes it
            await asyncio.sleep(0.01)
        os.kill(int((box.workspace / "boss").read_text()), 9)
        with pytest.raises(IsolationError, match="ended by signal 9"):
            await run
        assert not box.still_grows("beat")
        return (await other).exit_code

    assert asyncio.run(killed()) == 4
