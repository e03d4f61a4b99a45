"""How a call travels: the key, repeating what may be repeated, one deadline, and statuses as errors of the tree.

What a call means is the client's business; bytes on a socket are connection.py's.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pydantic

from pytest_klavis.api import models
from pytest_klavis.api.connection import Clock, Fault, exchange, read_body
from pytest_klavis.errors import (
    ApiError,
    AuthError,
    NotFoundError,
    RateLimitError,
    RequestRefusedError,
    ServerError,
    SpecError,
    TransportError,
)
from pytest_klavis.redaction import redact, redact_mapping, register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_klavis.api.operations import Operation

__tracebackhide__ = True  # users read their own frames

REPEATS = 3
LONGEST_RETRY_AFTER = 60.0
LARGEST_ANSWER = 64 << 20
LONGEST_BODY_SHOWN = 2_000
_LARGEST_ERROR = 64 << 10


@dataclass(frozen=True)
class Answer:
    """What came back. `cut` says why the body is not whole, None where it is."""

    status: int
    headers: httpx.Headers = field(repr=False)
    content: bytes = field(repr=False)
    cut: str | None = None

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The body as JSON, None where it is not JSON."""
        try:
            return json.loads(self.content)
        except ValueError:
            return None


class Transport:
    """Sends calls to one API with one key. Safe to use from several threads.

    `calls` counts the requests that were sent, `waited` the seconds slept because the API asked for it (429, 503).
    """

    def __init__(
        self, base_url: str, api_key: str, *, headers: Mapping[str, str] | None = None, connect_timeout: float = 10.0
    ) -> None:
        base = _base(base_url)
        self.base_url = str(base).rstrip("/")
        self.host = base.netloc.decode("ascii")
        self.calls = 0
        self.waited = 0.0
        self._connect_timeout = connect_timeout
        self._headers = httpx.Headers({**(headers or {}), "Accept": "application/json", "Accept-Encoding": "identity"})
        self._headers["Authorization"] = f"Bearer {_key(api_key)}"
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Transport({self.host!r})"

    def send(
        self,
        operation: Operation[Any],
        values: Mapping[str, str],
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        deadline: float | None = None,
    ) -> Answer:
        """Send a call and return its answer, whatever its status; repeats are over by then.

        `values` fill the path, `params` the query, `body` is sent as JSON, `deadline` (seconds) replaces the
        operation's own. Raises TransportError when no answer came, SpecError for a value that no path can carry.
        """
        __tracebackhide__ = True
        url = self.base_url + _path(operation, values)
        clock = Clock(operation.deadline if deadline is None else deadline)
        attempts = faults = waits = 0
        while True:
            answer, fault = self._try(operation, url, params, body, clock)
            attempts += 1
            if not _repeatable(operation, answer, fault):
                break
            asked = retry_after(answer) if answer else None
            # Being told when to come back is an appointment, not a failure: it does not use up the repeats.
            appointment = asked is not None or (answer is not None and answer.status == 429)
            if appointment:
                waits += 1
                pause = (asked or min(2.0 ** (waits - 1), 8.0)) * random.uniform(1.0, 1.25)  # noqa: S311 (jitter)
            else:
                faults += 1
                pause = 0.25 * 2 ** (faults - 1) * random.uniform(0.5, 1.0)  # noqa: S311 (jitter)
            if faults > REPEATS or pause >= clock.left():
                break
            time.sleep(pause)
            with self._lock:
                self.waited += pause if appointment else 0.0
        if answer is None:
            raise no_answer(operation, self.host, fault, attempts) from None
        return answer

    def _try(
        self, operation: Operation[Any], url: str, params: Mapping[str, str] | None, body: Any, clock: Clock
    ) -> tuple[Answer | None, Fault | None]:
        __tracebackhide__ = True
        request = httpx.Request(operation.method, url, params=params, json=body, headers=self._headers)
        with self._lock:
            self.calls += 1
        try:
            with exchange(request, clock, self._connect_timeout) as response:
                limit = LARGEST_ANSWER if response.status < 300 else _LARGEST_ERROR
                content, fault = read_body(response, clock, limit)
                headers = httpx.Headers(response.headers)
        except Fault as lost:
            return None, lost
        # An acquire is not repeated, so what did arrive of its answer may be all that there is of its id;
        # and of an error any part is worth showing.
        if fault and operation.repeat.lost and response.status < 300:
            return None, fault
        return Answer(response.status, headers, content, fault.reason if fault else None), None


def _repeatable(operation: Operation[Any], answer: Answer | None, fault: Fault | None) -> bool:
    if fault:
        return not fault.final and (operation.repeat.lost or not fault.sent)
    return answer is not None and answer.status in operation.repeat.statuses


def no_answer(operation: Operation[Any], host: str, fault: Fault | None, attempts: int) -> TransportError:
    """Return the error for a call that was not answered; it names the host and no more of the URL."""
    reason = redact(fault.reason) if fault else "no answer"
    tries = f" ({attempts} attempts)" if attempts > 1 else ""
    message = f"{operation.name} was not answered by {host}{tries}: {reason}"
    if fault and fault.sent and not operation.repeat.lost:
        message += "\nThe request was sent, so it may have been carried out; it was not repeated for that reason."
    return TransportError(message)


def error_for(operation: Operation[Any], answer: Answer, host: str) -> ApiError:
    """Return the error of the tree for a status that is no success."""
    body = shown_body(answer)
    status = answer.status
    if status in (401, 403):
        hint = f"Set KLAVIS_API_KEY in the environment to a key that {host} accepts; it is read from nowhere else."
        return AuthError(operation.name, status, body, hint)
    if status in (404, 410):
        return NotFoundError(operation.name, status, body)
    if status == 429:
        asked = retry_after(answer)
        when = f" It asked to come back in {asked:g} s." if asked else ""
        hint = f"{host} allows this account fewer requests (2 per second unless it is a paying one).{when}"
        return RateLimitError(operation.name, status, body, hint)
    if status >= 500:
        return ServerError(operation.name, status, body)
    if status >= 400:
        return RequestRefusedError(operation.name, status, body)
    hint = f"Redirects are not followed: the base URL must be the API itself, not {host}."
    return ApiError(operation.name, status, body, hint)


def shown_body(answer: Answer) -> str:
    """Return a body as it may be printed: redacted, without control characters, at most 2,000 characters.

    Of a 422 the places and messages; the values that it echoes are left out.
    """
    content = answer.json()
    text = _complaints(content)
    if text is None and isinstance(content, dict) and isinstance(content.get("detail"), str):
        text = content["detail"]
    elif text is None and content is not None:
        text = json.dumps(redact_mapping(content), ensure_ascii=False)
    elif text is None:
        text = answer.content.decode("utf-8", "replace").strip()
    text = re.sub(r"[^\x20-\x7e\n\t\xa0-\U0010ffff]", lambda found: repr(found[0])[1:-1], redact(text))
    return text if len(text) <= LONGEST_BODY_SHOWN else text[: LONGEST_BODY_SHOWN - 5] + "[...]"


def extra_fields(answer: Answer) -> frozenset[str]:
    """Return the fields of the body that a 422 refused for being there at all (not for their values)."""
    complaints = _validation(answer.json()) if answer.status == 422 else []
    return frozenset(str(one.loc[-1]) for one in complaints if one.loc and "extra" in one.type)


def retry_after(answer: Answer) -> float | None:
    """Return the seconds that `Retry-After` asks for, at most 60; None where it asks for nothing that makes sense."""
    value = answer.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        seconds = float(value)
    else:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(seconds, LONGEST_RETRY_AFTER) if seconds > 0 else None


def _validation(content: Any) -> list[models.ValidationError]:
    try:
        return models.HTTPValidationError.model_validate(content).detail
    except pydantic.ValidationError:
        return []


def _complaints(content: Any) -> str | None:
    lines = (f"{'.'.join(map(str, one.loc))}: {one.msg}" for one in _validation(content) if one.msg)
    return "\n".join(lines) or None


def _path(operation: Operation[Any], values: Mapping[str, str]) -> str:
    for name, value in values.items():
        if not value.strip("."):  # an empty id would be the list, dots would climb
            raise SpecError(f"{operation.name}: {name} is {value!r}; it must be a name or id")
    return operation.path.format(**{name: quote(value, safe="") for name, value in values.items()})


def _base(base_url: str) -> httpx.URL:
    try:
        base = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError):
        base = httpx.URL("")
    if base.scheme not in ("http", "https") or not base.host or base.query or base.userinfo:
        allowed = "it must be http(s)://host[:port][/path], such as https://api.klavis.ai"
        raise SpecError(f"the base URL is {redact(repr(base_url))}; {allowed}, without user, password or query")
    return base


def _key(api_key: str) -> str:
    """Return the key, registered as a secret, or say without printing it what is wrong with it."""
    key = api_key.strip()
    if not key:
        raise SpecError("the API key is empty: set KLAVIS_API_KEY in the environment")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise SpecError("the API key holds characters that no HTTP header carries: check KLAVIS_API_KEY")
    register(key, "<KLAVIS_API_KEY>")
    return key
