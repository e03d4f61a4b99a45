"""Executions: an archive with a `main.py` that runs in the background of a local sandbox, and its log.

The server behind carries it out: the archive is unpacked outside of the workspace, `main.py` runs there, and what it
prints is handed out piece by piece.
"""

from __future__ import annotations

import base64
import io
import secrets
import tarfile
import threading
from dataclasses import dataclass
from typing import Any

from .machines import Behind
from .web import Asked, Reply, not_found, reply

ROUTES = frozenset(("execution-upload-url", "execute", "execution-status", "execution-logs", "export-artifacts"))
_READ = 400_000  # bytes per look at the log: the server behind shows 1 MiB of an output


@dataclass
class Execution:
    """One execution of one sandbox."""

    archive: bytes | None = None
    status: str = "pending"
    log: bytes = b""
    files: tuple[str, ...] = ()


class Executions:
    """`words` replace statuses by others, `piece` is how many bytes of a log come at once."""

    def __init__(self, behind: Behind, url: str) -> None:
        self._behind = behind
        self._url = url
        self._found: dict[tuple[str, str], Execution] = {}
        self._uploads: dict[str, Execution] = {}
        self._lock = threading.Lock()
        self.piece = 1 << 20
        self.words: dict[str, str] = {}
        self.ignores_cursor = False
        """Whether each look brings the log from its start."""
        self.noise = b""
        """What the machine logs before `main.py` starts."""
        self.spoil: bytes | None = None
        """The log of every execution, whatever it printed; `%s` is the first word that it did."""

    @property
    def all(self) -> list[Execution]:
        return list(self._found.values())

    def put(self, token: str, body: bytes) -> Reply:
        """An archive comes to its signed URL."""
        execution = self._uploads.pop(token, None)
        if execution is None:
            return Reply(403, b"<Error><Code>ExpiredToken</Code></Error>", "application/xml")
        execution.archive = body
        return Reply(200)

    def answer(self, asked: Asked) -> Reply:
        """The answer to one of `ROUTES`."""
        _, number, route = asked.parts
        there = self._behind.forward(Asked("GET", f"/local-sandbox/{number}", b"", asked.headers))
        return there if there.status >= 300 else self._of_a_sandbox(number, route, asked)

    def _of_a_sandbox(self, number: str, route: str, asked: Asked) -> Reply:
        name = (asked.content or {}).get("execution_name") or asked.query.get("execution_name")
        if not name:
            complaint = {"loc": ["query", "execution_name"], "msg": "Field required", "type": "missing"}
            return reply({"detail": [complaint]}, 422)
        if route == "execution-upload-url":
            return self._upload_url(number, name)
        execution = self._found.get((number, name))
        if execution is None:
            return reply({"detail": f"Execution {name} not found"}, 404)
        if route == "execute":
            return self._execute(number, name, execution, asked)
        if route == "export-artifacts":
            return not_found()
        return self._look(execution, None if route == "execution-status" else int(asked.query.get("cursor", 0)))

    def _upload_url(self, number: str, name: str) -> Reply:
        token = secrets.token_hex(16)
        with self._lock:
            execution = self._found.setdefault((number, name), Execution())
            self._uploads[token] = execution
        url = f"{self._url}/bucket/executions/{token}?X-Goog-Signature={secrets.token_hex(32)}"
        return reply({"upload_url": url, "expires_in_minutes": 30})

    def _execute(self, number: str, name: str, execution: Execution, asked: Asked) -> Reply:
        if execution.archive is None:
            return reply({"detail": "nothing was uploaded for this execution"}, 400)
        execution.files = tuple(_names(execution.archive))
        thread = threading.Thread(target=self._carry_out, args=(number, execution, asked.headers), daemon=True)
        thread.start()
        return reply({"message": "Execution started", "execution_name": name})

    def _look(self, execution: Execution, cursor: int | None) -> Reply:
        with self._lock:
            status, log = execution.status, execution.log
        shown = {"status": self.words.get(status, status)}
        if cursor is None:
            return reply(shown)
        if self.ignores_cursor:
            cursor = 0
        piece = log[cursor : cursor + self.piece]
        return reply(shown | {"logs": piece.decode(errors="replace"), "cursor": cursor + len(piece)})

    def _carry_out(self, number: str, execution: Execution, headers: Any) -> None:
        if self.spoil is not None and b"%s" not in self.spoil:
            with self._lock:
                execution.log, execution.status = self.spoil, "completed"
            return
        place = f"executions/{secrets.token_hex(4)}"
        assert execution.archive is not None
        execution.status = "running"
        with self._lock:
            execution.log = self.noise

        def run(script: str, **more: Any) -> dict[str, Any]:
            asked = Asked("POST", f"/local-sandbox/{number}/run", b"", headers)
            answer = self._behind.forward(asked, body={"argv": ["sh", "-c", script], **more})
            return answer.content if answer.status < 300 else {"exit_code": -1, "stdout": ""}

        run(f"mkdir -p ~/{place} && cp -R .execution/. ~/{place}/", files=_below(execution.archive, ".execution"))
        main = f"cd ~/{place} && AGENT_WORKSPACE=/data exec python main.py >log 2>&1"
        done = run(main, timeout=3600)
        log, offset = self.noise, 1
        while piece := run(f"tail -c +{offset} ~/{place}/log | head -c {_READ}")["stdout"]:
            offset += len(piece.encode())
            log += piece.encode()
        if self.spoil is not None:
            log = self.spoil.replace(b"%s", log.partition(b" ")[0])
        with self._lock:
            execution.log = log
            execution.status = "completed" if done["exit_code"] == 0 else "failed"


def _names(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return opened.getnames()


def _below(archive: bytes, folder: str) -> str:
    """The same archive with everything in a folder, as base64."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened, tarfile.open(fileobj=packed, mode="w:gz") as out:
        for member in opened:
            data = opened.extractfile(member) if member.isfile() else None
            member.name = f"{folder}/{member.name}"
            out.addfile(member, data)
    return base64.b64encode(packed.getvalue()).decode()
