"""Local sandboxes without machines: the routes of the server behind, over workspaces that are archives in memory."""

from __future__ import annotations

import io
import secrets
import tarfile
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .web import Asked, Reply, not_found, reply


@dataclass
class _Machine:
    servers: list[str]
    benchmark: str | None
    workspace: bytes = b""
    """A tar.gz, or nothing while it is empty."""
    uploaded: bytes | None = None
    signed: dict[str, bytes | None] = field(default_factory=dict)
    """Names of signed URLs -> what is fetched there, or None where something is put."""
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())


class Memory:
    """A server behind (`machines.Behind`). Its MCP URLs lead nowhere, and nothing runs in its sandboxes."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._machines: dict[str, _Machine] = {}
        self._lock = threading.RLock()

    def forward(self, asked: Asked, body: Any = None) -> Reply:
        """The answer to a request."""
        with self._lock:
            room, *rest = asked.parts
            if room == "storage":
                return self._storage(asked, *rest)
            if not rest:
                return self._acquire(body or asked.content) if asked.method == "POST" else self._list()
            number, *action = rest
            machine = self._machines.get(number)
            if machine is None:
                return reply({"detail": f"Local sandbox {number} not found"}, 404)
            return self._one(number, machine, action, asked)

    def _acquire(self, content: dict[str, Any]) -> Reply:
        names = content["server_names"]
        number = secrets.token_hex(16)
        machine = _Machine(["filesystem", "terminal"] if names == "ALL" else names, content.get("benchmark"))
        self._machines[number] = machine
        described = self._described(number, machine) | {"message": "Local sandbox acquired"}
        del described["created_at"]
        return reply(described, 201)

    def _list(self) -> Reply:
        found = [self._described(*one) for one in self._machines.items()]
        return reply({"local_sandboxes": found, "total_count": len(found)})

    def _one(self, number: str, machine: _Machine, action: list[str], asked: Asked) -> Reply:  # noqa: PLR0911
        match asked.method, action:
            case "GET", []:
                return reply(self._described(number, machine))
            case "DELETE", []:
                del self._machines[number]
                return reply({"message": f"Local sandbox release started for {number}"})
            case "POST", ["reset"]:
                machine.workspace, machine.uploaded = b"", None
                return reply({})
            case "POST", ["upload-url"]:
                return reply({"upload_url": self._signed(number, machine, None), "expires_in_minutes": 30})
            case "POST", ["initialize"]:
                if machine.uploaded is None:
                    return reply({"detail": "nothing was uploaded"}, 409)
                machine.workspace = merged(machine.workspace, machine.uploaded)
                return reply({"sandbox_id": number, "status": "occupied", "message": "Extracted archive to workspace"})
            case "GET", ["dump"]:
                packed = machine.workspace or merged(b"", b"")
                return reply({"download_url": self._signed(number, machine, packed), "expires_in_minutes": 30})
        return not_found()

    def _storage(self, asked: Asked, number: str, name: str) -> Reply:
        machine = self._machines.get(number)
        if machine is None or name not in machine.signed:
            return Reply(403, b"<Error><Code>ExpiredToken</Code></Error>", "application/xml")
        if asked.method == "PUT":
            machine.uploaded = asked.body
            return Reply(200)
        return Reply(200, machine.signed[name] or b"", "application/gzip")

    def _signed(self, number: str, machine: _Machine, content: bytes | None) -> str:
        name = secrets.token_hex(16)
        machine.signed[name] = content
        for old in list(machine.signed)[:-8]:
            del machine.signed[old]
        return f"{self._url}/storage/{number}/{name}?X-Goog-Signature={secrets.token_hex(32)}"

    def _described(self, number: str, machine: _Machine) -> dict[str, Any]:
        common = {"status": "occupied", "benchmark": machine.benchmark, "updated_at": machine.created_at}
        servers = [
            {
                "server_name": name,
                "id": f"{number}-{name}",
                "mcp_server_url": f"{self._url}/{name}/mcp/?local_sandbox_id={number}",
                "metadata": None,
                **common,
            }
            for name in machine.servers
        ]
        about = {"local_sandbox_id": number, "created_at": machine.created_at, "status": "occupied"}
        return about | {"benchmark": machine.benchmark, "servers": servers}


def merged(there: bytes, more: bytes) -> bytes:
    """A tar.gz with the members of both; those of `more` win. No bytes are an empty archive."""
    if more and not there:
        return more
    members: dict[str, tuple[tarfile.TarInfo, bytes | None]] = {}
    for archive in filter(None, (there, more)):
        with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
            for member in opened:
                data = opened.extractfile(member) if member.isfile() else None
                members[member.name.removeprefix("./")] = member, data.read() if data else None
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as out:
        for member, content in members.values():
            out.addfile(member, io.BytesIO(content) if content is not None else None)
    return packed.getvalue()
