"""Signed URLs: whoever has one may do this one thing until it expires. The stand-in for a storage's signatures."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from pytest_klavis.embedded.web import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

MINUTES = 30  # as the cloud's URLs


class Signer:
    """Signs and checks. Its key is made at start and known to nobody else, so URLs end with the server."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def query(self, method: str, path: str, *, seconds: float = MINUTES * 60) -> str:
        """The query that allows `method` on `path` for the next `seconds`."""
        expires = str(int(time.time() + seconds))
        return urlencode({"expires": expires, "signature": self._signature(method, path, expires)})

    def check(self, method: str, path: str, query: Mapping[str, str]) -> None:
        """Raises Refusal 403 when the query was not signed here, for this method and path, or has expired."""
        expires, signature = query.get("expires", ""), query.get("signature", "")
        expected = self._signature(method, path, expires)
        if not hmac.compare_digest(expected.encode(), signature.encode(errors="replace")):
            raise Refusal(403, "SignatureDoesNotMatch: this URL was not signed by this server for this request")
        if int(expires) < time.time():
            raise Refusal(403, "ExpiredToken: this URL has expired, ask for a new one")

    def _signature(self, method: str, path: str, expires: str) -> str:
        message = f"{method}\n{path}\n{expires}".encode(errors="replace")
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()
