"""The REST calls of the Klavis API, as the API reference has them, and the extra `run` route."""

from __future__ import annotations

import asyncio
import io
import math
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_klavis.embedded import fields
from pytest_klavis.embedded.isolation import BadCommandError, IsolationError
from pytest_klavis.embedded.mail.office import SERVER as MAIL
from pytest_klavis.embedded.mail.office import MailError
from pytest_klavis.embedded.sandbox import CallEnded
from pytest_klavis.embedded.side.first_use import BeingInstalledError
from pytest_klavis.embedded.side.trouble import InstallError
from pytest_klavis.embedded.web import (
    RUN_LIMIT,
    Refusal,
    encode_aside,
    invalid,
    read_object,
    refuse_invalid,
    reply,
)
from pytest_klavis.workspace import archive, names

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from pytest_klavis.embedded.bodies import (
        AcquireLocalSandboxResponse,
        InitializeSandboxResponse,
        ListLocalSandboxesResponse,
        ListSandboxesResponse,
        LocalSandboxInfo,
        LocalSandboxServerItem,
        ReleaseMessage,
        RunResponse,
        Served,
    )
    from pytest_klavis.embedded.isolation import Completed
    from pytest_klavis.embedded.sandbox import Sandbox
    from pytest_klavis.embedded.sandboxes import Sandboxes
    from pytest_klavis.embedded.storage import Storage

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
        fields.check_tags(request.query_params)
        none: ListSandboxesResponse = {"sandboxes": [], "total_count": 0}
        return reply(none)

    async def no_remote(self, request: Request) -> Response:
        server, sandbox_id = request.path_params["server_name"], request.path_params["sandbox_id"]
        raise Refusal(404, f"Sandbox {sandbox_id} of {server!r} not found: {_NO_REMOTE}")

    # --- local sandboxes

    async def acquire(self, request: Request) -> Response:
        order = fields.acquire_order(await read_object(request))
        owner = fields.owner_of(request.headers)
        servers, missing = list(order.servers), dict(order.missing)
        try:
            absent = await self._sandboxes.absent(servers)
        except BeingInstalledError as error:
            raise Refusal(503, str(error), {"Retry-After": "1"}) from None
        except InstallError as error:  # it was asked for, so this is trouble and not something that is not there
            raise Refusal(500, f"the servers could not be installed: {error}") from error
        if absent and not order.everything:
            whys = {why: [name for name in absent if absent[name] == why] for why in absent.values()}
            raise Refusal(409, "; ".join(f"{', '.join(these)} cannot be served: {why}" for why, these in whys.items()))
        servers = [name for name in servers if name not in absent]
        sandbox = self._sandboxes.acquire(servers, missing | absent, order.benchmark, owner, order.ttl)
        try:
            await self._sandboxes.open_mail(sandbox)
        except MailError as error:
            if not order.everything:
                raise Refusal(500, f"{MAIL} cannot be served: {error}") from error
            servers.remove(MAIL)
            absent[MAIL] = str(error)
            sandbox = self._sandboxes.acquire(servers, missing | absent, order.benchmark, owner, order.ttl)
        if not order.everything and not sandbox.gone:
            sandbox.children.ahead(servers)
        answer: AcquireLocalSandboxResponse = {
            "local_sandbox_id": sandbox.id,
            "status": "occupied",
            "benchmark": sandbox.benchmark,
            "servers": _servers(sandbox, base_url(request)),
            "message": "Local sandbox acquired",
        }
        return reply(answer, 201)

    async def list(self, request: Request) -> Response:
        base = base_url(request)
        found = [_described(sandbox, base) for sandbox in self._sandboxes]
        answer: ListLocalSandboxesResponse = {"local_sandboxes": found, "total_count": len(found)}
        return reply(answer)

    async def get(self, request: Request) -> Response:
        return reply(_described(self._find(request), base_url(request)))

    async def release(self, request: Request) -> Response:
        sandbox = self._find(request)
        self._sandboxes.release(sandbox)
        text = f"Local sandbox release started for {sandbox.id}: it will be released asynchronously in background."
        answer: ReleaseMessage = {"message": text}
        return reply(answer)

    async def reset(self, request: Request) -> Response:
        sandbox = self._find(request)
        try:
            await self._sandboxes.reset(sandbox)
        except MailError as error:
            raise Refusal(409, f"the sandbox could not be reset: {error}") from error
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
                limits=_seed_limits(sandbox),
                owner=sandbox.jail.uid,
                merge=True,
            )
            sandbox.touch()
        message = f"Extracted the uploaded archive to the workspace: {done.files} files, {done.bytes:,} bytes"
        if done.skipped:
            listed = "; ".join(f"{names.printable(path)} ({why})" for path, why in done.skipped[:10])
            message += f"; left out {len(done.skipped)}: {listed}"
        answer: InitializeSandboxResponse = {"sandbox_id": sandbox.id, "status": "occupied", "message": message}
        return reply(answer)

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
            refuse_invalid(invalid(["body"], str(error), "value_error"))
        except IsolationError as error:
            raise Refusal(409, f"the command could not be run: {error}") from error
        answer: RunResponse = {
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


def _seed_limits(sandbox: Sandbox) -> archive.Limits:
    """What the cloud takes: a seed that works here works there."""
    return archive.Limits(total=sandbox.limits.disk, formats=("tar.gz",))


def base_url(request: Request) -> str:
    """This server as the client reached it; the Host header was checked before."""
    return f"http://{request.headers['host']}"


def _described(sandbox: Sandbox, base: str) -> LocalSandboxInfo:
    return {
        "local_sandbox_id": sandbox.id,
        "created_at": sandbox.created_at,
        "status": "occupied",
        "benchmark": sandbox.benchmark,
        "servers": _servers(sandbox, base),
    }


def _servers(sandbox: Sandbox, base: str) -> list[LocalSandboxServerItem]:
    metadata: Served = {"root": sandbox.root, "isolation": sandbox.isolation.level, "backend": "embedded"}
    servers: list[LocalSandboxServerItem] = [
        {
            "server_name": name,
            "id": server_id,
            "mcp_server_url": f"{base}/{name}/mcp/?local_sandbox_id={sandbox.id}",
            "status": "occupied",
            "benchmark": sandbox.benchmark,
            "updated_at": sandbox.updated_at,
            "metadata": metadata,
        }
        for name, server_id in sandbox.servers.items()
    ]
    for item in servers:
        if sandbox.mail is not None and item["server_name"] == MAIL:
            item["auth_data"] = sandbox.mail.auth_data()
    servers += [
        {
            "server_name": name,
            "id": f"{sandbox.id}-{name}",
            "mcp_server_url": None,
            "status": "error",
            "benchmark": sandbox.benchmark,
            "updated_at": sandbox.updated_at,
            "metadata": {"backend": "embedded", "reason": reason},
        }
        for name, reason in sandbox.missing.items()
    ]
    return servers


async def run_command(sandbox: Sandbox, order: fields.RunOrder) -> Completed:
    """Run a command in the sandbox. Its `files` lie over the workspace meanwhile, and nothing else runs then."""
    limits = sandbox.limits
    if order.timeout is not None:
        cpu_seconds = max(limits.cpu_seconds, math.ceil(order.timeout))
        limits = replace(limits, wall_seconds=order.timeout, cpu_seconds=cpu_seconds)
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
        async with sandbox.children.frozen():
            overlay = archive.laid_over(
                io.BytesIO(order.files),
                sandbox.jail.workspace,
                at=order.cwd,
                owner=sandbox.jail.uid,
                limits=_seed_limits(sandbox),
            )
            await asyncio.to_thread(overlay.__enter__)
            try:
                return await sandbox.outcome(sandbox.start(work()))
            finally:
                await asyncio.to_thread(overlay.__exit__, None, None, None)
