"""Which Python code in a sandbox runs, and what has to be visible for that. Finds and describes; mounts nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pytest_klavis.embedded.isolation.model import IsolationError

AUTO = "auto"
_SYSTEM_PYTHONS = ("/usr/bin/python3", "/usr/local/bin/python3")

# Parts of an installation's prefix that running it needs. Not the whole prefix: that may be somebody's home.
_PREFIX_PARTS = ("bin", "lib", "lib64", "include", "share/zoneinfo", "share/terminfo")

_ASK = """
import json, site, sys, sysconfig
paths = sysconfig.get_paths()
print(json.dumps({
    "executable": sys.executable, "prefix": sys.prefix, "base_prefix": sys.base_prefix,
    "base_executable": getattr(sys, "_base_executable", sys.executable), "version": list(sys.version_info[:2]),
    "packages": sorted({paths["purelib"], paths["platlib"], *site.getsitepackages()}),
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python for sandboxes.

    executable: what `python` means. folder: first on PATH, has `python` and `python3`.
    readable: directories that it needs, to be shown read-only at the same path. links: symbolic links (path, target)
    outside of these that lead to them. masked: package directories that code must not see.
    """

    executable: Path
    folder: Path
    readable: tuple[Path, ...]
    links: tuple[tuple[Path, str], ...] = ()
    masked: tuple[Path, ...] = ()


def candidates(python: str | None) -> list[str]:
    """The interpreters to try, best first, as given to `describe`."""
    if python is not None and python.lower() != AUTO:
        return [python]
    base: str = getattr(sys, "_base_executable", None) or sys.executable
    return list(dict.fromkeys([base, *(path for path in _SYSTEM_PYTHONS if Path(path).exists())]))


def describe(python: str, place: Path, *, own_packages: bool) -> Interpreter:
    """Ask an interpreter what it is.

    python: path of an interpreter or of a virtual environment's directory.
    place: an existing directory of ours in which links to it may be made; it must be readable in the sandbox.
    own_packages: False hides the packages that are installed in it (an empty virtual environment in `place`).
    Raises IsolationError when it is not there or is no Python.
    """
    path = Path(python).expanduser().absolute()
    if path.is_dir():
        path = path / "bin" / "python"
    try:
        answer = subprocess.run(
            [path, "-I", "-c", _ASK], capture_output=True, timeout=30, check=True, stdin=subprocess.DEVNULL
        )
        facts = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise IsolationError(
            f"python {python!r} is not usable ({error}); give the path of an interpreter or of a virtual environment"
        ) from error
    base = Path(facts["base_executable"])
    in_environment = facts["prefix"] != facts["base_prefix"]
    readable = [place, *_installation(Path(facts["base_prefix"])), *_installation(base.resolve().parent.parent)]
    masked: tuple[Path, ...] = ()
    if in_environment and own_packages:
        executable, folder = path, path.parent
        readable.append(Path(facts["prefix"]))
        links = [*_links_on_the_way(path), *_links_on_the_way(base)]
        if not _system_packages(Path(facts["prefix"])):
            masked = _packages_of(Path(facts["base_prefix"]), facts["version"])
    else:
        folder = _link_folder(place, base, environment=not own_packages)
        executable = folder / "python"
        links = _links_on_the_way(base)
        if not own_packages:
            masked = (*_packages_of(Path(facts["base_prefix"]), facts["version"]), *map(Path, facts["packages"]))
    seen = tuple(dict.fromkeys(readable))
    outside = tuple((link, to) for link, to in dict.fromkeys(links) if not any(link.is_relative_to(p) for p in seen))
    present = tuple(dict.fromkeys(p for p in masked if p.is_dir()))
    return Interpreter(executable, folder, seen, outside, present)


def _installation(prefix: Path) -> list[Path]:
    parts = [prefix / part for part in _PREFIX_PARTS]
    found = [part for part in parts if part.is_dir()]
    if prefix.is_relative_to("/nix/store"):
        found.append(Path("/nix/store"))
    return found


def _packages_of(prefix: Path, version: list[int]) -> tuple[Path, ...]:
    name = f"python{version[0]}.{version[1]}"
    folders = [f"{lib}/{name}/{kind}" for lib in ("lib", "lib64") for kind in ("site-packages", "dist-packages")]
    found = [prefix / folder for folder in folders]
    if prefix == Path("/usr"):  # Debian's and Fedora's other places
        found += [Path("/usr/lib/python3/dist-packages"), *(Path("/usr/local") / folder for folder in folders)]
    return tuple(found)


def _system_packages(environment: Path) -> bool:
    try:
        text = (environment / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True  # not a virtual environment after all
    return "include-system-site-packages=true" in text.lower().replace(" ", "")


def _link_folder(place: Path, base: Path, *, environment: bool) -> Path:
    """A directory with `python` and `python3`; with `environment` an empty virtual environment around it."""
    folder = place / "bin"
    folder.mkdir(mode=0o755, exist_ok=True)
    for name in ("python", "python3"):
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(base)
    config = place / "pyvenv.cfg"
    config.unlink(missing_ok=True)
    if environment:
        config.write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n", encoding="utf-8")
        config.chmod(0o644)
    folder.chmod(0o755)
    return folder


def _links_on_the_way(path: Path) -> list[tuple[Path, str]]:
    """Every symbolic link that resolving `path` goes through."""
    found: list[tuple[Path, str]] = []
    at, todo = Path("/"), [*path.parts[1:]]
    while todo and len(found) < 40:
        part = todo.pop(0)
        if part == "..":
            at = at.parent
            continue
        step = at / part
        if step.is_symlink():
            target = os.readlink(step)  # noqa: PTH115 - as it is written, not as a Path
            found.append((step, target))
            todo = [*(p for p in Path(target).parts if p != "/"), *todo]
            if target.startswith("/"):
                at = Path("/")
        else:
            at = step
    return found
