"""The client behind `klavis_client`: what it acquires is released at the end of the fixture."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from .api.client import KlavisClient
from .api.models import AcquireLocalSandboxResponse, CreateSandboxResponse, ReleaseSandboxResponse
from .errors import InfraError
from .interrupts import held
from .kinds import id_of
from .spec import Spec

if TYPE_CHECKING:
    from .catalog import Kind
    from .kinds import Acquired
    from .lifecycle import Desk
    from .pool.entries import Entry

__tracebackhide__ = True  # users read their own frames

AnswerT = TypeVar("AnswerT", bound="Acquired")

PATIENCE_FOR_A_TURN = 120.0
"""Seconds for an acquire that the API turns away as one request too many."""
DEFAULT_TTL = 7200
"""Seconds that a sandbox lives for which no time was asked."""


class LeasedClient(KlavisClient):
    """A KlavisClient that keeps account of what it acquired and has not released."""

    def __init__(self, desk: Desk) -> None:
        endpoint, api = desk.endpoint, desk.api
        super().__init__(
            endpoint.base_url,
            endpoint.api_key,
            region=api.region,
            headers=endpoint.headers,
            dialect=api.dialect,
            pace=desk.pace,
        )
        self._desk = desk
        self._acquired: dict[str, _Acquired] = {}

    def acquire_sandbox(self, server_name: str, **arguments: Any) -> CreateSandboxResponse:
        """As KlavisClient's; the sandbox is released at the end of the fixture."""
        acquire = super().acquire_sandbox
        return self._made("remote", (server_name,), arguments, lambda: acquire(server_name, **arguments))

    def acquire_local_sandbox(self, server_names: Any, **arguments: Any) -> AcquireLocalSandboxResponse:
        """As KlavisClient's; the sandbox is released at the end of the fixture."""
        acquire = super().acquire_local_sandbox
        servers = (server_names,) if isinstance(server_names, str) else tuple(server_names)
        return self._made("local", servers, arguments, lambda: acquire(server_names, **arguments))

    def release_sandbox(self, server_name: str, sandbox_id: str, **arguments: Any) -> ReleaseSandboxResponse:
        """As KlavisClient's; the end of the fixture leaves it alone then, as it may be somebody else's by now."""
        release = super().release_sandbox
        with self._releasing(sandbox_id):
            return release(server_name, sandbox_id, **arguments)

    def release_local_sandbox(self, local_sandbox_id: str, **arguments: Any) -> None:
        """As KlavisClient's; the end of the fixture leaves it alone then."""
        release = super().release_local_sandbox
        with self._releasing(local_sandbox_id):
            release(local_sandbox_id, **arguments)

    def release_all(self) -> None:
        """Release what is left, the last one first; raises what went wrong when all have had their turn."""
        troubles: list[InfraError] = []
        waiting = list(self._acquired.items())
        try:
            for done, (number, one) in enumerate(reversed(waiting)):
                try:
                    self._give_back(number, one, self._desk.hurry(len(waiting) - done))
                except InfraError as error:
                    troubles.append(error)
        finally:
            self._desk.tally.leaked += self._acquired
        # After an interrupt no report comes for it, and raised it would end the summary that names what is left.
        if troubles and self._desk.hurry(1) is None:
            raise troubles[0]

    def _give_back(self, number: str, one: _Acquired, patience: float | None) -> None:
        pool = self._desk.pool
        if pool is not None and one.entry is not None:
            pool.check_in(one.entry, reusable=False, patience=patience)
            del self._acquired[number]
        elif one.spec.kind == "local":
            self.release_local_sandbox(number, deadline=patience)
        else:
            self.release_sandbox(one.spec.servers[0], number, deadline=patience)

    def _made(
        self, kind: Kind, servers: tuple[str, ...], arguments: Mapping[str, Any], acquire: Callable[[], AnswerT]
    ) -> AnswerT:
        spec = Spec(kind, servers, arguments.get("benchmark"), arguments.get("test_account_email"))
        pool, entry = self._desk.pool, None
        try:
            with held():  # an answer on its way names what has to be released
                if pool is None:
                    answer = acquire()
                    self._desk.tally.acquired += 1
                else:
                    entry, answer = pool.acquire_aside(
                        spec,
                        arguments.get("ttl_seconds") or DEFAULT_TTL,
                        acquire,
                        arguments.get("deadline") or PATIENCE_FOR_A_TURN,
                    )
                self._acquired[id_of(answer)] = _Acquired(spec, entry)
        except InfraError as error:
            self._desk.notice(error, "klavis_client")
            raise
        return answer

    @contextmanager
    def _releasing(self, number: str) -> Iterator[None]:
        one, pool = self._acquired.get(number), self._desk.pool
        if one is None:
            yield
        elif pool is None or one.entry is None:
            yield
            self._desk.tally.released += 1
        else:
            with pool.releasing(one.entry):
                yield
        self._acquired.pop(number, None)


@dataclass(frozen=True)
class _Acquired:
    spec: Spec
    entry: Entry | None
    """What it is on the ledger; an embedded server needs none."""


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
