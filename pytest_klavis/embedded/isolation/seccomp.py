"""The system call filters, assembled by hand as BPF programs (no libseccomp)."""

from __future__ import annotations

import errno
import functools
import platform
import struct

# number on x86_64, number on aarch64 (asm-generic); None: does not exist there.
# Source: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    # large and often broken parts of the kernel that no command line tool needs
    "bpf": (321, 280),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "perf_event_open": (298, 241),
    "fanotify_init": (300, 262),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "statmount": (457, 457),
    "listmount": (458, 458),
    # the machine itself
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None),
    "ioperm": (173, None),
    "vhangup": (153, 58),
}
# Refused where the IPC namespace is the machine's: segments and queues of the same user would be within reach.
_SHARED_IPC: dict[str, tuple[int, int]] = {
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
}
# Refused where names outside of the sandbox can be reached: Landlock lets them be watched.
_INOTIFY = (254, 27)  # inotify_add_watch
# What sends a signal to the process (or thread group) that argument 0 says, or leads to that.
_SIGNALLING: dict[str, tuple[int, int]] = {
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
}
# Allowed, where other processes of the user can be named, only with these arguments: those that mean the caller.
_OWN_PROCESS: dict[str, tuple[tuple[int, int], dict[int, int]]] = {
    "prlimit64": ((302, 261), {0: 0}),
    "sched_setaffinity": ((203, 122), {0: 0}),
    "sched_setscheduler": ((144, 119), {0: 0}),
    "sched_setparam": ((142, 118), {0: 0}),
    "sched_setattr": ((314, 274), {0: 0}),
    "setpriority": ((141, 140), {0: 0, 1: 0}),
    "ioprio_set": ((251, 30), {0: 1, 1: 0}),
    "migrate_pages": ((256, 238), {0: 0}),
    "move_pages": ((279, 239), {0: 0}),
}
_FIRST_UNKNOWN = 467  # open_tree_attr of Linux 6.15: nobody has looked at what comes from here on
_CLONE, _CLONE3, _IOCTL, _FCNTL = (56, 220), (435, 435), (16, 29), (72, 25)
_SOCKET, _SOCKETPAIR, _CONNECT, _BIND = (41, 198), (53, 199), (42, 203), (49, 200)

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_*
_NEW_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_FIOSETOWN, _SIOCSPGRP = 0x8901, 0x8902  # of sockets, as F_SETOWN
_F_SETOWN, _F_SETOWN_EX, _F_SETLEASE, _F_NOTIFY = 8, 15, 1024, 1026
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_SOCK_STREAM, _SOCK_SEQPACKET = 1, 5

_LD_WORD, _AND, _JEQ, _JGE, _JSET, _RET = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NR, _ARCH = 0, 4  # offsets in struct seccomp_data


def _op(code: int, k: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, k)


def _refuse(number: int = errno.EPERM) -> bytes:
    return _op(_RET, _ERRNO | number)


def _argument(index: int) -> bytes:
    return _op(_LD_WORD, 16 + 8 * index)  # the low word, on little-endian machines


def _for_call(number: int, body: bytes) -> bytes:
    """`body` runs for this call only and must end in a return."""
    return _op(_JEQ, number, 0, len(body) // 8) + body


def _only(argument: int, mask: int, allowed: tuple[int, ...], refusal: bytes) -> bytes:
    """Allow the call when argument & mask is one of `allowed`."""
    tests = b"".join(
        _op(_JEQ, value, len(allowed) - position, 0) for position, value in enumerate(allowed)
    )  # each jumps over the remaining tests and the refusal
    return _argument(argument) + _op(_AND, mask) + tests + refusal + _op(_RET, _ALLOW)


def _except(argument: int, refused: tuple[int, ...]) -> bytes:
    """Allow the call unless the argument is one of `refused`."""
    tests = b"".join(_op(_JEQ, value, len(refused) - position, 0) for position, value in enumerate(refused))
    return _argument(argument) + tests + _op(_RET, _ALLOW) + _refuse()


def supported() -> bool:
    """Is there a filter for this processor?"""
    return platform.machine() in _ARCHITECTURES


@functools.cache
def program(*, sockets: bool, machine: str | None = None) -> bytes:
    """The filter as an array of BPF instructions.

    sockets: True allows UNIX, IPv4, IPv6 and netlink sockets (where network, IPC and processes are in namespaces of
    their own). False allows no socket but connected pairs: a pathname socket such as Docker's or the session bus
    would be a way out, and so would a datagram pair, which can still be sent to a path. It also refuses System V IPC,
    watching files by name and what reaches for other processes.
    machine: as platform.machine() says it. Raises KeyError where there is no filter for it.
    """
    column, audit = _ARCHITECTURES[machine or platform.machine()]
    parts = [_op(_LD_WORD, _ARCH), _op(_JEQ, audit, 1, 0), _op(_RET, _KILL_PROCESS), _op(_LD_WORD, _NR)]
    if column == 0:
        parts.append(_op(_JGE, 0x40000000, 0, 1) + _refuse())  # the x32 numbers of x86_64
    parts.append(_op(_JGE, _FIRST_UNKNOWN, 0, 1) + _refuse(errno.ENOSYS))
    for numbers in _REFUSED.values():
        number = numbers[column]
        if number is not None:
            parts.append(_for_call(number, _refuse()))
    # clone3 hides its flags behind a pointer; without it the C library falls back to clone.
    parts.append(_for_call(_CLONE3[column], _refuse(errno.ENOSYS)))
    parts.append(
        _for_call(_CLONE[column], _argument(0) + _op(_JSET, _NEW_NAMESPACES, 0, 1) + _refuse() + _op(_RET, _ALLOW))
    )
    controls = (_TIOCSTI, _TIOCLINUX) if sockets else (_TIOCSTI, _TIOCLINUX, _FIOSETOWN, _SIOCSPGRP)
    parts.append(_for_call(_IOCTL[column], _except(1, controls)))
    parts += _private(column) if sockets else _shared(column)
    parts.append(_op(_RET, _ALLOW))
    return b"".join(parts)


def _private(column: int) -> list[bytes]:
    families = (_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK)
    return [
        _for_call(_SOCKET[column], _only(0, 0xFFFFFFFF, families, _refuse(errno.EAFNOSUPPORT))),
        _for_call(_FCNTL[column], _except(1, (_F_SETLEASE,))),  # of the interpreter's files, say
    ]


def _shared(column: int) -> list[bytes]:
    """What takes the place of namespaces."""
    calls = [*_SHARED_IPC.values(), _SOCKET, _CONNECT, _BIND, _INOTIFY]
    parts = [_for_call(numbers[column], _refuse()) for numbers in calls]
    for numbers, required in _OWN_PROCESS.values():
        tests = [_argument(index) + _op(_JEQ, value, 1, 0) + _refuse() for index, value in required.items()]
        parts.append(_for_call(numbers[column], b"".join(tests) + _op(_RET, _ALLOW)))
    pair = _only(1, 0xF, (_SOCK_STREAM, _SOCK_SEQPACKET), _refuse())
    parts.append(_for_call(_SOCKETPAIR[column], _argument(0) + _op(_JEQ, _AF_UNIX, 1, 0) + _refuse() + pair))
    # A file that signals another process when it is ready is as good as kill; a lease keeps others from opening it.
    parts.append(_for_call(_FCNTL[column], _except(1, (_F_SETOWN, _F_SETOWN_EX, _F_SETLEASE, _F_NOTIFY))))
    return [*parts, _for_call(_SIGNALLING["kill"][column], _except(0, (0xFFFFFFFF,)))]


def sparing(pid: int, machine: str | None = None) -> bytes:
    """A filter, to be loaded beside the one of `program`, that refuses to signal a process or its process group."""
    column, _ = _ARCHITECTURES[machine or platform.machine()]
    body = _except(0, (pid, -pid & 0xFFFFFFFF))
    calls = [_for_call(numbers[column], body) for numbers in _SIGNALLING.values()]
    return b"".join([_op(_LD_WORD, _NR), *calls, _op(_RET, _ALLOW)])
