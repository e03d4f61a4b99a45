"""`pytest-klavis doctor`: what works here, what is missing, and what mends it. No network is used."""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Literal
from urllib.parse import urlsplit

from pytest_klavis.embedded.side import environment
from pytest_klavis.embedded.side.environment import Missing, locate
from pytest_klavis.errors import KlavisError

from .servers import installed
from .words import count

Say = Callable[[str], None]
WIDTH = 80


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    "missing" is what can be done without, "broken" what cannot. `mend` is a command, or "".
    """

    what: str
    status: Literal["ok", "missing", "broken"]
    text: str
    mend: str = ""


def doctor(say: Say, *, as_json: bool, start: bool) -> int:
    """Say what was found; the exit status: 1 when something is broken."""
    found = [*_installation(), _isolation(), *_programs(), _servers(), _state(), *_backend()]
    if start:
        found += _started()
    if as_json:
        say(json.dumps([asdict(one) for one in found], indent=2))
    else:
        for one in found:
            for line in _lines(one):
                say(line)
        broken, missing = ([one.what for one in found if one.status == status] for status in ("broken", "missing"))
        say("")
        say(f"broken: {', '.join(broken)}" if broken else "All that is needed by default is there.")
        if missing:
            say(_wrapped(f"not there, and needed only by what uses it: {', '.join(missing)}", ""))
    return int(any(one.status == "broken" for one in found))


def _lines(one: Finding) -> Iterator[str]:
    for number, line in enumerate(one.text.splitlines() or [""]):
        head = f"{one.status:<9}{f'{one.what}: ' if one.what else ''}" if not number else " " * 9
        yield _wrapped(f"{head}{line}", " " * 11)
    if one.mend:
        yield f"{' ' * 11}-> {one.mend}"


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _installation() -> Iterator[Finding]:
    base = environment.base_python()
    apart = "" if os.path.realpath(base) == os.path.realpath(sys.executable) else f", base interpreter {base}"
    yield Finding("Python", "ok", f"{platform.python_version()}, {sys.executable}{apart}")
    names = [one for one in metadata.entry_points(group="pytest11") if one.value.startswith("pytest_klavis.")]
    version = metadata.version("pytest")
    if len(names) == 1:
        yield Finding(
            "pytest", "ok", f"{version}, finds the plugin of pytest-klavis {metadata.version('pytest-klavis')}"
        )
    else:
        text = f"{version} finds the plugin {len(names)} times, which has to be once"
        yield Finding("pytest", "broken", text, "pip install --force-reinstall --no-deps pytest-klavis")
    if os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
        text = "PYTEST_DISABLE_PLUGIN_AUTOLOAD keeps pytest from loading plugins that are not named"
        yield Finding("plugins", "missing", text, "pytest -p pytest_klavis.plugin -p xdist")
    yield Finding("pytest-xdist", "ok", metadata.version("pytest-xdist"))


def _isolation() -> Finding:
    from pytest_klavis.embedded.isolation import probe_sync  # noqa: PLC0415 - starts processes when asked to

    found = probe_sync()
    if found.level == "unavailable":
        text = f"agents' commands, git and upstream servers cannot be confined here: {found.reason}"
        return Finding("isolation", "broken", text)
    why = f"\nnot a better level, because {found.reason}" if found.reason else ""
    return Finding("isolation", "ok", f"{found.level}, tried{why}")


def _programs() -> Iterator[Finding]:
    for name, use in (("git", "the server git, and workspaces with git=True"), ("bash", "the server terminal")):
        path = shutil.which(name)
        if path is None:
            hint = ", which uses sh now" if name == "bash" else ""
            yield Finding(name, "missing", f"is for {use}{hint}", f"apt-get install {name}")
            continue
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        yield Finding(name, "ok", f"{path}, {(done.stdout.splitlines() or ['of unknown version'])[0]}")


def _servers() -> Finding:
    what = "upstream servers"
    try:
        found = locate()
    except OSError as error:
        return Finding(what, "broken", str(error))
    if isinstance(found, Missing):
        names = ", ".join(environment.PACKAGES)
        return Finding(
            what, "missing", f"{found.reason.removesuffix(f': {environment.COMMAND}')} ({names})", environment.COMMAND
        )
    return Finding(what, "ok", "\n".join(line.strip() for line in installed(found)))


def _state() -> Finding:
    from pytest_klavis.pool.statedir import filesystem_of, state_directory  # noqa: PLC0415

    what = "records of cloud sandboxes"
    status: Literal["missing", "broken"] = "broken" if _backend_of() == "cloud" else "missing"
    try:
        state = state_directory()
    except KlavisError as error:
        return Finding(what, status, str(error))
    there = next(path for path in (state.path, *state.path.parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding(what, status, f"{there} cannot be written to", "export KLAVIS_STATE_DIR=DIRECTORY")
    kind = filesystem_of(state.path)
    return Finding(
        what, "ok", f"{state.path}{f' on {kind}' if kind else ''}{f', as {state.note}' if state.note else ''}"
    )


def _backend_of() -> str:
    told = os.environ.get("KLAVIS_BACKEND", "auto").lower()
    if told in ("cloud", "embedded"):
        return told
    return "cloud" if os.environ.get("KLAVIS_API_KEY") or os.environ.get("KLAVIS_BASE_URL") else "embedded"


def _backend() -> Iterator[Finding]:
    name, key = _backend_of(), bool(os.environ.get("KLAVIS_API_KEY", "").strip())
    text = f"{name}, by the environment alone; flags and ini files may say otherwise"
    if name == "cloud":
        host = urlsplit(os.environ.get("KLAVIS_BASE_URL") or "https://api.klavis.ai").netloc.rpartition("@")[2]
        text += f"\nthe API is {host}"
    mend = "export KLAVIS_API_KEY=KEY"
    yield Finding(
        "backend", "broken" if name == "cloud" and not key else "ok", text, mend if name == "cloud" and not key else ""
    )
    for variable, use in (("KLAVIS_API_KEY", "the cloud backend"), ("BLACKBOX_API_KEY", "blackbox_workspace")):
        there = bool(os.environ.get(variable, "").strip())
        yield Finding(variable, "ok" if there else "missing", f"is {'set' if there else 'not set'}; it is for {use}")


def _started() -> Iterator[Finding]:
    """Start an embedded server, and in it each server that needs more than this package."""
    from pytest_klavis.api.client import KlavisClient  # noqa: PLC0415 - httpx
    from pytest_klavis.backend import start_embedded  # noqa: PLC0415
    from pytest_klavis.mcp.client import McpClient  # noqa: PLC0415

    try:
        endpoint, owner = start_embedded(f"doctor-{secrets.token_hex(4)}")
    except KlavisError as error:
        yield Finding("embedded server", "broken", str(error))
        return
    api = KlavisClient(endpoint.base_url, endpoint.api_key, headers=endpoint.headers)
    try:
        yield Finding("embedded server", "ok", "starts")
        there = not isinstance(locate(), Missing)
        for name in ("filesystem", *(environment.PACKAGES if there else ())):
            try:
                answer = api.acquire_local_sandbox([name])
                with McpClient(str(answer.servers[0].mcp_server_url)) as client:
                    number = len(client.list_tools())
                yield Finding(f"server {name}", "ok", f"starts, and has {count(number, 'tool')}")
            except KlavisError as error:
                yield Finding(f"server {name}", "broken", str(error))
    finally:
        api.close()
        owner.close()
