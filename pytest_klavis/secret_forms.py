"""What a secret looks like: the forms it takes beyond escapes, its pieces, and what is no secret at all."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator
from urllib.parse import SplitResult, unquote

# Replacing a shorter string than this everywhere would garble more than it hides.
SHORTEST = 6
_SHORTEST_LINE = 8
_LONG_USER = 16
_SHORTEST_BASE64 = 10

_SECRET_NAME = re.compile(
    r"token|key|secret|passw|passphrase|passcode|pwd|credential|private|signature|cookie|bearer|authorization",
    re.IGNORECASE,
)
_SAYS_WHAT_IT_IS = re.compile(r"(?:^|.*_)(?:type|name|expir\w*|scopes?|uri|url|at)|is_.*", re.IGNORECASE)
"""A name of a value that is about a secret, and is none: `token_type`, `secret_name`, `key_expires_at`."""
_NUMBER = re.compile(r"v?[\d.,:/TZ+ -]+")
_WORDS = re.compile(
    r"(?:[a-z]{1,16}|[A-Z]{1,16}|[A-Z][a-z]{1,15})(?:[ ._-](?:[a-z]{1,16}|[A-Z]{1,16}|[A-Z][a-z]+))*\d{0,2}"
)
# Hiding these would hide the names of servers, and half of every message.
_PLACEHOLDERS = frozenset(
    (
        *("postgres", "mongodb", "github", "password", "secret", "default", "changeme", "public", "bearer", "basic"),
        *("oauth", "oauth2", "authorized_user", "service_account", "production", "enabled", "disabled"),
    )
)
_LONG_WORD = re.compile(r"[A-Za-z0-9_-]{16,}")
_NAME = re.compile(r"[A-Za-z]+\d{0,4}(?:[._-][A-Za-z]+\d{0,4})*")
# Words, names and numbers in a row, the first and the last one perhaps cut: github_pat_, oauth2, 2026-11-22, HttpError.
_PLAIN_PIECE = re.compile(
    r"[a-z]{0,2}(?:[A-Z]?+[a-z]{3,}+|[A-Z]{3,}+(?:[a-z]{3,}+)?|\d++|[_-])*+(?:[A-Z]?[a-z]{0,2}|[A-Z]{0,2})"
)
_URL = re.compile(r"[a-z][a-z0-9+.-]{0,30}://\S+", re.IGNORECASE)
_NAMED = re.compile(r"([A-Za-z_][\w.-]*)=(.+)")

# The lookahead wants a digit, or an end as of base64: "bearer token" and "basic rules" in a sentence stay.
_LOOKS_MADE = r"(?=[\w.~+/=-]{0,200}(?:\d|\w==?(?!\w)))"
_BEARER = re.compile(rf"\b(?:bearer|basic)\s+{_LOOKS_MADE}(?P<secret>[\w.~+/=-]{{6,}})", re.IGNORECASE)
_HEADER = re.compile(
    r"""\b(?:x-email-config|x-auth-data|x-api-key|proxy-authorization|authorization)['"]?\s?[:=,]\s?b?['"]?"""
    rf"(?!bearer|basic){_LOOKS_MADE}(?P<secret>[\w.~+/=-]{{8,}})",
    re.IGNORECASE,
)
_QUERY = re.compile(r"""https?://[^\s'"<>?]{1,500}\?(?P<secret>[^\s'"<>]{1,8000})""", re.IGNORECASE)
_SIGNED = re.compile(
    r"(?:^|[^a-z0-9])(?:x-goog-signature|x-amz-signature|signature|sig|token|instance_id|local_sandbox_id)=",
    re.IGNORECASE,
)


def lines(secret: str) -> Iterator[str]:
    """Yield the lines of a private key: reports indent and wrap it line by line."""
    if "\n" in secret:
        for line in secret.splitlines():
            if len(line.strip()) >= _SHORTEST_LINE and not line.startswith("-----"):
                yield line.strip()


def encoded(secret: str) -> Iterator[str]:
    """Yield what base64 makes of `secret` wherever it stands in what is encoded: alone, after `user:`, in JSON."""
    for spelling in {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}:
        raw = spelling.encode("utf-8", "surrogatepass")
        for shift in range(3):
            code = b64encode(b"\0" * shift + raw).decode()
            # Characters that depend on what stands before and after are no part of it.
            code = code[(0, 2, 3)[shift] : (None, -3, -2)[(shift + len(raw)) % 3]]
            if len(code) >= _SHORTEST_BASE64:
                yield code
                yield code.translate({ord("+"): "-", ord("/"): "_"})


def runs(text: str) -> set[str]:
    """All runs of six characters in `text`."""
    return {text[at : at + SHORTEST] for at in range(len(text) - SHORTEST + 1)}


def words(secret: str) -> list[str]:
    """The parts of `secret` that chance cannot have put into an innocent text, not even in pieces."""
    return [] if "://" in secret else [word for word in _LONG_WORD.findall(secret) if is_random(word)]


def is_token(name: str) -> bool:
    """Whether what stands where names stand, in a path or as a key, is a token: `client_x509_cert_url` is none."""
    return bool(words(name)) and not _NAME.fullmatch(name)


def is_random(piece: str) -> bool:
    """Whether a piece of a word is more than dates, numbers and ordinary words that the word is made of."""
    return not _PLAIN_PIECE.fullmatch(piece)


def is_ordinary(name: str, value: str) -> bool:
    """Whether a value of `auth_data` or `metadata` says nothing: a number, a date, a host, plain words.

    What is called a key, token or password is none of these, unless it is a word that everybody uses.
    """
    if value.lower() in _PLACEHOLDERS:
        return True
    if _SECRET_NAME.search(name) and not _SAYS_WHAT_IT_IS.fullmatch(name.rpartition(".")[2]):
        return False
    return bool(_NUMBER.fullmatch(value) or _WORDS.fullmatch(value))


def places(secret: str, text: str) -> list[tuple[int, int]]:
    """Where `secret` stands in `text`; one of letters or digits only does not count where it is part of more."""
    kind = "[^\\W\\d_]" if secret.isalpha() else r"\d" if secret.isdigit() else None
    if kind is not None:
        return [found.span() for found in re.finditer(rf"(?<!{kind}){re.escape(secret)}(?!{kind})", text)]
    found_at = []
    at = text.find(secret)
    while at >= 0:
        found_at.append((at, at + len(secret)))
        at = text.find(secret, at + len(secret))
    return found_at


def blanked(text: str, spans: list[tuple[int, int]]) -> str:
    """`text` with spaces where `spans` are; they are in order."""
    pieces = []
    at = 0
    for first, last in spans:
        pieces += [text[at:first], " " * (last - first)]
        at = last
    return "".join((*pieces, text[at:]))


def common(text: str, at: int, word: str) -> tuple[int, int]:
    """The longest piece of `word` in `text` around the run of six characters at `at`."""
    inside = word.index(text[at : at + SHORTEST])
    first = at
    while first and at - first < inside and text[first - 1] == word[inside - (at - first) - 1]:
        first -= 1
    last = at + SHORTEST
    while last < len(text) and inside + last - at < len(word) and text[last] == word[inside + last - at]:
        last += 1
    return first, last


def is_url(value: str) -> bool:
    """Whether `value` is a URL, and nothing else stands before or after it."""
    return bool(_URL.fullmatch(value))


def parts(path: str, value: str) -> Iterator[tuple[str, str]]:
    """Yield (dotted path, string) of `value` itself, and of what it names where it is settings: `A=b;C=d`."""
    yield path, value
    for piece in re.split(r"[\s;]+", value):
        if named := _NAMED.fullmatch(piece):
            yield f"{path}.{named[1]}", named[2].strip("'\"")
        elif piece != value and (url := _URL.search(piece)):
            yield path, url[0]


def of_url(url: SplitResult) -> Iterator[tuple[str, str]]:
    """Yield (secret, what it is) of what lets its holder in: password, user name, and steps of the path."""
    if url.password:
        yield unquote(url.password), "password"
    user = unquote(url.username or "")
    if len(user) >= _LONG_USER or is_random(user):
        yield user, "user"
    if not _SIGNED.search(url.query):  # else the query is the key, and the path is what it opens
        yield from ((unquote(step), "path") for step in url.path.split("/") if is_token(step))


def unregistered(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, what is shown) of Bearer tokens, credential headers and signed queries, known or not."""
    for pattern in (_BEARER, _HEADER):
        for found in pattern.finditer(text):
            yield *found.span("secret"), "<redacted>"
    for found in _QUERY.finditer(text):
        if _SIGNED.search(found["secret"]):
            yield *found.span("secret"), "<signed query>"
