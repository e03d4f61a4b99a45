"""Other processes, and what outlives a command: looked at, signalled, slowed down, written to, left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.embedded.conftest import processes_with
from tests.embedded.escapes.support import TOKEN, Attack, Target, locked, shown
from tests.embedded.isolation_support import AS_ROOT

ATTACKS = {
    # -- seeing
    "see a process": Attack("print('ESCAPED', open(f'/proc/{VICTIM}/cmdline').read())"),
    "see its state": Attack("print('ESCAPED', open(f'/proc/{VICTIM}/stat').read())"),
    "list the processes": Attack("if str(VICTIM) in os.listdir('/proc'): print('ESCAPED')"),
    "find a process by number": Attack(
        "try: os.kill(VICTIM, 0)\nexcept PermissionError: print('ESCAPED')\nelse: print('ESCAPED')",
        gaps=("landlock",),
    ),
    "session of a process": Attack("os.getsid(VICTIM); print('ESCAPED')", gaps=("landlock",)),
    "environment of a process": locked(
        "print('ESCAPED' if TOKEN[::-1] in open(f'/proc/{VICTIM}/environ').read() else '')"
    ),
    "environment of the server": locked("print('ESCAPED', open(f'/proc/{SERVER}/environ').read())"),
    "environment of the parent": Attack(
        "if os.getppid() != 1 and 'KLAVIS' in open(f'/proc/{os.getppid()}/environ').read(): print('ESCAPED')", ()
    ),
    "environment of any process": locked(
        "for path in glob.glob('/proc/[0-9]*/environ'):\n"
        "    try: found = TOKEN[::-1] in open(path).read()\n"
        "    except OSError: continue\n"
        "    if found: print('ESCAPED', path)"
    ),
    "its own environment": Attack("print('ESCAPED' if 'KLAVIS_API_KEY' in os.environ else '')", ()),
    "files of a process": Attack("print('ESCAPED', os.readlink(f'/proc/{VICTIM}/fd/0'))"),
    "program of a process": Attack("print('ESCAPED', os.readlink(f'/proc/{VICTIM}/exe'))"),
    "memory map of a process": Attack("print('ESCAPED', open(f'/proc/{VICTIM}/maps').read())"),
    "memory of a process": locked("open(f'/proc/{VICTIM}/mem', 'rb'); print('ESCAPED')"),
    # -- reaching into
    "trace a process": locked("call(101, 117, 16, VICTIM, 0, 0); print('ESCAPED')"),
    "seize a process": locked("call(101, 117, 0x4206, VICTIM, 0, 0); print('ESCAPED')"),
    "be traced": Attack("reached(101, 117, 0, 0, 0, 0)"),
    "read the memory of a process": locked("call(310, 270, VICTIM, 0, 0, 0, 0, 0); print('ESCAPED')"),
    "write the memory of a process": locked("call(311, 271, VICTIM, 0, 0, 0, 0, 0); print('ESCAPED')"),
    "read the memory of oneself by that call": Attack("reached(310, 270, os.getpid(), 0, 0, 0, 0, 0)"),
    "take a file of a process": locked("call(438, 438, os.pidfd_open(VICTIM), 0, 0); print('ESCAPED')"),
    "compare with a process": locked("call(312, 272, os.getpid(), VICTIM, 0, 0, 0); print('ESCAPED')"),
    "advise a process": locked("call(440, 440, os.pidfd_open(VICTIM), 0, 0, 20, 0); print('ESCAPED')"),
    "namespaces of a process": locked("call(308, 268, os.open(f'/proc/{VICTIM}/ns/net', 0), 0); print('ESCAPED')"),
    # -- signals
    "signal a process": Attack("os.kill(VICTIM, signal.SIGCONT); print('ESCAPED')"),
    "signal a process by a descriptor": Attack(
        "signal.pidfd_send_signal(os.pidfd_open(VICTIM), signal.SIGCONT); print('ESCAPED')"
    ),
    "signal a thread": Attack("call(200, 130, VICTIM, 18); print('ESCAPED')"),
    "signal a thread of a process": Attack("call(234, 131, VICTIM, VICTIM, 18); print('ESCAPED')"),
    "queue a signal": Attack("assert libc.sigqueue(VICTIM, 18, None) == 0; print('ESCAPED')"),
    "signal a group": Attack("os.killpg(os.getpgid(VICTIM), 0); print('ESCAPED')"),
    "signal by a file": Attack("fcntl.fcntl(0, fcntl.F_SETOWN, VICTIM); print('ESCAPED')"),
    "signal by a socket": Attack(
        "fcntl.ioctl(socket.socketpair()[0], 0x8901, struct.pack('i', VICTIM)); print('ESCAPED')"
    ),
    "signal everybody": Attack("os.kill(-1, 0); print('ESCAPED')"),
    "signal the server": locked("os.kill(SERVER, 0); print('ESCAPED')"),
    # -- slowing down
    "limit a process": Attack(
        "import resource; resource.prlimit(VICTIM, resource.RLIMIT_CPU, (600, 600)); print('ESCAPED')"
    ),
    "slow down a process": Attack("os.setpriority(os.PRIO_PROCESS, VICTIM, 19); print('ESCAPED')"),
    "slow down a user": Attack(
        "os.setpriority(os.PRIO_USER, 0, 19)\nif os.getpriority(0, VICTIM) == 19: print('ESCAPED')"
    ),
    "move a process to another processor": Attack("os.sched_setaffinity(VICTIM, {0}); print('ESCAPED')"),
    "schedule a process": Attack("os.sched_setscheduler(VICTIM, os.SCHED_IDLE, os.sched_param(0)); print('ESCAPED')"),
    "input and output of a process": Attack("call(251, 30, 1, VICTIM, 3 << 13); print('ESCAPED')"),
    "have a process killed": Attack("open(f'/proc/{VICTIM}/oom_score_adj', 'w').write('1000'); print('ESCAPED')"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(target: Target, name: str) -> None:
    target.resists(ATTACKS[name])


@pytest.mark.parametrize("name", shown(ATTACKS))
def test_the_attack_works_without_isolation(unprotected: Target, name: str) -> None:
    unprotected.yields(ATTACKS[name])


# -- what outlives its command

BEAT = """
def beat():
    while True:
        with open("beat", "a") as file: file.write("x")
        time.sleep(0.01)
def started():
    while not os.path.exists("beat") or not os.path.getsize("beat"): time.sleep(0.005)
"""
SURVIVORS = {
    "a child": "if not os.fork(): beat()",
    "a session of its own": "if not os.fork(): os.setsid(); beat()",
    "a daemon": "if not os.fork():\n    os.setsid()\n    if not os.fork(): beat()\n    os._exit(0)\nos.wait()",
    "one that ignores signals": (
        "if not os.fork():\n"
        "    for n in set(signal.valid_signals()) - {9, 19}:\n"
        "        try: signal.signal(n, signal.SIG_IGN)\n"
        "        except OSError: pass\n"
        "    beat()"
    ),
    "nohup": "subprocess.Popen(['nohup', sys.executable, '-c', CODE + 'beat()'])",
    "setsid in the background of a shell": "subprocess.run(['sh', '-c', 'setsid python -c \"$0\" &', CODE + 'beat()'])",
    "an orphan that was adopted": (
        "if not os.fork():\n"
        "    libc.prctl(36, 1, 0, 0, 0)\n"
        "    if not os.fork():\n"
        "        if not os.fork(): os.setsid(); beat()\n"
        "        os._exit(0)\n"
        "    os.wait(); time.sleep(600)"
    ),
    "a thread whose leader has ended": (
        "if not os.fork():\n"
        "    threading.Thread(target=beat).start(); started()\n"
        "    libc.syscall({'x86_64': 60}.get(os.uname().machine, 93), 0)"
    ),
    "one beside a stopped one": (
        "if not os.fork():\n    if not os.fork(): os.kill(os.getppid(), signal.SIGSTOP); beat()\n    time.sleep(600)"
    ),
    "one that has not let go of the output": "if not os.fork(): print('x', flush=True); beat()",
    "many that multiply": (
        "for _ in range(3):\n"
        "    if not os.fork():\n"
        "        while True:\n"
        "            if os.fork(): os._exit(0)\n"
        "            os.setsid(); open('beat', 'a').write('x')"
    ),
    "one that is called like a thread of the kernel": (
        "if not os.fork(): libc.prctl(15, b'kworker/0:1', 0, 0, 0); os.setsid(); beat()"
    ),
    "one that cannot be traced": "if not os.fork(): libc.prctl(4, 0, 0, 0, 0); os.setsid(); beat()",
    "one that has no name any more": (
        "import shutil; shutil.copy('/bin/sleep', 's'); p = subprocess.Popen(['./s', '600'], start_new_session=True)\n"
        "os.unlink('s')\nif not os.fork(): beat()"
    ),
}


@pytest.mark.parametrize("name", SURVIVORS)
def test_nothing_survives(target: Target, name: str) -> None:
    survive(target, name)


@pytest.mark.parametrize("name", sorted(set(SURVIVORS) - {"many that multiply"}))
def test_without_isolation_nothing_survives_either(unprotected: Target, name: str) -> None:
    survive(unprotected, name)


def survive(target: Target, name: str) -> None:
    mark = f"klavis-{target.victim.pid}-survivor"
    code = f"import ctypes, os, signal, subprocess, sys, threading, time\nlibc = ctypes.CDLL(None)\n{BEAT}"
    program = f"CODE = {code!r}\n{code}\n'{mark}'\n{SURVIVORS[name]}\nstarted()"
    done = target.box.python(program, timeout=20)
    assert (done.exit_code, done.stopped) == (0, None), done
    assert done.seconds < 15
    assert not target.box.still_grows("beat")
    assert not processes_with(mark)


def test_survivors_do_survive_a_plain_process(unprotected: Target) -> None:
    """So the tests above can fail."""
    box = unprotected.box
    code = f"import ctypes, os, sys, time\n{BEAT}\n{SURVIVORS['a daemon']}\nstarted()\n'klavis-daemon-{os.getpid()}'"
    subprocess.run(["python3", "-c", code], cwd=box.workspace, check=True, stdout=subprocess.DEVNULL)
    try:
        assert box.still_grows("beat")
    finally:
        for pid in processes_with(f"klavis-daemon-{os.getpid()}"):
            os.kill(pid, 9)


# -- privileges of a process


@pytest.fixture
def setuid_program(request: pytest.FixtureRequest) -> str:
    if not AS_ROOT:
        pytest.skip("only root can make one")
    return "/usr/bin/id"


def test_setuid_programs_give_nothing(target: Target, setuid_program: str) -> None:
    program = target.box.workspace / "suid"
    shutil.copy(setuid_program, program)
    program.chmod(0o6755)
    assert target.box.run(["./suid", "-u"]).stdout.strip() not in (b"0", b"")
    assert target.box.run(["./suid", "-g"]).stdout.strip() not in (b"0", b"")


def test_setuid_programs_work_without_isolation(unprotected: Target, setuid_program: str) -> None:
    program = unprotected.box.workspace / "suid"
    shutil.copy(setuid_program, program)
    program.chmod(0o4755)
    assert unprotected.box.run(["./suid", "-u"]).stdout.strip() == b"0"


def test_capabilities_of_a_file_give_nothing(target: Target, setuid_program: str) -> None:
    setcap = shutil.which("setcap")
    program = target.box.workspace / "able"
    shutil.copy(shutil.which("python3.11") or "/usr/bin/python3", program, follow_symlinks=True)
    if setcap is None or subprocess.run([setcap, "cap_dac_read_search+ep", program], check=False).returncode:
        pytest.skip("capabilities cannot be given to files here")
    target.secret.chmod(0o600)
    assert (
        TOKEN.encode()
        not in target.box.run(["./able", "-I", "-c", f"print(open({str(target.secret)!r}).read())"]).stdout
    )


def test_no_privilege_is_left(target: Target) -> None:
    said = target.attack(
        "class Header(ctypes.Structure): _fields_ = (('version', ctypes.c_uint32), ('pid', ctypes.c_int))\n"
        "data = (ctypes.c_uint32 * 6)()\n"
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


def test_descriptors_are_not_inherited(target: Target) -> None:
    secret = os.open(target.secret, os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        said = target.attack(
            "for fd in range(3, 512):\n    try: print('ESCAPED', os.read(fd, 99))\n    except OSError: pass"
        )
    finally:
        os.close(secret)
    assert "ESCAPED" not in said


def test_no_core_of_a_crash_is_written_or_handed_on(target: Target) -> None:
    """A handler that is named in core_pattern runs outside; with this limit the kernel calls none."""
    assert target.attack("import resource; print(resource.getrlimit(resource.RLIMIT_CORE))") == "(1, 1)\n"
    target.box.sh("kill -SEGV $$")
    assert not [path for path in target.box.workspace.iterdir() if path.name.startswith("core")]
    assert Path("/proc/sys/kernel/core_pattern").exists()
