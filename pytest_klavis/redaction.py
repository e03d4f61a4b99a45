"""The registry of secrets: what must not be printed, and what is printed instead. Standard library only.

Keys, signed URLs, instance URLs, `auth_data` and `metadata` are registered as they arrive; `redact` replaces them
in any text, also in the forms that JSON, repr, HTML and URLs give them. Host and server stay readable.
"""

from __future__ import annotations

import html
import json
import re
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

# Replacing a shorter string than this everywhere would garble more than it hides.
SHORTEST = 6
# Query values shorter than this are parameters (`us`, `application/gzip`), not signatures or identifiers.
_SHORTEST_IN_QUERY = 20
_SHORTEST_LINE = 16
_HIDDEN = "<redacted>"

_SECRET_KEYS = frozenset(
    (
        *("auth_data", "metadata", "authorization", "x-auth-data", "x-email-config", "api_key", "apikey"),
        *("access_token", "refresh_token", "token", "password", "secret", "client_secret", "private_key"),
    )
)
# What the embedded backend says about itself in `metadata`: a test is meant to print it.
_PUBLIC_METADATA = frozenset(("root", "isolation", "backend", "reason", "server_name", "benchmark"))
_IDS = ("sandbox_id", "local_sandbox_id", "id")

# The lookahead wants a digit, so that "bearer token" in a sentence stays.
_BEARER = re.compile(r"\b(bearer)\s+(?=[\w.~+/=-]*\d)[\w.~+/=-]{6,}", re.IGNORECASE)
_SIGNED = re.compile(
    r"""(https?://[^\s'"<>?]+)\?[^\s'"<>]*?"""
    r"""\b(?:x-goog-signature|x-amz-signature|signature|sig|token|instance_id|local_sandbox_id)=[^\s'"<>]*""",
    re.IGNORECASE,
)


_ELIDED = re.compile(r"""([^\s'"<>]*)\.\.\.([^\s'"<>]*)""")


class Registry:
    """Secrets and what is shown for them. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown: dict[str, str] = {}
        self._longest_first: tuple[tuple[str, str], ...] | None = ()

    def register(self, secret: str, shown_as: str) -> None:
        """Show `shown_as` wherever `secret` would stand. Secrets shorter than six characters are ignored."""
        forms = {form: shown_as for form in _forms(secret) if len(form) >= SHORTEST}
        with self._lock:
            if forms.items() <= self._shown.items():
                return
            for form, shown in forms.items():
                self._shown.setdefault(form, shown)
            self._longest_first = None

    def register_url(self, url: str, *, public: Collection[str] = ()) -> None:
        """Show a URL as `<host/server url>`; its password and its long query values go too, but those in `public`."""
        try:
            parts = urlsplit(url)
            label = _label(parts)
        except ValueError:  # half a URL; as a secret it is one all the same
            self.register(url, "<url>")
            return
        if not (parts.path.strip("/") or parts.query or parts.password):
            return
        self.register(url, f"<{label} url>")
        if parts.password:
            self.register(unquote(parts.password), f"<password of {label}>")
        if not parts.query:
            return
        self.register(f"{parts.path}?{parts.query}", f"<{label} url>")
        for name, value in parse_qsl(parts.query):
            # The id of a local sandbox is what reports name it by.
            if name != "local_sandbox_id" and value not in public and len(value) >= _SHORTEST_IN_QUERY:
                self.register(value, f"<{name} of {label}>")

    def register_answer(self, answer: Any) -> None:
        """Register what is secret in a JSON answer of the API: its URLs and all under `auth_data` and `metadata`."""
        ids = frozenset(_ids(answer))
        for path, value in _secret_leaves(answer):
            if "://" in value:
                self.register_url(value, public=ids)
            elif value not in ids:
                self.register(value, f"<{path}>")

    def redact(self, text: str) -> str:
        """`text` without any registered secret, Bearer token or signed query."""
        for secret, shown in self._secrets():
            if secret in text:
                text = text.replace(secret, shown)
        if "..." in text:
            text = _ELIDED.sub(self._whole, text)
        text = _BEARER.sub(rf"\1 {_HIDDEN}", text)
        return _SIGNED.sub(r"\1?<signed query>", text)

    def _whole(self, elided: re.Match[str]) -> str:
        """What is shown for a secret that somebody shortened to its ends, as pytest does in assertions."""
        head, tail = elided.groups()
        if len(head) + len(tail) >= SHORTEST:
            for secret, shown in self._secrets():
                if secret.startswith(head) and secret.endswith(tail):
                    return shown
        return elided[0]

    def redact_mapping(self, value: Any) -> Any:
        """A copy of a JSON-like value, redacted in every string; what stands under a secret's key is hidden whole."""
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, dict):
            return {
                self.redact(str(key)): _HIDDEN
                if str(key).lower() in _SECRET_KEYS and inner is not None
                else self.redact_mapping(inner)
                for key, inner in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.redact_mapping(inner) for inner in value]
        return value

    def _secrets(self) -> tuple[tuple[str, str], ...]:
        with self._lock:
            if self._longest_first is None:
                # A short secret inside a long one must not break the long one up.
                self._longest_first = tuple(sorted(self._shown.items(), key=lambda item: -len(item[0])))
            return self._longest_first


def _forms(secret: str) -> Iterator[str]:
    """Yield the spellings in which a secret turns up in reports."""
    yield secret
    yield json.dumps(secret)[1:-1]
    yield repr(secret)[1:-1]
    yield html.escape(secret)
    yield html.escape(secret, quote=False)
    yield quote(secret)
    yield quote(secret, safe="")
    if "\n" in secret:  # reports indent and wrap a private key line by line
        for line in secret.splitlines():
            if len(line.strip()) >= _SHORTEST_LINE and not line.startswith("-----"):
                yield line.strip()


def _label(parts: SplitResult) -> str:
    """Return what may be read of a URL: `host:port`, and the server's name where the path says it before `/mcp`."""
    host = parts.netloc.rpartition("@")[2]
    steps = [step for step in parts.path.split("/") if step]
    server = "/".join(steps[: steps.index("mcp")]) if "mcp" in steps else ""
    return f"{host}/{server}" if server else host or "some"


def _ids(answer: Any) -> Iterator[str]:
    if isinstance(answer, dict):
        yield from (answer[key] for key in _IDS if isinstance(answer.get(key), str))
        for inner in answer.values():
            yield from _ids(inner)
    elif isinstance(answer, list):
        for inner in answer:
            yield from _ids(inner)


def _secret_leaves(answer: Any) -> Iterator[tuple[str, str]]:
    """Yield (dotted path, string) of all that is secret in an answer."""
    if isinstance(answer, list):
        for inner in answer:
            yield from _secret_leaves(inner)
    elif isinstance(answer, dict):
        for key, inner in answer.items():
            if key == "auth_data":
                yield from _leaves(inner, key)
            elif key == "metadata":
                kept = inner.items() if isinstance(inner, dict) else ()
                yield from _leaves({name: value for name, value in kept if name not in _PUBLIC_METADATA}, key)
            elif key.endswith(("url", "urls")):
                yield from _leaves(inner, key)
            else:
                yield from _secret_leaves(inner)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path)


# One registry per process: a secret that any client has seen is hidden in all that this process prints.
_REGISTRY = Registry()


def register(secret: str, shown_as: str) -> None:
    """Show `shown_as` wherever `secret` would be printed. Secrets shorter than six characters are ignored."""
    _REGISTRY.register(secret, shown_as)


def register_url(url: str) -> None:
    """Show a URL as `<host/server url>` wherever it would be printed."""
    _REGISTRY.register_url(url)


def register_answer(answer: Any) -> None:
    """Register what is secret in a JSON answer of the API: its URLs and all under `auth_data` and `metadata`."""
    _REGISTRY.register_answer(answer)


def redact(text: str) -> str:
    """`text` without any registered secret, Bearer token or signed query."""
    return _REGISTRY.redact(text)


def redact_mapping(value: Mapping[str, Any] | Any) -> Any:
    """A copy of a JSON-like value without secrets; what stands under a secret's key is hidden whole."""
    return _REGISTRY.redact_mapping(value)
