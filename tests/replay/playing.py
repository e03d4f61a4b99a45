"""Plays a scenario on both sides and keeps what each call came to."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .compare import Seen
from .documents import contents
from .ours import Box
from .relay import relay
from .scenario import Scenario, effect, lay, lay_late_links, signature, snapshot
from .stdio import Answer, StdioServer
from .upstreams import UPSTREAMS, environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx


@dataclass(frozen=True)
class Table:
    """The scenarios of one server. `benchmark` picks the flavour of ours that `upstream` is the model of."""

    name: str
    server: str
    benchmark: str | None
    upstream: str
    scenarios: tuple[Scenario, ...]

    def missing(self, installed: Path) -> str:
        """Why this table cannot be played here; empty when it can."""
        folder = UPSTREAMS[self.upstream].place(installed)
        return "" if folder.is_dir() else f"{self.upstream} is not installed in {folder}"


@dataclass(frozen=True)
class Side:
    call: Any
    workspace: Path
    roots: tuple[str, ...]


def play(
    table: Table, scenario: Scenario, api: httpx.Client, *, installed: Path, served: Path, place: Path
) -> list[tuple[Seen, Seen]]:
    """(ours, theirs) of every call, in order. `served` holds our server's files; `place` is for this scenario."""
    seed = place / "seed"
    lay(scenario.seed, seed)
    if scenario.prepare is not None:
        scenario.prepare(seed)
    with our_side(table, scenario, api, seed, served) as ours:
        our_steps = _steps(scenario, ours)
    with (
        _account(table, api, served, place / "home"),
        their_side(table, scenario, installed, seed, place) as theirs,
    ):
        their_steps = _steps(scenario, theirs)
    return list(zip(our_steps, their_steps, strict=True))


def _steps(scenario: Scenario, side: Side) -> list[Seen]:
    known = {"root": side.roots[0]}
    seen = []
    last, before = signature(side.workspace), snapshot(side.workspace, contents)
    for label, one in scenario.calls.items():
        answer: Answer = side.call(one.tool, _filled(one.arguments, known))
        known |= _answered(label, answer)
        now = signature(side.workspace)
        after = before if now == last else snapshot(side.workspace, contents)
        seen.append(Seen(answer, effect(before, after), side.roots))
        last, before = now, after
    return seen


def _answered(label: str, answer: Answer) -> dict[str, str]:
    """What later calls may refer to: keys of JSON, else lines of the form "Key: word"."""
    try:
        found = json.loads(answer.text)
    except ValueError:
        found = dict(re.findall(r"^([A-Z][\w ]*): (\S+)$", answer.text, re.MULTILINE))
    pairs = found.items() if isinstance(found, dict) else ()
    return {f"{label}.{key}": str(value) for key, value in pairs if isinstance(value, str | int)}


def _filled(value: Any, known: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(one, known) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, known) for one in value]
    if isinstance(value, str):
        for name, text in known.items():
            value = value.replace(f"{{{name}}}", text)
    return value


@contextmanager
def our_side(table: Table, scenario: Scenario, api: httpx.Client, seed: Path, served: Path) -> Iterator[Side]:
    box = Box(api, served, table.server, table.benchmark)
    try:
        box.seed(seed)
        lay_late_links(scenario.seed, box.workspace)
        yield Side(box.call, box.workspace, (box.root, str(box.workspace)))
    finally:
        box.release()


@contextmanager
def _account(table: Table, api: httpx.Client, served: Path, home: Path) -> Iterator[None]:
    """For an upstream server that reads mail, an account in a sandbox of its own."""
    if table.upstream != "mail":
        yield
        return
    box = Box(api, served, table.server, table.benchmark)
    try:
        home.mkdir()
        account = box.auth_data
        with relay(account["smtp_server"], account["smtp_port"], account["email"], account["password"]) as port:
            (home / "mail.json").write_text(json.dumps(account | {"smtp_port": port}))
            yield
    finally:
        box.release()


@contextmanager
def their_side(table: Table, scenario: Scenario, installed: Path, seed: Path, place: Path) -> Iterator[Side]:
    upstream = UPSTREAMS[table.upstream]
    workspace, home, env = place / "workspace", place / "home", upstream.place(installed)
    shutil.copytree(seed, workspace, symlinks=True)
    lay_late_links(scenario.seed, workspace)
    home.mkdir(exist_ok=True)
    command = [word.format(env=env, root=workspace, home=home) for word in upstream.command]
    variables = environment(upstream, env, workspace, home)
    server = StdioServer(command, variables, workspace, place / "stderr.log")
    try:
        yield Side(server.call, workspace, (str(workspace),))
    finally:
        server.close()
