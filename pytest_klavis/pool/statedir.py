"""Where the state of an account lives: the directory, who may have it, and on which file systems. Not what is in it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import re
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pytest_klavis.errors import BackendError

__tracebackhide__ = True  # users read their own frames

VARIABLE = "KLAVIS_STATE_DIR"

# File systems that are shared between machines (types as mountinfo has them; those in user space as `fuse.<type>`).
# SQLite's WAL keeps an index in shared memory, which two machines do not share: https://www.sqlite.org/wal.html
_REMOTE = re.compile(
    "9p|acfs|afs|auristorfs|beegfs|ceph|cifs|coda|davfs2?|glusterfs|gpfs|kafs|lustre|mfs|ncpfs|nfs[0-9]*|orangefs"
    "|panfs|pvfs2|smb[0-9]*|smbfs"
)
_REMOTE_IN_USER_SPACE = re.compile(
    "blobfuse2?|ceph-fuse|curlftpfs|gcsfuse|goofys|gvfsd-fuse|juicefs|lizardfs|mfsmount|moosefs|mount-s3|mountpoint-s3"
    "|rclone|s3fs|seaweedfs|smbnetfs|sshfs"
)

Mounts = Callable[[Path], str | None]


@dataclass(frozen=True)
class StateDir:
    """A directory, and what the user should be told about the choice ("" when there is nothing to tell)."""

    path: Path
    note: str = ""


def filesystem_of(path: Path) -> str | None:
    """The type of the file system that holds the path, or would if it existed: "ext4", "nfs4", "fuse.sshfs".

    None where the system does not tell (macOS).
    """
    try:
        descriptor = os.open(_nearest(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (AttributeError, OSError):  # macOS has no O_PATH
        return None
    try:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            about = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
            return _type_of_mount(about, Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))
    finally:
        os.close(descriptor)
    return None


def _type_of_mount(fdinfo: str, mountinfo: str) -> str | None:
    """Look the mount of a descriptor up by its number: a mount point alone may be hidden below a later mount.

    Formats: https://docs.kernel.org/filesystems/proc.html, 3.5 (mountinfo) and 3.8 (fdinfo).
    """
    number = re.search(r"^mnt_id:\s*(\d+)$", fdinfo, re.MULTILINE)
    for line in mountinfo.splitlines() if number else ():
        mount, separator, kind = line.partition(" - ")
        if number and separator and mount.split(" ", 1)[0] == number[1]:
            return kind.split(" ", 1)[0]
    return None


def is_remote(filesystem: str | None) -> bool:
    """Whether a file system of this type may be shared with other machines."""
    if filesystem is None:
        return False
    family, _, kind = filesystem.lower().partition(".")
    if family == "fuse":
        return bool(_REMOTE.fullmatch(kind) or _REMOTE_IN_USER_SPACE.fullmatch(kind))
    return bool(_REMOTE.fullmatch(family))


def state_directory(environ: Mapping[str, str] = os.environ, mounts: Mounts = filesystem_of) -> StateDir:
    """Where this user's state is: `KLAVIS_STATE_DIR`, or by the XDG rules `~/.local/state/pytest-klavis`.

    A default on a network file system moves to the directory for temporary files, with a note. Makes nothing.

    Raises:
        BackendError: it cannot be used; the message says why, and names `KLAVIS_STATE_DIR`.
    """
    if explicit := environ.get(VARIABLE):
        path = _explicit(explicit, environ)
        if is_remote(kind := mounts(path)):
            raise _refused(path, f"it is on a network file system ({kind}), where SQLite's WAL and locks do not work")
        return StateDir(_checked(path))
    path = _default(environ)
    if not is_remote(kind := mounts(path)):
        return StateDir(_checked(path))
    local = Path(tempfile.gettempdir()).resolve() / f"pytest-klavis-{os.geteuid()}-state"
    if is_remote(other := mounts(local)):
        raise _refused(path, f"it is on a network file system ({kind}), and so is {local} ({other})")
    note = (
        f"sandboxes are recorded in {local}, as {path} is on a network file system ({kind}), where SQLite's WAL and "
        f"locks do not work; {VARIABLE} names another place"
    )
    return StateDir(_checked(local, own=True), note)


def account_directory(
    base_url: str, api_key: str, environ: Mapping[str, str] = os.environ, mounts: Mounts = filesystem_of
) -> StateDir:
    """The directory of this account, made if needed, private (0700), with `owners/` and `answers/` in it.

    It is named after the API's host and a hash of host and key; the key is nowhere in it.

    Raises:
        BackendError: it cannot be made or is not safely this user's; the message names `KLAVIS_STATE_DIR`.
    """
    top = state_directory(environ, mounts)
    path = top.path / _account_name(base_url, api_key)
    try:
        _make(top.path)
        _checked(top.path, own=bool(top.note))
        for folder in (path, path / "owners", path / "answers"):
            _make(folder)
            _private(folder)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise _refused(Path(error.filename or path), f"it cannot be made or opened: {reason}") from error
    return StateDir(path, top.note)


def marker_of(account: Path, run: str) -> Path:
    """The file that tells, without a look into the ledger, that a run is on it."""
    return account / "runs" / run


def existing_account(base_url: str, api_key: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The directory of this account where there is one. Nothing is made."""
    try:
        path = state_directory(environ).path / _account_name(base_url, api_key)
    except (BackendError, ValueError):
        return None
    return path if path.is_dir() else None


def _account_name(base_url: str, api_key: str) -> str:
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if parts.port not in {None, {"http": 80, "https": 443}.get(parts.scheme)}:
        host = f"{host}:{parts.port}"
    digest = hashlib.sha256(f"{host}\0{api_key}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9.-]', '_', host)[:100]}-{digest[:16]}"


def _explicit(value: str, environ: Mapping[str, str]) -> Path:
    first, slash, rest = value.partition("/")
    path = _home(environ) / rest if first == "~" else Path(first + slash + rest)
    if not path.is_absolute():
        raise BackendError(f"{VARIABLE}={value} has to be an absolute path: tests change directories")
    return path


def _default(environ: Mapping[str, str]) -> Path:
    """By https://specifications.freedesktop.org/basedir-spec: a relative path there counts as none."""
    base = Path(environ.get("XDG_STATE_HOME", ""))
    return (base if base.is_absolute() else _home(environ) / ".local" / "state") / "pytest-klavis"


def _home(environ: Mapping[str, str]) -> Path:
    home = environ.get("HOME")
    if not home:
        with contextlib.suppress(KeyError):
            home = pwd.getpwuid(os.getuid()).pw_dir
    if not home or not Path(home).is_absolute():
        raise BackendError(
            f"there is no place for the records of cloud sandboxes: HOME is {home!r}. Set {VARIABLE} to a directory."
        )
    return Path(home)


def _nearest(path: Path) -> Path:
    """The directory itself, or the nearest above it that exists."""
    return next((folder for folder in (path, *path.parents) if folder.is_dir()), Path("/"))


def _make(path: Path) -> None:
    """Make a directory, and what is missing above it, private whatever the umask."""
    if path.is_dir():
        return
    _make(path.parent)
    with contextlib.suppress(FileExistsError):  # another process was faster, or something else is in the way
        path.mkdir(mode=0o700)
        path.chmod(0o700)


def _checked(path: Path, *, own: bool = False) -> Path:
    """The top directory, if it exists: nobody else may be able to change what is in it.

    A link to such a directory will do, except (`own`) in a place that everyone can write to.
    """
    try:
        found = path.lstat() if own else path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise _refused(path, "it is a symbolic link to nowhere") from None
        return path
    except OSError as error:
        raise _refused(path, (error.strerror or str(error)).lower()) from error
    _owned_directory(path, found)
    writers = stat.S_IMODE(found.st_mode) & 0o022
    if writers and not found.st_mode & stat.S_ISVTX:
        raise _refused(path, f"others can write there (mode {stat.S_IMODE(found.st_mode):04o}): chmod go-w {path}")
    return path


def _private(path: Path) -> None:
    """One of our own directories: no link, of this user, 0700 (made so), writable."""
    found = path.lstat()
    _owned_directory(path, found)
    if stat.S_IMODE(found.st_mode) != 0o700:
        path.chmod(0o700)
    if not os.access(path, os.W_OK | os.X_OK):
        read_only = os.statvfs(path).f_flag & os.ST_RDONLY
        raise _refused(path, "its file system is read-only" if read_only else "it is not writable")


def _owned_directory(path: Path, found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise _refused(path, "it is a symbolic link")
    if not stat.S_ISDIR(found.st_mode):
        raise _refused(path, "it is not a directory")
    if found.st_uid != os.geteuid():
        raise _refused(path, f"it belongs to uid {found.st_uid}, not to {os.geteuid()}")


def _refused(path: Path, reason: str) -> BackendError:
    return BackendError(
        f"cannot keep the records of cloud sandboxes in {path}: {reason}. "
        f"Set {VARIABLE} to a directory of your own on a local disk."
    )
