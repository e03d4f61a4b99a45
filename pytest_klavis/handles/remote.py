"""The handle of a remote sandbox: its account's data in, out and looked up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .base import Private, Sandbox, guarded, in_thread
from .data import state_of

__tracebackhide__ = True  # users read their own frames


class RemoteSandbox(Sandbox):
    """One SaaS server over a test account of its own."""

    @property
    def _name(self) -> str:
        return self._spec.servers[0]

    @guarded
    def info(self) -> Mapping[str, Any]:
        """Ask the API for the details of this sandbox; the repr does not show them."""
        self._details.update(self._context.api.get_sandbox(self._name, self.id).model_dump())
        return Private(self._details)

    @guarded
    def reset(self) -> None:
        """Empty the sandbox. Data that a benchmark brought is gone as well."""
        self._context.api.reset_sandbox(self._name, self.id)

    @guarded
    def initialize(self, data: Mapping[str, Any]) -> None:
        """Put `data`, shaped as the server's typed initialize takes it, into the account."""
        self._context.api.initialize_sandbox(self._name, self.id, data)

    @guarded
    def dump(self) -> dict[str, Any]:
        """The account's state as the server's typed dump gives it."""
        return self._state()

    def _state(self) -> dict[str, Any]:
        return state_of(self._context.api.dump_sandbox(self._name, self.id), repr(self))

    def find(self, collection: str, **fields: Any) -> dict[str, Any]:
        """The one object of `dump()[collection]` whose fields equal `fields`; LookupError for none or several."""
        state = self.dump()
        if collection not in state:
            raise LookupError(f"the dump has no {collection!r}; it has {', '.join(state) or 'nothing'}")
        found = [one for one in state[collection] if all(one.get(key) == value for key, value in fields.items())]
        if len(found) != 1:
            raise LookupError(f"{len(found)} of {len(state[collection])} {collection} have {fields!r}, not one")
        result: dict[str, Any] = found[0]
        return result

    async def areset(self) -> None:
        """Async form of `reset`."""
        await in_thread(self.reset)

    async def ainitialize(self, data: Mapping[str, Any]) -> None:
        """Async form of `initialize`."""
        await in_thread(self.initialize, data)

    async def adump(self) -> dict[str, Any]:
        """Async form of `dump`."""
        return await in_thread(self.dump)

    async def afind(self, collection: str, **fields: Any) -> dict[str, Any]:
        """Async form of `find`."""
        return await in_thread(self.find, collection, **fields)
