"""Runs one command in a cloud sandbox and prints how it ended: a copy of this file is the `main.py` of an execution.

It runs in the sandbox, not here: standard library only, Python 3.8 or newer. Beside it lie `order.json`, which says
what to run, and `files/`, which are laid over the working directory meanwhile.
"""
# An agent's file names need not be text, which os.path takes as they are.
# ruff: noqa: PTH100, PTH101, PTH102, PTH103, PTH104, PTH107, PTH112, PTH114, PTH118, PTH120, PTH123, PTH206, PTH208

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from typing import IO, Any

CAP = 1 << 20  # bytes of an output that are kept
FLOOD = 64  # times the cap: nobody reads that, it only burns CPU
TRUNCATED = b"\n[... truncated ...]\n"
LINE = 3000  # characters: collectors of logs cut long lines
NOT_FOUND, CANNOT_EXECUTE, KILLED = 127, 126, 128 + 9


class Refused(Exception):  # noqa: N818  (what the caller asked for, no fault of ours)
    """The command cannot be run as it was asked for."""


def main() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    place = os.path.join(here, "order.json")
    with open(place, encoding="utf-8") as file:
        order = json.load(file)
    os.remove(place)  # the command must not be able to forge the answer
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was laid over the workspace is taken away again
    try:
        answer = perform(order, here)
    except Refused as error:
        answer = {"refused": str(error)}
    except OSError as error:
        answer = {"trouble": f"{type(error).__name__}: {error}"}
    tell(answer, order["nonce"])


def perform(order: dict[str, Any], here: str) -> dict[str, Any]:
    root = os.path.realpath(os.environ.get("AGENT_WORKSPACE") or "/data")
    with alone(root, order.get("wait", 60.0)):
        folder = directory(root, order["cwd"])
        layer = Layer(folder, tempfile.mkdtemp(prefix="aside-", dir=here))
        try:
            if os.path.isdir(os.path.join(here, "files")):
                layer.lay(os.path.join(here, "files"))
            return run(order["argv"], folder, environment(order["env"], here), order["timeout"])
        finally:
            layer.undo()
            shutil.rmtree(os.path.join(here, "files"), ignore_errors=True)


@contextlib.contextmanager
def alone(root: str, wait: float) -> Iterator[None]:
    """One at a time in a workspace: two would take each other's files for the agent's, and give them back to it."""
    name = f"klavis-run-{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}.lock"
    lock = opened(os.path.join(tempfile.gettempdir(), name))
    try:
        until = time.monotonic() + wait
        while not locked(lock):
            if time.monotonic() > until:
                raise TimeoutError(f"another run() in this sandbox was not over within {wait:.0f} seconds")
            time.sleep(0.05)
        yield
    finally:
        if lock is not None:
            os.close(lock)  # the file stays: somebody may wait for it


def opened(lock: str) -> int | None:
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None  # something else was given that name; a command alone goes well without


def locked(lock: int | None) -> bool:
    if lock is None:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def directory(root: str, cwd: str) -> str:
    """The directory of the workspace that `cwd` means; an agent's links may not lead out of it."""
    path = os.path.realpath(os.path.join(root, cwd))
    if os.path.commonpath([root, path]) != root:
        raise Refused(f"working directory {cwd!r} leads out of the workspace")
    try:
        os.listdir(path)
    except OSError as error:
        raise Refused(f"working directory {cwd!r}: {error.strerror}") from None
    return path


class Layer:
    """Files laid over a directory: they win over what is there, and are taken away again, whatever became of them."""

    def __init__(self, folder: str, aside: str) -> None:
        self.folder = folder
        self.aside = aside
        self.laid: list[tuple[str, str | None]] = []
        self.dropped: list[str] = []

    def lay(self, source: str, below: str = "") -> None:
        """Directories merge, all else replaces; no link is followed."""
        for name in sorted(os.listdir(os.path.join(source, below))):
            path = os.path.join(below, name)
            given, target = os.path.join(source, path), os.path.join(self.folder, path)
            both = [os.path.isdir(one) and not os.path.islink(one) for one in (given, target)]
            if all(both):
                self.lay(source, path)
                continue
            kept = self.put_aside(target)
            self.laid.append((path, kept))
            shutil.move(given, target)

    def put_aside(self, path: str) -> str | None:
        """Renaming only: what an agent leaves in the way, such as a FIFO, may be nothing that can be copied.

        Where our directory is on another file system the place is a hidden name in the workspace, and rather one
        that goes with none of its directories.
        """
        if not os.path.lexists(path):
            return None
        name = f".klavis-{secrets.token_hex(8)}"
        trouble = None
        for place in (self.aside, self.folder, os.path.dirname(path)):
            kept = os.path.join(place, name)
            try:
                os.rename(path, kept)
            except OSError as error:
                trouble = error
            else:
                return kept
        raise trouble or AssertionError("unreachable")

    def drop(self, path: str) -> None:
        kept = self.put_aside(path)
        if kept is not None:
            self.dropped.append(kept)

    def undo(self) -> None:
        """Whoever is in the sandbox afterwards finds neither the files nor what became of them."""
        trouble = None
        while self.laid:
            try:
                self.put_back(*self.laid.pop())
            except OSError as error:
                trouble = trouble or error
        for path in self.dropped:
            remove(path)
        if trouble is not None:
            raise trouble
        shutil.rmtree(self.aside, ignore_errors=True)

    def put_back(self, path: str, kept: str | None) -> None:
        """A directory that was on the way there is made again if the command removed it."""
        parent = self.folder
        for part in path.split(os.sep)[:-1]:
            parent = os.path.join(parent, part)
            if os.path.islink(parent) or not os.path.isdir(parent):
                self.drop(parent)
                os.mkdir(parent)
        target = os.path.join(self.folder, path)
        self.drop(target)
        if kept is not None and os.path.lexists(kept):  # in the workspace the command may have removed it
            os.rename(kept, target)


def remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        os.remove(path)


def environment(given: dict[str, str], here: str) -> dict[str, str]:
    """What the command sees: the sandbox's own, with the interpreter as `python` where there is none on the path."""
    values = dict(os.environ)
    for name in ("python", "python3"):
        if shutil.which(name) is None:
            folder = os.path.join(here, "bin")
            os.makedirs(folder, exist_ok=True)
            script = os.path.join(folder, name)
            with open(script, "w", encoding="utf-8") as file:
                file.write(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
            os.chmod(script, 0o755)  # noqa: S103  (the sandbox may run the command as another user)
            if not values.get("PATH", "").startswith(folder):
                values["PATH"] = folder + os.pathsep + values.get("PATH", os.defpath)
    return {**values, **given}


def run(argv: list[str], cwd: str, env: dict[str, str], timeout: float) -> dict[str, Any]:
    began = time.monotonic()
    # Files, not pipes: nobody has to read them meanwhile, and nobody who lives on can hold them open.
    with tempfile.TemporaryFile("a+b") as out, tempfile.TemporaryFile("a+b") as err:
        try:
            process = subprocess.Popen(
                argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )
        except OSError as error:
            code, reason = CANNOT_EXECUTE, str(error.strerror)
            if isinstance(error, FileNotFoundError):
                code, reason = NOT_FOUND, "not found"
            return ended(code, b"", f"{argv[0]}: {reason}\n".encode(), time.monotonic() - began, None)
        stopped = None
        try:
            while process.poll() is None and stopped is None:
                if time.monotonic() >= began + timeout:
                    stopped = "timeout"
                elif any(os.fstat(one.fileno()).st_size > CAP * FLOOD for one in (out, err)):
                    stopped = "output"
                else:
                    time.sleep(0.02)
        finally:
            with contextlib.suppress(OSError):  # nobody is left
                os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        code = KILLED if stopped else 128 - code if code < 0 else code
        return ended(code, head(out), head(err), time.monotonic() - began, stopped)


def head(output: IO[bytes]) -> bytes:
    output.seek(0)
    kept = output.read(CAP + 1)
    return kept[:CAP] + TRUNCATED if len(kept) > CAP else kept


def ended(code: int, out: bytes, err: bytes, seconds: float, stopped: str | None) -> dict[str, Any]:
    return {
        "exit_code": code,
        "stdout": out.decode("utf-8", "replace"),
        "stderr": err.decode("utf-8", "replace"),
        "seconds": round(seconds, 3),
        "stopped": stopped,
    }


def tell(answer: dict[str, Any], nonce: str) -> None:
    """Print the answer: compressed, as numbered lines that start with the nonce, so that it is found in any log."""
    text = base64.b64encode(zlib.compress(json.dumps(answer).encode())).decode()
    lines = [text[start : start + LINE] for start in range(0, len(text), LINE)]
    for number, line in enumerate(lines, 1):
        sys.stdout.write(f"{nonce} {number}/{len(lines)} {line};\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
