"""The client behind `klavis_client`: what it acquires is released at the end of the fixture."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from .api.client import KlavisClient
from .api.models import AcquireLocalSandboxResponse, CreateSandboxResponse, ReleaseSandboxResponse
from .errors import InfraError
from .interrupts import held
from .kinds import instance_of

if TYPE_CHECKING:
    from .lifecycle import Desk

__tracebackhide__ = True  # users read their own frames

T = TypeVar("T")


class LeasedClient(KlavisClient):
    """A KlavisClient that keeps account of what it acquired and has not released."""

    def __init__(self, desk: Desk) -> None:
        endpoint, api = desk.endpoint, desk.api
        super().__init__(
            endpoint.base_url, endpoint.api_key, region=api.region, headers=endpoint.headers, dialect=api.dialect
        )
        self._desk = desk
        self._held: dict[str, Callable[[float | None], object]] = {}
        """Ids, and how each is released within so many seconds."""

    def acquire_sandbox(self, server_name: str, **arguments: Any) -> CreateSandboxResponse:
        """As KlavisClient's; the sandbox is released at the end of the fixture."""
        acquire = super().acquire_sandbox
        with held():  # an answer on its way names what has to be released
            answer = self._watched(lambda: acquire(server_name, **arguments), f"a remote sandbox ({server_name})")
            instance, number = instance_of(answer.urls.values()), answer.sandbox_id
            self._hold(
                number,
                lambda seconds: self.release_sandbox(server_name, number, instance_id=instance, deadline=seconds),
            )
        return answer

    def acquire_local_sandbox(self, server_names: Any, **arguments: Any) -> AcquireLocalSandboxResponse:
        """As KlavisClient's; the sandbox is released at the end of the fixture."""
        acquire = super().acquire_local_sandbox
        with held():
            answer = self._watched(lambda: acquire(server_names, **arguments), f"a local sandbox ({server_names})")
            number = answer.local_sandbox_id
            self._hold(number, lambda seconds: self.release_local_sandbox(number, deadline=seconds))
        return answer

    def release_sandbox(self, server_name: str, sandbox_id: str, **arguments: Any) -> ReleaseSandboxResponse:
        """As KlavisClient's; the end of the fixture leaves it alone then, as it may be somebody else's by now."""
        answer = super().release_sandbox(server_name, sandbox_id, **arguments)
        self._drop(sandbox_id)
        return answer

    def release_local_sandbox(self, local_sandbox_id: str, **arguments: Any) -> None:
        """As KlavisClient's; the end of the fixture leaves it alone then."""
        super().release_local_sandbox(local_sandbox_id, **arguments)
        self._drop(local_sandbox_id)

    def release_all(self) -> None:
        """Release what is left, the last one first; raises what went wrong when all have had their turn."""
        troubles: list[InfraError] = []
        waiting = list(self._held.values())
        try:
            for done, release in enumerate(reversed(waiting)):
                try:
                    release(self._desk.hurry(len(waiting) - done))
                except InfraError as error:
                    troubles.append(error)
        finally:
            self._desk.tally.leaked += self._held
        # After an interrupt no report comes for it, and raised it would end the summary that names what is left.
        if troubles and self._desk.hurry(1) is None:
            raise troubles[0]

    def _watched(self, acquire: Callable[[], T], what: str) -> T:
        try:
            return acquire()
        except (InfraError, KeyboardInterrupt) as error:
            self._desk.doubt(error, f"{what} by klavis_client")
            self._desk.notice(error, "klavis_client")
            raise

    def _hold(self, sandbox_id: str, release: Callable[[float | None], object]) -> None:
        self._held[sandbox_id] = release
        self._desk.tally.acquired += 1

    def _drop(self, sandbox_id: str) -> None:
        if self._held.pop(sandbox_id, None) is not None:
            self._desk.tally.released += 1


@contextmanager
def leased_client(desk: Desk) -> Iterator[LeasedClient]:
    """A client to the backend of `desk`; releases what it acquired at the end, whatever happens."""
    pid, client = os.getpid(), LeasedClient(desk)
    try:
        yield client
    finally:
        if pid == os.getpid():  # what a forked child inherits is its parent's
            try:
                client.release_all()
            finally:
                desk.other_calls += client.calls
