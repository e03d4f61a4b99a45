"""How a call travels to the API: its key, its path, its deadline and its repeats.

What a call means is the client's business; when one is repeated retry.py's; bytes on a socket are connection.py's.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

from pytest_klavis.api.answers import receive
from pytest_klavis.api.connection import exchange
from pytest_klavis.api.operations import CONNECT_TIMEOUT
from pytest_klavis.api.retry import repeat
from pytest_klavis.errors import SpecError
from pytest_klavis.redaction import redact, register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_klavis.api.answers import Answer
    from pytest_klavis.api.connection import Deadline
    from pytest_klavis.api.operations import Operation
    from pytest_klavis.api.pace import Pace

__tracebackhide__ = True  # users read their own frames


class Transport:
    """Sends calls to one API with one key. Safe to use from several threads.

    `calls` counts the requests that were sent, `waited` the seconds in which one was not sent yet: because the API
    asked for it (429, 503), or because its turn by `pace` had not come.
    """

    def __init__(
        self, base_url: str, api_key: str, *, headers: Mapping[str, str] | None = None, pace: Pace | None = None
    ) -> None:
        base = _base(base_url)
        self.base_url = str(base).rstrip("/")
        self.host = base.netloc.decode("ascii")
        self.calls = 0
        self.waited = 0.0
        self._headers = httpx.Headers({**(headers or {}), "Accept": "application/json", "Accept-Encoding": "identity"})
        self._headers["Authorization"] = f"Bearer {_key(api_key)}"
        self._pace = pace
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
        clock: Deadline,
    ) -> Answer:
        """Send a call and return its answer, whatever its status; repeats are over by then.

        `values` fill the path, `params` the query, `body` is sent as JSON, `clock` is over all
        attempts. Raises TransportError when no answer came, SpecError for a value that no path can carry.
        """
        url = self.base_url + _path(operation, values)
        request = httpx.Request(operation.method, url, params=params, json=body, headers=self._headers)

        def attempt() -> Answer:
            with self._lock:
                self.calls += 1
            with exchange(request, clock, CONNECT_TIMEOUT) as response:
                answer = receive(response, clock)
            # An acquire is not repeated, so what did arrive of its answer may be all that there is of its id;
            # and of an error any part is worth showing.
            if answer.cut and answer.ok and operation.repeat.lost:
                raise answer.cut
            return answer

        return repeat(operation, clock, attempt, host=self.host, on_wait=self._waited, pace=self._pace)

    def _waited(self, seconds: float) -> None:
        with self._lock:
            self.waited += seconds


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
