"""The filesystem server's tools, after @modelcontextprotocol/server-filesystem 2026.8.31 and Klavis's fork 0.6.3."""

import base64
import math
import posixpath
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import BaseModel, Field

from pytest_klavis.embedded.files import TooLargeError
from pytest_klavis.embedded.tools import edits
from pytest_klavis.embedded.tools.base import READ_LIMIT, ToolContext, ToolFailureError, ToolResult, explained, utf8
from pytest_klavis.embedded.tools.listing import (
    directory_tree,
    get_file_info,
    list_directory,
    list_directory_with_sizes,
    search_files,
)
from pytest_klavis.embedded.tools.schema import Absent, Flavour, Function, Schema

Count = Annotated[float, Field(allow_inf_nan=False)]


class Edit(BaseModel):
    oldText: Annotated[str, Field(description="Text to search for - must match exactly")]  # noqa: N815 - the wire's name
    newText: Annotated[str, Field(description="Text to replace with")]  # noqa: N815 - the wire's name


def read_file(
    context: ToolContext,
    path: str,
    tail: Absent[Annotated[Count, Field(description="If provided, returns only the last N lines of the file")]] = None,
    head: Absent[Annotated[Count, Field(description="If provided, returns only the first N lines of the file")]] = None,
) -> str:
    """Read a whole file as text. DEPRECATED: use read_text_file instead."""
    return read_text_file(context, path, tail, head)


def read_text_file(
    context: ToolContext,
    path: str,
    tail: Absent[Annotated[Count, Field(description="If provided, returns only the last N lines of the file")]] = None,
    head: Absent[Annotated[Count, Field(description="If provided, returns only the first N lines of the file")]] = None,
) -> str:
    """Read a file as text, whatever its extension. 'head' returns only the first N lines and 'tail' only the last N;
    they cannot be combined. Only works within allowed directories."""
    inner = context.relative(path)
    if head and tail:
        raise ToolFailureError("Cannot specify both head and tail parameters simultaneously")
    for name, count in (("head", head), ("tail", tail)):
        if count is not None and count < 0:
            raise ToolFailureError(f"{name} must be a number of lines, not {count:g}")
    with explained(context, "open", inner):
        if head:
            return _head(context, inner, math.ceil(head))
        if tail:
            return _tail(context, inner, int(tail))
        try:
            return context.files.read_bytes(inner, READ_LIMIT).decode("utf-8", "replace")
        except TooLargeError as error:
            raise ToolFailureError(f"EFBIG: {error.strerror}: use head or tail to read '{path}' in parts") from error


def _head(context: ToolContext, inner: str, count: int) -> str:
    with context.files.open_read(inner) as file:
        lines: list[bytes] = []
        size = 0
        while len(lines) < count and (line := file.readline(READ_LIMIT)):
            lines.append(line)
            size += len(line)
            if size > READ_LIMIT:
                raise ToolFailureError(
                    f"The first {count} lines of '{context.shown(inner)}' are more than {READ_LIMIT} bytes"
                )
    text = b"".join(lines).decode("utf-8", "replace")
    return text.removesuffix("\n")


def _tail(context: ToolContext, inner: str, count: int) -> str:
    with context.files.open_read(inner) as file:
        size = position = file.seek(0, 2)
        chunks: list[bytes] = []
        found = 0
        while position > 0 and found < count:
            if size - position > READ_LIMIT:
                raise ToolFailureError(
                    f"The last {count} lines of '{context.shown(inner)}' are more than {READ_LIMIT} bytes"
                )
            step = min(1 << 16, position)
            position -= step
            file.seek(position)
            chunks.append(file.read(step))
            found += chunks[-1].count(b"\n")
    text = edits.normalised(b"".join(reversed(chunks)).decode("utf-8", "replace"))
    return "\n".join(text.split("\n")[-count:])


_MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".svg": "image/svg+xml",
    ".mp3": "audio/mpeg",
    ".wav": "audio/wav",
    ".ogg": "audio/ogg",
    ".flac": "audio/flac",
}


def read_media_file(context: ToolContext, path: str) -> ToolResult:
    """Read a file as base64 with its MIME type: images and audio as such, any other file as an embedded resource.
    Only works within allowed directories."""
    item = _media(context, path)
    return ToolResult([item], {"content": [item]})


def read_media_file_blob(context: ToolContext, path: str) -> ToolResult:
    """Read an image or audio file as base64 with its MIME type. Only works within allowed directories."""
    item = _media(context, path)
    # The fork's structured type "blob" is no content block of the protocol: clients would refuse the whole answer.
    resource = item.get("resource")
    old = {"type": "blob", "data": resource["blob"], "mimeType": resource["mimeType"]} if resource else item
    return ToolResult([item], {"content": [old]})


def _media(context: ToolContext, path: str) -> dict[str, Any]:
    inner = context.relative(path)
    with explained(context, "open", inner):
        data = base64.b64encode(context.files.read_bytes(inner, READ_LIMIT)).decode()
    mime = _MEDIA_TYPES.get(posixpath.splitext(inner)[1].lower(), "application/octet-stream")
    kind = mime.partition("/")[0]
    if kind in {"image", "audio"}:
        return {"type": kind, "data": data, "mimeType": mime}
    uri = "file://" + quote(context.shown(inner))
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime, "blob": data}}


def read_multiple_files(
    context: ToolContext,
    paths: Annotated[list[str], Field(min_length=1, description="The files to read, within allowed directories")],
) -> str:
    """Read several files at once. Each one's content follows its path; a file that cannot be read does not stop the
    others. Only works within allowed directories."""
    answers: list[str] = []
    left = READ_LIMIT
    for path in paths:
        try:
            inner = context.relative(path)
            with explained(context, "open", inner):
                data = context.files.read_bytes(inner, left)
        except ToolFailureError as error:
            answers.append(f"{path}: Error - {error}")
        else:
            left -= len(data)
            answers.append(f"{path}:\n{data.decode('utf-8', 'replace')}\n")
    return "\n---\n".join(answers)


def write_file(context: ToolContext, path: str, content: str) -> str:
    """Create a file, or replace an existing one without warning, with the given text. Only works within allowed
    directories."""
    inner = _new_place(context, path, "open")
    with explained(context, "open", inner):
        context.files.write_bytes(inner, utf8(content))
    return f"Successfully wrote to {path}"


def edit_file(
    context: ToolContext,
    path: str,
    edits_: Annotated[list[Edit], Field(alias="edits")],
    dry_run: Annotated[bool, Field(alias="dryRun", description="Preview changes using git-style diff format")] = False,
) -> str:
    """Edit a text file: each edit replaces one exact piece of text by another, one after the other. Returns a diff of
    what changed. Only works within allowed directories."""
    inner = context.relative(path)
    check = context.deadline("The edit")
    with explained(context, "open", inner), context.files.lock:
        before = edits.normalised(context.files.read_bytes(inner, READ_LIMIT).decode("utf-8", "replace"))
        after = before
        for edit in edits_:
            check()
            after = edits.replaced(after, edit.oldText, edit.newText)
        if not dry_run:
            context.files.write_bytes(inner, utf8(after))
    return edits.fenced_diff(context.shown(inner), before, after)


def create_directory(context: ToolContext, path: str) -> str:
    """Create a directory with all its parents; succeeds silently when it is already there. Only works within allowed
    directories."""
    inner = _new_place(context, path, "mkdir")
    with explained(context, "mkdir", inner):
        context.files.mkdir(inner)
    return f"Successfully created directory {path}"


def _new_place(context: ToolContext, path: str, operation: str) -> str:
    """Where something may be made. As upstream, not where a link leads that leads nowhere. Raises ToolFailureError."""
    inner = context.relative(path)
    with explained(context, operation, inner):
        if context.files.exists(inner, follow=False):
            context.files.stat(inner)
    return inner


def move_file(context: ToolContext, source: str, destination: str) -> str:
    """Move or rename a file or directory. Fails when the destination exists. Both must be within allowed
    directories."""
    old, new = context.relative(source), context.relative(destination)
    with explained(context, "rename", old, new):
        try:
            context.files.rename(old, new)
        except FileExistsError:
            raise ToolFailureError(f"Destination already exists: {context.shown(new)}") from None
    return f"Successfully moved {source} to {destination}"


def list_allowed_directories(context: ToolContext) -> str:
    """List the directories that this server may access; everything below them is accessible too."""
    return f"Allowed directories:\n{context.root}"


_FUNCTIONS: dict[str, Function] = {
    function.__name__: function
    for function in (
        read_file,
        read_text_file,
        read_media_file,
        read_multiple_files,
        write_file,
        edit_file,
        create_directory,
        list_directory,
        list_directory_with_sizes,
        directory_tree,
        move_file,
        search_files,
        get_file_info,
        list_allowed_directories,
    )
}

_TEXT: Schema = {
    "type": "object",
    "properties": {"content": {"type": "string"}},
    "required": ["content"],
    "additionalProperties": False,
}


def _object(**properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_STRING: Schema = {"type": "string"}
_BLOB = _object(type={"type": "string", "enum": ["image", "audio", "blob"]}, data=_STRING, mimeType=_STRING)
_MEDIA = _object(type={"type": "string", "enum": ["image", "audio"]}, data=_STRING, mimeType=_STRING)
_BODY = _object(uri=_STRING, mimeType=_STRING, blob=_STRING) | {"required": ["uri", "blob"]}
_RESOURCE = _object(type={"type": "string", "const": "resource"}, resource=_BODY)


def _outputs(media: Schema) -> dict[str, Schema]:
    return dict.fromkeys(_FUNCTIONS, _TEXT) | {"read_media_file": _object(content={"type": "array", "items": media})}


# Of the tools that write; the others only read.
_WRITES: dict[str, dict[str, bool]] = {
    "write_file": {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": True},
    "edit_file": {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": False},
    "create_directory": {"readOnlyHint": False, "destructiveHint": False, "idempotentHint": True},
    "move_file": {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": False},
}
_HINTS = {name: _WRITES.get(name, {"readOnlyHint": True}) for name in _FUNCTIONS}

UPSTREAM = Flavour(
    functions=_FUNCTIONS,
    annotations={name: hints | {"openWorldHint": False} for name, hints in _HINTS.items()},
    outputs=_outputs({"anyOf": [_MEDIA, _RESOURCE]}),
)
KLAVIS = Flavour(
    functions=_FUNCTIONS | {"read_media_file": read_media_file_blob},
    prefix="filesystem_",
    annotations=_HINTS | {"move_file": _WRITES["move_file"] | {"destructiveHint": False}},
    outputs=_outputs(_BLOB),
)
