"""What a member of an archive may be called, where its links may lead, and how both are shown to a person."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_PART = 255  # bytes of one component: what Linux and macOS file systems take
MAX_PATH = 4095  # bytes of a path: PATH_MAX less its NUL
MAX_DEPTH = 100  # directories above a member; also what bounds the descriptors that a walk holds
MAX_NAMES = 64 << 20  # bytes of all names of one archive together; they are held in memory
STEP = 20  # price of one step along a link, in characters that are copied: some 10 ns each
MAX_HOPS = 40  # links followed on the way of one link, as Linux does

# Embeddings, overrides and isolates: they make a name read as another one. Joiners and marks stay allowed.
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_BREAKS = frozenset("\u2028\u2029")


class NameRefusedError(ValueError):
    """A name that no member may have; the text says why, without the name itself."""


def encode(text: str) -> bytes:
    """The bytes of a name as they are on disk and in the archive, whatever the locale."""
    return text.encode("utf-8", "surrogateescape")


def decode(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def printable(text: str) -> str:
    """`text` for a terminal: control, bidi and undecodable characters escaped; tab and newline too."""
    if text.isascii() and text.isprintable():
        return text
    shown = []
    for char in text:
        if unicodedata.category(char) in ("Cc", "Cs") or char in _BIDI or char in _BREAKS:
            code = ord(char)
            if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8
                code -= 0xDC00
            shown.append(f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
        else:
            shown.append(char)
    return "".join(shown)


def quoted(text: str, limit: int = 200) -> str:
    """A name in an error message: escaped, in quotes, its middle left out when it is long."""
    shown = printable(text)
    if len(shown) > limit:
        shown = f"{shown[: limit // 2]}…{shown[-(limit // 2) :]}"
    return f"'{shown}'"


def held(text: str) -> int:
    """Bytes that a text takes in memory, where its widest character decides for all of them."""
    if text.isascii():
        return len(text)
    widest = ord(max(text))
    return len(text) * (1 if widest < 0x100 else 2 if widest < 0x10000 else 4)


def split(raw: bytes, *, portable: bool = True, depth: int = MAX_DEPTH) -> tuple[str, ...]:
    """The components of a member's name; `.` and empty ones dropped, so `./` is `()`.

    Raises NameRefusedError for what leaves the root or cannot be written. With `portable` also for what reads or
    means something else elsewhere: backslashes, control characters, bidi overrides.
    """
    if not raw:
        raise NameRefusedError("has an empty name")
    if b"\0" in raw:
        raise NameRefusedError("has a NUL in its name")
    if raw.startswith(b"/"):
        raise NameRefusedError("has an absolute path")
    if len(raw) > MAX_PATH:
        raise NameRefusedError(f"has a path of {len(raw):,} bytes; the limit is {MAX_PATH:,}")
    parts = [part for part in raw.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise NameRefusedError("leaves the archive's root through '..'")
    if len(parts) > depth:
        raise NameRefusedError(f"lies {len(parts)} directories deep; the limit is {depth}")
    if any(len(part) > MAX_PART for part in parts):
        raise NameRefusedError(f"has a component of more than {MAX_PART} bytes")
    names = tuple(decode(part) for part in parts)
    if portable:
        unportable(names)
    return names


def unportable(names: tuple[str, ...]) -> None:
    """Raise NameRefusedError for names that read or mean something else on another system."""
    for name in names:
        if name.isascii() and name.isprintable() and "\\" not in name:
            continue
        if "\\" in name:
            raise NameRefusedError("has a backslash in its name, which is a separator elsewhere")
        if any(unicodedata.category(char) == "Cc" for char in name):
            raise NameRefusedError("has a control character in its name")
        if any(char in _BIDI or char in _BREAKS for char in name):
            raise NameRefusedError("has a character in its name that changes how it reads")


@lru_cache(maxsize=8192)
def _fold(part: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", part).casefold())


def folded(path: str) -> str:
    """What two paths share when some file system takes them for one (letter case, composed accents)."""
    if path.isascii():
        return path.lower()
    return "/".join(map(_fold, path.split("/")))  # nothing composes with a `/`


class Links:
    """The symbolic links of a tree, and where each leads when all of them are followed.

    The walk is over names alone: nothing on disk is followed. One budget for the whole tree, since a few
    hostile kilobytes can describe links whose walk would take hours.
    """

    def __init__(self, links: Mapping[str, str], *, budget: int = 300_000_000) -> None:
        self._links = links
        self._folded = {folded(path): target for path, target in links.items()}
        self._budget = budget

    def objection(self, path: str) -> str | None:
        """Why the link at `path` cannot be restored, or None when it leads to a place below the root."""
        if self._links[path].startswith("/"):
            return "an absolute link"
        try:
            # Twice, because on a file system that ignores case `L/..` goes through a link that is called `l`.
            self._follow(path, self._links, str)
            self._follow(path, self._folded, folded)
        except _LinkRefusedError as reason:
            return str(reason)
        return None

    def _follow(self, path: str, links: Mapping[str, str], key: Callable[[str], str]) -> None:
        place = path.split("/")[:-1]
        todo = self._steps(self._links[path])
        hops = 0
        while todo:
            _step(place, todo.pop())
            where = "/".join(place)
            self._pay(STEP + len(where) * (1 if where.isascii() else 5))  # folding is slow for what is not ASCII
            # Twice the longest path: what folds to the name of a link can have more characters than that has bytes.
            through = links.get(key(where)) if 0 < len(where) <= 2 * MAX_PATH else None
            if through is None:
                continue
            hops += 1
            if hops > MAX_HOPS:
                raise _LinkRefusedError("a link that leads back to itself")
            if through.startswith("/"):
                raise _LinkRefusedError("a link that leads outside through another one")
            place.pop()
            todo.extend(self._steps(through))
        if not place:
            raise _LinkRefusedError("a link to the root itself")

    def _steps(self, target: str) -> list[str]:
        """The components of a target, the last one first."""
        self._pay(len(target) + STEP * target.count("/"))
        return [part for part in reversed(target.split("/")) if part not in ("", ".")]

    def _pay(self, cost: int) -> None:
        self._budget -= cost
        if self._budget < 0:
            raise _LinkRefusedError("a link of a tree with too many long links")


def objections(links: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """(path, why) of those links of a tree, path to target, that cannot be restored; `why` can be logged."""
    known = Links(links)
    found = ((path, known.objection(path)) for path in sorted(links))
    return tuple((path, f"{why}: {printable(links[path])}") for path, why in found if why)


class _LinkRefusedError(ValueError):
    """A link that leads where none may; the text says where."""


def _step(place: list[str], part: str) -> None:
    """Go one component on from `place`, which is changed."""
    if part == "..":
        if not place:
            raise _LinkRefusedError("a link that leads outside")
        place.pop()
    else:
        place.append(part)
        if len(place) > MAX_DEPTH:
            raise _LinkRefusedError("a link to a place deeper than any file")
