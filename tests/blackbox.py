"""A stand-in for the Blackbox Agent API: tasks, their status and the download of their workspace, well or badly."""

from __future__ import annotations

import io
import json
import socket
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

KEY = "sk-planted-blackbox-key-0123456789"
ROOT = "/vercel/sandbox"
FILES: Mapping[str, bytes] = {"report.md": b"Q3: up 12 %\n", "src/calc.py": b"def add(a, b):\n    return a + b\n"}
NO_SANDBOX = "No sandbox available for this task"
NO_ZIP = "Failed to create archive: zip: command not found"
WRAPPINGS = ("", "./", "sandbox/", "vercel/sandbox/", "./vercel/sandbox/")
"""What members may start with; the reference does not say."""

Misbehaviour = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Run:
    """One task. Each look at its status moves on in `statuses`; the last one stays."""

    files: Mapping[str, bytes] = field(default_factory=lambda: dict(FILES))
    statuses: list[str] = field(default_factory=lambda: ["completed"])
    wrapping: str = "./"
    has_sandbox: bool = True
    has_zip: bool = True
    foreign: bool = False
    archive: bytes | None = None
    """What is sent instead of an archive of `files`."""

    @property
    def ready(self) -> bool:
        """Whether its sandbox exists: not before the task has started."""
        return self.has_sandbox and self.statuses[0] not in ("pending", "queued")


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass
class Blackbox:
    """Where the stand-in listens, what it holds, what it was asked, and what it shall do wrong."""

    url: str = ""
    runs: dict[str, Run] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    faults: list[Misbehaviour] = field(default_factory=list)
    """Each one is the answer to one download; then the stand-in works again."""
    status_faults: list[Misbehaviour] = field(default_factory=list)
    """The same for looks at a status."""

    def downloads(self) -> list[Request]:
        """The requests for a workspace."""
        return [one for one in self.requests if one.path.endswith("/files/download")]

    def looks(self) -> int:
        """How often a status was asked for."""
        return sum(one.path.endswith("/status") for one in self.requests)


def targz(members: Mapping[str, bytes]) -> bytes:
    """A tar.gz of these members, as `tar czf` writes it: with its directories."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for folder in _folders(members):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(info)
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zipped(members: Mapping[str, bytes]) -> bytes:
    """A zip of these members, as `zip -r` writes it: with its directories."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in _folders(members):
            archive.writestr(f"{folder}/", b"")
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def _folders(members: Mapping[str, bytes]) -> list[str]:
    found = {name.rsplit("/", depth)[0] for name in members for depth in range(1, name.count("/") + 1)}
    # `tar czf x .` has an entry for its root, `tar czf x ./vercel/sandbox` none above what it was told.
    packed_from_inside = not any(name.startswith("./vercel/") for name in members)
    return sorted(found - {""} if packed_from_inside else found - {"", "."})


PACKERS = {"tar": (targz, "application/gzip", "tar.gz"), "zip": (zipped, "application/zip", "zip")}


def says(status: int, content: Any, headers: Mapping[str, str] | None = None) -> Misbehaviour:
    """Answer with JSON, or with text or bytes as they are."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    found = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}

    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in found.items():
            if value:
                handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return behave


def error(status: int, text: str, headers: Mapping[str, str] | None = None) -> Misbehaviour:
    """The documented form of an error."""
    return says(status, {"error": text}, headers)


def reset(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection instead of an answer."""
    with suppress(OSError):
        handler.connection.shutdown(socket.SHUT_RDWR)


def drips(pause: float) -> Misbehaviour:
    """Announce an archive and send a byte of it now and then."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        with suppress(OSError):
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/gzip\r\nContent-Length: 100000\r\n\r\n")
            over = threading.Event()
            while not over.wait(pause):
                handler.wfile.write(b"\x1f")
                handler.wfile.flush()

    return behave


@contextmanager
def blackbox_api() -> Iterator[Blackbox]:
    """The API with one finished task, `run-1`, until more is planted."""
    found = Blackbox(runs={"run-1": Run()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(found))
    server.daemon_threads = True
    server.block_on_close = False  # some answers are told never to end
    found.url = f"http://127.0.0.1:{server.server_port}/api/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(api: Blackbox) -> type[BaseHTTPRequestHandler]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.close_connection = True
            with lock:
                api.requests.append(Request(parts.path, query, headers))
                behave = self.answer(parts.path, query, headers)
            behave(self)

        def answer(self, path: str, query: dict[str, str], headers: dict[str, str]) -> Misbehaviour:
            if headers.get("authorization") != f"Bearer {KEY}":
                return error(401, "Unauthorized")
            steps = [unquote(step) for step in path.split("/")]  # '', api, v1, tasks, id, ...
            run = api.runs.get(steps[4]) if steps[1:4] == ["api", "v1", "tasks"] and len(steps) > 5 else None
            planted = {"files/download": api.faults, "status": api.status_faults}.get("/".join(steps[5:]))
            if planted:
                return planted.pop(0)
            if run is None or planted is None:
                return error(404, "Task not found")
            if run.foreign:
                return error(403, "Task belongs to a different user")
            if steps[5:] == ["files", "download"]:
                return _download(steps[4], run, query)
            now = run.statuses[0]
            run.statuses[:] = run.statuses[1:] or [now]
            return says(200, {"runId": steps[4], "status": now, "progress": 40, "error": None})

        def log_message(self, *args: Any) -> None:
            """Nothing: the requests are in `api.requests`."""

    return Handler


def _download(name: str, run: Run, query: dict[str, str]) -> Misbehaviour:
    kind = query.get("format", "zip")
    if not run.ready:
        return error(404, NO_SANDBOX)
    if kind not in PACKERS:
        return error(400, "format must be zip or tar")
    if kind == "zip" and not run.has_zip:
        return error(500, NO_ZIP)
    below = query.get("path", ROOT).removeprefix(ROOT).strip("/")
    inside = f"{below}/" if below else ""
    # A wrapped archive is wrapped by as much of the path as its wrapping says.
    start = {"sandbox/": f"{(below or 'sandbox').rsplit('/', maxsplit=1)[-1]}/"}.get(run.wrapping, run.wrapping)
    if "vercel" in run.wrapping:
        start += inside
    packer, media, ending = PACKERS[kind]
    members = {
        f"{start}{path.removeprefix(inside)}": data for path, data in run.files.items() if path.startswith(inside)
    }
    body = packer(members) if run.archive is None else run.archive
    attachment = f'attachment; filename="workspace-{name[:8]}.{ending}"'
    return says(200, body, {"Content-Type": media, "Content-Disposition": attachment})
