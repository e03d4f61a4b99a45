"""How the commands speak of sandboxes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_klavis.spec import Spec


def span(seconds: float) -> str:
    """A duration in its two largest units."""
    if not math.isfinite(seconds):
        return "unknown"
    whole = max(round(seconds), 0)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {whole % 60}s" if minutes else f"{whole}s"


def cut(text: str, width: int) -> str:
    """A text of at most so many characters; what it ends with tells more than the middle."""
    if len(text) <= width:
        return text
    first = (width - 3) // 3
    return f"{text[:first]}...{text[len(text) - (width - 3 - first) :]}"


def servers(spec: Spec) -> str:
    """What a sandbox is, in short."""
    flavour = f", benchmark {spec.benchmark}" if spec.benchmark else ""
    return f"{spec.kind}: {', '.join(spec.servers)}{flavour}"


def count(number: int, what: str = "sandbox") -> str:
    """A number of things."""
    plural = "es" if what.endswith("x") else "s"
    return f"{number} {what}{'' if number == 1 else plural}"
