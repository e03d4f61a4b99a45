"""User processes of an embedded server, for tests to talk through and to kill."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# A process that uses the server, as a pytest worker does; it obeys lines on stdin.
_USER = """
import json, os, sys
from pytest_klavis.backend import start_embedded
endpoint, owner = start_embedded(sys.argv[1], isolation=sys.argv[2])
print(json.dumps({"url": endpoint.base_url, "key": endpoint.api_key, "headers": dict(endpoint.headers),
                  "isolation": endpoint.isolation, "owner": owner.id, "repr": repr(endpoint)}), flush=True)
for line in sys.stdin:
    word, _, rest = line.strip().partition(" ")
    if word == "note":
        owner.note(json.loads(rest))
    elif word == "close":
        owner.close()
    elif word == "fork":
        child = os.fork()
        if child == 0:
            owner.close()
            os._exit(0)
        os.waitpid(child, 0)
    elif word == "linger":
        child = os.fork()
        if child == 0:
            os.close(1)
            import time; time.sleep(60); os._exit(0)
    print(json.dumps({"did": word, "child": locals().get("child")}), flush=True)
"""


class User:
    """One process that holds the run's server, and an HTTP client with its key and owner header."""

    def __init__(self, place: Path, run_id: str, isolation: str = "auto") -> None:
        environment = {**os.environ, "TMPDIR": str(place)}
        command = [sys.executable, "-c", _USER, run_id, isolation]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        self.run_dir = place / f"pytest-klavis-{os.geteuid()}" / run_id
        self._client: httpx.Client | None = None
        self._found: dict[str, Any] | None = None

    @property
    def found(self) -> dict[str, Any]:
        """What start_embedded gave; waits for it."""
        if self._found is None:
            self._found = self._read()
        return self._found

    @property
    def api(self) -> httpx.Client:
        if self._client is None:
            from tests.contract.described import hold

            headers = {"Authorization": f"Bearer {self.found['key']}", **self.found["headers"]}
            hooks = {"response": [hold]}  # so each call of these tests holds the server to its description
            self._client = httpx.Client(base_url=self.found["url"], headers=headers, timeout=60, event_hooks=hooks)
        return self._client

    @property
    def server_pid(self) -> int:
        return int(json.loads((self.run_dir / "server.json").read_text())["pid"])

    def say(self, line: str) -> dict[str, Any]:
        assert self.found
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._read()

    def note(self, **record: object) -> None:
        self.say("note " + json.dumps(record))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        if self._client is not None:
            self._client.close()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.kill()

    def acquire(self, *servers: str, **more: object) -> dict[str, Any]:
        answer = self.api.post("/local-sandbox", json={"server_names": servers or ["filesystem"], **more})
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def run(self, sandbox: str, *argv: str, **more: object) -> dict[str, Any]:
        answer = self.api.post(f"/local-sandbox/{sandbox}/run", json={"argv": argv, **more})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def upload(self, sandbox: str, files: Mapping[str, str]) -> httpx.Response:
        """Upload files and initialize the workspace with them; the answer of initialize."""
        url = self.api.post(f"/local-sandbox/{sandbox}/upload-url").json()["upload_url"]
        assert httpx.put(url, content=tar(files)).status_code == 200
        return self.api.post(f"/local-sandbox/{sandbox}/initialize")

    def download(self, sandbox: str) -> dict[str, str]:
        """The text files of the workspace, by a dump."""
        url = self.api.get(f"/local-sandbox/{sandbox}/dump").json()["download_url"]
        return untar(httpx.get(url).content)

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the user process ended"
        found: dict[str, Any] = json.loads(line)
        return found


def tar(files: Mapping[str, str]) -> bytes:
    """A tar.gz of text files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


def untar(packed: bytes) -> dict[str, str]:
    """The text files of a tar.gz, by name without "./"."""
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        members = {member.name.removeprefix("./"): archive.extractfile(member) for member in archive if member.isfile()}
        return {name: file.read().decode() for name, file in members.items() if file is not None}


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def processes_with(word: str) -> list[int]:
    """Pids whose command line has this word in it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def wait_until(what: Callable[[], object], seconds: float = 20.0) -> None:
    """Returns when `what()` is true; fails the test when that takes too long."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"not true after {seconds} s"
        time.sleep(0.02)


@contextlib.contextmanager
def _places() -> Iterator[Path]:
    # Not tmp_path: a sandbox's own uid has to be able to walk there.
    place = Path(tempfile.mkdtemp(prefix="klavis-test-"))
    place.chmod(0o711)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty TMPDIR for the processes of a test."""
    with _places() as place:
        yield place


@pytest.fixture
def start(place: Path) -> Iterator[Callable[..., User]]:
    """Start user processes of one run ("run" if not said otherwise); all are gone when the test is over."""
    users: list[User] = []

    def start_one(run_id: str = "run", isolation: str = "auto") -> User:
        users.append(User(place, run_id, isolation))
        return users[-1]

    yield start_one
    for user in users:
        user.end()
    for pid in processes_with(str(place)):  # a server that the test left without an owner ends by itself
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not processes_with(f"{place}/"))


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    """One user process with its server, for the tests of a module that leave both alone."""
    with _places() as place:
        user = User(place, "shared")
        yield user
        user.end()
        wait_until(lambda: not processes_with(f"{place}/"))
