"""What to do where a level does not work: the known causes, told apart by what this machine says of itself."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

_GUESS = re.compile(r" ?On e\.g\. debian this can be enabled with '[^']*'\.?")  # bubblewrap's, often untrue
_NAMESPACES = ("new namespace", "uid map", "gid map")
_SYS_ADMIN = 21
_CONTAINER = (
    "`--security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined`"
)


def advice(failures: str, proc: Path = Path("/proc")) -> str:
    """The failures, and below them a line for each cause that is known and can be lifted.

    proc: where the machine describes itself.
    """
    said = _GUESS.sub("", failures)
    return "\n".join([said, *_causes(said, proc)])


def _causes(said: str, proc: Path) -> list[str]:
    lines = []
    if "bubblewrap could not" in said and any(word in said for word in _NAMESPACES):
        lines.append(_no_namespaces(said, proc))
    if "mount proc" in said:
        lines.append(
            "parts of /proc are masked here, as in containers, so no new one may be mounted: start the container with "
            "`--security-opt systempaths=unconfined`"
        )
    if "root cannot give files" in said:
        lines.append(
            "root has not its usual rights here (CAP_CHOWN, or users to give files to): run as a plain user "
            "(`docker run --user 1000`), or start the container without `--cap-drop`"
        )
    return [line for line in lines if line]


def _no_namespaces(said: str, proc: Path) -> str:
    kernel = proc / "sys" / "kernel"
    if _text(kernel / "apparmor_restrict_unprivileged_userns") == "1" and os.geteuid() != 0:
        return (
            "AppArmor keeps user namespaces from bubblewrap here: "
            "`sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0` allows them"
        )
    if "ENOSPC" in said or _text(proc / "sys" / "user" / "max_user_namespaces") == "0":
        return "user namespaces are switched off here: `sudo sysctl -w user.max_user_namespaces=15000` allows them"
    if _text(kernel / "unprivileged_userns_clone") == "0" and os.geteuid() != 0:
        return "user namespaces are for root here: `sudo sysctl -w kernel.unprivileged_userns_clone=1` allows them"
    status = dict(line.split(":\t", 1) for line in _text(proc / "self" / "status").splitlines() if ":\t" in line)
    as_root = os.geteuid() == 0
    unable = as_root and "CapEff" in status and not int(status["CapEff"], 16) >> _SYS_ADMIN & 1
    if status.get("Seccomp") == "2" or unable:
        able = " `--cap-add SYS_ADMIN`" if as_root else ""
        return (
            "this process may make no namespaces, as in an unprivileged container: start the container with "
            f"{_CONTAINER}{able} (docker and podman have these options)"
        )
    return ""


def no_landlock(number: int) -> str:
    """Why Landlock cannot be had, from the error of asking for its version (0: it is there, but old)."""
    reasons = {
        errno.EPERM: "a system call filter, of a container say, forbids Landlock: a newer docker allows it, and so "
        "does `--security-opt seccomp=unconfined`",
        errno.EOPNOTSUPP: "Landlock is switched off here: add `landlock` to lsm= on the kernel's command line",
        errno.ENOSYS: "this kernel has no Landlock (Linux 6.2 or newer has)",
    }
    return reasons.get(number, "this kernel's Landlock is too old (Linux 6.2 or newer is needed)")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
