"""The client behind `klavis_client`: what it acquires is released at the end of the fixture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from .api.client import KlavisClient
from .api.models import AcquireLocalSandboxResponse, CreateSandboxResponse

if TYPE_CHECKING:
    from .lifecycle import Desk


class LeasedClient(KlavisClient):
    """A KlavisClient whose acquires put their release on a stack. Releasing what is gone is a success."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.releases = ExitStack()

    def acquire_sandbox(self, server_name: str, **arguments: Any) -> CreateSandboxResponse:
        """As KlavisClient's; the sandbox is released at the end of the fixture."""
        answer = super().acquire_sandbox(server_name, **arguments)
        self.releases.callback(self.release_sandbox, server_name, answer.sandbox_id)
        return answer

    def acquire_local_sandbox(self, server_names: Any, **arguments: Any) -> AcquireLocalSandboxResponse:
        """As KlavisClient's; the sandbox is released at the end of the fixture."""
        answer = super().acquire_local_sandbox(server_names, **arguments)
        self.releases.callback(self.release_local_sandbox, answer.local_sandbox_id)
        return answer


@contextmanager
def leased_client(desk: Desk) -> Iterator[LeasedClient]:
    """A client to the backend of `desk`; releases what it acquired at the end, whatever happens."""
    endpoint = desk.endpoint
    client = LeasedClient(endpoint.base_url, endpoint.api_key, region=desk.api.region, headers=endpoint.headers)
    try:
        with client.releases:
            yield client
    finally:
        desk.other_calls += client.calls
