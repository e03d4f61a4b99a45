"""The system call filters themselves, for both processors: interpreted here, as the kernel does."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest

from pytest_klavis.embedded.isolation import seccomp


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
    said = [_decide(closed, X86, fcntl, 3, command) for command in (1, 2, 8, 15, 1024, 1026)]
    assert said == [ALLOW, ALLOW, EPERM, EPERM, EPERM, EPERM]
    assert [_decide(closed, X86, ioctl, 3, command) for command in (0x5401, 0x8901, 0x8902)] == [ALLOW, EPERM, EPERM]
    calls = (prlimit, setpriority, kill, shmget, inotify)
    assert [_decide(private, X86, number, 5) for number in calls] == [ALLOW] * 5
    assert [_decide(private, X86, fcntl, 3, command) for command in (8, 1024)] == [ALLOW, EPERM]


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


@pytest.mark.parametrize("machine", NUMBERS)
@pytest.mark.parametrize("sockets", [True, False])
def test_filter_of_what_is_newer_than_it(machine: str, sockets: bool) -> None:
    """Calls that nobody has looked at are not there, as for programs on an older kernel."""
    program, call = seccomp.program(sockets=sockets, machine=machine), NUMBERS[machine]
    assert [_decide(program, call.audit, number) for number in (467, 468, 600, 1000)] == [ENOSYS] * 4
    assert [_decide(program, call.audit, number) for number in (444, 449, 454, 466)] == [ALLOW] * 4
    assert [_decide(program, call.audit, number) for number in (457, 458)] == [EPERM] * 2
