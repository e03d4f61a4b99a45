"""Directories of a run on the host: its working directory (an agent may have laid links) and its scratch."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pytest_klavis.embedded.isolation.model import BadCommandError, IsolationError
from pytest_klavis.workspace.trees import unlock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_klavis.embedded.isolation.model import Jail

DATA = "/data"  # how agents name the workspace, whatever its real path is
_DIRECTORY = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MAX_LINKS = 40


def open_directory(workspace: Path, cwd: str, roots: Sequence[str]) -> tuple[int, str]:
    """Open a directory of the workspace without being led out of it, not even by links that change meanwhile.

    cwd: relative to the workspace, or absolute below one of `roots` (the workspace as its processes see it).
    Returns a descriptor, to be closed by the caller, and the path relative to the workspace ("." for itself).
    Raises BadCommandError, and IsolationError when the workspace itself is missing.
    """
    if "\0" in cwd:
        raise BadCommandError(f"working directory {cwd!r} has a NUL byte in it")
    try:
        unlock(workspace)
        stack = [(os.open(workspace, _DIRECTORY), "")]
    except OSError as error:
        raise IsolationError(f"the workspace is not there: {error}") from error
    links = 0
    try:
        todo = _steps(cwd, cwd, roots, stack)
        while todo:
            part = todo.pop(0)
            if part == "..":
                if len(stack) == 1:
                    raise BadCommandError(f"working directory {cwd!r} leads out of the workspace")
                os.close(stack.pop()[0])
                continue
            parent = stack[-1][0]
            try:
                mode = os.lstat(part, dir_fd=parent).st_mode
                if stat.S_ISLNK(mode):
                    links += 1
                    if links > _MAX_LINKS:
                        raise BadCommandError(f"working directory {cwd!r}: too many symbolic links")
                    todo = [*_steps(os.readlink(part, dir_fd=parent), cwd, roots, stack), *todo]
                else:
                    stack.append((os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent), part))
            except OSError as error:
                raise BadCommandError(f"working directory {cwd!r}: {error.strerror}") from error
        return os.dup(stack[-1][0]), "/".join(name for _, name in stack[1:]) or "."
    finally:
        for fd, _ in stack:
            os.close(fd)


def _steps(path: str, cwd: str, roots: Sequence[str], stack: list[tuple[int, str]]) -> list[str]:
    """The components to walk; an absolute path below a root starts over at the workspace."""
    pure = PurePosixPath(path)
    if pure.is_absolute():
        inside = [root for root in roots if pure.is_relative_to(root)]
        if not inside:
            raise BadCommandError(f"working directory {cwd!r} leads out of the workspace ({path})")
        pure = pure.relative_to(inside[0])
        while len(stack) > 1:
            os.close(stack.pop()[0])
    return list(pure.parts)


def prepare_scratch(jail: Jail) -> tuple[Path, Path]:
    """Make HOME and the directory for temporary files where they are missing. Returns both."""
    found = []
    for name in ("home", "tmp"):
        path = jail.scratch / name
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            if not stat.S_ISDIR(path.lstat().st_mode):
                raise IsolationError(f"{path} is not a directory") from None
        except OSError as error:
            raise IsolationError(f"no place for temporary files: {error}") from error
        else:
            if jail.uid is not None:
                os.chown(path, jail.uid, jail.uid)
        found.append(path)
    return found[0], found[1]


def environment(folder: Path, home: Path, tmp: Path, env: Mapping[str, str] | None) -> dict[str, str]:
    """The clean environment of a command, with the interpreter's `folder` first on PATH; `env` wins.

    git reads no configuration of the machine.
    """
    values = {
        "PATH": f"{folder}:{_SYSTEM_PATH}",
        "HOME": str(home),
        "TMPDIR": str(tmp),
        "LANG": "C.UTF-8",
        "USER": "sandbox",
        "LOGNAME": "sandbox",
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    return {**values, **(env or {})}
