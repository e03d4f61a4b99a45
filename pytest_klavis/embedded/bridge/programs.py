"""Which servers are upstream's own programs, and what is to be known of each. Starts nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pytest_klavis.embedded.tools.base import utf8

SERVERS: tuple[str, ...] = ("excel", "word", "powerpoint")
"""excel-mcp-server 0.1.8, office-word-mcp-server 1.1.11, office-powerpoint-mcp-server 2.0.7."""

REMEMBERS: frozenset[str] = frozenset({"powerpoint"})
"""Servers that keep something open from one call to the next: when they die, that is lost."""

_PATHS = frozenset(
    {
        *("filepath", "filename", "source_filename", "destination_filename", "output_filename", "directory"),
        *("file_path", "template_path", "output_path", "font_path", "image_path", "image_paths", "image_source"),
    }
)

# Klavis's build of word declares what is in these arrays less exactly (`word_klavis` of the recorded lists).
_LOOSER: dict[str, dict[str, dict[str, Any]]] = {
    "insert_numbered_list_near_text": {"list_items": {"items": {}}},
    "add_table": {"data": {"items": {}}},
    "format_table": {"shading": {"items": {}}},
    "replace_paragraph_block_below_header": {"new_paragraphs": {"items": {}}, "detect_block_end_fn": {"type": None}},
    "replace_block_between_manual_anchors": {"new_paragraphs": {"items": {}}, "match_fn": {"type": None}},
    "set_table_column_widths": {"widths": {"items": {}}},
}


def shown(server: str, benchmark: str | None, tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool of upstream's `tools/list` as the benchmark's build lists it.

    word refuses arguments that it does not know, but only some versions of the library it is built on say so in the
    schema. Klavis's own builds have no annotations.
    """
    listed = dict(tool)
    if benchmark is None:
        listed.pop("annotations", None)
    if server == "word":
        listed["inputSchema"] = {**tool["inputSchema"], "additionalProperties": False}
        if benchmark is None and tool["name"] in _LOOSER:
            listed["inputSchema"]["properties"] = _looser(tool["inputSchema"]["properties"], _LOOSER[tool["name"]])
    return listed


def _looser(properties: Mapping[str, Any], changes: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    changed = dict(properties)
    for name, keywords in changes.items():
        merged = properties[name] | keywords
        changed[name] = {key: value for key, value in merged.items() if key != "type" or value is not None}
    return changed


def with_paths(arguments: Mapping[str, Any], root: str) -> dict[str, Any]:
    """The arguments, with paths below /data where the processes of the sandbox see the workspace (`root`)."""
    return {name: _below(value, root) if name in _PATHS else _inner(value, root) for name, value in arguments.items()}


def depth_over(limit: int, value: Any) -> bool:
    """Are lists and objects nested more than `limit` deep?"""
    level = [value]
    for _ in range(limit):
        level = [inner for outer in level for inner in _held(outer) if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def _held(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def readable(value: Any) -> Any:
    """`value` without single surrogates, of which UTF-8 has none: these servers do not answer what has some."""
    if isinstance(value, str):
        return utf8(value).decode()
    if isinstance(value, dict):
        return {readable(key): readable(item) for key, item in value.items()}
    return [readable(item) for item in value] if isinstance(value, list) else value


def _inner(value: Any, root: str) -> Any:
    if isinstance(value, dict):
        return with_paths(value, root)
    return [_inner(item, root) for item in value] if isinstance(value, list) else value


def _below(value: Any, root: str) -> Any:
    if isinstance(value, str) and (value == "/data" or value.startswith("/data/")):
        return root + value.removeprefix("/data")
    if isinstance(value, dict):
        return {key: _below(item, root) for key, item in value.items()}
    return [_below(item, root) for item in value] if isinstance(value, list) else value
