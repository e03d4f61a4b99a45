"""Files to and from storage, streamed from and to disk: archives through signed URLs, bare of the key and our headers.

A signed URL is a secret. It is registered as one, and no error names more of it than its host.
"""

from __future__ import annotations

import os
import secrets
import shutil
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from pytest_klavis.api import models
from pytest_klavis.api.answers import Answer, receive
from pytest_klavis.api.connection import Deadline, Fault, exchange
from pytest_klavis.api.operations import CONNECT_TIMEOUT, IDEMPOTENT, Operation
from pytest_klavis.api.refusals import storage_refusal
from pytest_klavis.api.retry import repeat
from pytest_klavis.errors import ArchiveError, SeedError, TransportError
from pytest_klavis.redaction import register_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpcore

    from pytest_klavis.errors import ApiError

__tracebackhide__ = True  # users read their own frames

_CHUNK = 64 << 10

UPLOAD = Operation("upload archive", "PUT", "", models.Answer, IDEMPOTENT, 600)
DOWNLOAD = Operation("download archive", "GET", "", models.Answer, IDEMPOTENT, 600)


def upload_archive(url: str, path: Path, *, deadline: float = UPLOAD.deadline) -> None:
    """PUT a tar.gz to a signed URL.

    `deadline` (seconds) is over all attempts. Raises SeedError when the file cannot be read or changes meanwhile,
    an ApiError (RequestRefusedError for an expired or forged URL) or TransportError when the storage fails.
    """
    target = _target(UPLOAD, url)
    clock = Deadline(deadline)

    def attempt() -> Answer:
        # Opened anew each time: a repeat starts from the beginning.
        try:
            file = path.open("rb")
        except OSError as error:
            raise SeedError(f"{UPLOAD.name}: {path} cannot be read: {error.strerror}") from None
        with file:
            size = os.fstat(file.fileno()).st_size
            # The type is part of what the URL was signed for.
            headers = {"Content-Type": "application/gzip", "Content-Length": str(size)}
            request = httpx.Request(UPLOAD.method, target, headers=headers, content=_pieces(file.read, size, path))
            with exchange(request, clock, CONNECT_TIMEOUT) as response:
                return receive(response, clock)

    answer = repeat(UPLOAD, clock, attempt, host=_host(target))
    if not answer.ok:
        raise storage_refusal(UPLOAD, answer)


def download_archive(url: str, dest: Path, *, limit: int = 4 << 30, deadline: float = DOWNLOAD.deadline) -> int:
    """GET a tar.gz from a signed URL into the file `dest`; see `download`. `deadline` is in seconds."""
    request = httpx.Request(DOWNLOAD.method, _target(DOWNLOAD, url))
    return download(DOWNLOAD, request, dest, limit=limit, clock=Deadline(deadline), refusal=storage_refusal)


def download(
    operation: Operation[Any],
    request: httpx.Request,
    dest: Path,
    *,
    limit: int,
    clock: Deadline,
    refusal: Callable[[Operation[Any], Answer], ApiError],
    connect_timeout: float = CONNECT_TIMEOUT,
) -> int:
    """GET into the file `dest`, which appears whole or not at all; returns its bytes.

    `limit` (bytes) is over the file, `clock` over all attempts, `refusal` makes the error for a status. Raises
    ArchiveError when the file is larger or cannot be stored, TransportError when it does not come whole.
    """
    # Stored bytes as they are: a decompressed archive would be another file.
    request.headers["Accept-Encoding"] = "identity"
    part = dest.with_name(f".{dest.name}.{secrets.token_hex(4)}.part")
    store = partial(_store, operation, part, limit)
    size = 0

    def attempt() -> Answer:
        nonlocal size
        with exchange(request, clock, connect_timeout) as response:
            if response.status != 200:
                return receive(response, clock)
            headers = httpx.Headers(response.headers)
            size = store(response, headers)
            return Answer(response.status, headers, b"")

    try:
        answer = repeat(operation, clock, attempt, host=_host(request.url))
        if not answer.ok:
            raise refusal(operation, answer)
        if answer.status != 200:
            text = f"{operation.name} was answered with HTTP {answer.status}, which brings no file"
            raise TransportError(text, sent=True)
        part.replace(dest)
    except OSError as error:
        raise ArchiveError(f"{operation.name}: it cannot be stored as {dest}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
    return size


def _target(operation: Operation[Any], url: str) -> httpx.URL:
    try:
        urlsplit(url)  # knows half an IPv6 address for what it is
        target = httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        target = httpx.URL("")
    if target.scheme not in ("http", "https") or not target.host:
        raise TransportError(f"{operation.name}: the API gave a URL that is none (not shown: it is a secret)")
    register_url(url)
    return target


def _host(url: httpx.URL) -> str:
    return url.netloc.decode("ascii")


def _pieces(read: Callable[[int], bytes], size: int, path: Path) -> Iterator[bytes]:
    """Yield exactly `size` bytes of a file, as announced."""
    left = size
    while left:
        piece = read(min(_CHUNK, left))
        if not piece:
            raise SeedError(f"{UPLOAD.name}: {path} became shorter while it was sent; it must not change meanwhile")
        left -= len(piece)
        yield piece


def _store(
    operation: Operation[Any], part: Path, limit: int, response: httpcore.Response, headers: httpx.Headers
) -> int:
    """Write a body into `part`; what is announced too large for the limit or the disk is not begun."""
    # With chunks, a length would be somebody's mistake that the protocol says to ignore.
    announced = None if "transfer-encoding" in headers else headers.get("content-length")
    expected = int(announced) if announced is not None else None
    if expected is not None and expected > limit:
        raise ArchiveError(f"{operation.name}: it has {expected:,} bytes, more than the {limit:,} allowed")
    free = shutil.disk_usage(part.parent).free
    if expected is not None and expected > free:
        raise ArchiveError(f"{operation.name}: it has {expected:,} bytes, but {part.parent} has only {free:,} left")
    received = 0
    with part.open("wb") as file:
        for chunk in response.iter_stream():
            received += len(chunk)
            if received > limit:
                raise ArchiveError(f"{operation.name}: it is larger than the {limit:,} bytes allowed")
            file.write(chunk)
    if expected is not None and received != expected:
        raise Fault(f"{received:,} bytes came of {expected:,}", sent=True)
    return received
