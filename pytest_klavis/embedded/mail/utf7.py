"""Names of folders as IMAP writes them: modified UTF-7 (RFC 3501, 5.1.3)."""

from __future__ import annotations

import base64
import re

_FOREIGN = re.compile(r"[^\x20-\x7e]+")
_SHIFTED = re.compile(rb"&([A-Za-z0-9+,]*)-")


def encode(name: str) -> str:
    """ASCII without control characters, whatever the name holds."""

    def shift(found: re.Match[str]) -> str:
        packed = base64.b64encode(found[0].encode("utf-16-be", "surrogatepass"))
        return f"&{packed.rstrip(b'=').replace(b'/', b',').decode()}-"

    return _FOREIGN.sub(shift, name.replace("&", "&-"))


def decode(name: bytes) -> str:
    """The name; what is no modified UTF-7 stays as it is."""

    def unshift(found: re.Match[bytes]) -> bytes:
        if not found[1]:
            return b"&"
        try:
            packed = found[1].replace(b",", b"/")
            return base64.b64decode(packed + b"=" * (-len(packed) % 4)).decode("utf-16-be").encode()
        except ValueError:
            return found[0]

    return _SHIFTED.sub(unshift, name).decode("utf-8", "replace")


def quoted(name: str) -> str:
    """The name as a quoted string of a command."""
    escaped = encode(name).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
