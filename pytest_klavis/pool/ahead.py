"""What to acquire and seed before anybody asks: a plan from the wishes and what there is, and the seeds for it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_klavis import clock
from pytest_klavis.errors import KlavisError
from pytest_klavis.workspace.seed import Seed, digest_of

from .entries import Entry, Want
from .rescue import SCRATCH

__tracebackhide__ = True  # users read their own frames


@dataclass(frozen=True)
class Packed:
    """A workspace as it is uploaded."""

    archive: Path
    digest: str


@dataclass(frozen=True)
class Wish:
    """What somebody will ask for, with its workspace where that is known and packed."""

    want: Want
    packed: Packed | None = None
    packing: bool = False
    """It is not known yet what it will be seeded with."""


@dataclass(frozen=True)
class Plan:
    """What to do for the wishes."""

    seed: list[tuple[Entry, Wish]] = field(default_factory=list)
    """Idle ones to be seeded."""
    clean: dict[int, Wish] = field(default_factory=dict)
    """For whom dirty ones are reset; or idle ones, whose seed nobody wants."""
    acquire: list[Want] = field(default_factory=list)


def plan(wishes: Sequence[Wish], entries: Sequence[Entry], making: Mapping[int, str | None]) -> Plan:
    """Who of the run's `entries` serves which wish, and which wishes need another sandbox.

    `making` holds those that are on their way to be idle, with the digest of what they are being seeded with.
    """
    made = Plan()
    left = [one for one in entries if one.state in ("idle", "dirty") or one.number in making]
    open_wishes = []
    for wish in wishes:
        if wish.packed is not None and (found := _first(left, wish, _seeded_with(wish.packed.digest, making))):
            left.remove(found)
        else:
            open_wishes.append(wish)
    for wish in open_wishes:
        ranks = (_is_idle_and_empty, lambda one: one.number in making and not making[one.number], _is_dirty, _is_idle)
        chosen = next(filter(None, (_first(left, wish, rank) for rank in ranks)), None)
        if chosen is None:
            made.acquire.append(wish.want)
            continue
        left.remove(chosen)
        if wish.packing:
            continue
        if _is_idle_and_empty(chosen):
            if wish.packed is not None:
                made.seed.append((chosen, wish))
        elif chosen.number not in making:
            made.clean[chosen.number] = wish
    return made


def _first(entries: Sequence[Entry], wish: Wish, fits: Any) -> Entry | None:
    want = wish.want
    return next((one for one in entries if one.spec == want.spec and one.left > want.needs and fits(one)), None)


def _seeded_with(digest: str, making: Mapping[int, str | None]) -> Any:
    return lambda one: making.get(one.number) == digest or (one.state == "idle" and one.seed == digest)


def _is_idle_and_empty(entry: Entry) -> bool:
    return entry.state == "idle" and entry.seed is None


def _is_idle(entry: Entry) -> bool:
    return entry.state == "idle"


def _is_dirty(entry: Entry) -> bool:
    return entry.state == "dirty"


class Seeds:
    """Workspaces that are packed once, and again when they have changed; they are looked at every `fresh` seconds."""

    def __init__(self, fresh: float = 2.0) -> None:
        self._fresh = fresh
        self._stamps: dict[str, tuple[float, object]] = {}
        self._folder: Path | None = None
        self._known: dict[str, tuple[object, Packed | None]] = {}

    def known(self, workspace: str) -> Packed | None:
        """The workspace, where it is packed and unchanged."""
        found = self._known.get(workspace)
        return found[1] if found is not None and found[0] == self._stamp(workspace) else None

    def is_due(self, workspace: str) -> bool:
        """Whether it has to be packed, anew."""
        found = self._known.get(workspace)
        return found is None or found[0] != self._stamp(workspace)

    def pack(self, workspace: str) -> None:
        """Pack a workspace: JSON `{"path": ..., "git": bool}`, or `{"archive": ...}` for one that is packed.

        What cannot be packed is nobody's trouble here: the test that wants it will say so.
        """
        stamp = _stamp(workspace)
        given = json.loads(workspace)
        try:
            archive = Path(given["archive"]) if "archive" in given else self._pack(given)
            packed: Packed | None = Packed(archive, digest_of(archive))
        except (KlavisError, OSError):
            packed = None
        self._known[workspace] = stamp, packed
        self._stamps[workspace] = clock.monotonic(), stamp

    def close(self) -> None:
        """Remove what was packed."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _stamp(self, workspace: str) -> object:
        at, stamp = self._stamps.get(workspace, (float("-inf"), None))
        if clock.monotonic() - at > self._fresh:
            stamp = _stamp(workspace)
            self._stamps[workspace] = clock.monotonic(), stamp
        return stamp

    def _pack(self, given: Mapping[str, Any]) -> Path:
        self._folder = self._folder or Path(tempfile.mkdtemp(prefix=SCRATCH))
        descriptor, name = tempfile.mkstemp(suffix=".tar.gz", dir=self._folder)
        os.close(descriptor)
        archive = Path(name)
        Seed(str(given["path"]), bool(given.get("git")), Path(given["path"])).pack_to(archive)
        return archive


def _stamp(workspace: str) -> object:
    """Another one when the files of a workspace have changed, as far as sizes and times tell."""
    given = json.loads(workspace)
    top = Path(given.get("archive") or given["path"])
    found = []
    try:
        for folder, folders, names in os.walk(top):
            folders.sort()
            for name in sorted(names):
                stat = os.lstat(f"{folder}/{name}")
                found.append((f"{folder}/{name}", stat.st_size, stat.st_mtime_ns, stat.st_mode))
        if not found:
            stat = top.stat()
            found.append((str(top), stat.st_size, stat.st_mtime_ns, stat.st_mode))
    except OSError:
        return None
    return hash(tuple(found))
