"""What the signed URLs lead to: taking an uploaded archive, giving out a dump. No key is asked, the signature is."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from starlette.responses import FileResponse, Response

from pytest_klavis.embedded.signing import MINUTES, Signer
from pytest_klavis.embedded.web import Refusal

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from starlette.requests import Request

    from pytest_klavis.embedded.bodies import DumpUrlResponse, UploadUrlResponse
    from pytest_klavis.embedded.sandbox import Sandbox
    from pytest_klavis.embedded.sandboxes import Sandboxes

UPLOAD_LIMIT = 2 << 30  # bytes of an archive
DUMPS = 3  # kept per sandbox; an older URL leads nowhere
_BLOCK = 1 << 20


class Storage:
    """Archives on their way into and out of sandboxes."""

    def __init__(self, sandboxes: Sandboxes, signer: Signer) -> None:
        self._sandboxes = sandboxes
        self._signer = signer

    def upload_url(self, base: str, sandbox: Sandbox) -> UploadUrlResponse:
        path = f"/storage/{sandbox.id}/uploads/{secrets.token_hex(8)}"
        return {"upload_url": f"{base}{path}?{self._signer.query('PUT', path)}", "expires_in_minutes": MINUTES}

    def download_url(self, base: str, sandbox: Sandbox, archive: Path) -> DumpUrlResponse:
        """The URL of a dump that was just written to `archive`."""
        name = secrets.token_hex(8)
        sandbox.dumps[name] = archive
        while len(sandbox.dumps) > DUMPS:
            sandbox.dumps.popitem(last=False)[1].unlink(missing_ok=True)
        path = f"/storage/{sandbox.id}/dumps/{name}"
        return {"download_url": f"{base}{path}?{self._signer.query('GET', path)}", "expires_in_minutes": MINUTES}

    async def put(self, request: Request) -> Response:
        """Take an archive: the newest one is what initialize extracts."""
        sandbox = self._signed(request, "PUT")
        archive = sandbox.archives / f"upload-{secrets.token_hex(8)}.tar.gz"
        try:
            with archive.open("xb") as file:
                await _receive(request, file)
        except BaseException:
            archive.unlink(missing_ok=True)
            raise
        if sandbox.gone:
            raise Refusal(404, "the sandbox was released during the upload")
        before, sandbox.upload = sandbox.upload, archive
        if before is not None:
            async with sandbox.gate:  # an extraction of it ends first
                before.unlink(missing_ok=True)
        return Response(status_code=200)

    async def get(self, request: Request) -> Response:
        sandbox = self._signed(request, "GET")
        archive = sandbox.dumps.get(request.path_params["name"])
        if archive is None:
            raise Refusal(404, f"this dump is gone: the last {DUMPS} of a sandbox are kept, until its reset")
        return FileResponse(archive, media_type="application/gzip")

    def _signed(self, request: Request, method: str) -> Sandbox:
        self._signer.check(method, request.url.path, request.query_params)
        sandbox = self._sandboxes.find(request.path_params["sandbox_id"])
        if sandbox is None:
            raise Refusal(404, "the sandbox of this URL was released")
        return sandbox


async def _receive(request: Request, file: BinaryIO) -> None:
    total = 0
    block = bytearray()
    async for chunk in request.stream():
        total += len(chunk)
        if total > UPLOAD_LIMIT:
            raise Refusal(413, f"the archive is larger than {UPLOAD_LIMIT:,} bytes", {"Connection": "close"})
        block += chunk
        if len(block) >= _BLOCK:
            await asyncio.to_thread(file.write, bytes(block))
            block.clear()
    file.write(block)
