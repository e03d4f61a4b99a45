"""What is put into a workspace: found, checked and packed before anything is acquired for it."""

from __future__ import annotations

import difflib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pytest_klavis.errors import ArchiveError, SeedError, SpecError

from .archive import Limits, Packed, extract, pack, pack_mapping, verify
from .names import printable, quoted
from .packing import mapping_items
from .repository import commit
from .scan import scan

__tracebackhide__ = True  # users read their own frames

ARCHIVES = (".tar.gz", ".tgz")
LIMITS = Limits()


@dataclass(frozen=True)
class Seed:
    """A checked seed. `source` names it in messages; `git` makes it a repository with one commit."""

    source: str
    git: bool
    _content: Path | Mapping[str, str | bytes] = field(repr=False)

    def pack_to(self, path: Path) -> Packed:
        """Write the tar.gz; the same tree gives the same bytes. Raises SeedError when the tree changed since."""
        try:
            if self.git:
                return self._pack_repository(path)
            return self._pack(path)
        except ArchiveError as error:
            raise SeedError(f"{self.source}: {error}") from error

    def _pack(self, path: Path) -> Packed:
        return pack_tree(self._content, path)

    def _pack_repository(self, path: Path) -> Packed:
        with tempfile.TemporaryDirectory(prefix="pytest-klavis-seed-") as work:
            tree = Path(work, "tree")
            self._pack(Path(work, "seed.tar.gz"))
            extract(Path(work, "seed.tar.gz"), tree)
            home = Path(work, "home")
            home.mkdir()
            commit(tree, home, self.source)
            return pack(tree, path, limit=LIMITS.total)


def pack_tree(source: Path | Mapping[str, str | bytes], dest: Path, *, below: str = ".") -> Packed:
    """Pack a directory, what is in a .tar.gz or .tgz, one other file, or a Mapping; all of it `below` a directory.

    Raises SpecError for a Mapping or a `below` that cannot be right, SeedError for a tree that cannot be packed.
    """
    if isinstance(source, Mapping):
        return pack_mapping(source, dest, below=below)
    if source.is_dir():
        return pack(source, dest, limit=LIMITS.total, below=below)
    with tempfile.TemporaryDirectory(prefix="pytest-klavis-seed-") as work:
        tree = Path(work, "tree")
        try:
            if source.name.lower().endswith(ARCHIVES):
                extract(source, tree)
            else:
                tree.mkdir()
                _copy_file(source, tree / source.name)
        except (ArchiveError, OSError) as error:
            raise SeedError(f"{source} cannot be packed: {error}") from error
        return pack(tree, dest, limit=LIMITS.total, below=below)


def _copy_file(source: Path, dest: Path) -> None:
    if not source.is_file():
        raise OSError("it is no regular file")
    shutil.copy(source, dest)


def resolve_seed(
    workspace: str | Path | Mapping[str, str | bytes], *, start: Path, root: Path, git: bool = False
) -> Seed:
    """Find and check a seed: a directory, a .tar.gz or .tgz, or a Mapping of relative path to text or bytes.

    A relative path is looked for in the directory `start`, then in each one above it up to `root`. With `git` the
    packed tree is a repository: branch main, one commit of fixed author and date, so its id depends on the tree alone.

    Raises SpecError for everything that can be known to be wrong now: nothing there (with the places and the
    nearest name), not a seed, unreadable, damaged, too large, holding what cannot be packed, no git.
    """
    if git and shutil.which("git") is None:
        raise SpecError("git=True needs git on this machine, and there is none on PATH; install it or leave git out")
    if isinstance(workspace, Mapping):
        content = dict(workspace)
        top = frozenset(item.parts[0] for item, _ in mapping_items(content) if item.parts)
        source = f"the Mapping of {len(content)} files"
        found: Path | dict[str, str | bytes] = content
    elif isinstance(workspace, (str, Path)) and str(workspace):  # type: ignore[redundant-expr]
        found = find(workspace, start=start, root=root)
        source = str(found)
        top = _check(found)
    else:
        raise SpecError(f"workspace={workspace!r} is no seed; give a directory, a .tar.gz or a Mapping of path to text")
    if git and ".git" in top:
        raise SpecError(f"git=True, but {source} is a repository already; leave git out to use its history")
    return Seed(source, git, found)


def find(name: str | Path, *, start: Path, root: Path) -> Path:
    """The file or directory that a test names: relative to its folder `start`, or to one above it up to `root`.

    Raises SpecError with the places that were looked at and the nearest name.
    """
    path = Path(name)
    places = [path] if path.is_absolute() else [place / path for place in _places(start, root)]
    for place in places:
        if os.path.lexists(place):
            return place
    lines = [f"{quoted(str(path))} is not there. Looked for:", *(f"  {place}" for place in places)]
    if near := _nearest(places):
        lines.append(f"Did you mean {near}?")
    raise SpecError("\n".join(lines))


def _places(start: Path, root: Path) -> list[Path]:
    start, root = Path(os.path.abspath(start)), Path(os.path.abspath(root))  # noqa: PTH100  (links stay as named)
    above = [start, *start.parents]
    return above[: above.index(root) + 1] if root in above else [start, root]


def _nearest(places: list[Path]) -> Path | None:
    """The most similar path: from the deepest directory that is there, the entry most like the missing step."""
    best: tuple[float, Path] | None = None
    for place in places:
        missing = place
        while not missing.parent.is_dir() and missing != missing.parent:
            missing = missing.parent
        try:
            entries = [entry.name for entry in missing.parent.iterdir()]
        except OSError:
            continue
        rest = place.relative_to(missing)
        for entry in entries:
            score = difflib.SequenceMatcher(None, missing.name.lower(), entry.lower()).ratio()
            candidate = missing.with_name(entry) / rest
            if score >= 0.6 and (best is None or score > best[0]) and candidate.exists():
                best = score, candidate
    return best[1] if best else None


def _check(path: Path) -> frozenset[str]:
    """The names at the top of a directory or archive, when all of it can be packed; else SpecError."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return _check_directory(path)
        if not stat.S_ISREG(mode):
            raise SpecError(f"{path} is no seed: it is neither a directory nor a file")
        if not path.name.lower().endswith(ARCHIVES):
            raise SpecError(f"{path} is no seed; a file has to be a {' or '.join(ARCHIVES)}, or name its directory")
        checked = verify(path)
        if checked.skipped:
            lines = [f"  {printable(name)} is {why}" for name, why in checked.skipped[:8]]
            raise SpecError("\n".join([f"{path} has links that cannot be restored in a sandbox:", *lines]))
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}") from error
    except ArchiveError as error:
        raise SpecError(f"{path}: {error}") from error
    return checked.top


def _check_directory(path: Path) -> frozenset[str]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = scan(descriptor, path, "refuse")
        found.fit(LIMITS.total)
    except SeedError as error:
        raise SpecError(str(error)) from error
    finally:
        os.close(descriptor)
    return frozenset(item.parts[0] for item in found.items if item.parts)


def digest_of(archive: Path) -> str:
    """What two packed seeds share that are the same: the ledger knows them by it."""
    with archive.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
