"""Making the servers' environment: in a folder beside its place, which gets its name when everything is in it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from pytest_klavis.embedded.side import pip
from pytest_klavis.embedded.side.environment import (
    FOLDER,
    RECORD,
    Lock,
    SideEnvironment,
    base_python,
    canonical,
    folder,
    locate,
    read_lock,
)
from pytest_klavis.embedded.side.trouble import InstallError, advice, astray, leftovers_only, worth_telling

UNFINISHED = ".new-"  # what starts with this is being made, or its maker died
_POLL = 0.1  # seconds between looks at another one's installation
_TAIL = 200  # lines of pip that are remembered


def _silent(line: str) -> None:
    """Nobody reads along."""


class Installation:
    """One making of the environment. `run` does it, `stop` ends it from another thread."""

    def __init__(
        self,
        *,
        wheels: Path | None = None,
        force: bool = False,
        environ: Mapping[str, str] = os.environ,
        tell: Callable[[pip.Progress], None] = lambda _progress: None,
    ) -> None:
        """`wheels` is a folder to take all packages from, instead of the index that pip is configured for.

        `force` makes it anew where there is one. `environ` has the user's configuration of pip, and says where
        environments are. `tell` is called with every step.
        """
        self._wheels = wheels
        self._force = force
        self._environ = environ
        self._tell = tell
        self._process: subprocess.Popen[str] | None = None
        self._stopped = threading.Event()
        self.has_made = False
        """Whether `run` made the environment, and did not find it."""

    def run(self) -> SideEnvironment:
        """The environment, made if it is not there. Raises InstallError; nothing is left then that looks whole."""
        if self._wheels is not None and not self._wheels.is_dir():
            raise InstallError(f"--offline {self._wheels}: there is no such folder")
        place = None
        try:
            lock = read_lock(self._environ)
            place = folder(self._environ)
            _make_folder(place)
            with self._alone(place) as held:
                found = locate(self._environ)
                if isinstance(found, SideEnvironment) and not self._force:
                    return found
                return self._make(lock, place, held)
        except OSError as error:
            where, hint = (f" in {place}", f"\n${FOLDER} names the folder for them.") if place else ("", "")
            raise InstallError(f"the servers could not be installed{where}: {error}{hint}") from error

    def stop(self) -> None:
        """End what runs; `run` raises InstallError soon."""
        self._stopped.set()
        if (process := self._process) is not None:
            _end(process)

    @contextlib.contextmanager
    def _alone(self, place: Path) -> Iterator[int]:
        """Hold the folder's lock, waiting for whoever has it. What is started inherits it: an orphan keeps it."""
        descriptor = os.open(place / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            while not _locked(descriptor):
                self._tell(pip.Progress("waiting for another process that installs the servers"))
                if self._stopped.wait(_POLL):
                    raise InstallError("the installation of the servers was stopped")
            yield descriptor
        finally:
            os.close(descriptor)

    def _make(self, lock: Lock, place: Path, held: int) -> SideEnvironment:
        for dead in place.glob(f"{UNFINISHED}*"):  # their makers are: the lock is ours
            shutil.rmtree(dead, ignore_errors=True)
        made, final = place / f"{UNFINISHED}{secrets.token_hex(6)}", place / lock.key
        temporary = made / "tmp"
        began = time.monotonic()
        try:
            temporary.mkdir(parents=True)
            made.chmod(0o755)
            self._fill(lock, made, final, temporary, held)
            shutil.rmtree(temporary)
            _note(made, time.monotonic() - began)
            _put(made, final)
            self.has_made = True
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        return SideEnvironment(final / "bin" / "python", final)

    def _fill(self, lock: Lock, made: Path, final: Path, temporary: Path, held: int) -> None:
        requirements = temporary / "servers.lock"
        requirements.write_bytes(lock.text)
        python = [str(made / "bin" / "python"), "-I", "-m"]
        environ = pip.environment_of(self._environ, temporary)
        asked = ["--no-index", "--find-links", str(self._wheels.resolve())] if self._wheels is not None else []

        def step(what: str, command: Sequence[str], each: Callable[[str], None] = _silent) -> None:
            self._tell(pip.Progress(what))
            status, said = self._do(command, environ, held, each)
            if self._stopped.is_set():
                raise InstallError("the installation of the servers was stopped")
            if status and not (command[3] == "compileall" and leftovers_only(said)):
                raise InstallError(
                    f"{what} failed (exit status {status})\n{worth_telling(said)}\n"
                    f"{advice(said, self._wheels, made.parent)}"
                )

        base = [base_python(), "-I", "-m"]
        step("making the virtual environment", [*base, "venv", "--without-pip", str(made)])
        command = [*base, "pip", "--python", python[0]]
        if self._do([*base, "pip", "--version"], environ, held)[0]:
            step("bringing pip", [*python, "ensurepip"])
            command = [*python, "pip"]
        install = [*command, "install", *pip.OPTIONS, *asked, "-r", str(requirements)]
        counter = pip.Counter(lock.size, self._tell)
        step("installing packages", install, counter)
        if lacking := lock.lacking(_versions(made), counter.ignored):
            raise InstallError(astray(lacking))
        _remove(made, "pip", "setuptools")
        _move_scripts(made, final)
        words = ["-q", "-j", "0", "--invalidation-mode", "unchecked-hash", "-s", str(made), "-p", str(final)]
        step("compiling", [*python, "compileall", *words, str(made / "lib")])

    def _do(
        self, command: Sequence[str], environ: Mapping[str, str], held: int, each: Callable[[str], None] = _silent
    ) -> tuple[int, list[str]]:
        """Run a command to its end: its exit status and last lines."""
        last: deque[str] = deque(maxlen=_TAIL)
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environ,
            process_group=0,  # Ctrl-C is ours to handle
            umask=0o022,  # sandboxes of root are other users
            pass_fds=(held,),
        ) as process:
            self._process = process
            try:
                if self._stopped.is_set():  # before there was anything to end
                    _end(process)
                assert process.stdout is not None
                for line in process.stdout:
                    last.append(line.rstrip())
                    each(last[-1])
                return process.wait(), list(last)
            finally:
                _end(process)
                self._process = None


def _make_folder(place: Path) -> None:
    """Make it, and what is missing above it. Those of root are open whatever the umask: its sandboxes are others."""
    for missing in reversed([path for path in (place, *place.parents) if not path.exists()]):
        missing.mkdir(mode=0o755, exist_ok=True)
        if os.geteuid() == 0:
            missing.chmod(0o755)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _remove(made: Path, *names: str) -> None:
    """Take out what only the installation needed: setuptools would slow every start down."""
    site = next(made.glob("lib/python*/site-packages"))
    for found in metadata.distributions(path=[str(site)]):
        if found.name in names:
            tops = {Path(site, file).parts[len(site.parts)] for file in found.files or () if file.parts[0] != ".."}
            for top in tops:
                if (site / top).is_dir():
                    shutil.rmtree(site / top)
                else:
                    (site / top).unlink(missing_ok=True)
    for script in (made / "bin").glob("pip*"):
        script.unlink()


def _move_scripts(made: Path, final: Path) -> None:
    """Let scripts name the place where the environment will be."""
    for script in (made / "pyvenv.cfg", *(made / "bin").iterdir()):
        if script.is_symlink() or not script.is_file():
            continue
        text = script.read_bytes()
        if str(made).encode() in text:
            script.write_bytes(text.replace(str(made).encode(), str(final).encode()))


def _versions(made: Path) -> dict[str, str]:
    """The versions of what is in an environment, by name."""
    site = next(made.glob("lib/python*/site-packages"))
    return {canonical(found.name): found.version for found in metadata.distributions(path=[str(site)])}


def _note(made: Path, seconds: float) -> None:
    size = sum(path.lstat().st_blocks * 512 for path in made.rglob("*"))
    record = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "base": base_python(),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "bytes": size,
        "packages": dict(sorted(_versions(made).items())),
    }
    (made / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (made / RECORD).chmod(0o644)


def _put(made: Path, final: Path) -> None:
    """Give it its name; what had that name goes."""
    if final.exists() or final.is_symlink():
        old = made.with_name(f"{UNFINISHED}old-{secrets.token_hex(4)}")
        final.rename(old)
        made.rename(final)
        if old.is_symlink():
            old.unlink()
        shutil.rmtree(old, ignore_errors=True)
    else:
        made.rename(final)
