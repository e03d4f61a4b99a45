"""Folders and messages as pymap serves them, over memory: counted, and searched in what a person reads."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from pymap.backend.dict.mailbox import LoadedMessage, MailboxData, MailboxSet, Message
from pymap.exceptions import NotAllowedError, ResponseError
from pymap.parsing.response import ResponseCode, ResponseNo

from .houses import FOLDERS, AllFullError, House, NoRoomError, check_shape
from .words import Words, folded, words_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pymap.parsing.message import AppendMessage
    from pymap.parsing.specials import FetchRequirement, ObjectId

log = logging.getLogger(__name__)
ALL_FULL = b"UNAVAILABLE"  # the code of what is refused because of other sandboxes
STANDARD = ("Drafts", "Junk", "Sent", "Trash")  # beside INBOX; those that Poste.io makes


class RefusedError(ResponseError):
    """A message is not taken; the client is told why."""

    def __init__(self, text: str, code: bytes = b"CANNOT") -> None:
        super().__init__(text)
        self.code = code

    def get_response(self, tag: bytes) -> ResponseNo:
        return ResponseNo(tag, str(self).encode(), ResponseCode.of(self.code))


class Letter(Message):
    """A message that knows its size and its searchable words."""

    size: int
    _words: Words | None = None

    @classmethod
    def of(cls, message: Message, size: int, words: Words | None = None) -> Letter:
        made = cls(
            message.uid,
            message.internal_date,
            message.permanent_flags,
            email_id=message.email_id,
            thread_id=message.thread_id,
            recent=message.recent,
            content=message._content,  # noqa: SLF001 - pymap offers no other way to it
        )
        made.size, made._words = size, words
        return made

    async def load_content(self, requirement: FetchRequirement) -> LoadedLetter:
        await asyncio.sleep(0)  # a search through a full mailbox lets others have their turn
        return LoadedLetter(self, requirement, self._content)

    @property
    def words(self) -> Words:
        if self._words is None:
            self._words = Words("", "") if self._content is None else words_of(self._content)
        return self._words


class LoadedLetter(LoadedMessage):
    """Searches find what is encoded too, and non-ASCII letters in either case."""

    def contains(self, value: bytes) -> bool:
        wanted = folded(value.decode("utf-8", "replace"))
        words = self.letter.words
        return wanted in words.header or wanted in words.body

    def body_contains(self, value: bytes) -> bool:
        return folded(value.decode("utf-8", "replace")) in self.letter.words.body

    @property
    def letter(self) -> Letter:
        assert isinstance(self._message, Letter)
        return self._message


class Folder(MailboxData):
    """One folder of an account."""

    def __init__(self, house: House, *caches: Any) -> None:
        super().__init__(*caches)
        self._house = house

    async def append(self, append_msg: AppendMessage, *, recent: bool = False) -> Letter:
        size = len(append_msg.literal)
        self._take(size, append_msg.literal)
        try:
            made = await super().append(append_msg, recent=recent)
        except Exception as error:  # noqa: BLE001 - whatever an agent sent
            self._house.give_back(size)
            log.warning("a message could not be read: %r", error)
            raise RefusedError("the message could not be read") from None
        letter = self._messages[made.uid] = Letter.of(made, size)
        return letter

    async def copy(self, uid: int, destination: MailboxData, *, recent: bool = False) -> int | None:
        source = self._messages.get(uid)
        if not isinstance(source, Letter):
            return None
        self._take(source.size)
        made = await super().copy(uid, destination, recent=recent)
        if made is None:
            self._house.give_back(source.size)
        return _copied(source, destination, made)

    async def move(self, uid: int, destination: MailboxData, *, recent: bool = False) -> int | None:
        source = self._messages.get(uid)
        made = await super().move(uid, destination, recent=recent)
        return _copied(source, destination, made) if isinstance(source, Letter) else made

    async def delete(self, uids: Iterable[int]) -> None:
        gone = list(uids)
        for uid in gone:
            if uid in self._messages:
                self._house.give_back(self._messages[uid].size)
        await super().delete(gone)

    async def empty(self) -> None:
        await self.delete(list(self._messages))

    def _take(self, size: int, message: bytes = b"") -> None:
        try:
            check_shape(message)
            self._house.take(size)
        except AllFullError as error:
            raise RefusedError(str(error), ALL_FULL) from None
        except NoRoomError as error:
            raise RefusedError(str(error), b"OVERQUOTA") from None


class Folders(MailboxSet):
    """The folders of one account."""

    def __init__(self, house: House) -> None:
        super().__init__()
        self._house = house
        self._inbox = self._new()
        self._set = {name: self._new() for name in STANDARD}

    def _new(self) -> Folder:
        return Folder(self._house, self._content_cache, self._thread_cache)

    async def add_mailbox(self, name: str) -> ObjectId:
        if name in self._set:
            raise ValueError(name)
        if len(self._set) >= FOLDERS or len(name) > 255:
            raise NotAllowedError(f"an account has at most {FOLDERS} folders, with names of up to 255 characters")
        made = self._set[name] = self._new()
        return made.mailbox_id

    async def delete_mailbox(self, name: str) -> None:
        folder = self._set.get(name)
        if isinstance(folder, Folder):
            await folder.empty()
        await super().delete_mailbox(name)


def _copied(source: Letter, destination: MailboxData, uid: int | None) -> int | None:
    """Make a letter of the plain message that pymap has put into `destination`."""
    if uid is not None:
        messages = destination._messages  # noqa: SLF001
        messages[uid] = Letter.of(messages[uid], source.size, source._words)  # noqa: SLF001
    return uid
