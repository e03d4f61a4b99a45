"""What another process needs to use a live sandbox: its URLs, a private file per entry of the ledger.

Credentials of the accounts behind a sandbox are not kept: a handle asks the API for them when a test wants them.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_klavis import redaction
from pytest_klavis.kinds import KINDS, STORED, id_of

if TYPE_CHECKING:
    from pytest_klavis.kinds import Acquired
    from pytest_klavis.spec import Spec

__tracebackhide__ = True  # users read their own frames


class Answers:
    """The answers to acquires in `directory`, by the number of their entry."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def store(self, number: int, spec: Spec, answer: Acquired) -> None:
        """Write an answer down, whole or not at all. A disk that is full costs a call later, and no sandbox now."""
        pending = self._directory / f".{number}-{secrets.token_hex(6)}"
        with suppress(OSError):
            try:
                descriptor = os.open(pending, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    json.dump(_kept(spec, answer), file)
                pending.replace(self._path(number))
            finally:
                pending.unlink(missing_ok=True)

    def load(self, number: int, spec: Spec) -> Acquired | None:
        """The answer, without what is not kept; None where there is none that can be read."""
        try:
            content = json.loads(self._path(number).read_text("utf-8"))
            answer = KINDS[spec.kind].answer_of(json.dumps(content))
        except (OSError, ValueError):
            return None
        redaction.register_answer(content)
        return answer

    def drop(self, number: int) -> None:
        """The sandbox is gone."""
        with suppress(OSError):
            self._path(number).unlink(missing_ok=True)

    def sweep(self, numbers: Callable[[], Iterable[int]]) -> None:
        """Remove the answers of entries that are no more; `numbers` tells which there are."""
        found = [file for file in self._directory.glob("*.json") if file.stem.isdigit()]
        known = {str(number) for number in numbers()}  # later than the files: what is new by then is not among them
        for file in found:
            if file.stem not in known:
                with suppress(OSError):
                    file.unlink()

    def _path(self, number: int) -> Path:
        return self._directory / f"{number}.json"


def _kept(spec: Spec, answer: Any) -> dict[str, Any]:
    common = {"status": answer.status, "message": answer.message, STORED: True}
    if spec.kind == "remote":
        return {"sandbox_id": id_of(answer), "server_name": answer.server_name, "server_urls": answer.urls, **common}
    servers = [
        {
            "server_name": one.server_name,
            "id": one.id,
            "mcp_server_url": one.mcp_server_url,
            "status": one.status,
            "metadata": {"root": one.metadata["root"]} if one.metadata and "root" in one.metadata else None,
        }
        for one in answer.servers
    ]
    return {"local_sandbox_id": id_of(answer), "servers": servers, **common}
