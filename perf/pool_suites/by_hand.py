"""The calls of the API as a careful user writes them: patient with 429, and nothing else."""

from __future__ import annotations

import io
import os
import random
import tarfile
import time
from typing import Any

import httpx

SEEDED = os.environ["POOL_SEEDED"] == "yes"


class Api:
    """A client with the account's key."""

    def __init__(self) -> None:
        headers = {"Authorization": f"Bearer {os.environ['KLAVIS_API_KEY']}"}
        self._client = httpx.Client(base_url=os.environ["KLAVIS_BASE_URL"], headers=headers, timeout=60)
        self._seed = _seed()

    def acquire(self) -> str:
        body = {"server_names": ["filesystem"], "ttl_seconds": 1800}
        number: str = self._call("POST", "/local-sandbox", json=body)["local_sandbox_id"]
        return number

    def seed(self, number: str) -> None:
        """Fill the workspace, where the suite is about seeded ones."""
        if not SEEDED:
            return
        url = self._call("POST", f"/local-sandbox/{number}/upload-url")["upload_url"]
        httpx.put(url, content=self._seed, headers={"Content-Type": "application/gzip"}).raise_for_status()
        self._call("POST", f"/local-sandbox/{number}/initialize")

    def reset(self, number: str) -> None:
        self._call("POST", f"/local-sandbox/{number}/reset")

    def release(self, number: str) -> None:
        self._call("DELETE", f"/local-sandbox/{number}")

    def _call(self, method: str, path: str, **more: Any) -> Any:
        while True:
            answer = self._client.request(method, path, **more)
            if answer.status_code != 429:
                return answer.raise_for_status().json()
            time.sleep(float(answer.headers.get("Retry-After", 1)) * random.uniform(1.0, 1.25))


def _seed() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as out:
        member = tarfile.TarInfo("a.txt")
        member.size = 1
        out.addfile(member, io.BytesIO(b"x"))
    return packed.getvalue()
