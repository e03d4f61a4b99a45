"""Where the servers' environment is, and what is in it. Only the standard library; nothing is made here."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = "KLAVIS_SERVERS_DIR"
LOCK = "KLAVIS_SERVERS_LOCK"
VARIABLES = (FOLDER, LOCK, "HOME", "XDG_DATA_HOME")
"""What `locate` looks at in the environment of the process."""
COMMAND = "pytest-klavis servers install"
RECORD = "installed.json"
"""Written last into an environment, so that one without it is not whole."""
PACKAGES: Mapping[str, str] = {
    "excel": "excel-mcp-server",
    "word": "office-word-mcp-server",
    "powerpoint": "office-powerpoint-mcp-server",
    "poste_email_toolathlon": "pymap",
}
"""What of the lock each server needs, beside what that needs in turn."""
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class SideEnvironment:
    """A whole environment. `python` runs in it, `prefix` is its directory."""

    python: Path
    prefix: Path


@dataclass(frozen=True)
class Missing:
    """There is none. `reason` is for people, and ends with the command that mends it."""

    reason: str


@dataclass(frozen=True)
class Lock:
    """A file in pip's format with exact versions and hashes."""

    path: Path
    text: bytes

    @property
    def key(self) -> str:
        """What an environment that was made from it is called: 12 hexadecimal digits and the tag of the Python."""
        return f"{hashlib.sha256(self.text).hexdigest()[:12]}-{python_tag()}"

    @property
    def size(self) -> int:
        """How many packages it names, those for other platforms too."""
        return len(_PIN.findall(self.text.decode()))

    def versions(self) -> dict[str, str]:
        """Versions by name of package."""
        return dict(_PIN.findall(self.text.decode()))

    def lacking(self, found: Mapping[str, str], ignored: Sequence[str]) -> list[str]:
        """What of it is not among the `found` versions by name: `name==version`, sorted.

        `ignored` has the name of each entry that is for other platforms, once for each.
        """
        pins: dict[str, list[str]] = {}
        for name, version in _PIN.findall(self.text.decode()):
            pins.setdefault(canonical(name), []).append(version)
        skipped = Counter(map(canonical, ignored))
        return sorted(
            f"{name}=={' or '.join(versions)}"
            for name, versions in pins.items()
            if found.get(name) not in versions and skipped[name] < len(versions)
        )


def canonical(name: str) -> str:
    """The name of a package as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(environ: Mapping[str, str] = os.environ) -> Lock:
    """The lock that this package ships, or the file that $KLAVIS_SERVERS_LOCK names. Raises OSError."""
    path = _given(LOCK, environ) or Path(__file__).with_name("servers.lock")
    return Lock(path, path.read_bytes())


def _given(name: str, environ: Mapping[str, str]) -> Path | None:
    """The path that a variable names. Raises OSError for a relative one."""
    given = environ.get(name)
    if given and not os.path.isabs(given):  # noqa: PTH117 - the server has another working directory
        raise OSError(f"${name} is {given!r}, which is no absolute path")
    return Path(given) if given else None


def python_tag() -> str:
    """The tag of this interpreter in names of wheels: cp311, cp313t."""
    return f"cp{sys.version_info.major}{sys.version_info.minor}{'t' if 't' in sys.abiflags else ''}"


def base_python() -> str:
    """The interpreter outside of any virtual environment: environments are made of it, and sandboxes run it."""
    return getattr(sys, "_base_executable", None) or sys.executable


def folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The directory that environments are in.

    $KLAVIS_SERVERS_DIR, else a place of this user's: `~/.local/share` (or $XDG_DATA_HOME), `~/Library/Application
    Support` on macOS, and `/var/lib` for root, because sandboxes then run as other users, and root's home is closed.
    Raises OSError for a relative path.
    """
    if given := _given(FOLDER, environ):
        return given
    if xdg := environ.get("XDG_DATA_HOME"):
        data = Path(xdg)
    elif os.geteuid() == 0:
        data = Path("/var/lib")
    else:
        home = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
        data = home / ("Library/Application Support" if sys.platform == "darwin" else ".local/share")
    return data / "pytest-klavis" / "servers"


def locate(environ: Mapping[str, str] = os.environ) -> SideEnvironment | Missing:
    """The environment for this interpreter and this version of the package, or why there is none."""
    try:
        prefix = folder(environ) / read_lock(environ).key
    except OSError as error:
        return Missing(f"the servers cannot be looked for: {error}")
    python = prefix / "bin" / "python"
    if not (prefix / RECORD).is_file():
        return Missing(f"the servers are not installed ({prefix} is not there): {COMMAND}")
    if not python.exists():
        return Missing(f"the Python of {prefix} is gone ({_target(python)}), so it cannot run: {COMMAND}")
    return SideEnvironment(python, prefix)


def _target(link: Path) -> str:
    try:
        return os.readlink(link)  # noqa: PTH115 - as it is written
    except OSError:
        return str(link)


def record_of(prefix: Path) -> dict[str, object]:
    """What was noted when it was made: python, packages, bytes, when. Empty where that cannot be read."""
    try:
        found = json.loads((prefix / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
