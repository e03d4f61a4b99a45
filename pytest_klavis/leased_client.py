"""The client behind `klavis_client`: it remembers what it acquired and releases what is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .api.client import KlavisClient
from .api.models import AcquireLocalSandboxResponse, CreateSandboxResponse, ReleaseSandboxResponse

if TYPE_CHECKING:
    from .lifecycle import Desk


class LeasedClient(KlavisClient):
    """A KlavisClient that knows which of its sandboxes are still held."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.held: dict[str, str | None] = {}
        """Sandbox id -> server name of a remote sandbox, None for a local one."""

    def acquire_sandbox(self, server_name: str, **arguments: Any) -> CreateSandboxResponse:
        """As KlavisClient's; the sandbox is released at the end of the fixture."""
        answer = super().acquire_sandbox(server_name, **arguments)
        self.held[answer.sandbox_id] = server_name
        return answer

    def acquire_local_sandbox(self, server_names: Any, **arguments: Any) -> AcquireLocalSandboxResponse:
        """As KlavisClient's; the sandbox is released at the end of the fixture."""
        answer = super().acquire_local_sandbox(server_names, **arguments)
        self.held[answer.local_sandbox_id] = None
        return answer

    def release_sandbox(self, server_name: str, sandbox_id: str, **arguments: Any) -> ReleaseSandboxResponse:
        """As KlavisClient's."""
        answer = super().release_sandbox(server_name, sandbox_id, **arguments)
        self.held.pop(sandbox_id, None)
        return answer

    def release_local_sandbox(self, local_sandbox_id: str, **arguments: Any) -> None:
        """As KlavisClient's."""
        super().release_local_sandbox(local_sandbox_id, **arguments)
        self.held.pop(local_sandbox_id, None)


@contextmanager
def leased_client(desk: Desk) -> Iterator[LeasedClient]:
    """A client to the backend of `desk`; releases what it still holds at the end, whatever happens."""
    endpoint = desk.endpoint
    with LeasedClient(endpoint.base_url, endpoint.api_key, region=desk.api.region, headers=endpoint.headers) as client:
        try:
            yield client
        finally:
            for sandbox_id, server in list(client.held.items()):
                if server is None:
                    client.release_local_sandbox(sandbox_id)
                else:
                    client.release_sandbox(server, sandbox_id)
