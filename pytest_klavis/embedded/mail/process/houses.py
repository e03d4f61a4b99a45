"""Who has mail here: a house per sandbox, accounts in it, and how much mail each may hold."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Callable
    from typing import Any

    from .mailboxes import Folders

MESSAGE = 32 << 20  # bytes of one message
HOUSE = 128 << 20  # bytes of all mail of a sandbox
EVERYTHING = 512 << 20  # bytes of all mail of the process; its memory is about three times that
OVERHEAD = 8 << 10  # bytes that each message counts more: what the smallest one takes in memory
FOLDERS = 500  # of an account
HOUSE_CONNECTIONS = 48
CONNECTIONS = 400


HEADER = 64 << 10  # bytes of a message's own header
BOUNDARIES = 50  # that a message may declare
PARTS = 300  # of a message
FIELD = 4 << 10  # bytes of a field that says what a part is
FIELDS = 128 << 10  # bytes of all such fields of a message
MARKS = 200  # quotes, semicolons and the like in one of them
_DECLARED = re.compile(rb'boundary\s*=\s*"?([^";\s]{1,200})', re.IGNORECASE)
_FIELD = re.compile(
    rb"[\r\n]content-(?:type|disposition)[ \t\v\f]*:[^\n]*(?:\n(?:[ \t\v\f]|\r(?!\n))[^\n]*)*", re.IGNORECASE
)
_MARK = re.compile(rb"[^\w\s%.+/:\x80-\xff-]")


class NoRoomError(Exception):
    """The mail is not taken; the text says what is full, or too much."""


class AllFullError(NoRoomError):
    """Other sandboxes have taken what there is: nothing that the sender did."""


def check_shape(message: bytes) -> None:
    """Raises NoRoomError for what would keep the parsers busy: they take the square of it, and of all that wait."""
    if _end_of_header(message) > HEADER:
        raise NoRoomError(f"the header is longer than {HEADER} bytes")
    fields = 0
    for found in _FIELD.finditer(b"\n" + message):
        fields += len(found[0])
        if len(found[0]) > FIELD or fields > FIELDS or len(_MARK.findall(found[0])) > MARKS:
            raise NoRoomError(
                f"what it says of its parts is too long: a Content-Type or Content-Disposition may have {FIELD} bytes "
                f"and {MARKS} special characters, all of them together {FIELDS} bytes"
            )
    declared = {found[1] for found in itertools.islice(_DECLARED.finditer(message), BOUNDARIES + 1)}
    if len(declared) > BOUNDARIES:
        raise NoRoomError(f"the message is nested more than {BOUNDARIES} times")
    if sum(message.count(b"\n--" + boundary) for boundary in declared) > PARTS:
        raise NoRoomError(f"the message has more than {PARTS} parts")


def _end_of_header(message: bytes) -> int:
    ends = (message.find(end, 0, HEADER + 8) for end in (b"\r\n\r\n", b"\n\n"))
    return min((end for end in ends if end >= 0), default=len(message))


@dataclass
class Room:
    """What is taken of the whole process."""

    bytes: int = 0
    connections: int = 0


@dataclass(eq=False)
class Account:
    """One address of one sandbox. `folders` hold its mail; made on first use."""

    email: str
    password: str = field(repr=False)
    house: House
    folders: Folders | None = None


@dataclass(eq=False)
class House:
    """One sandbox: its accounts by address in lower case, what they take, and who is connected."""

    id: str
    room: Room
    accounts: dict[str, Account] = field(default_factory=dict)
    bytes: int = 0
    connections: set[Task[Any]] = field(default_factory=set)

    def take(self, size: int) -> None:
        """Count one more message of `size` bytes. Raises NoRoomError."""
        if size > MESSAGE:
            raise NoRoomError(f"the message has {size} bytes, and at most {MESSAGE} are taken")
        size += OVERHEAD
        if self.bytes + size > HOUSE:
            raise NoRoomError(f"the mail of this sandbox takes {self.bytes} of its {HOUSE} bytes")
        if self.room.bytes + size > EVERYTHING:
            raise AllFullError(f"the mail of all sandboxes takes {self.room.bytes} of {EVERYTHING} bytes")
        self.bytes += size
        self.room.bytes += size

    def give_back(self, size: int) -> None:
        self.bytes -= size + OVERHEAD
        self.room.bytes -= size + OVERHEAD

    def knows(self, domain: str) -> bool:
        """Whether an account of this sandbox is in the domain: then an unknown address there is nobody's."""
        return any(address.endswith(f"@{domain}") for address in self.accounts)


class Houses:
    """All sandboxes that have mail."""

    def __init__(self) -> None:
        self.room = Room()
        self._houses: dict[str, House] = {}
        self._named: dict[str, list[Account]] = {}

    def add(self, house_id: str, users: dict[str, str]) -> None:
        """Give a sandbox these accounts (address -> password), beside those that it has.

        The passwords are random and never the same twice: the same address may be in many sandboxes.
        """
        house = self._houses.setdefault(house_id, House(house_id, self.room))
        for email, password in users.items():
            account = Account(email, password, house)
            house.accounts[email.lower()] = account
            self._named.setdefault(email.lower(), []).append(account)

    def remove(self, house_id: str) -> None:
        """Forget a sandbox: its mail, and whoever is connected."""
        house = self._houses.pop(house_id, None)
        if house is None:
            return
        for task in house.connections:
            task.cancel()
        for address, account in house.accounts.items():
            self._named[address].remove(account)
            if not self._named[address]:
                del self._named[address]
        house.accounts.clear()
        self.room.bytes -= house.bytes

    def login(self, email: str, is_of: Callable[[Account], bool]) -> Account | None:
        """The account of this address for which `is_of` finds that the password is right."""
        return next(filter(is_of, self._named.get(email.lower(), ())), None)
