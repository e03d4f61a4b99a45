"""The registry of secrets: what must not be printed, and what is printed instead. Standard library only.

Keys, signed URLs, instance URLs, `auth_data` and `metadata` are registered as they arrive; `redact` replaces them
in any text, however JSON, repr, bytes, URLs, HTML and colours spell them, in base64, and in pieces of eight
characters. Host and server stay readable; so do numbers and ordinary words that no secret's name stands over.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from . import secret_forms
from .secret_forms import SHORTEST
from .unescaped import Reading, unescaped

# Query values shorter than this are parameters (`us`, `application/gzip`), not signatures or identifiers.
_SHORTEST_IN_QUERY = 20
_SHORTEST_PIECE = 8
_MOST_WORDS = 1000
"""Pieces are looked for of this many words: long runs register thousands of URLs whose sandboxes are gone."""
_AT_ONCE = 1 << 16
_HIDDEN = "<redacted>"
_KEYS = ("KLAVIS_API_KEY", "BLACKBOX_API_KEY")

_SECRET_KEYS = frozenset(
    (
        *("auth_data", "metadata", "authorization", "x-auth-data", "x-email-config", "api_key", "apikey"),
        *("access_token", "refresh_token", "token", "password", "secret", "client_secret", "private_key"),
    )
)
# What the embedded backend says about itself in `metadata`: a test is meant to print it.
_PUBLIC_METADATA = frozenset(("root", "isolation", "backend", "reason", "server_name", "benchmark"))
_IDS = ("sandbox_id", "local_sandbox_id", "id")


class Registry:
    """Secrets and what is shown for them. Safe to use from several threads.

    A text is cut into all its runs of six characters once; only what ends in one of them is looked for.
    So the cost grows with the text, and not with the number of secrets.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._shown: dict[str, str] = {}
        self._by_end: dict[str, list[str]] = {}
        self._words: dict[str, str] = {}
        self._word_of: dict[str, str] = {}
        """Each run of six characters of a word -> the word."""

    def __bool__(self) -> bool:
        return bool(self._shown)

    def register(self, secret: str, shown_as: str) -> None:
        """Show `shown_as` wherever `secret` would stand. Secrets shorter than six characters are ignored."""
        with self._lock:
            self._add(secret, shown_as)
            for form in (*secret_forms.lines(secret), *secret_forms.encoded(secret)):
                self._add(form, shown_as)
            for word in secret_forms.words(secret):
                self._add_word(word, shown_as)

    def register_url(self, url: str, *, public: Collection[str] = ()) -> None:
        """Show a URL as `<host/server url>`; its password and its long query values go too, but those in `public`."""
        try:
            parts = urlsplit(url)
            label = _label(parts)
        except ValueError:  # half a URL; as a secret it is one all the same
            self.register(url, "<url>")
            return
        if not (parts.path.strip("/") or parts.query or parts.username or parts.password):
            return
        with self._lock:
            self._add(url, f"<{label} url>")
            if parts.query:
                self._add(f"{parts.path}?{parts.query}", f"<{label} url>")
        for secret, what in secret_forms.of_url(parts):
            if secret not in public:
                self.register(secret, f"<{what} of {label}>")
        for name, value in parse_qsl(parts.query):
            if name == "local_sandbox_id":  # the id of a local sandbox is what reports name it by
                with self._lock:
                    self._add(f"{name}={value}", f"{name}={_HIDDEN}")
            elif value not in public and len(value) >= _SHORTEST_IN_QUERY:
                self.register(value, f"<{name} of {label}>")

    def register_answer(self, answer: Any) -> None:
        """Register what is secret in a JSON answer of the API: its URLs and all under `auth_data` and `metadata`.

        Numbers and ordinary words are left alone unless their name says that they are a secret.
        """
        ids = frozenset(_ids(answer))
        for path, value in _secret_leaves(answer):
            for inner, part in secret_forms.parts(path, value):
                if secret_forms.is_url(part):
                    self.register_url(part, public=ids)
                elif part not in ids and not secret_forms.is_ordinary(inner, part):
                    self.register(part, f"<{inner}>")

    def redact(self, text: str) -> str:
        """`text` without any registered secret, Bearer token, credential header or signed query."""
        if len(text) < SHORTEST:
            return text
        reading = Reading(text, undo=bool(self._shown))
        text = self._hide(reading, pieces=True)
        if reading.escaped:  # what stands before or after a secret can make an escape of its first or last character
            text = self._hide(Reading(text, undo=False), pieces=False)
        return text

    def holds(self, text: str) -> bool:
        """Whether a registered secret stands in `text` as a whole."""
        return bool(self._shown) and any(self._whole(plain)[1] for plain in (text, unescaped(text)))

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

    # -- keeping -------------------------------------------------------------------------------

    def _add(self, secret: str, shown_as: str) -> None:
        for form in (secret, unescaped(secret)):
            if len(form) >= SHORTEST and form not in self._shown:
                self._shown[form] = shown_as
                self._by_end.setdefault(form[-SHORTEST:], []).append(form)

    def _add_word(self, word: str, shown_as: str) -> None:
        if word in self._words:
            return
        if len(self._words) >= _MOST_WORDS:  # the first half stays: keys are registered first
            oldest = next(islice(self._words, _MOST_WORDS // 2, None))
            del self._words[oldest]
            for run in secret_forms.runs(oldest):
                if self._word_of.get(run) == oldest:
                    del self._word_of[run]
        self._words[word] = shown_as
        for run in secret_forms.runs(word):
            self._word_of.setdefault(run, word)

    # -- hiding --------------------------------------------------------------------------------

    def _hide(self, reading: Reading, *, pieces: bool) -> str:
        left, spans, runs = self._whole(reading.plain)
        if pieces:
            spans += self._pieces(left, runs)
        # In the text as it was: a registered "Bearer" must not hide what the other word is.
        spans += secret_forms.unregistered(reading.plain)
        return reading.replaced(spans) if spans else reading.text

    def _whole(self, text: str) -> tuple[str, list[tuple[int, int, str]], set[str]]:
        """Whole secrets: the text with them blanked, where they stood, and the runs of words that it holds."""
        if not self._shown:
            return text, [], set()
        with self._lock:
            ends: set[str] = set()
            runs: set[str] = set()
            for start in range(0, len(text), _AT_ONCE):
                part = text[start : start + _AT_ONCE + SHORTEST - 1]
                cut = secret_forms.runs(part)
                ends |= self._by_end.keys() & cut
                runs |= self._word_of.keys() & cut
            # A short secret inside a long one must not break the long one up.
            found = sorted((form for end in ends for form in self._by_end[end] if form in text), key=len, reverse=True)
            shown = {form: self._shown[form] for form in found}
        spans = []
        for form in found:
            here = secret_forms.places(form, text)
            spans += [(first, last, shown[form]) for first, last in here]
            text = secret_forms.blanked(text, here)
        return text, spans, runs

    def _pieces(self, text: str, runs: set[str]) -> Iterator[tuple[int, int, str]]:
        """Yield the pieces of words, eight characters or more, that a diff, a cut or a wrapped line left over."""
        done = 0
        for at in range(len(text) - SHORTEST + 1) if runs else ():
            if at < done or text[at : at + SHORTEST] not in runs:
                continue
            word = self._word_of[text[at : at + SHORTEST]]
            first, last = secret_forms.common(text, at, word)
            piece = text[first:last]
            # Dashes do not count: every UUID has them at the same places.
            if len(piece) - piece.count("-") - piece.count("_") >= _SHORTEST_PIECE and secret_forms.is_random(piece):
                done = last
                yield first, last, self._words[word]


def _label(parts: SplitResult) -> str:
    """Return what may be read of a URL: `host:port`, and the server's name where the path says it before `/mcp`."""
    host = parts.netloc.rpartition("@")[2].partition(";")[0]
    steps = [step for step in parts.path.split("/") if step]
    told = steps[: steps.index("mcp")] if "mcp" in steps else []
    server = "/".join(step for step in told if not secret_forms.is_token(step))  # some have a token in the path
    return f"{host}/{server}" if server else host or "some"


def _ids(answer: Any) -> Iterator[str]:
    """Yield what names sandboxes, servers and users: mail is full of its users' addresses and names."""
    if isinstance(answer, dict):
        yield from (answer[key] for key in _IDS if isinstance(answer.get(key), str))
        auth = answer.get("auth_data")
        users = auth.get("users") if isinstance(auth, dict) else None
        for address, user in users.items() if isinstance(users, dict) else ():
            if "@" not in address:  # whatever that is, it is no user of a mail server
                continue
            yield address
            if isinstance(user, dict) and isinstance(user.get("name"), str):
                yield user["name"]
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
    if isinstance(value, dict):
        for key, inner in value.items():
            token = path.startswith("auth_data") and secret_forms.is_token(key)  # tokens are keys of what they open
            if token:
                yield path, key
            yield from _leaves(inner, path if token else f"{path}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path)
    elif isinstance(value, str):
        yield path, value
        if value.lstrip().startswith(("{", "[")):  # a credentials file, as text
            try:
                yield from _leaves(json.loads(value), path)
            except ValueError:
                return
    elif isinstance(value, int) and not isinstance(value, bool):
        yield path, str(value)


# One registry per process: a secret that any client has seen is hidden in all that this process prints.
_REGISTRY = Registry()


def register_environment(environ: Mapping[str, str] = os.environ) -> None:
    """Register the keys that the environment holds."""
    for name in _KEYS:
        _REGISTRY.register(environ.get(name, "").strip(), f"<{name}>")


def known() -> bool:
    """Whether there is any secret to hide."""
    return bool(_REGISTRY)


register = _REGISTRY.register
register_url = _REGISTRY.register_url
register_answer = _REGISTRY.register_answer
redact = _REGISTRY.redact
redact_mapping = _REGISTRY.redact_mapping
holds = _REGISTRY.holds
