"""A process as in a container or on a machine that forbids what isolation needs, and what `choose` says there.

Run as a program: the conditions as arguments, then the level. Conditions are made of what containers are made of: a
system call filter, fewer capabilities, limits of a user namespace, a mount namespace, a plain user.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import json
import os
import sys
from pathlib import Path

from pytest_klavis.embedded.isolation import seccomp, syscalls

PLAIN = 1000
_X86 = ("unshare", "setns", "mount", "umount2", "pivot_root", "move_mount", "open_tree", "fsopen", "fsmount")
_NEWUSER, _NEWNS = 0x10000000, 0x00020000
_libc = ctypes.CDLL(None, use_errno=True)


def _load(*parts: bytes) -> None:
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    number = seccomp._op(seccomp._LD_WORD, seccomp._NR)
    syscalls.load_seccomp(number + b"".join(parts) + seccomp._op(seccomp._RET, seccomp._ALLOW))


def docker_filter() -> None:
    """As Docker's default profile without CAP_SYS_ADMIN: EPERM for these, and clone3 is not there."""
    column, _ = seccomp._ARCHITECTURES[os.uname().machine]
    refused = [seccomp._for_call(seccomp._REFUSED[name][column] or 0, seccomp._refuse()) for name in _X86]
    flags = seccomp._argument(0) + seccomp._op(seccomp._JSET, seccomp._NEW_NAMESPACES, 0, 1) + seccomp._refuse()
    clone = seccomp._for_call(seccomp._CLONE[column], flags + seccomp._op(seccomp._RET, seccomp._ALLOW))
    _load(*refused, clone, seccomp._for_call(seccomp._CLONE3[column], seccomp._refuse(errno.ENOSYS)))


def no_landlock(number: int = errno.EPERM) -> None:
    """A filter that does not know Landlock's calls."""
    _load(*(seccomp._for_call(call, seccomp._refuse(number)) for call in (444, 445, 446)))


def no_uid_map() -> None:
    """As AppArmor on Ubuntu 24.04: a user namespace can be made, its uid_map not written (EACCES)."""
    abi = syscalls.landlock_abi()
    ruleset = syscalls.create_ruleset(abi, fs=syscalls.FS_WRITE_FILE)
    allowed = [path for path in Path("/").iterdir() if path.name != "proc"]
    syscalls.allow_paths(ruleset, abi, allowed, syscalls.FS_WRITE_FILE)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.restrict_self(ruleset)


def few_capabilities() -> None:
    """Those of Docker's default set."""
    kept = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}  # chown .. setfcap; neither 21 (SYS_ADMIN) nor 12
    for capability in set(range(41)) - kept:
        syscalls.prctl(syscalls.PR_CAPBSET_DROP, capability)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    low = sum(1 << n for n in kept)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)(low, low, 0, 0, 0, 0)))


def no_chown() -> None:
    """Root with no capability at all, as `docker run --cap-drop ALL`."""
    _check(_libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()))


def no_user_namespaces() -> None:
    """user.max_user_namespaces=0, in a user namespace of our own that has all users."""
    ready, go = os.pipe(), os.pipe()
    child = os.getpid()
    if os.fork() == 0:
        os.read(ready[0], 1)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{name}").write_text("0 0 4294967295")
        os.write(go[1], b"x")
        os._exit(0)
    _check(_libc.unshare(_NEWUSER))
    os.write(ready[1], b"x")
    os.read(go[0], 1)
    os.wait()
    Path("/proc/sys/user/max_user_namespaces").write_text("0")


def masked_proc() -> None:
    """A /proc with something mounted over a part of it: the kernel lets nobody without privileges mount a new one."""
    _check(_libc.unshare(_NEWNS))
    _check(_libc.mount(b"none", b"/", None, 0x44000, None))  # private, recursively
    _check(_libc.mount(b"none", b"/proc/irq", b"tmpfs", 1, None))


def no_proc() -> None:
    _check(_libc.unshare(_NEWNS))
    _check(_libc.mount(b"none", b"/", None, 0x44000, None))
    _check(_libc.mount(b"none", b"/proc", b"tmpfs", 0, None))


def plain() -> None:
    os.setgroups([])
    os.setgid(PLAIN)
    os.setuid(PLAIN)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


CONDITIONS = {
    condition.__name__: condition
    for condition in (
        docker_filter,
        no_landlock,
        no_uid_map,
        few_capabilities,
        no_chown,
        no_user_namespaces,
        masked_proc,
        no_proc,
        plain,
    )
}


def main(conditions: list[str], level: str) -> None:
    from pytest_klavis.embedded.isolation import choose

    for name in conditions:
        CONDITIONS[name]()
    found = asyncio.run(choose(level))
    sys.stdout.write(json.dumps({"level": found.level, "reason": found.reason}))


if __name__ == "__main__":
    main(sys.argv[1:-1], sys.argv[-1])
