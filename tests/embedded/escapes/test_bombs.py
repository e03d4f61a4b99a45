"""Using up the machine: processes, memory, disk, names, output, time. What counts is that it ends, and what is left."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from pytest_klavis.embedded.files import WorkspaceFiles
from pytest_klavis.embedded.isolation import Limits
from tests.embedded.escapes.support import Target
from tests.embedded.isolation_support import AS_ROOT

SMALL = 20 << 20
UNTIL_REFUSED = """
count = 0
try:
    while count < 3000:
        {step}
        count += 1
except (OSError, RuntimeError, MemoryError): pass
print(count)
"""


@dataclass(frozen=True)
class Bomb:
    """Something that is done again and again until it is refused.

    most: how often that may succeed under `limits`.
    """

    step: str
    most: int
    limits: Limits = field(default_factory=Limits)
    start: str = ""


# As a plain user without a namespace, what that user has running elsewhere comes on top of its processes.
BOMBS = {
    "forks": Bomb("if os.fork() == 0: time.sleep(30); os._exit(0)", 20, Limits(processes=20)),
    "forks that leave": Bomb("if os.fork() == 0: os.setsid(); time.sleep(30); os._exit(0)", 20, Limits(processes=20)),
    "threads": Bomb("threading.Thread(target=time.sleep, args=(30,), daemon=True).start()", 20, Limits(processes=20)),
    "open files": Bomb("kept.append(open('/dev/null'))", 50, Limits(open_files=50), "kept = []"),
    "memory": Bomb("kept.append(bytearray(1 << 20))", 300, Limits(memory=300 << 20), "kept = []"),
    "mapped memory": Bomb(
        "kept.append(mmap.mmap(-1, 1 << 20))", 300, Limits(memory=300 << 20), "import mmap; kept = []"
    ),
    "a file": Bomb("file.write(bytes(4096)); file.flush()", 256, Limits(file_size=1 << 20), "file = open('x', 'wb')"),
    "a file by its end": Bomb("file.truncate(count << 12)", 257, Limits(file_size=1 << 20), "file = open('x', 'wb')"),
    "a file that is mapped": Bomb(
        "os.posix_fallocate(fd, 0, count << 12 or 1)", 257, Limits(file_size=1 << 20), "fd = os.open('x', 66)"
    ),
    "memory in a file without a name": Bomb(
        "os.write(fd, bytes(4096))", 256, Limits(file_size=1 << 20), "fd = os.memfd_create('x')"
    ),
}
_OF_THE_USER = {"forks", "forks that leave", "threads"}


@pytest.mark.parametrize("name", BOMBS)
def test_bomb(target: Target, name: str) -> None:
    bomb = BOMBS[name]
    code = (
        "import os, signal, threading, time\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"{bomb.start}\n{UNTIL_REFUSED.format(step=bomb.step)}"
    )
    done = target.box.python(code, limits=bomb.limits, timeout=20)
    shared = name in _OF_THE_USER and not AS_ROOT and target.box.isolation.level != "strict"
    assert 3 <= int(done.stdout) <= bomb.most + (64 + 2000 if shared else 0), done


def test_fork_bomb_of_the_shell(target: Target) -> None:
    done = target.box.sh("f() { f | f & }; f; sleep 1; echo over", limits=Limits(processes=30), timeout=5)
    assert done.seconds < 15
    assert target.box.run(["echo", "fine"]).stdout == b"fine\n"


def test_memory_that_is_allowed_can_be_had(target: Target) -> None:
    done = target.box.python("x = bytearray(600 << 20); print('got it')", limits=Limits(memory=300 << 20))
    assert b"MemoryError" in done.stderr
    assert target.box.python("x = bytearray(100 << 20); print('got it')").stdout == b"got it\n"


def test_shared_memory_files_are_limited(target: Target) -> None:
    done = target.box.sh("head -c 300000000 /dev/zero > /dev/shm/x; du -k /dev/shm | tail -1", timeout=20)
    if target.box.isolation.level == "strict":
        assert int(done.stdout.split()[0]) <= 64 << 10
    else:
        assert done.stdout.split()[0:1] in ([], [b"0"])


# -- the disk: writers that do not end, and what hides how much it is

ENDLESS = "import ctypes, itertools, os, threading, time\nfor n in itertools.count():\n    "
PAUSE = "; time.sleep(0.005)"
FILLING = {
    "files": f"open(f'fill{{n}}', 'wb').write(os.urandom(1 << 20)){PAUSE}",
    "one file": f"open('fill', 'ab').write(bytes(1 << 20)){PAUSE}",
    "holes with ends": f"f = open(f'fill{{n}}', 'wb'); f.seek(1 << 19); f.write(bytes(1 << 20)); f.close(){PAUSE}",
    "home": f"open(os.environ['HOME'] + '/x', 'ab').write(bytes(1 << 20)){PAUSE}",
    "temporary files": f"open(os.environ['TMPDIR'] + '/x', 'ab').write(bytes(1 << 20)){PAUSE}",
    "empty files": "open(f'fill{n}', 'w').close()",
    "empty directories": "os.mkdir(f'fill{n}'); time.sleep(0.0002)",  # removing them takes long
    "links": "os.symlink('x' * 50, f'fill{n}')",
    "pipes": "os.mkfifo(f'fill{n}')",
    "attributes": (
        "open(f'fill{n}', 'w').close()\n"
        "    try: os.setxattr(f'fill{n}', 'user.x', bytes(3000))\n"
        "    except OSError: pass"
    ),
    "copies that share": (
        "open('one', 'wb').write(bytes(1 << 20)) if not n else None\n"
        "    fd = os.open(f'fill{n}', 66)\n"
        "    os.copy_file_range(os.open('one', 0), fd, 1 << 20); os.closerange(3, 99)" + PAUSE
    ),
}


@pytest.mark.parametrize("how", FILLING)
def test_disk(target: Target, how: str) -> None:
    done = target.box.python(ENDLESS + FILLING[how], limits=Limits(disk=SMALL, cpu_seconds=30), timeout=30)
    assert (done.stopped, done.exit_code) == ("disk", 137), done


HIDING = {
    "deeper than a path can say": "for _ in range(18): os.mkdir('d' * 250); os.chdir('d' * 250)",
    "deeper than descriptors go": "for _ in range(600): os.mkdir('d'); os.chdir('d')",
    "in a closed directory": "os.mkdir('w'); os.chdir('w'); os.chmod('.', 0o300)",
    "in a directory that is closed again and again": (
        "os.mkdir('w'); os.chdir('w')\n"
        "def close():\n"
        "    while True: os.chmod('.', 0o300)\n"
        "threading.Thread(target=close, daemon=True).start()"
    ),
    "in a directory that is moved all the time": (
        "os.mkdir('w'); os.chdir('w')\n"
        "def move():\n"
        "    while True: os.rename('../w', '../v'); os.rename('../v', '../w')\n"
        "threading.Thread(target=move, daemon=True).start()"
    ),
    "in a workspace that is closed": "os.chmod('.', 0o300)",
    "in removed files": "after = os.unlink",
    "in removed files of a process that cannot be traced": "after = os.unlink; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)",
    "in removed files of a child": "after = os.unlink\nif os.fork(): time.sleep(30)",
    "in nameless files": "opened = lambda name: os.fdopen(os.open('.', os.O_TMPFILE | os.O_RDWR), 'wb')",
}
FILL = """
files = []
for n in range(60):
    files.append(opened(f'fill{n}'))
    files[-1].write(os.urandom(1 << 20)); files[-1].flush()
    after(f'fill{n}')
    time.sleep(0.005)
time.sleep(30)
"""


@pytest.mark.parametrize("how", HIDING)
def test_disk_that_is_hidden(target: Target, how: str) -> None:
    code = (
        "import ctypes, os, threading, time\nafter = len\nopened = lambda name: open(name, 'wb')\n" + HIDING[how] + FILL
    )
    done = target.box.python(code, limits=Limits(disk=SMALL), timeout=30)
    assert (done.stopped, done.stderr) == ("disk", b"")


def test_disk_by_many_short_commands(target: Target) -> None:
    """Each is over before anybody looks."""
    limits = Limits(disk=SMALL)
    done = [target.box.sh(f"head -c 15000000 /dev/zero > {n}", limits=limits) for n in range(5)]
    assert (done[0].exit_code, done[-1].exit_code == 0) == (0, False)
    assert b"over its disk limit" in done[-1].stderr
    assert sum(path.stat().st_size for path in target.box.workspace.iterdir()) < 50_000_000
    assert target.box.sh("rm ?", limits=limits).exit_code == 0
    assert target.box.sh("head -c 15000000 /dev/zero > 1", limits=limits).exit_code == 0


def test_a_hole_takes_no_room(target: Target) -> None:
    """An agent's sparse file is not more than it holds: only what is on the disk counts."""
    done = target.box.sh("truncate -s 100M hole; sleep 0.5; echo fine", limits=Limits(disk=SMALL))
    assert (done.stdout, done.stopped) == (b"fine\n", None)


def test_what_is_hidden_counts_for_file_tools_too(target: Target) -> None:
    target.box.python("import os\n" + HIDING["deeper than a path can say"] + "\nopen('f', 'w').write('x' * 5000)")
    target.box.sh("mkdir w; echo hello > w/f; chmod 300 w; mkdir v; echo hello > v/f; chmod 400 v")
    assert WorkspaceFiles(target.box.workspace).usage() == 5012


def test_files_may_come_and_go_while_they_are_measured(target: Target) -> None:
    churn = (
        "import os, shutil, time\n"
        "start = time.monotonic()\n"
        "while time.monotonic() < start + 2:\n"
        "    os.makedirs('a/b/c/d'); open('a/b/f', 'w').close(); os.rename('a/b', 'a/e'); os.rename('a', 'g')\n"
        "    shutil.rmtree('g')\n"
        "print('done')"
    )
    assert target.box.python(churn).stdout == b"done\n"


def test_an_agent_may_clean_up_a_full_workspace(target: Target) -> None:
    target.box.sh("for n in 1 2 3 4 5 6; do head -c 9000000 /dev/zero > $n; done")
    tidy = "for n in 1 2 3 4 5 6; do rm $n; sleep 0.05; done; echo clean"
    assert target.box.sh(tidy, limits=Limits(disk=5 << 20)).stdout == b"clean\n"


# -- output and time

FLOODS = {
    "output": "yes",
    "errors": "yes >&2",
    "both": "yes & yes >&2",
    "from the background": "setsid yes & sleep 20",
    "without a line": "cat /dev/zero",
    "by many": "for n in 1 2 3 4 5 6 7 8; do yes $n & done; wait",
}


@pytest.mark.parametrize("how", FLOODS)
def test_a_flood_of_output(target: Target, how: str) -> None:
    done = target.box.sh(FLOODS[how], limits=Limits(output=4096), timeout=30)
    assert (done.stopped, done.exit_code) == ("output", 137)
    assert done.seconds < 20
    assert max(len(done.stdout), len(done.stderr)) == 4096 + len(b"\n[... truncated ...]\n")


TIME_WASTERS = {
    "a loop": "while True: pass",
    "a loop that ignores the signal": "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
    "a loop in a child": "import os\nif os.fork(): os._exit(os.wait()[1] and 9)\nwhile True: pass",
}


@pytest.mark.parametrize("how", TIME_WASTERS)
def test_cpu_time(target: Target, how: str) -> None:
    done = target.box.python(TIME_WASTERS[how], limits=Limits(cpu_seconds=1), timeout=25)
    assert done.stopped is None
    assert done.exit_code != 0


SLEEPERS = {
    "asleep": "sleep 60",
    "stopped": "kill -STOP $$",
    "stopped as a group": "kill -STOP 0",
    "waiting for a pipe": "mkfifo p; cat p",
    "ignoring signals": "trap '' INT TERM HUP QUIT; while :; do sleep 1; done",
    "waiting for input that never comes": "mkfifo p; exec 3<>p; read line <&3",
}


@pytest.mark.parametrize("how", SLEEPERS)
def test_wall_clock(target: Target, how: str) -> None:
    done = target.box.sh(SLEEPERS[how], limits=Limits(wall_seconds=0.7))
    assert (done.stopped, done.exit_code) == ("timeout", 137)
    assert done.seconds < 10
