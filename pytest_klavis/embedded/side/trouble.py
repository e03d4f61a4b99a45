"""What went wrong with an installation, in words, and what to do about it."""

from __future__ import annotations

import platform
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from pytest_klavis.embedded.side.environment import python_tag

_SHOWN = 8  # last lines of pip in an error
_NOISE = re.compile(
    r"^(WARNING: (Location .* is ignored|Retrying .* after connection)|\[notice\]|Collecting |  |Ignoring )"
)
_NO_NETWORK = (
    "NewConnectionError",
    "NameResolutionError",
    "ProxyError",
    "SSLError",
    "Connection refused",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "Temporary failure in name resolution",
    "Could not fetch URL",
)
_LACKING = re.compile(r"No matching distribution found for ([^\s;(]+)")


class InstallError(Exception):
    """The servers could not be installed. The text says what failed, what pip said last, and what to do."""


def worth_telling(said: Sequence[str]) -> str:
    """The last lines of a command, indented, without those that say nothing about its failure."""
    lines = [line for line in said if line.strip() and not _NOISE.match(line)] or list(said)
    return "\n".join(
        textwrap.fill(line, 80, initial_indent="  ", subsequent_indent="    ", break_long_words=False)
        for line in lines[-_SHOWN:]
    )


def leftovers_only(said: Sequence[str]) -> bool:
    """Whether a compilation failed by nothing but files that are for another Python: some packages bring such."""
    text = "\n".join(said)
    return "SyntaxError" in text and "Errno" not in text


def advice(said: Sequence[str], wheels: Path | None, place: Path) -> str:
    """What to do about a command that failed with these words."""
    text = "\n".join(said)
    lacking = _LACKING.search(text)
    todo, block = "The command can be repeated: what was made is gone again.", ""
    if "No space left on device" in text or "Disk quota exceeded" in text:
        todo = f"The disk of {place} is full: the servers need about 500 MB while they are installed, 210 MB later."
    elif "DO NOT MATCH THE HASHES" in text:
        todo = (
            "A file is not the one that the lock names, and nothing was installed. Find out which index or "
            "folder it came from, and do not trust that."
        )
    elif "ensurepip" in text:
        todo = (
            "This Python has neither pip nor ensurepip. On Debian and Ubuntu: apt-get install python3-venv; "
            "elsewhere run pytest-klavis with a Python that has it."
        )
    elif wheels is not None and lacking:
        todo = f"{wheels} lacks {lacking[1]} for {_here()}. To fill it, with such a Python:"
        block = FILL.format(wheels=wheels)
    elif lacking or any(sign in text for sign in _NO_NETWORK):
        what = f"a wheel of {lacking[1]} for {_here()}" if lacking else "the packages"
        todo = (
            f"No package index in reach has {what}; nothing is built from source. `pip config list` says which index "
            "is asked and by which proxy. Without a network: --offline DIR, a folder that was filled elsewhere:"
        )
        block = FILL.format(wheels="DIR")
    return "\n".join(filter(None, (textwrap.fill(todo, 80, break_long_words=False, break_on_hyphens=False), block)))


def astray(lacking: Sequence[str]) -> str:
    """What to say when pip told of success, and these packages are not in the environment."""
    names = ", ".join(lacking[:_SHOWN]) + (f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else "")
    todo = (
        f"pip reports success, but the environment lacks {names}. A file of pip's configuration may lead packages "
        "elsewhere (target, prefix or root): `pip config list` says so, and `pip config debug` in which file. Without "
        "such files: PIP_CONFIG_FILE=/dev/null, and variables like PIP_INDEX_URL for what else they said."
    )
    return textwrap.fill(todo, 80, break_long_words=False, break_on_hyphens=False)


FILL = """\
  pytest-klavis servers lock > servers.lock
  pip download -r servers.lock --require-hashes --no-deps \\
      --only-binary :all: -d {wheels}"""


def _here() -> str:
    libc = " ".join(platform.libc_ver()).strip()
    return f"{python_tag()} on {platform.system()} {platform.machine()}{f' ({libc})' if libc else ''}"
