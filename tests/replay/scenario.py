"""Scenarios as data: a seed, calls in order, and how a workspace looks afterwards. Knows no server."""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SHOWN = 20_000  # bytes of a file that a snapshot holds as they are; of a longer one it holds the digest
MOMENT = "2024-03-01T12:00:00+00:00"  # of the commits in seeds
AUTHOR = {"name": "Ada", "email": "ada@example.com"}


@dataclass(frozen=True)
class Link:
    """A symbolic link in a seed. One that no archive may hold, leading out or in a circle, is put there `late`."""

    target: str
    late: bool = False


class Folder:
    """An empty directory in a seed."""


Seed = dict[str, "str | bytes | Link | type[Folder]"]


@dataclass(frozen=True)
class Call:
    tool: str
    arguments: dict[str, Any]


def call(tool: str, /, **arguments: Any) -> Call:
    """One call. In texts `{root}` is the workspace's path, and `{label.key}` what an earlier call's JSON answered."""
    return Call(tool, arguments)


@dataclass(frozen=True)
class Scenario:
    """Calls of one server, in order, that begin with the same workspace on both sides.

    `calls` by labels that say what each one is about; `prepare` runs in the seed's folder before it is packed;
    `documents` are the files that are compared by what they contain instead of by their bytes.
    """

    name: str
    calls: Mapping[str, Call]
    seed: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[Path], None] | None = None


def lay(seed: Mapping[str, Any], place: Path) -> None:
    """Make the files of a seed, the late links apart."""
    place.mkdir(parents=True, exist_ok=True)
    for name, content in seed.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is Folder:
            path.mkdir(exist_ok=True)
        elif isinstance(content, Link):
            if not content.late:
                path.symlink_to(content.target)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def lay_late_links(seed: Mapping[str, Any], place: Path) -> None:
    """Make those links of a seed that an upload leaves out."""
    for name, content in seed.items():
        if isinstance(content, Link) and content.late:
            (place / name).symlink_to(content.target)


def git(place: Path, *arguments: str) -> str:
    """Run git there with a fixed author and date, whatever this machine is set to; its output."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
        "LC_ALL": "C.UTF-8",
    }
    for role in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{role}_NAME": AUTHOR["name"], f"GIT_{role}_EMAIL": AUTHOR["email"]}
        environment[f"GIT_{role}_DATE"] = MOMENT
    done = subprocess.run(
        ["git", *arguments], cwd=place, env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    return done.stdout if done.returncode == 0 else f"{done.stdout}exit {done.returncode}: {done.stderr.strip()}"


def snapshot(place: Path, read: Callable[[Path], str | None] = lambda _: None) -> dict[str, str]:
    """What is in a workspace, by path: directories, links, contents, and of repositories what git says.

    `read` gives the contents of documents as text; where it gives None the bytes count.
    """
    found: dict[str, str] = {}
    for path in _below(place):
        name = path.relative_to(place).as_posix()
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_dir():
            found[name] = "directory"
            if (path / "HEAD").is_file() and (path / "objects").is_dir():
                found[name] = _repository(path if path.name != ".git" else path.parent)
        elif path.is_file():
            found[name] = _contents(path, read)
        else:
            found[name] = "something else"
    return found


def signature(place: Path) -> list[tuple[str, int, int]]:
    """What changes with any change below `place`, and costs no reading: names, sizes and times of change."""
    found = []
    for folder, folders, files in os.walk(place):
        for name in [*folders, *files]:
            path = os.path.join(folder, name)  # noqa: PTH118 - many of them
            state = os.lstat(path)
            found.append((path, state.st_size, state.st_ctime_ns))
    return found


def effect(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """What changed from one snapshot to the next: new and changed paths with what is there now, and paths that went."""
    changed = {name: content for name, content in after.items() if before.get(name) != content}
    return changed | {name: "gone" for name in before if name not in after}


def _below(place: Path) -> Iterator[Path]:
    for path in sorted(place.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink() and path.name != ".git":
            yield from _below(path)


def _contents(path: Path, read: Callable[[Path], str | None]) -> str:
    document = read(path)
    if document is not None:
        return document
    data = path.read_bytes()
    mode = f"{path.stat().st_mode & 0o777:03o}"
    return f"{mode} {data!r}" if len(data) <= SHOWN else f"{mode} {len(data)} bytes {hashlib.sha256(data).hexdigest()}"


def _repository(place: Path) -> str:
    """What git says, without what differs from run to run: hashes and times of new commits."""
    commits = git(place, "log", "--all", "--date-order", "--format=%T %an <%ae> | %cn <%ce> | %D%n%w(0,2,2)%B")
    status = git(place, "status", "--porcelain=v2", "--branch", "--untracked-files=all")
    kept = [line for line in status.splitlines() if not line.startswith("# branch.oid")]
    references = git(place, "for-each-ref", "--format=%(refname) %(objecttype) %(upstream)")
    return "\n".join(["repository", commits, *kept, references, git(place, "ls-files", "--stage")])
