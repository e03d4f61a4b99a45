"""tar.gz and zip in, tar.gz out: what the other rooms use. The work is done in unpack.py, packing.py and reader.py.

Archives come from agents and storage services, so nothing in them is believed: never `tarfile.extract*`, whose
filters have let links, modes and sizes through in several releases (CVE-2024-12718, CVE-2025-4517, ...).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from .headers import Kind
from .names import objections
from .packing import Packed, pack, pack_mapping
from .reader import Limits, Reader, opened
from .unpack import Extracted, extract, laid_over

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "Extracted",
    "Limits",
    "Member",
    "Packed",
    "Verified",
    "extract",
    "laid_over",
    "members",
    "pack",
    "pack_mapping",
    "verify",
]


class Member(NamedTuple):
    """One member: `path` without `./`, permission bits, and a file's SHA-256 (hex) or a link's target."""

    path: str
    kind: Kind
    size: int
    mode: int
    digest: str


def members(archive: Path | BinaryIO, *, limits: Limits = Limits()) -> Iterator[Member]:  # noqa: B008  (frozen)
    """The members in the archive's order; the root is left out, a hard link has its original's size and digest.

    Raises ArchiveError where `extract` would, so one that is exhausted has been verified to its end.
    """
    files: dict[str, tuple[int, str]] = {}
    with opened(archive) as stream:
        reader = Reader(stream, limits)
        for entry in reader:
            size, digest = entry.size, entry.target
            if entry.kind == "file":
                sha256 = hashlib.sha256()
                for chunk in reader.data():
                    sha256.update(chunk)
                digest = sha256.hexdigest()
                files[entry.path] = size, digest
            elif entry.kind == "hardlink":
                size, digest = files[entry.path] = files[entry.target]
                reader.charge(size, entry.path)
            if entry.path:
                yield Member(entry.path, entry.kind, size, entry.mode & 0o777, digest)


class Verified(NamedTuple):
    """What a whole read found: the names at the top, and (path, why) of the links that extraction would leave out."""

    top: frozenset[str]
    skipped: tuple[tuple[str, str], ...]


def verify(archive: Path | BinaryIO, *, limits: Limits = Limits()) -> Verified:  # noqa: B008  (frozen)
    """Read an archive to its end. Raises ArchiveError where `extract` would."""
    top: set[str] = set()
    sizes: dict[str, int] = {}
    with opened(archive) as stream:
        reader = Reader(stream, limits)
        for entry in reader:
            top.update(entry.parts[:1])
            sizes[entry.path] = entry.size
            if entry.kind == "hardlink":
                sizes[entry.path] = sizes[entry.target]
                reader.charge(sizes[entry.path], entry.path)
        return Verified(frozenset(top), objections(reader.links_below()))
