"""The few Linux system calls that Python does not wrap: prctl and Landlock. No policy here."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

LINUX = sys.platform.startswith("linux")
_libc = ctypes.CDLL(None, use_errno=True)

PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522

# The same numbers on every architecture (they came after the tables were unified).
_CLOSE_RANGE = 436
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_ADD_RULE = 445
_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LANDLOCK_RULE_PATH_BENEATH = 1

# The values are those of the kernel's include/uapi/linux/landlock.h.
FS_EXECUTE, FS_WRITE_FILE, FS_READ_FILE, FS_READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
FS_MAKE_CHAR, FS_MAKE_BLOCK = 1 << 6, 1 << 11
FS_TRUNCATE, FS_IOCTL_DEV = 1 << 14, 1 << 15
NET_BIND_TCP, NET_CONNECT_TCP = 1 << 0, 1 << 1
SCOPE_ABSTRACT_UNIX, SCOPE_SIGNAL = 1 << 0, 1 << 1
FS_READ = FS_EXECUTE | FS_READ_FILE | FS_READ_DIR
_FILE_RIGHTS = FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV


class _RulesetAttr(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def prctl(option: int, argument: int = 0, second: int = 0) -> int:
    """Call prctl(2). Raises OSError."""
    zero = ctypes.c_ulong(0)
    return _checked(
        _libc.prctl(option, ctypes.c_ulong(argument), ctypes.c_ulong(second), zero, zero), f"prctl({option})"
    )


def close_range(first: int) -> bool:  # forked child
    """Close every descriptor from `first` on; False where the kernel (before 5.9) cannot."""
    return LINUX and _libc.syscall(_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(0xFFFFFFFF), 0) == 0


def drop_bounding_set() -> None:  # forked child
    """Empty the capability bounding set of this thread (needs CAP_SETPCAP)."""
    capability = 0
    while True:
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            if capability == 0:
                raise
            return  # EINVAL: one past the last capability of this kernel
        capability += 1


def setns(fd: int) -> None:  # forked child
    """Enter a namespace; of a PID namespace, for the children to come. Raises OSError."""
    _checked(_libc.setns(fd, 0), "setns")


def drop_capabilities() -> None:  # forked child
    """Give up all capabilities of this thread, and look whether they are gone. Raises OSError."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
    left = (ctypes.c_uint32 * 6)()
    _checked(_libc.capget(header, left), "capget")
    if any(left):
        raise OSError(errno.EPERM, "capabilities could not be given up")


def landlock_abi() -> int:
    """Version of Landlock in the running kernel; 0 where there is none."""
    if not LINUX:
        return 0
    null = ctypes.c_void_p(None)
    return max(
        0, int(_libc.syscall(_LANDLOCK_CREATE_RULESET, null, ctypes.c_size_t(0), _LANDLOCK_CREATE_RULESET_VERSION))
    )


def filesystem_rights(abi: int) -> int:
    """Every filesystem right that this version of Landlock can withhold."""
    bits = {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)
    return (1 << bits) - 1


def create_ruleset(abi: int, *, fs: int = 0, net: int = 0, scoped: int = 0) -> int:
    """Make a ruleset that withholds the given rights (those that `abi` knows); returns its descriptor."""
    attr = _RulesetAttr(fs & filesystem_rights(abi), net if abi >= 4 else 0, scoped if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    return _checked(
        _libc.syscall(_LANDLOCK_CREATE_RULESET, ctypes.byref(attr), ctypes.c_size_t(size), 0), "landlock_create_ruleset"
    )


def allow_paths(ruleset: int, abi: int, paths: Iterable[Path], rights: int) -> None:
    """Grant rights below each of the paths that exist. A path's last component is not followed if it is a link."""
    known = rights & filesystem_rights(abi)
    for path in paths:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        try:
            is_directory = (os.fstat(fd).st_mode & 0o170000) == 0o040000
            rule = _PathBeneath(known if is_directory else known & _FILE_RIGHTS, fd)
            _checked(
                _libc.syscall(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, ctypes.byref(rule), 0),
                f"landlock_add_rule({path})",
            )
        finally:
            os.close(fd)


def restrict_self(ruleset: int) -> None:  # forked child
    """Put this thread, and what it forks, under the ruleset. Needs no_new_privs."""
    _checked(_libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")


class _SockFprog(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def load_seccomp(program: bytes) -> None:  # forked child
    """Load a BPF program of 8-byte instructions as this thread's system call filter. Needs no_new_privs."""
    argument = _SockFprog(len(program) // 8, program)
    result = _libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(argument), 0, 0)
    _checked(result, "prctl(PR_SET_SECCOMP)")
