"""What one command in a sandbox may use, and the setting `limits` that says so. Enforcing it is isolation's."""

from __future__ import annotations

import argparse
import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from .arguments import seconds


@dataclass(frozen=True)
class Limits:
    """What one run may use. Bytes and seconds; memory, CPU, file size and open files count per process."""

    memory: int = 1 << 30
    processes: int = 128
    cpu_seconds: int = 60
    wall_seconds: float = 60.0
    file_size: int = 256 << 20
    output: int = 1 << 20
    disk: int = 1 << 30
    open_files: int = 512


def parse(text: str) -> Limits:
    """Limits from a text such as `memory=2G,processes=256,cpu=120s`; what it does not name keeps its default.

    Sizes take K, M and G (1024 each), durations s, m and h. Raises ValueError.
    """
    chosen: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        kind = _KINDS.get(name.lower())
        if kind is None:
            near = difflib.get_close_matches(name.lower(), _KINDS, n=1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"there is no limit {name!r}{meant}; the limits are {', '.join(_KINDS)}")
        if not equals or not value:
            raise ValueError(f"{name} needs a value, such as {name.lower()}={kind.example}")
        if kind.field in chosen:
            raise ValueError(f"{name} is given twice")
        number = kind.read(value, name)
        if number < kind.least:
            raise ValueError(f"{name}={value} is too little for any command to run: at least {kind.spell(kind.least)}")
        if number > _MOST:
            raise ValueError(f"{name}={value} is more than the kernel can count")
        chosen[kind.field] = number
    return replace(Limits(), **chosen)  # type: ignore[arg-type]


def spelled(limits: Limits) -> str:
    """The text that `parse` reads as these limits."""
    return ",".join(f"{name}={kind.spell(getattr(limits, kind.field))}" for name, kind in _KINDS.items())


def argument(text: str) -> Limits:
    """`parse` as the type of an argument of a command line. Raises ArgumentTypeError, which keeps the text."""
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


_MOST = 1 << 60
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmg])(?:i?b)?|b)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def _size(text: str, name: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{name}={text} is no size: use bytes, or a number with K, M or G such as 512M or 2G")
    return int(float(match[1]) * _UNITS[(match[2] or "").lower()])


def _count(text: str, name: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{name}={text} is no whole number")
    return int(text)


def _duration(text: str, name: str) -> float:
    try:
        return seconds(text)
    except ValueError as error:
        raise ValueError(f"{name}={error}") from None


def _whole(text: str, name: str) -> int:
    return math.ceil(_duration(text, name))


def _spell_size(number: float) -> str:
    for unit in ("g", "m", "k"):
        if number >= _UNITS[unit] and number % _UNITS[unit] == 0:
            return f"{int(number) // _UNITS[unit]}{unit.upper()}"
    return str(int(number))


def _spell_seconds(number: float) -> str:
    return f"{float(number):.15g}s"


def _spell_count(number: float) -> str:
    return str(int(number))


@dataclass(frozen=True)
class _Kind:
    field: str
    read: Callable[[str, str], float]
    spell: Callable[[float], str]
    least: float
    example: str


# The least is what a shell and an interpreter need to start at every level.
_KINDS = {
    "memory": _Kind("memory", _size, _spell_size, 64 << 20, "2G"),
    "processes": _Kind("processes", _count, _spell_count, 4, "256"),
    "cpu": _Kind("cpu_seconds", _whole, _spell_seconds, 1, "120s"),
    "wall": _Kind("wall_seconds", _duration, _spell_seconds, 0.1, "120s"),
    "file-size": _Kind("file_size", _size, _spell_size, 64 << 10, "512M"),
    "output": _Kind("output", _size, _spell_size, 1 << 10, "4M"),
    "disk": _Kind("disk", _size, _spell_size, 1 << 20, "2G"),
    "open-files": _Kind("open_files", _count, _spell_count, 32, "1024"),
}
