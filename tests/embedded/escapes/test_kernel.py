"""Namespaces, mounts, keys, devices, terminals, shared memory, and the wide and little used doors of the kernel."""

from __future__ import annotations

import ctypes
import os
import platform
import pty
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.embedded.escapes.support import PREAMBLE, Attack, Target, locked, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

ATTACKS = {
    # -- namespaces and mounts
    "a user namespace": locked("call(272, 97, 0x10000000); print('ESCAPED')"),
    "a user namespace by clone": locked(
        "pid = call(56, 220, 0x10000000 | 17, 0, 0, 0, 0)\nprint('ESCAPED') if pid else os._exit(0)"
    ),
    "a user namespace by clone3": locked(
        "args = struct.pack('11Q', 0x10000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0)\n"
        "pid = call(435, 435, args, len(args))\nprint('ESCAPED') if pid else os._exit(0)"
    ),
    "other namespaces": Attack("for bit in (17, 25, 26, 27, 29, 30, 7): reached(272, 97, (1 << bit) | 1 << 31)", ()),
    "a mount": locked("call(165, 40, b'none', b'/tmp', b'tmpfs', 0, None); print('ESCAPED')"),
    "a mount by the new calls": locked("call(430, 430, b'tmpfs', 0); print('ESCAPED')"),
    "a copy of a mount": locked("call(428, 428, -100, b'/', 1); print('ESCAPED')"),
    "a copy of a mount by the newest call": locked("call(467, 467, -100, b'/', 1, 0, 0); print('ESCAPED')"),
    "writable again": locked("call(165, 40, None, b'/usr', None, 32 | 4096, None); print('ESCAPED')"),
    "an unmount": locked("call(166, 39, b'/proc', 2); print('ESCAPED')"),
    "another root": locked("os.chroot('.'); print('ESCAPED')"),
    "a pivot of the root": Attack("reached(155, 41, b'.', b'.')", ()),
    "the list of mounts": Attack(
        "request = struct.pack('=IIQQQ', 24, 0, 0xFFFFFFFFFFFFFFFF, 0, 0)\n"
        "found = (ctypes.c_uint64 * 64)(); n = call(458, 458, request, found, 64, 0)\n"
        "if n > 30: print('ESCAPED', n)",
        (),
    ),
    "quotas": Attack("reached(443, 443, 0, 0, 0, 0)", ()),
    # -- doors that no tool needs
    "io_uring": locked("call(425, 425, 1, ctypes.create_string_buffer(512)); print('ESCAPED')"),
    "the kernel's keys": locked("call(250, 219, 0, -3, 1); print('ESCAPED')"),
    "a key": locked("call(248, 217, b'user', b'klavis', b'x', 1, -3); print('ESCAPED')"),
    "a key of somebody else's": Attack("reached(249, 218, b'user', b'klavis', None, 0)"),
    "programs in the kernel": locked("call(321, 280, 0, ctypes.create_string_buffer(128), 128); print('ESCAPED')"),
    "counters of the processor": locked(
        "call(298, 241, struct.pack('=IIQ', 1, 112, 0) + bytes(96), 0, -1, -1, 0); print('ESCAPED')"
    ),
    "page faults": Attack("reached(323, 282, 1)", ()),
    "another architecture's calls": Attack(
        "import mmap\n"
        "page = mmap.mmap(-1, 4096, prot=7); page.write(b'\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3')\n"  # getpid by int 0x80
        "code = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))\n"
        "if code() == os.getpid() or os.getpid() < 10: print('ESCAPED')",
        ("root", "user") if platform.machine() == "x86_64" else (),
    ),
    "calls of x32": locked("libc.syscall(0x40000000 | 39) >= 0 and print('ESCAPED')"),
    # -- the machine itself
    "the log of the kernel": locked("call(103, 116, 3, ctypes.create_string_buffer(99), 99); print('ESCAPED')"),
    "the name of the machine": locked("call(170, 161, b'x', 1); print('ESCAPED')"),
    "the clock": locked("call(227, 112, 0, struct.pack('qq', 0, 0)); print('ESCAPED')"),
    "modules": locked("call(313, 273, 0, b'', 0); print('ESCAPED')"),
    "another kernel": locked("call(246, 104, 0, 0, 0, 0); print('ESCAPED')"),
    "swap": locked("call(168, 225, b'/nothing'); print('ESCAPED')"),
    "accounting": locked("call(163, 89, None); print('ESCAPED')"),
    "ports of the processor": locked("call(172, 9999, 3); print('ESCAPED')"),
    "settings of the kernel": locked("open('/proc/sys/kernel/hostname', 'w').write('x'); print('ESCAPED')"),
    "settings of the kernel, read": Attack(
        "print('ESCAPED', open('/proc/sys/kernel/random/boot_id').read())", gaps=("strict",)
    ),
    "the magic key": locked("open('/proc/sysrq-trigger', 'w').write('h'); print('ESCAPED')"),
    "devices of the machine": Attack("print('ESCAPED', os.listdir('/sys/devices'))"),
    "control groups": Attack("print('ESCAPED', os.listdir('/sys/fs/cgroup'))"),
    "the machine's mounts": Attack("if '/sys/fs/cgroup' in open('/proc/self/mountinfo').read(): print('ESCAPED')"),
    # -- devices
    "a disk": locked("os.mknod('disk', 0o060666, os.makedev(254, 0)); open('disk', 'rb'); print('ESCAPED')"),
    "the memory of the machine": locked(
        "os.mknod('mem', 0o020666, os.makedev(1, 1)); open('mem', 'rb'); print('ESCAPED')"
    ),
    "a terminal of the machine": locked("os.open('/dev/tty0', os.O_RDWR); print('ESCAPED')"),
    "the console": locked("os.open('/dev/console', os.O_RDWR); print('ESCAPED')"),
    "the terminal of the server": locked("os.open('/dev/tty', os.O_RDWR); print('ESCAPED')"),
    "FUSE": locked("os.open('/dev/fuse', os.O_RDWR); print('ESCAPED')"),
    "KVM": locked("os.open('/dev/kvm', os.O_RDWR); print('ESCAPED')"),
    "network devices": locked("os.open('/dev/net/tun', os.O_RDWR); print('ESCAPED')"),
    "the pseudo-terminals of the machine": locked(
        "for n in os.listdir('/dev/pts'):\n    if n != 'ptmx': os.open('/dev/pts/' + n, os.O_RDWR); print('ESCAPED')"
    ),
    # -- users
    "become root": locked("os.setuid(0); print('ESCAPED')"),
    "another user": locked("os.setresuid(1, 1, 1); print('ESCAPED')"),
    "another group": locked("os.setgroups([0]); print('ESCAPED')"),
    "sudo": locked("if subprocess.run(['sudo', '-n', 'id', '-u'], capture_output=True).stdout: print('ESCAPED')"),
    "su": locked("if subprocess.run(['su', '-c', 'id -u'], capture_output=True, stdin=-3).stdout: print('ESCAPED')"),
    # -- memory that is shared
    "a segment of somebody else's": Attack(
        "id = call(29, 194, int(SEGMENT, 0), 0, 0)\nlibc.shmat.restype = ctypes.c_void_p\n"
        "print('ESCAPED', ctypes.string_at(libc.shmat(id, None, 0o10000)))"
    ),
    "a message queue of somebody else's": Attack("call(68, 186, int(SEGMENT, 0), 0); print('ESCAPED')"),
    "semaphores of somebody else's": Attack("call(64, 190, int(SEGMENT, 0), 0, 0); print('ESCAPED')"),
    "a queue with a name": locked("call(240, 180, b'klavis-' + str(VICTIM).encode(), 0, 0, 0); print('ESCAPED')"),
}


@pytest.fixture(autouse=True)
def segment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A System V segment, a queue and a semaphore that everybody may use."""
    key = os.getpid() | 0x4B000000
    libc = ctypes.CDLL(None)
    libc.shmat.restype = ctypes.c_void_p
    memory = libc.shmget(key, 4096, 0o1666)
    semaphore, queue = libc.semget(key, 1, 0o1666), libc.msgget(key, 0o1666)
    assert memory >= 0
    address = libc.shmat(memory, None, 0)
    ctypes.memmove(address, b"shared", 7)
    monkeypatch.setitem(globals(), "SEGMENT", hex(key))
    yield
    libc.shmdt(ctypes.c_void_p(address))
    libc.shmctl(memory, 0, None)
    libc.semctl(semaphore, 0, 0)
    libc.msgctl(queue, 0, None)


SEGMENT = "0"


def _attack(name: str) -> Attack:
    attack = ATTACKS[name]
    return Attack(f"SEGMENT = {SEGMENT!r}\n{attack.program}", attack.shown_as, attack.gaps)


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(target: Target, name: str) -> None:
    target.resists(_attack(name))


@pytest.mark.parametrize("name", shown(ATTACKS))
def test_the_attack_works_without_isolation(unprotected: Target, name: str) -> None:
    unprotected.yields(_attack(name))


def test_no_memory_is_shared_with_the_machine(target: Target) -> None:
    """System V segments: refused, or those of a namespace, which ends with the command."""
    target.attack("libc.shmget(0x4711, 4096, 0o1666)")
    assert str(0x4711) not in Path("/proc/sysvipc/shm").read_text().split()


def test_nothing_can_be_mounted(target: Target) -> None:
    for command in ("mount -t tmpfs none /tmp", "mount --bind /usr .", "umount /proc", "umount -l /usr", "chroot /"):
        assert target.box.sh(command).exit_code != 0, command


# -- the terminal that the server may have been started on


def test_nothing_is_typed_into_a_terminal(target: Target) -> None:
    """By a terminal of the sandbox's own, where it can have one: the call is refused whatever it is about."""
    own = (
        "try: fd = os.posix_openpt(os.O_RDWR) if hasattr(os, 'posix_openpt') else os.open('/dev/ptmx', os.O_RDWR)\n"
        "except OSError: fd = 0\n"
        "for request in (0x5412, 0x541C, 0x5412 | 7 << 32):\n"
        "    result = libc.ioctl(fd, ctypes.c_ulong(request), b'x')\n"
        "    if result >= 0 or ctypes.get_errno() not in (1, 25): print('ESCAPED', ctypes.get_errno())"
    )
    assert "ESCAPED" not in target.attack(own)


def test_there_is_no_controlling_terminal(target: Target) -> None:
    main, child = pty.openpty()
    try:
        said = target.attack(f"open({os.ttyname(child)!r}, 'w').write('x'); print('ESCAPED')")
    finally:
        os.close(main)
        os.close(child)
    assert "ESCAPED" not in said


def test_the_preamble_of_attacks_is_sound(unprotected: Target) -> None:
    """`reached` tells what is refused from what is not, or half of the attacks would prove nothing."""
    assert "ESCAPED" in unprotected.attack("reached(39, 172)")
    assert "ESCAPED" not in unprotected.attack("reached(9999, 9999)")
    assert "reached" in PREAMBLE
