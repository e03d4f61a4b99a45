"""The directory of one run's embedded server: its layout, who may own it, its locks, and how it is removed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pytest_klavis import clock
from pytest_klavis.errors import BackendError
from pytest_klavis.workspace import trees

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HELD = (errno.EACCES, errno.EAGAIN)
OWNER_HEADER = "X-Klavis-Owner"  # names the process that a request comes from
_YOUNG = 60.0  # seconds in which a run without a server may still be starting
SET_ASIDE = ".gone-"  # what starts with this is being removed, or its remover died
UNNAMED = ".new-"  # what starts with this is being made, or its maker died

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunDir:
    """Where the processes of one run meet their server. Only paths; `make()` creates them."""

    path: Path

    @property
    def start_lock(self) -> Path:
        return self.path / "start.lock"

    @property
    def server_lock(self) -> Path:
        return self.path / "server.lock"

    @property
    def server_json(self) -> Path:
        return self.path / "server.json"

    @property
    def log(self) -> Path:
        return self.path / "server.log"

    @property
    def owners(self) -> Path:
        return self.path / "owners"

    @property
    def scratch(self) -> Path:
        return self.path / "scratch"

    @property
    def workspaces(self) -> Path:
        return self.path / "workspaces"

    @property
    def interpreter(self) -> Path:
        """Links to the interpreter of the sandboxes."""
        return self.path / "interpreter"

    @property
    def archives(self) -> Path:
        return self.path / "archives"

    @classmethod
    def of(cls, run_id: str) -> RunDir:
        """The directory of this run, below the (checked) directory of this user."""
        if not _RUN_ID.fullmatch(run_id):
            raise BackendError(
                f"run id {run_id!r} cannot name a directory: use letters, digits, '.', '_' and '-', at most 100 of them"
            )
        return cls(base_directory() / run_id)

    def make(self) -> None:
        for folder in (self.path, self.owners, self.scratch):
            _private_directory(folder)


def directory_mode() -> int:
    """0711 for root, so that a sandbox's own uid can walk to its workspace; else 0700."""
    return 0o711 if os.geteuid() == 0 else 0o700


def base_directory() -> Path:
    """`<tmp>/pytest-klavis-<uid>`, made if needed. Raises BackendError when someone else could write in it."""
    base = Path(tempfile.gettempdir()).resolve() / f"pytest-klavis-{os.geteuid()}"
    _private_directory(base)
    return base


def _private_directory(path: Path) -> None:
    mode = directory_mode()
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=mode)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        kind = "is a symbolic link" if stat.S_ISLNK(found.st_mode) else f"belongs to uid {found.st_uid}"
        raise BackendError(
            f"{path} {kind}, so the embedded server cannot keep its files there. Remove it, "
            "or set TMPDIR to a directory of your own."
        )
    if stat.S_IMODE(found.st_mode) != mode:  # made under a strange umask, or loosened by hand
        path.chmod(mode)


def take_lock(path: Path, *, create: bool = False) -> int | None:
    """An exclusive `fcntl.lockf` on the file, as the descriptor that holds it; None when another process has it.

    The lock is the process's: closing any descriptor of the file in this process drops it, and no fork inherits it.
    Raises FileNotFoundError when there is no file and `create` is false.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    descriptor = os.open(path, flags, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in _HELD:
            return None
        raise
    return descriptor


def create_locked(path: Path, *, unique: bool = True) -> int:
    """A new file that this process locked before it had its name, as the descriptor (appending) that holds the lock.

    Who finds the name finds it locked. A name that is not `unique` may be there already: that raises FileExistsError,
    and of several who ask for it at once one gets it (by a hard link). Raises OSError when the file cannot be made.
    """
    unnamed = path.with_name(f"{UNNAMED}{os.getpid()}-{secrets.token_hex(8)}")
    descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)  # whatever the umask
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if unique:
            unnamed.rename(path)
        else:
            os.link(unnamed, path)
            unnamed.unlink()
    except BaseException:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            unnamed.unlink()
        raise
    return descriptor


def is_held(path: Path) -> bool:
    """Whether another process holds the lock of this file. Never ask for a file this process has open itself."""
    try:
        descriptor = take_lock(path)
    except FileNotFoundError:
        return False
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def set_aside(path: Path) -> Path:
    """Rename a directory out of everyone's sight, in one step; the new path is for `remove_tree`."""
    gone = path.with_name(f"{SET_ASIDE}{path.name}-{secrets.token_hex(4)}")
    path.rename(gone)
    return gone


def remove_tree(path: Path) -> None:
    """Remove a directory with all it holds, however deep and whatever its modes; follows no link. Missing is fine.

    What cannot be removed is logged and left.
    """
    failed: OSError | None = None
    for _ in range(3):  # a file may appear, or go, while a last writer ends
        try:
            root = os.open(path, trees.DIRECTORY)
            try:
                trees.clear_directory(root)
            finally:
                os.close(root)
            path.rmdir()
        except FileNotFoundError:
            if not path.exists():
                return
        except OSError as error:
            failed = error
        else:
            return
    log.warning("could not remove %s: %s", path, failed)


def sweep_dead_runs(skip: Path | None = None) -> None:
    """Remove what runs left behind whose server and owners are all dead. `skip` is the caller's own directory.

    A run that may still be starting (under 60 s old, no server yet) is left alone.
    """
    for path in sorted(base_directory().iterdir()):
        if path == skip:
            continue  # testing our own locks would drop them
        with contextlib.suppress(FileNotFoundError):  # another sweep was faster
            _sweep(path)


def _sweep(path: Path) -> None:
    import filelock  # noqa: PLC0415

    if path.is_symlink() or not path.is_dir():
        return
    if path.name.startswith(SET_ASIDE):
        remove_tree(path)
        return
    run = RunDir(path)
    if not run.server_lock.exists() and clock.now() - path.stat().st_mtime < _YOUNG:
        return
    try:
        with filelock.FileLock(run.start_lock, timeout=0):
            owners = list(run.owners.iterdir()) if run.owners.is_dir() else []
            if any(is_held(lock) for lock in (run.server_lock, *owners)):
                return
            gone = set_aside(path)
    except filelock.Timeout:
        return  # someone is starting it
    remove_tree(gone)
