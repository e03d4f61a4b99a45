"""Works on one PDF, or several, inside a sandbox; files.py sends this file's text there. Imports nothing of ours.

argv: pypdf's package folder. stdin: the request, JSON. stdout: the answer, JSON of at most `room` bytes and a little.
An answer with `error` says what went wrong: `kind` is "missing", "denied", "outside", "open", "read" or "write",
`given` the file as the agent named it. All paths are relative to the working directory, the workspace.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import io
import json
import logging
import os
import re
import secrets
import signal
import stat
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pypdf import PdfReader, PdfWriter

TEXT = 1_000  # characters of a match, and of a value of the metadata, that are given
AROUND = 100  # characters of context on each side of a match
MATCHES = 1_000  # that are kept; the others are counted


class TroubleError(Exception):
    def __init__(self, kind: str, text: str, given: str) -> None:
        super().__init__(text)
        self.answer = {"error": text, "kind": kind, "given": given}


class Room:
    """How many bytes of an answer are left."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.cut = False

    def take(self, value: Any) -> bool:
        """Count `value` in. False when it does not fit any more."""
        size = len(written(value)) + 2
        if size > self.left:
            self.cut = True
            return False
        self.left -= size
        return True


def written(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def said(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:TEXT]


def real(path: str, given: str) -> str:
    """Where `path` is, all links followed. Raises TroubleError when that is not in the workspace."""
    found, root = os.path.realpath(path), os.path.realpath(".")
    if found != root and not found.startswith(root.rstrip("/") + "/"):
        raise TroubleError("outside", given, given)
    return found


def regular(place: str, given: str) -> BinaryIO:
    file = os.fdopen(os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", given)
    return file


@contextlib.contextmanager
def opened(path: str, given: str) -> Iterator[PdfReader]:
    """A reader of the file at `path`; what goes wrong with it, later too, is a TroubleError."""
    from pypdf import PdfReader  # noqa: PLC0415 - its folder is known by now

    try:
        file = regular(real(path, given), given)
    except FileNotFoundError as error:
        raise TroubleError("missing", f"[Errno 2] No such file or directory: '{given}'", given) from error
    except PermissionError as error:
        raise TroubleError("denied", f"[Errno 13] Permission denied: '{given}'", given) from error
    except OSError as error:
        raise TroubleError("open", f"[Errno {error.errno}] {error.strerror}: '{given}'", given) from error
    with file:
        try:
            yield PdfReader(file)
        except TroubleError:
            raise
        except MemoryError as error:
            raise TroubleError("read", "it needs more memory than a process may have here", given) from error
        except Exception as error:  # whatever a broken file makes pypdf do
            raise TroubleError("read", said(error), given) from error


def save(writer: PdfWriter, path: str, given: str, *, parents: bool) -> None:
    """Write the new file all at once; it may be one of those that were read."""
    place = real(path, given)
    try:
        whole = io.BytesIO()
        writer.write(whole)
        put(whole, place, parents=parents)
    except OSError as error:
        raise TroubleError("write", f"[Errno {error.errno}] {error.strerror}: '{given}'", given) from error
    except Exception as error:  # pypdf follows references of the sources only now
        raise TroubleError("write", said(error), given) from error


def put(data: io.BytesIO, place: str, *, parents: bool) -> None:
    if os.path.isdir(place):  # noqa: PTH112 - no pathlib here: it takes time to import
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    folder = os.path.dirname(place)  # noqa: PTH120
    if parents:
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103
    temporary = f"{folder}/.klavis-{secrets.token_hex(8)}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data.getbuffer())
        os.replace(temporary, place)  # noqa: PTH105
    except BaseException:
        os.unlink(temporary)  # noqa: PTH108
        raise


def metadata(reader: PdfReader) -> dict[str, str] | None:
    found = reader.metadata
    if not found:
        return None
    texts = {}
    for key in ("Title", "Author", "Subject", "Creator", "Producer", "CreationDate"):
        value = found.get(f"/{key}")
        if value is not None:
            texts[key] = str(value.get_object() if hasattr(value, "get_object") else value)[:TEXT]
    return texts


def read(request: dict[str, Any], room: Room) -> dict[str, Any]:
    """The texts of a range of pages, corrected as pdf-tools-mcp does; all pages without one."""
    path = request["files"][0]
    with opened(path["path"], path["given"]) as reader:
        total = len(reader.pages)
        first, last = 1, total
        if "start" in request:
            first, last = sorted(min(max(request[key], 1), total) for key in ("start", "end"))
        pages: list[tuple[int, str]] = []
        about = metadata(reader) if request.get("about") else None
        room.take(about)
        for number in range(first, last + 1):
            text = reader.pages[number - 1].extract_text()
            if not room.take((number, text)):
                pages.append((number, text[: room.left // 8]))  # no character takes more in JSON
                break
            pages.append((number, text))
    return {"total": total, "first": first, "last": last, "pages": pages, "about": about, "cut": room.cut}


def info(request: dict[str, Any], room: Room) -> dict[str, Any]:
    path = request["files"][0]
    sizes: list[tuple[float, float]] = []
    with opened(path["path"], path["given"]) as reader:
        total, about = len(reader.pages), metadata(reader)
        room.take(about)
        if request.get("sizes"):
            for page in reader.pages:
                size = float(page.mediabox.width), float(page.mediabox.height)
                if not room.take((total, *size, " " * 60)):  # with the keys that it is shown with
                    break
                sizes.append(size)
        encrypted = reader.is_encrypted
    return {"total": total, "about": about, "sizes": sizes, "encrypted": encrypted, "cut": room.cut}


def merge(request: dict[str, Any], _: Room) -> dict[str, Any]:
    from pypdf import PdfWriter  # noqa: PLC0415

    writer, total = PdfWriter(), 0
    for path in request["files"]:
        with opened(path["path"], path["given"]) as reader:
            for page in reader.pages:
                writer.add_page(page)
                total += 1
    save(writer, request["output"]["path"], request["output"]["given"], parents=False)
    return {"total": total}


def extract(request: dict[str, Any], _: Room) -> dict[str, Any]:
    """`all`: every page must be there, else none is taken; without, those that are not are left out."""
    from pypdf import PdfWriter  # noqa: PLC0415

    path, writer = request["files"][0], PdfWriter()
    with opened(path["path"], path["given"]) as reader:
        total = len(reader.pages)
        there = [number for number in request["pages"] if 1 <= number <= total]
        if there and (len(there) == len(request["pages"]) or not request["all"]):
            for number in there:
                writer.add_page(reader.pages[number - 1])
            save(writer, request["output"]["path"], request["output"]["given"], parents=request["all"])
    return {"total": total}


def search(request: dict[str, Any], room: Room) -> dict[str, Any]:
    path = request["files"][0]
    with opened(path["path"], path["given"]) as reader:
        texts = [page.extract_text() for page in reader.pages]
    if not texts:
        raise TroubleError("read", "it has no pages", path["given"])
    signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, request["seconds"])
    found: list[tuple[int, str, str, str]] = []
    count = 0
    try:
        pattern = re.compile(request["pattern"], re.IGNORECASE | re.MULTILINE)
        for number, text in enumerate(texts, 1):
            for match in pattern.finditer(text):
                count += 1
                start, end = match.span()
                if count <= MATCHES and not room.cut:
                    item = number, match[0][:TEXT], text[max(start - AROUND, 0) : start], text[end : end + AROUND]
                    if room.take(item):
                        found.append(item)
    except TimeoutError:
        return {"count": count, "found": [], "slow": True}
    except (re.error, RecursionError, OverflowError, MemoryError) as error:
        return {"count": 0, "found": [], "invalid": said(error)}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {"count": count, "found": found}


def too_long(*_: object) -> None:
    raise TimeoutError


def load(folder: str) -> None:
    """Import pypdf from its folder alone: what lies around that need not be readable here."""
    spec = importlib.util.spec_from_file_location("pypdf", f"{folder}/__init__.py", submodule_search_locations=[folder])
    if spec is None or spec.loader is None:
        raise ImportError(folder)
    module = sys.modules["pypdf"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def main() -> None:
    logging.disable()  # pypdf's warnings
    load(sys.argv[1])
    request = json.load(sys.stdin)
    work = {"read": read, "info": info, "merge": merge, "extract": extract, "search": search}[request["do"]]
    try:
        answer = work(request, Room(request["room"]))
    except TroubleError as trouble:
        answer = trouble.answer
    sys.stdout.buffer.write(written(answer))


if __name__ == "__main__":
    main()
