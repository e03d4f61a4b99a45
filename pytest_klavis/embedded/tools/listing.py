"""The filesystem server's tools that list: directories, trees, searches, file information."""

import json
import posixpath
import stat
import unicodedata
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from pytest_klavis.embedded.files import Entry
from pytest_klavis.embedded.tools import glob
from pytest_klavis.embedded.tools.base import ToolContext, ToolFailureError, explained, readable

MAX_ENTRIES = 50_000  # of one tree or search
MAX_DEPTH = 100  # of one tree; JSON is nested as deep

Patterns = Annotated[list[str], Field(description="Glob patterns, relative to path, of what to leave out")]
_NONE: list[str] = []


def list_directory(context: ToolContext, path: str) -> str:
    """List the files and directories in a directory, marked [FILE] and [DIR]. Only works within allowed directories."""
    return "\n".join(f"{_mark(entry)} {readable(entry.name)}" for entry in _scan(context, context.relative(path)))


def list_directory_with_sizes(
    context: ToolContext,
    path: str,
    sort_by: Annotated[
        Literal["name", "size"], Field(alias="sortBy", description="Sort entries by name or size")
    ] = "name",
) -> str:
    """List the files and directories in a directory, marked [FILE] and [DIR], with the sizes of the files and a
    total. Only works within allowed directories."""
    inner = context.relative(path)
    sized = [(entry, _size(context, inner, entry)) for entry in _scan(context, inner)]
    order: dict[str, Callable[[tuple[Entry, int]], Any]] = {
        "name": lambda item: _collated(item[0].name),
        "size": lambda item: -item[1],
    }
    lines = []
    for entry, size in sorted(sized, key=order[sort_by]):
        shown = "" if entry.kind == "dir" else format_size(size).rjust(10)
        lines.append(f"{_mark(entry)} {readable(entry.name).ljust(30)} {shown}")
    files = [size for entry, size in sized if entry.kind != "dir"]
    total = f"Total: {len(files)} files, {len(sized) - len(files)} directories"
    return "\n".join([*lines, "", total, f"Combined size: {format_size(sum(files))}"])


# The order of the Unicode collation's root for what is in names most: punctuation, then symbols, digits and letters.
_PUNCTUATION = "_-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$"


def _collated(name: str) -> tuple[Any, ...]:
    """A key that sorts names as people do: accents, then capitals count only between names that are else equal."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    letters = [
        (0, 0, "") if letter.isspace() else (1, at, "") if (at := _PUNCTUATION.find(letter)) >= 0 else (2, 0, letter)
        for letter in plain.casefold()
    ]
    return letters, name.casefold(), name.swapcase()


def _size(context: ToolContext, directory: str, entry: Entry) -> int:
    if entry.kind != "link":
        return entry.size
    try:
        return context.files.stat(f"{directory}/{entry.name}").st_size
    except OSError:
        return 0  # it dangles, or leads out


def format_size(size: int) -> str:
    """Bytes for people: "0 B", "3 B", "4.00 KB"."""
    if size < 1024:
        return f"{size} B"
    amount = float(size)
    for unit in ("KB", "MB", "GB"):
        amount /= 1024
        if amount < 1024:
            return f"{amount:.2f} {unit}"
    return f"{amount / 1024:.2f} TB"


def directory_tree(
    context: ToolContext, path: str, exclude_patterns: Annotated[Patterns, Field(alias="excludePatterns")] = _NONE
) -> str:
    """Show a directory and all that is below it as JSON: each entry has 'name' and 'type' (file or directory), and a
    directory has 'children'. Only works within allowed directories."""
    inner = context.relative(path)
    root: list[dict[str, Any]] = []
    children = {"": root}
    check = context.deadline("The tree")

    def excluded(name: str) -> bool:
        return any(_excludes(name, one, check) for one in exclude_patterns)

    for relative, entry in _walk(context, inner, excluded, check):
        node: dict[str, Any] = {"name": readable(entry.name), "type": "directory" if entry.kind == "dir" else "file"}
        children[posixpath.dirname(relative)].append(node)
        if entry.kind == "dir":
            if relative.count("/") >= MAX_DEPTH:
                raise ToolFailureError(
                    f"'{context.shown(inner)}' is nested deeper than {MAX_DEPTH}: start further down"
                )
            node["children"] = children[relative] = []
    return json.dumps(root, indent=2, ensure_ascii=False)


def _excludes(name: str, pattern: str, check: Callable[[], None]) -> bool:
    if "*" in pattern:
        return glob.matches(name, pattern, check)
    return any(glob.matches(name, one, check) for one in (pattern, f"**/{pattern}", f"**/{pattern}/**"))


def search_files(
    context: ToolContext,
    path: str,
    pattern: str,
    exclude_patterns: Annotated[Patterns, Field(alias="excludePatterns")] = _NONE,
) -> str:
    """Search a directory for files and directories whose path relative to it matches a glob pattern: '*.ext' for
    those directly in it, '**/*.ext' for all below it. Returns full paths. Only searches within allowed directories."""
    inner = context.relative(path)
    check = context.deadline("The search")

    def excluded(name: str) -> bool:
        return any(glob.matches(name, one, check) for one in exclude_patterns)

    found = [
        context.shown(_below(inner, relative))
        for relative, entry in _walk(context, inner, excluded, check)
        if _matches(relative, pattern, check)
        and (entry.kind != "link" or context.files.exists(_below(inner, relative)))
    ]
    return "\n".join(found) or "No matches found"


def _below(inner: str, relative: str) -> str:
    return relative if inner == "." else f"{inner}/{relative}"


def _matches(name: str, pattern: str, check: Callable[[], None]) -> bool:
    try:
        return glob.matches(name, pattern, check)
    except ValueError as error:
        raise ToolFailureError(str(error)) from error


def get_file_info(context: ToolContext, path: str) -> str:
    """Show size, times, type and permissions of a file or directory, without its content. Only works within allowed
    directories."""
    inner = context.relative(path)
    with explained(context, "stat", inner):
        found = context.files.stat(inner)
    lines = {
        "size": found.st_size,
        "created": _javascript_date(getattr(found, "st_birthtime", found.st_ctime)),
        "modified": _javascript_date(found.st_mtime),
        "accessed": _javascript_date(found.st_atime),
        "isDirectory": str(stat.S_ISDIR(found.st_mode)).lower(),
        "isFile": str(stat.S_ISREG(found.st_mode)).lower(),
        "permissions": f"{stat.S_IMODE(found.st_mode) & 0o777:03o}",
    }
    return "\n".join(f"{key}: {value}" for key, value in lines.items())


def _javascript_date(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    days, months = "Mon Tue Wed Thu Fri Sat Sun", "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec"
    day, month = days.split()[moment.weekday()], months.split()[moment.month - 1]
    return f"{day} {month} {moment:%d %Y %H:%M:%S} GMT+0000 (Coordinated Universal Time)"


def _mark(entry: Entry) -> str:
    return "[DIR]" if entry.kind == "dir" else "[FILE]"


def _scan(context: ToolContext, inner: str) -> list[Entry]:
    with explained(context, "scandir", inner):
        return context.files.scan(inner)


def _walk(
    context: ToolContext, inner: str, excluded: Callable[[str], bool], check: Callable[[], None]
) -> Iterator[tuple[str, Entry]]:
    """Yield (path relative to `inner`, entry) below it, without what is excluded and what lies below that."""
    todo = [(readable(entry.name), entry, entry.name) for entry in reversed(_scan(context, inner))]
    count = 0
    while todo:
        name, entry, real = todo.pop()
        check()
        try:
            if excluded(name):
                continue
        except ValueError as error:
            raise ToolFailureError(str(error)) from error
        count += 1
        if count > MAX_ENTRIES:
            raise ToolFailureError(
                f"'{context.shown(inner)}' holds more than {MAX_ENTRIES} entries: name a directory further down,"
                " or leave some out with excludePatterns"
            )
        yield name, entry
        if entry.kind == "dir":
            try:
                below = context.files.scan(_below(inner, real))
            except OSError:
                continue  # it has just gone, or may not be read: what is above stays listed
            todo.extend((f"{name}/{readable(one.name)}", one, f"{real}/{one.name}") for one in reversed(below))
