"""The REST calls of the Klavis API, as the API reference has them, and the extra `run` route."""

from __future__ import annotations

import asyncio
import io
import math
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_klavis.embedded import fields, tools
from pytest_klavis.embedded.isolation import BadCommandError, IsolationError
from pytest_klavis.embedded.sandboxes import LIMITS, CallEnded
from pytest_klavis.embedded.web import (
    RUN_LIMIT,
    Refusal,
    encode_aside,
    invalid,
    parse,
    read_object,
    refuse_invalid,
    reply,
)
from pytest_klavis.workspace import archive, names

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from pytest_klavis.embedded.isolation import Completed
    from pytest_klavis.embedded.sandboxes import Sandbox, Sandboxes
    from pytest_klavis.embedded.storage import Storage

# What the cloud takes: a seed that works here works there.
_SEED_LIMITS = archive.Limits(total=LIMITS.disk, formats=("tar.gz",))
_NO_REMOTE = "the embedded backend has no remote sandboxes yet"


class Rest:
    """Handlers, one per operation; `app.py` says which route leads to which."""

    def __init__(self, sandboxes: Sandboxes, storage: Storage) -> None:
        self._sandboxes = sandboxes
        self._storage = storage

    # --- remote sandboxes: none here

    async def acquire_remote(self, request: Request) -> Response:
        fields.refuse_remote(request.path_params["server_name"])
        raise AssertionError("unreachable")

    async def list_remote(self, request: Request) -> Response:
        tags = request.query_params.get("tags")
        try:
            parse(tags or "{}")
        except ValueError:
            text = "Input should be a JSON object as a string"
            refuse_invalid(invalid(["query", "tags"], text, "json_invalid", tags))
        return reply({"sandboxes": [], "total_count": 0})

    async def no_remote(self, request: Request) -> Response:
        server, sandbox_id = request.path_params["server_name"], request.path_params["sandbox_id"]
        raise Refusal(404, f"Sandbox {sandbox_id} of {server!r} not found: {_NO_REMOTE}")

    # --- local sandboxes

    async def acquire(self, request: Request) -> Response:
        order = fields.acquire_order(await read_object(request))
        owner = fields.owner_of(request.headers)
        servers, missing = list(order.servers), dict(order.missing)
        isolation = self._sandboxes.isolation
        if isolation.level == "unavailable":
            unsafe = [name for name in servers if name in tools.NEEDS_ISOLATION]
            if unsafe and not order.everything:
                raise Refusal(409, f"{', '.join(unsafe)} cannot be served: {isolation.reason}")
            servers = [name for name in servers if name not in unsafe]
            missing |= dict.fromkeys(unsafe, isolation.reason)
        sandbox = self._sandboxes.acquire(servers, missing, order.benchmark, owner, order.ttl)
        answer = _described(sandbox, base_url(request))
        del answer["created_at"]
        return reply({**answer, "message": "Local sandbox acquired"}, 201)

    async def list(self, request: Request) -> Response:
        base = base_url(request)
        found = [_described(sandbox, base) for sandbox in self._sandboxes]
        return reply({"local_sandboxes": found, "total_count": len(found)})

    async def get(self, request: Request) -> Response:
        return reply(_described(self._find(request), base_url(request)))

    async def release(self, request: Request) -> Response:
        sandbox = self._find(request)
        self._sandboxes.release(sandbox)
        return reply(
            {
                "message": f"Local sandbox release started for {sandbox.id}: "
                "it will be released asynchronously in background."
            }
        )

    async def reset(self, request: Request) -> Response:
        await self._sandboxes.reset(self._find(request))
        return reply({})

    async def upload_url(self, request: Request) -> Response:
        sandbox = self._find(request)
        fields.check_region(request.query_params)
        return reply(self._storage.upload_url(base_url(request), sandbox))

    async def initialize(self, request: Request) -> Response:
        sandbox = self._find(request)
        fields.check_region(request.query_params)
        async with sandbox.gate:
            if sandbox.gone:
                raise fields.unknown_sandbox(sandbox.id)
            if sandbox.upload is None:
                raise Refusal(409, "Nothing was uploaded yet: PUT a tar.gz to the URL that /upload-url gives first")
            done = await asyncio.to_thread(
                archive.extract,
                sandbox.upload,
                sandbox.jail.workspace,
                limits=_SEED_LIMITS,
                owner=sandbox.jail.uid,
                merge=True,
            )
            sandbox.touch()
        message = f"Extracted the uploaded archive to the workspace: {done.files} files, {done.bytes:,} bytes"
        if done.skipped:
            listed = "; ".join(f"{names.printable(path)} ({why})" for path, why in done.skipped[:10])
            message += f"; left out {len(done.skipped)}: {listed}"
        return reply({"sandbox_id": sandbox.id, "status": "occupied", "message": message})

    async def dump(self, request: Request) -> Response:
        sandbox = self._find(request)
        fields.check_region(request.query_params)
        dumped = sandbox.archives / f"dump-{secrets.token_hex(8)}.tar.gz"
        async with sandbox.gate:
            if sandbox.gone:
                raise fields.unknown_sandbox(sandbox.id)
            await asyncio.to_thread(
                archive.pack, sandbox.jail.workspace, dumped, special="skip", limit=archive.Limits().total
            )
            return reply(self._storage.download_url(base_url(request), sandbox, dumped))

    async def run(self, request: Request) -> Response:
        sandbox = self._find(request)
        order = fields.run_order(await read_object(request, RUN_LIMIT))
        if sandbox.isolation.level == "unavailable":
            raise Refusal(409, f"commands cannot be run: {sandbox.isolation.reason}")
        try:
            done = await run_command(sandbox, order)
        except CallEnded as ended:
            raise Refusal(404 if sandbox.gone else 409, str(ended)) from None
        except BadCommandError as error:
            raise Refusal(422, str(error)) from error
        except IsolationError as error:
            raise Refusal(409, f"the command could not be run: {error}") from error
        answer = {
            "exit_code": done.exit_code,
            "stdout": done.stdout.decode(errors="replace"),
            "stderr": done.stderr.decode(errors="replace"),
            "seconds": round(done.seconds, 3),
            "stopped": done.stopped,
        }
        return reply(await encode_aside(answer))

    def _find(self, request: Request) -> Sandbox:
        sandbox_id = request.path_params["local_sandbox_id"]
        sandbox = self._sandboxes.find(sandbox_id)
        if sandbox is None:
            raise fields.unknown_sandbox(sandbox_id)
        return sandbox


def base_url(request: Request) -> str:
    """This server as the client reached it; the Host header was checked before."""
    return f"http://{request.headers['host']}"


def _described(sandbox: Sandbox, base: str) -> dict[str, Any]:
    """LocalSandboxInfo of the API reference."""
    metadata = {"root": sandbox.root, "isolation": sandbox.isolation.level, "backend": "embedded"}
    common = {"benchmark": sandbox.benchmark, "updated_at": sandbox.updated_at}
    servers: list[dict[str, Any]] = [
        {
            "server_name": name,
            "id": server_id,
            "mcp_server_url": f"{base}/{name}/mcp/?local_sandbox_id={sandbox.id}",
            "status": "occupied",
            **common,
            "metadata": metadata,
        }
        for name, server_id in sandbox.servers.items()
    ]
    servers += [
        {
            "server_name": name,
            "id": f"{sandbox.id}-{name}",
            "mcp_server_url": None,
            "status": "error",
            **common,
            "metadata": {"backend": "embedded", "reason": reason},
        }
        for name, reason in sandbox.missing.items()
    ]
    return {
        "local_sandbox_id": sandbox.id,
        "created_at": sandbox.created_at,
        "status": "occupied",
        "benchmark": sandbox.benchmark,
        "servers": servers,
    }


async def run_command(sandbox: Sandbox, order: fields.RunOrder) -> Completed:
    """Run a command in the sandbox. Its `files` lie over the workspace meanwhile, and nothing else runs then."""
    limits = LIMITS
    if order.timeout is not None:
        cpu_seconds = max(LIMITS.cpu_seconds, math.ceil(order.timeout))
        limits = replace(LIMITS, wall_seconds=order.timeout, cpu_seconds=cpu_seconds)
    env = {
        # Neither the agent's modules beside the script nor byte code that it left are what the command imports.
        "PYTHONSAFEPATH": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPYCACHEPREFIX": f"/tmp/klavis-pycache-{secrets.token_hex(8)}",
        **order.env,
    }

    async def work() -> Completed:
        return await sandbox.isolation.run(
            order.argv, sandbox.jail, cwd=order.cwd, env=env, timeout=order.timeout, limits=limits
        )

    if order.files is None:
        return await sandbox.call(work)
    async with sandbox.gate:
        if sandbox.calls:
            await asyncio.wait(list(sandbox.calls))  # each is bounded by its limits, and a release ends it
        overlay = archive.laid_over(
            io.BytesIO(order.files),
            sandbox.jail.workspace,
            at=order.cwd,
            owner=sandbox.jail.uid,
            limits=_SEED_LIMITS,
        )
        await asyncio.to_thread(overlay.__enter__)
        try:
            return await sandbox.outcome(sandbox.start(work()))
        finally:
            await asyncio.to_thread(overlay.__exit__, None, None, None)
