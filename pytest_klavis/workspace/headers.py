"""What a tar and a zip say about one member, in the same words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = Literal["file", "dir", "link", "hardlink"]

CHUNK = 256 << 10
RATIO_FROM = 10 << 20  # unpacked bytes before the ratio is looked at: small files of zeros are common
CHARACTER_DEVICE, BLOCK_DEVICE, FIFO, SOCKET = "a character device", "a block device", "a FIFO", "a socket"


@dataclass(slots=True)
class Header:
    """One member as its archive describes it; owner and group are not even read.

    `kind` is a Kind, or what a refusal calls the thing. `link` is the target of a link or hard link.
    """

    name: bytes
    kind: str
    size: int
    mode: int
    mtime: int
    link: bytes


class Members(Protocol):
    """The members of one archive, once and in order; what is damaged about it is an ArchiveError."""

    def __iter__(self) -> Iterator[Header]: ...

    def data(self) -> Iterator[bytes]:
        """The bytes of the member that was given last; once."""
        ...
