"""How pip is called here: with which options and environment, and what it says of its progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

OPTIONS = (
    *("--require-hashes", "--no-deps", "--only-binary", ":all:", "--no-user", "--no-compile", "--no-input"),
    *("--disable-pip-version-check", "--no-warn-script-location", "--progress-bar", "off"),
)
# What a user's configuration of pip may say of other installations, but not of this one.
_NOT_HERE = ("CONSTRAINT", "BUILD_CONSTRAINT", "REQUIREMENT", "EDITABLE", "TARGET", "PREFIX", "ROOT", "USER", "PYTHON")
_NOT_HERE_EITHER = ("NO_BINARY", "ONLY_BINARY", "DRY_RUN", "REPORT", "LOG", "QUIET", "VERBOSE")
# What its files may say as well, which variables overrule.
_SAID_HERE = {"PIP_DRY_RUN": "0", "PIP_QUIET": "0", "PIP_VERBOSE": "0"}


@dataclass(frozen=True)
class Progress:
    """Where an installation is: what is done, and with which of how many packages."""

    what: str
    done: int = 0
    total: int = 0
    name: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.done} of {self.total}: {self.name}" if self.name else self.what


class Counter:
    """Reads what pip says, and tells with which package it is busy."""

    def __init__(self, total: int, tell: Callable[[Progress], None]) -> None:
        self._total, self._done, self._tell = total, 0, tell
        self.ignored: list[str] = []
        """Names of packages that are for other platforms, once for each entry of the lock."""

    def __call__(self, line: str) -> None:
        first, _, rest = line.partition(" ")
        if first == "Ignoring":  # another platform's
            self._total -= 1
            self.ignored.append(rest.partition(":")[0])
        elif first in ("Collecting", "Processing"):  # from an index, from a folder
            self._done += 1
            name = rest.partition("==")[0] if first == "Collecting" else Path(rest.split(" (")[0]).name.split("-")[0]
            self._tell(Progress("getting package", self._done, self._total, name))
        elif first == "Installing":
            self._tell(Progress("unpacking packages"))


def environment_of(environ: Mapping[str, str], temporary: Path) -> dict[str, str]:
    """The user's, for indexes, proxies and certificates, without what would lead pip or Python elsewhere.

    pip's files stay in force, and no variable takes a `target` out of them: whoever installs looks at what came of it.
    """
    dropped = {f"PIP_{name}" for name in (*_NOT_HERE, *_NOT_HERE_EITHER)}
    kept = {
        key: value
        for key, value in environ.items()
        if key.upper().replace("-", "_") not in dropped and not key.startswith("PYTHON")  # pip reads PIP_Target, too
    }
    kept.pop("__PYVENV_LAUNCHER__", None)
    return {**kept, **_SAID_HERE, "TMPDIR": str(temporary)}
