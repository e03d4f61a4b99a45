"""Archives by signed URLs, which expire: a fresh one is asked for once, as is a dump that came damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pytest_klavis.clock import left
from pytest_klavis.errors import ArchiveError, RequestRefusedError

if TYPE_CHECKING:
    from pytest_klavis.api.client import KlavisClient

__tracebackhide__ = True  # users read their own frames

T = TypeVar("T")

MAX_DUMP = 2 << 30
"""Bytes of a workspace archive that are downloaded at most."""
_EXPIRED = frozenset((400, 401, 403))
"""What storages say to a URL whose time is over."""


def upload(api: KlavisClient, ask: Callable[[float], str], archive: Path, until: float) -> None:
    """PUT an archive to the URL that `ask(seconds left)` gives; once more to a new one when that had expired."""
    for last in (False, True):
        url = ask(left(until))
        try:
            api.upload_archive(url, archive, deadline=left(until))
        except RequestRefusedError as error:
            if last or error.status not in _EXPIRED:
                raise
        else:
            return


def download(api: KlavisClient, ask: Callable[[float], str], target: Path, until: float, use: Callable[[Path], T]) -> T:
    """GET an archive from the URL that `ask(seconds left)` gives, and what `use` makes of it, which reads it whole.

    Both once more from the start when the URL had expired, or when `use` found the archive damaged: a download that
    was cut is not always told from a whole one by its length. What is left of a damaged one is called `.damaged`.
    """
    damaged = target.with_name(f"{target.name}.damaged")
    for last in (False, True):
        url = ask(left(until))
        try:
            api.download_archive(url, target, limit=MAX_DUMP, deadline=left(until))
        except RequestRefusedError as error:
            if last or error.status not in _EXPIRED:
                raise
            continue
        try:
            found = use(target)
        except ArchiveError:
            target.replace(damaged)  # at once: the second one may not come at all
            if last:
                raise
        else:
            if last:
                damaged.unlink(missing_ok=True)
            return found
    raise AssertionError("unreachable")
