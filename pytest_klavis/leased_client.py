"""The client behind `klavis_client`: what it acquires is released at the end of the fixture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from .api.client import KlavisClient
from .api.models import AcquireLocalSandboxResponse, CreateSandboxResponse
from .errors import InfraError

if TYPE_CHECKING:
    from .lifecycle import Desk
    from .tally import Tally


class LeasedClient(KlavisClient):
    """A KlavisClient whose acquires put their release on a stack. Releasing what is gone is a success."""

    def __init__(self, tally: Tally, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tally = tally
        self.releases = ExitStack()

    def acquire_sandbox(self, server_name: str, **arguments: Any) -> CreateSandboxResponse:
        """As KlavisClient's; the sandbox is released at the end of the fixture."""
        answer = super().acquire_sandbox(server_name, **arguments)
        self._hold(answer.sandbox_id, partial(self.release_sandbox, server_name, answer.sandbox_id))
        return answer

    def acquire_local_sandbox(self, server_names: Any, **arguments: Any) -> AcquireLocalSandboxResponse:
        """As KlavisClient's; the sandbox is released at the end of the fixture."""
        answer = super().acquire_local_sandbox(server_names, **arguments)
        self._hold(answer.local_sandbox_id, partial(self.release_local_sandbox, answer.local_sandbox_id))
        return answer

    def _hold(self, sandbox_id: str, release: Callable[[], object]) -> None:
        self._tally.acquired += 1

        def give_back() -> None:
            try:
                release()
            except InfraError:
                self._tally.leaked.append(sandbox_id)
                raise
            self._tally.released += 1

        self.releases.callback(give_back)


@contextmanager
def leased_client(desk: Desk) -> Iterator[LeasedClient]:
    """A client to the backend of `desk`; releases what it acquired at the end, whatever happens."""
    endpoint = desk.endpoint
    client = LeasedClient(
        desk.tally,
        endpoint.base_url,
        endpoint.api_key,
        region=desk.api.region,
        headers=endpoint.headers,
        dialect=desk.api.dialect,
    )
    try:
        with client.releases:
            yield client
    finally:
        desk.other_calls += client.calls
