"""Office and PDF files as text: what they hold, without the times, ids and packing that differ between two runs."""

from __future__ import annotations

import functools
import hashlib
import io
import re
import zipfile
from typing import TYPE_CHECKING

import pypdf

if TYPE_CHECKING:
    from pathlib import Path

_COMPOUND = bytes.fromhex("d0cf11e0a1b11ae1")
_OFFICE = (".docx", ".xlsx", ".pptx")
_SHOWN = 4_000  # characters of a part that are kept as they are
_VARIES = re.compile(
    rb"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z?|\{[0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12}\}"
    rb"|(?<=PivotTable_)[0-9a-f]{8}"
)


def contents(path: Path) -> str | None:
    """What a document contains; None for a file that is none, or is damaged."""
    return _contents(path.suffix, path.read_bytes()) if path.suffix in {*_OFFICE, ".pdf"} else None


@functools.lru_cache(maxsize=256)
def _contents(suffix: str, data: bytes) -> str | None:
    try:
        return _pdf(data) if suffix == ".pdf" else _office(data)
    except (zipfile.BadZipFile, pypdf.errors.PyPdfError):
        return None


def _office(data: bytes) -> str:
    if data.startswith(_COMPOUND):
        return "encrypted"  # with a salt that differs from run to run
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in sorted(archive.namelist())}
    return "\n".join(f"{name}: {_part(name, part)}" for name, part in parts.items())


def _part(name: str, data: bytes) -> str:
    if name.endswith(_OFFICE):
        return _office(data)  # the numbers behind a chart
    data = _VARIES.sub(b"<varies>", data)
    return repr(data) if len(data) <= _SHOWN else f"{len(data)} bytes {hashlib.sha256(data).hexdigest()}"


def _pdf(data: bytes) -> str:
    reader = pypdf.PdfReader(io.BytesIO(data))
    pages = [f"{page.mediabox.width:g} x {page.mediabox.height:g}: {page.extract_text()!r}" for page in reader.pages]
    return "\n".join([f"{len(pages)} pages", *pages])
