"""What a secret looks like: the forms it takes beyond escapes, its pieces, and what is no secret at all."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator

# Replacing a shorter string than this everywhere would garble more than it hides.
SHORTEST = 6
_SHORTEST_LINE = 8
_SHORTEST_BASE64 = 10
_LONGEST_END = 400
"""How far a shortened secret is followed to each side of its `...`, in characters."""

_SECRET_NAME = re.compile(
    r"token|key|secret|passw|passphrase|passcode|pwd|credential|private|signature|cookie|bearer|authorization",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"v?[\d.,:/TZ+ -]+")
_WORDS = re.compile(
    r"(?:[a-z]{1,16}|[A-Z]{1,16}|[A-Z][a-z]{1,15})(?:[ ._-](?:[a-z]{1,16}|[A-Z]{1,16}|[A-Z][a-z]+))*\d{0,2}"
)
# Hiding these would hide the names of servers, and half of every message.
_PLACEHOLDERS = frozenset(("postgres", "mongodb", "github", "password", "secret", "default", "changeme", "public"))
_LONG_WORD = re.compile(r"[A-Za-z0-9_-]{16,}")
# Words, names and numbers in a row, the first and the last one perhaps cut: github_pat_, oauth2, 2026-11-22, HttpError.
_PLAIN_PIECE = re.compile(
    r"[a-z]{0,2}(?:[A-Z]?+[a-z]{3,}+|[A-Z]{3,}+(?:[a-z]{3,}+)?|\d++|[_-])*+(?:[A-Z]?[a-z]{0,2}|[A-Z]{0,2})"
)
_END = re.compile(r"""[^\s'"<>]*""")
_ELLIPSIS = re.compile(r"(?<!\.)\.\.\.(?!\.)")

# The lookahead wants a digit, or an end as of base64: "bearer token" and "basic rules" in a sentence stay.
_LOOKS_MADE = r"(?=[\w.~+/=-]{0,4000}(?:\d|\w==?(?!\w)))"
_BEARER = re.compile(rf"\b(bearer|basic)\s+{_LOOKS_MADE}[\w.~+/=-]{{6,}}", re.IGNORECASE)
_HEADER = re.compile(
    r"""\b((?:x-email-config|x-auth-data|x-api-key|proxy-authorization|authorization)['"]?\s?[:=,]\s?b?['"]?)"""
    rf"(?!bearer|basic){_LOOKS_MADE}[\w.~+/=-]{{8,}}",
    re.IGNORECASE,
)
_QUERY = re.compile(r"""(https?://[^\s'"<>?]{1,500})\?([^\s'"<>]{1,8000})""", re.IGNORECASE)
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


def is_random(piece: str) -> bool:
    """Whether a piece of a word is more than dates, numbers and ordinary words that the word is made of."""
    return not _PLAIN_PIECE.fullmatch(piece)


def is_ordinary(name: str, value: str) -> bool:
    """Whether a value of `auth_data` or `metadata` says nothing: a number, a date, a host, plain words.

    What is called a key, token or password is none of these, unless it is a word that everybody uses.
    """
    if value.lower() in _PLACEHOLDERS:
        return True
    if _SECRET_NAME.search(name):
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


def elisions(text: str) -> Iterator[tuple[int, int, str, str]]:
    """Yield (start, end, head, tail) of each word in `text` that has `...` in it."""
    for found in _ELLIPSIS.finditer(text):
        before = _END.match(text[max(found.start() - _LONGEST_END, 0) : found.start()][::-1])
        after = _END.match(text, found.end(), found.end() + _LONGEST_END)
        head, tail = before[0][::-1] if before else "", after[0] if after else ""
        if len(head) >= 4 and len(tail) >= 2:
            yield found.start() - len(head), found.end() + len(tail), head, tail


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


def hide_unregistered(text: str) -> str:
    """`text` without Bearer tokens, credential headers and signed queries, known or not."""
    text = _BEARER.sub(r"\1 <redacted>", text)
    text = _HEADER.sub(r"\1<redacted>", text)
    return _QUERY.sub(_without_signature, text)


def _without_signature(found: re.Match[str]) -> str:
    return f"{found[1]}?<signed query>" if _SIGNED.search(found[2]) else found[0]
