"""Loaded by schemathesis: how it is to send a tar.gz, which it has no serializer for."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import schemathesis


def packed(_: Any, value: Any) -> bytes:
    """Bytes as they are; anything else as the one file of an archive."""
    if isinstance(value, bytes):
        return value
    content = str(value).encode(errors="replace")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        entry = tarfile.TarInfo("file.txt")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


schemathesis.serializer("application/gzip")(packed)
