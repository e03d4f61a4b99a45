"""What is in a tree that is to be packed, and what speaks against packing it."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pytest_klavis.errors import SeedError

from .names import Links, NameRefusedError, decode, encode, folded, printable, quoted, split
from .trees import DIRECTORY, NOT_A_DIRECTORY, open_directory

if TYPE_CHECKING:
    from pathlib import Path

Special = Literal["refuse", "skip"]
MAX_MEMBERS = 200_000
SHOWN = 8  # problems in one error
KEPT = 1_000  # problems that are remembered by path; of the others, how many they are

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to pack; `parts` is () for the root, `target` is a link's."""

    parts: tuple[str, ...]
    kind: Literal["file", "dir", "link"]
    size: int = 0
    mode: int = 0
    target: str = ""

    @property
    def path(self) -> str:
        return "/".join(self.parts)


@dataclass
class Found:
    """The items of a tree in packing order. With "refuse" an objection is a SeedError, with "skip" a note."""

    root: Path
    special: Special
    items: list[Item] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    noted: int = 0  # problems, also those that are only counted

    @property
    def strict(self) -> bool:
        return self.special == "refuse"

    def note(self, path: str, why: str, *, always: bool = False) -> None:
        self.noted += 1
        if self.noted <= KEPT or always:
            self.skipped[path] = why
        else:
            self.skipped["..."] = f"and {self.noted - KEPT:,} more"

    def object(self, path: str, why: str) -> None:
        self.note(path, why)
        if self.strict:
            raise SeedError(f"{self.root} cannot be packed: {quoted(path)} {why}")

    def check(self) -> None:
        """Raise for all objections together, so that one run shows them all."""
        if not self.strict or not self.skipped:
            return
        lines = [f"  {printable(path)} {why}" for path, why in sorted(self.skipped.items())]
        if self.noted > SHOWN:
            lines[SHOWN:] = [f"  ... and {self.noted - SHOWN:,} more"]
        raise SeedError("\n".join([f"{self.root} cannot be packed:", *lines]))

    def fit(self, limit: int | None) -> None:
        """With "refuse", raise when the files hold more than `limit` bytes, naming the largest."""
        total = sum(item.size for item in self.items)
        if not self.strict or limit is None or total <= limit:
            return
        largest = sorted(self.items, key=lambda item: -item.size)[:5]
        lines = [f"  {item.size:>15,}  {printable(item.path)}" for item in largest if item.size]
        head = f"{self.root} holds {total:,} bytes; the limit is {limit:,}. The largest files:"
        raise SeedError("\n".join([head, *lines]))


def scan(top: int, root: Path, special: Special) -> Found:
    """Everything below the directory `top` (a descriptor; `root` is its name in messages).

    With "refuse" raises SeedError for what extraction would refuse or leave out; with "skip" it is noted, and left
    out unless it is a link.
    """
    found = Found(root, special, [Item((), "dir")])
    _below(top, (), found)
    if found.strict:
        _check_names(found)
        links = {item.path: item.target for item in found.items if item.kind == "link"}
        known = Links(links)
        for path, target in links.items():
            if why := known.objection(path):
                found.note(path, f"is {why} ({quoted(target)})")
        found.check()
    found.items.sort(key=lambda item: encode(item.path))
    return found


def _below(directory: int, parts: tuple[str, ...], found: Found) -> None:
    for name in map(os.fsencode, os.listdir(directory)):
        here = (*parts, decode(name))
        if len(found.items) + found.noted > MAX_MEMBERS:
            found.note(
                "/".join(parts), f"is the place where the limit of {MAX_MEMBERS:,} members was reached", always=True
            )
            return
        try:
            split(encode("/".join(here)), portable=found.strict)
            _one(name, directory, here, found)
        except NameRefusedError as error:
            found.note("/".join(here), str(error))
        except OSError as error:
            gone = isinstance(error, FileNotFoundError) or error.errno in NOT_A_DIRECTORY
            found.note("/".join(here), "changed while it was packed" if gone else f"cannot be read: {error.strerror}")


def _one(name: bytes, directory: int, here: tuple[str, ...], found: Found) -> None:
    info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if stat.S_ISDIR(info.st_mode):
        # A seed is the user's: its modes are left alone. A dump's locked directories are opened.
        inner = os.open(name, DIRECTORY, dir_fd=directory) if found.strict else open_directory(name, directory)
        try:
            found.items.append(Item(here, "dir"))
            _below(inner, here, found)
        finally:
            os.close(inner)
    elif stat.S_ISLNK(info.st_mode):
        found.items.append(Item(here, "link", target=decode(os.readlink(name, dir_fd=directory))))
    elif stat.S_ISREG(info.st_mode):
        found.items.append(Item(here, "file", info.st_size, info.st_mode))
        if found.strict and not os.access(name, os.R_OK, dir_fd=directory, effective_ids=True):
            found.note("/".join(here), "cannot be read: Permission denied")
    else:
        found.note("/".join(here), f"is {_KINDS.get(stat.S_IFMT(info.st_mode), 'no file')}")


def _check_names(found: Found) -> None:
    seen: dict[str, str] = {}
    for item in found.items:
        other = seen.setdefault(folded(item.path), item.path)
        if other != item.path:
            found.note(item.path, f"is one file with {quoted(other)} where case or accents do not count")
