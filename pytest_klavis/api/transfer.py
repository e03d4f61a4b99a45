"""Archives to and from signed URLs: bare requests, without the key and without our headers, streamed from and to disk.

A signed URL is a secret. It is registered as one, and no error names more of it than its host.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from pytest_klavis.api import models
from pytest_klavis.api.connection import Clock, Fault, exchange, read_body
from pytest_klavis.api.operations import IDEMPOTENT, Operation
from pytest_klavis.api.transport import REPEATS, Answer, no_answer, shown_body
from pytest_klavis.errors import (
    ApiError,
    ArchiveError,
    NotFoundError,
    RequestRefusedError,
    SeedError,
    ServerError,
    TransportError,
)
from pytest_klavis.redaction import register_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpcore

__tracebackhide__ = True  # users read their own frames

_CHUNK = 64 << 10
_LARGEST_ERROR = 64 << 10

UPLOAD = Operation("upload archive", "PUT", "", models.Answer, IDEMPOTENT, 600)
DOWNLOAD = Operation("download archive", "GET", "", models.Answer, IDEMPOTENT, 600)


def upload_archive(url: str, path: Path, *, deadline: float = UPLOAD.deadline, connect_timeout: float = 10.0) -> None:
    """PUT a tar.gz to a signed URL.

    `deadline` (seconds) is over all attempts. Raises SeedError when the file cannot be read or changes meanwhile,
    an ApiError (RequestRefusedError for an expired or forged URL) or TransportError when the storage fails.
    """
    __tracebackhide__ = True

    def attempt(target: httpx.URL, clock: Clock) -> Answer:
        try:
            file = path.open("rb")
        except OSError as error:
            raise SeedError(f"{UPLOAD.name}: {path} cannot be read: {error.strerror}") from None
        with file:
            size = os.fstat(file.fileno()).st_size
            # The type is part of what the URL was signed for.
            headers = {"Content-Type": "application/gzip", "Content-Length": str(size)}
            request = httpx.Request(UPLOAD.method, target, headers=headers, content=_pieces(file.read, size, path))
            with exchange(request, clock, connect_timeout) as response:
                return _answer(response, clock)

    _attempts(UPLOAD, url, deadline, attempt)


def download_archive(
    url: str,
    dest: Path,
    *,
    limit: int = 4 << 30,
    deadline: float = DOWNLOAD.deadline,
    connect_timeout: float = 10.0,
) -> int:
    """GET a tar.gz from a signed URL into the file `dest`, which appears whole or not at all; returns its bytes.

    `deadline` (seconds) is over all attempts, `limit` (bytes) over the archive. Raises ArchiveError when it is
    larger, shorter than announced or cannot be stored, an ApiError or TransportError when the storage fails.
    """
    __tracebackhide__ = True
    part = dest.with_name(f".{dest.name}.{secrets.token_hex(4)}.part")
    size = 0

    def attempt(target: httpx.URL, clock: Clock) -> Answer:
        nonlocal size
        # Stored bytes as they are: a decompressed archive would be another file.
        request = httpx.Request(DOWNLOAD.method, target, headers={"Accept-Encoding": "identity"})
        with exchange(request, clock, connect_timeout) as response:
            if response.status != 200:
                return _answer(response, clock)
            headers = httpx.Headers(response.headers)
            size = _store(response, headers.get("content-length"), part, limit)
            return Answer(response.status, headers, b"")

    try:
        _attempts(DOWNLOAD, url, deadline, attempt)
        part.replace(dest)
    except OSError as error:
        raise ArchiveError(f"{DOWNLOAD.name}: it cannot be stored as {dest}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
    return size


def _attempts(
    operation: Operation[Any], url: str, deadline: float, attempt: Callable[[httpx.URL, Clock], Answer]
) -> None:
    """Try until the storage says 2xx; both verbs can be repeated from the start."""
    __tracebackhide__ = True
    target = _target(operation, url)
    register_url(url)
    host = target.netloc.decode("ascii")
    clock = Clock(deadline)
    for tries in range(1, REPEATS + 2):
        pause = 0.5 * 2 ** (tries - 1) * random.uniform(0.5, 1.0)  # noqa: S311 (jitter)
        last = tries > REPEATS or pause >= clock.left()
        try:
            answer = attempt(target, clock)
        except Fault as fault:
            if last or fault.final:
                raise no_answer(operation, host, fault, tries) from None
        else:
            if answer.ok:
                return
            if last or answer.status not in operation.repeat.statuses:
                raise _refusal(operation, answer)
        time.sleep(pause)


def _target(operation: Operation[Any], url: str) -> httpx.URL:
    try:
        urlsplit(url)  # knows half an IPv6 address for what it is
        target = httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        target = httpx.URL("")
    if target.scheme not in ("http", "https") or not target.host:
        raise TransportError(f"{operation.name}: the API gave a URL that is none (not shown: it is a secret)")
    return target


def _answer(response: httpcore.Response, clock: Clock) -> Answer:
    content, fault = read_body(response, clock, _LARGEST_ERROR)
    return Answer(response.status, httpx.Headers(response.headers), content, fault.reason if fault else None)


def _refusal(operation: Operation[Any], answer: Answer) -> ApiError:
    # Not an AuthError, whatever the status: the key has no part in this, only the URL has.
    status, body = answer.status, shown_body(answer)
    if status >= 500:
        return ServerError(operation.name, status, body)
    if status in (404, 410):
        return NotFoundError(operation.name, status, body)
    hint = "Signed URLs expire (in 30 minutes) and allow one method: ask the API for a new one." if status < 404 else ""
    return RequestRefusedError(operation.name, status, body, hint)


def _pieces(read: Callable[[int], bytes], size: int, path: Path) -> Iterator[bytes]:
    """Yield exactly `size` bytes of a file, as announced."""
    left = size
    while left:
        piece = read(min(_CHUNK, left))
        if not piece:
            raise SeedError(f"{UPLOAD.name}: {path} became shorter while it was sent; it must not change meanwhile")
        left -= len(piece)
        yield piece


def _store(response: httpcore.Response, announced: str | None, part: Path, limit: int) -> int:
    expected = int(announced) if announced is not None else None
    if expected is not None and expected > limit:
        raise ArchiveError(f"{DOWNLOAD.name}: it has {expected:,} bytes, more than the {limit:,} allowed")
    free = shutil.disk_usage(part.parent).free
    if expected is not None and expected > free:
        raise ArchiveError(f"{DOWNLOAD.name}: it has {expected:,} bytes, but {part.parent} has only {free:,} left")
    received = 0
    with part.open("wb") as file:
        for chunk in response.iter_stream():
            received += len(chunk)
            if received > limit:
                raise ArchiveError(f"{DOWNLOAD.name}: it is larger than the {limit:,} bytes allowed")
            file.write(chunk)
    if expected is not None and received != expected:
        raise Fault(f"{received:,} bytes came of {expected:,}", sent=True)
    return received
