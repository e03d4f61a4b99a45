"""What came back for a call, and what of it may be printed; what it means is decided elsewhere."""

from __future__ import annotations

import json
import re
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import httpx
import pydantic

from pytest_klavis.api import models
from pytest_klavis.api.connection import read_body
from pytest_klavis.clock import now
from pytest_klavis.redaction import redact, redact_mapping

if TYPE_CHECKING:
    import httpcore

    from pytest_klavis.api.connection import Deadline, Fault

__tracebackhide__ = True  # users read their own frames

LARGEST_ANSWER = 64 << 20
LONGEST_RETRY_AFTER = 60.0
LONGEST_BODY_SHOWN = 2_000
_LARGEST_ERROR = 64 << 10


@dataclass(frozen=True)
class Answer:
    """What came back. `cut` is what ended the body too early, None where it is whole."""

    status: int
    headers: httpx.Headers = field(repr=False)
    content: bytes = field(repr=False)
    cut: Fault | None = None

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The body as JSON, None where it is not JSON (or nested so deeply that nothing could walk it)."""
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            return None


def receive(response: httpcore.Response, clock: Deadline) -> Answer:
    """Read a response whole, or as far as it comes; of one that is no success at most 64 KiB."""
    limit = LARGEST_ANSWER if 200 <= response.status < 300 else _LARGEST_ERROR
    content, cut = read_body(response, clock, limit)
    headers = httpx.Headers(response.headers)
    if "gzip" in headers.get("content-encoding", ""):  # not asked for, but some proxies do it unasked
        with suppress(zlib.error):
            content = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(content, limit)
    return Answer(response.status, headers, content, cut)


def retry_after(answer: Answer) -> float | None:
    """Return the seconds that `Retry-After` asks for, at most 60; None where it asks for nothing that makes sense."""
    value = answer.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        seconds = float(value[:9])
    else:
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        seconds = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now()
    return min(seconds, LONGEST_RETRY_AFTER) if seconds > 0 else None


def shown_body(answer: Answer) -> str:
    """Return a body as it may be printed: redacted, without control characters, at most 2,000 characters.

    Of a 422 the places and messages; the values that it echoes are left out.
    """
    content = answer.json()
    text = _complaints(content)
    if text is None and isinstance(content, dict) and len(content) == 1:
        # FastAPI's field, and Blackbox's.
        text = next((content[name] for name in ("detail", "error") if isinstance(content.get(name), str)), None)
    if text is None and content is not None:
        text = json.dumps(redact_mapping(content), ensure_ascii=False)
    elif text is None:
        text = answer.content.decode("utf-8", "replace").strip()
    text = re.sub(r"[^\x20-\x7e\n\t\xa0-\U0010ffff]", lambda found: repr(found[0])[1:-1], redact(text))
    return text if len(text) <= LONGEST_BODY_SHOWN else text[: LONGEST_BODY_SHOWN - 5] + "[...]"


def validation(content: Any) -> list[models.ValidationError]:
    """Return the complaints of a 422's body, none where it has another shape."""
    try:
        return models.HTTPValidationError.model_validate(content).detail
    except pydantic.ValidationError:
        return []


def _complaints(content: Any) -> str | None:
    lines = (
        f"{'.'.join(map(str, one.loc))}: {one.msg or one.type}" for one in validation(content) if one.loc or one.msg
    )
    return "\n".join(lines) or None
