"""How arguments are read: calls bound with good errors, durations, data files, `{param}` in paths."""

from __future__ import annotations

import difflib
import inspect
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import SpecError

__tracebackhide__ = True  # users read their own frames

MIN_TTL, MAX_TTL = 60, 86_400
"""Seconds; what the API takes as `ttl_seconds` (OpenAPI document of 2026)."""


def bind(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call `function`; a wrong argument becomes a SpecError with the nearest match and what is allowed."""
    signature = inspect.signature(function)
    allowed = list(signature.parameters)
    for given in kwargs:
        if given not in allowed:
            near = difflib.get_close_matches(given, allowed, n=1)
            meant = f" (did you mean {near[0]!r}?)" if near else ""
            raise SpecError(f"{function.__name__}() has no argument {given!r}{meant}; it takes {', '.join(allowed)}")
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise SpecError(f"{function.__name__}(): {error}; it takes {', '.join(allowed)}") from None
    return function(*args, **kwargs)


def load_data(data: str | Path | Mapping[str, Any] | None, find: Callable[[str], Path]) -> Mapping[str, Any] | None:
    """The JSON object that `data=` stands for; a path is looked up by `find`."""
    if data is None or isinstance(data, Mapping):
        return data
    path = find(str(data))
    try:
        loaded = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"data={str(data)!r}: {path} is not readable JSON: {error}") from None
    if not isinstance(loaded, dict):
        raise SpecError(
            f"data={str(data)!r}: {path} holds a {type(loaded).__name__}, but a sandbox takes a JSON object"
        )
    return loaded


_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")


def seconds(value: float | str) -> float:
    """Seconds from a number or a text such as `90`, `90s`, `30m`, `1h30m`; ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is no duration: use seconds or a text such as 90s, 30m or 2h")  # noqa: TRY004
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if not match or not value.strip():
            raise ValueError(f"{value!r} is no duration: use seconds or a text such as 90s, 30m or 2h")
        hours, minutes, rest = (float(part or 0) for part in match.groups())
        value = hours * 3600 + minutes * 60 + rest
    if not math.isfinite(value) or value <= 0:
        raise ValueError(f"{value!r} is no duration: it must be more than 0")
    return float(value)


def ttl_seconds(value: float | str) -> int:
    """A TTL in whole seconds; ValueError outside what the API takes (60 s to 24 h)."""
    result = math.ceil(seconds(value))
    if not MIN_TTL <= result <= MAX_TTL:
        raise ValueError(f"a TTL of {value!r} is out of range: the API takes 60s to 24h")
    return result


@dataclass(frozen=True)
class Template:
    """`{param}` in a mark's paths, filled from the test's parameters."""

    params: Mapping[str, Any] = field(default_factory=dict)

    def fill(self, value: Any) -> Any:
        """`value` with each `{param}` replaced; anything but a text or path with braces is returned as it is."""
        if isinstance(value, Path):
            return Path(self.fill(str(value)))
        if not isinstance(value, str) or "{" not in value:
            return value

        def replace(match: re.Match[str]) -> str:
            try:
                filled = str(self.params[match[1]])
            except KeyError:
                have = listed(sorted(self.params)) or "none: the test is not parametrized"
                raise SpecError(f"{value!r} asks for the parameter {match[1]!r}; the test has {have}") from None
            if filled.strip() in {"", "."} or ".." in filled.split("/"):
                raise SpecError(
                    f"{value!r}: the parameter {match[1]!r} is {filled!r}, which names no folder of its own"
                )
            return filled

        return re.sub(r"\{([A-Za-z_]\w*)\}", replace, value)


def listed(names: Sequence[str]) -> str:
    """Names for an error text."""
    return ", ".join(repr(name) for name in names)
