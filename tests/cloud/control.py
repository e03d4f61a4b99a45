"""A stand-in in a process of its own: the routes by which others see and change it, and their side of them."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .dialects import NEWER, SEED, Dialect
from .faults import Fault
from .knobs import Knobs
from .web import Asked, Reply, reply

if TYPE_CHECKING:
    from .cloud import Cloud

ROOM = "_control"
DIALECTS = {one.name: one for one in (SEED, NEWER)}
_KNOBS = frozenset(one.name for one in fields(Knobs))


def answer(cloud: Cloud, asked: Asked) -> Reply:
    """GET tells the state; a POST changes what its body names first, and may have it all."""
    for name, value in (asked.content or {}).items():
        if name in _KNOBS:
            setattr(cloud, name, value)
        elif name == "dialect":
            cloud.dialect = DIALECTS[value]
        elif name == "faults":
            cloud.faults = [Fault(**one) for one in value]
        elif name in ("expire", "reuse"):
            act = cloud.expire if name == "expire" else cloud.accounts.reuse
            for number in value:
                act(number)
        else:
            return reply({"detail": f"there is no {name!r} to change"}, 422)
    return reply(cloud.state())


class Simulated:
    """A stand-in in another process, at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def state(self) -> dict[str, Any]:
        """What `Cloud.state` tells."""
        return self._ask(None)

    def change(self, **content: Any) -> dict[str, Any]:
        """Turn `Knobs`, set the `dialect` by name, `faults` as dicts, `expire` or `reuse` ids; the state then."""
        return self._ask(json.dumps(content).encode())

    def _ask(self, body: bytes | None) -> dict[str, Any]:
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/{ROOM}", body), timeout=30) as answered:
            found: dict[str, Any] = json.load(answered)
        return found


@contextmanager
def simulated_cloud(dialect: Dialect = NEWER, **knobs: Any) -> Iterator[Simulated]:
    """A light cloud in a process of its own, which ends with this one."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cloud", "--dialect", dialect.name, "--until-eof"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("READY "), line
        cloud = Simulated(line.removeprefix("READY ").strip())
        cloud.change(**knobs)
        yield cloud
    finally:
        process.kill()
        process.communicate()
