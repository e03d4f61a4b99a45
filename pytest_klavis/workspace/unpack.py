"""Archive to tree: a new tree is written in full beside its place, then moved there; a refused one leaves nothing."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pytest_klavis import clock
from pytest_klavis.errors import ArchiveError

from .headers import CHUNK
from .names import NameRefusedError, encode, objections, quoted, split
from .overlay import Layer
from .reader import Entry, Limits, Reader, opened
from .trees import Walk, make_directory, open_directory, opened_directory, staging

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
OLD_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
DAY = 86_400


@dataclass(frozen=True)
class Extracted:
    """What came out: regular files, their bytes, and (path, why) of the links that were left out.

    `stripped` is the wrapping directory that was taken off all paths, "" for none.
    """

    files: int
    bytes: int
    skipped: tuple[tuple[str, str], ...]
    stripped: str = ""


def extract(
    archive: Path | BinaryIO,
    dest: Path,
    *,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    owner: int | None = None,
    merge: bool = False,
    links: bool = True,
    packed_from: str | None = None,
) -> Extracted:
    """Unpack a tar.gz or zip into the directory `dest`, as files of mode 0644 or 0755 that belong to us, or to
    the uid `owner` and the group of the same number.

    `dest` has to be missing or empty, else `merge` lays the members over what is there: files, links and whole
    directories in the way are replaced, nothing is followed. Either way the archive is read to its end beside
    `dest` first, so a refused one changes nothing. An existing `dest` stays the same directory, with its mode and
    owner. Relative links that stay inside are restored (unless `links` is off), others are left out and listed.

    `packed_from` is the absolute path that the archive was made of, such as "/vercel/sandbox". Where everything in it
    lies below that path, or below its last steps (`sandbox/`), these are stripped; no other directory is.

    Raises ArchiveError for an archive that is damaged, hostile or larger than `limits`, naming the member, and
    for a `dest` that cannot be written.
    """
    dest = Path(dest)
    with _disk_errors(f"unpack into {dest}"):
        exists = os.path.lexists(dest)
        if exists and not merge and any(dest.iterdir()):
            raise ArchiveError(f"{dest} is not empty; name a new directory, or ask for a merge")
        with staging(dest.parent, dest.name) as stage, _made(b"tree", stage, owner) as tree:
            result = unpack(archive, tree, limits=limits, owner=owner, links=links, packed_from=packed_from)
            top = encode(f"tree/{result.stripped}")
            if not exists:
                os.rename(top, dest, src_dir_fd=stage)
                return result
            with (
                opened_directory(encode(str(dest)), None) as there,
                _made(b"aside", stage, None) as aside,
                opened_directory(top, stage) as source,
            ):
                layer = Layer(there, aside, owner)
                try:
                    layer.lay(source)
                except BaseException:
                    layer.undo()
                    raise
            return result


@contextmanager
def laid_over(
    archive: Path | BinaryIO,
    root: Path,
    *,
    at: str = ".",
    owner: int | None = None,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    work: Path | None = None,
) -> Iterator[Extracted]:
    """Lay an archive over the directory `at` of the tree `root` for the time of a block; then put back what was there.

    Its members win over whatever is there: files, links, whole directories. Nothing is followed, `at` neither.
    `owner` is the uid (and gid) that gets what is made. `work` is a directory on the same file system that nobody else
    can write to; default: the parent of `root`. Files that appear beside the laid ones stay.

    Raises ArchiveError for a refused archive, before anything is touched, and for an `at` that is no directory.
    """
    with ExitStack() as stack:
        with _disk_errors(f"lay files over {root}"):
            stage = stack.enter_context(staging(root.parent if work is None else work, root.name))
            new = stack.enter_context(_made(b"new", stage, owner))
            aside = stack.enter_context(_made(b"aside", stage, None))
            result = unpack(archive, new, limits=limits, owner=owner, links=True)
            tree = stack.enter_context(opened_directory(encode(str(root)), None))
            layer = Layer(_place(tree, at, stack), aside, owner)
        try:
            with _disk_errors(f"lay files over {root}"):
                layer.lay(new)
            yield result
        finally:
            with _disk_errors(f"put back what was in {root}"):
                layer.undo()


def unpack(
    archive: Path | BinaryIO,
    tree: int,
    *,
    limits: Limits,
    owner: int | None,
    links: bool,
    packed_from: str | None = None,
) -> Extracted:
    """Unpack into the empty directory `tree` (a descriptor) to which nobody else has access yet."""
    files = written = 0

    def enter(name: bytes, parent: int) -> int:
        try:
            return open_directory(name, parent)
        except FileNotFoundError:
            return make_directory(name, parent, owner)

    with opened(archive) as stream, Walk(tree, enter) as walk:
        reader = Reader(stream, limits)
        for entry in reader:
            if entry.kind == "dir":
                walk.directory(entry.parts)
            elif entry.kind == "file":
                files += 1
                written += _write(entry, reader.data(), walk, owner)
            elif entry.kind == "hardlink":
                files += 1
                written += _copy(entry, reader, walk, owner)
        stripped = reader.wrapping(packed_from) if packed_from else ""
        wanted = reader.links_below(stripped)
        unwanted = ((path, "links are not wanted here") for path in sorted(wanted))
        skipped = objections(wanted) if links else tuple(unwanted)
        for path in sorted(wanted.keys() - {path for path, _ in skipped}):
            *above, name = f"{stripped}/{path}".lstrip("/").split("/")
            parent = walk.directory(tuple(above))
            os.symlink(encode(wanted[path]), encode(name), dir_fd=parent)
            if owner is not None:
                os.chown(encode(name), owner, owner, dir_fd=parent, follow_symlinks=False)
    return Extracted(files, written, skipped, stripped)


def _write(entry: Entry, chunks: Iterable[bytes], walk: Walk, owner: int | None) -> int:
    """Write one new file; return its size. O_EXCL: a name that is taken is refused by the file system itself."""
    parent = walk.directory(entry.parts[:-1])
    try:
        descriptor = os.open(encode(entry.parts[-1]), NEW_FILE, 0o600, dir_fd=parent)
    except FileExistsError:
        raise ArchiveError(f"member {quoted(entry.path)} is one file with another member on this system") from None
    size = 0
    try:
        for chunk in chunks:
            view = memoryview(chunk)
            size += len(view)
            while view:
                view = view[os.write(descriptor, view) :]
        os.fchmod(descriptor, 0o755 if entry.mode & 0o111 else 0o644)
        if 0 <= entry.mtime <= clock.now() + DAY:
            os.utime(descriptor, (entry.mtime, entry.mtime))
        if owner is not None:
            os.fchown(descriptor, owner, owner)
    finally:
        os.close(descriptor)
    return size


def _copy(entry: Entry, reader: Reader, walk: Walk, owner: int | None) -> int:
    """A hard link becomes a file of its own: two names of one file would let one test change the other's."""
    *above, name = entry.target.split("/")
    source = os.open(encode(name), OLD_FILE, dir_fd=walk.directory(tuple(above)))
    try:
        reader.charge(os.fstat(source).st_size, entry.path)
        return _write(entry, iter(lambda: os.read(source, CHUNK), b""), walk, owner)
    finally:
        os.close(source)


@contextmanager
def _made(name: bytes, parent: int, owner: int | None) -> Iterator[int]:
    descriptor = make_directory(name, parent, owner)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _place(tree: int, at: str, stack: ExitStack) -> int:
    """The directory `at` below `tree`, reached without following a link."""
    walk = stack.enter_context(Walk(tree))
    try:
        return walk.directory(split(encode(at), portable=False))
    except (NameRefusedError, OSError) as error:
        raise ArchiveError(f"{quoted(at)} is no directory of the workspace: {error}") from error


@contextmanager
def _disk_errors(what: str) -> Iterator[None]:
    """A full or read-only disk is trouble with the infrastructure, and has to be reported as that."""
    try:
        yield
    except OSError as error:
        raise ArchiveError(f"cannot {what}: {error.strerror or error}") from error
