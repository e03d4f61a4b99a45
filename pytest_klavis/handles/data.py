"""The data that a server of a local sandbox holds beside the workspace: in and out as JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_klavis import redaction
from pytest_klavis.errors import NotFoundError, TransportError

if TYPE_CHECKING:
    from pytest_klavis.api.client import KlavisClient

__tracebackhide__ = True  # users read their own frames

T = TypeVar("T")


def state_of(answer: Mapping[str, Any], who: str) -> dict[str, Any]:
    """The `data` of a typed dump; TransportError when it holds no object."""
    state = answer.get("data")
    if not isinstance(state, dict):
        raise TransportError(f"the dump of {who} holds no object 'data', but {', '.join(answer) or 'nothing'}")
    return state


def headers_for(server: str, data: Any) -> dict[str, str]:
    """What an agent must send along to be the first user of a mail server's data, where that gives it a `password`.

    Klavis takes the credentials from `x-email-config`: base64 of a JSON object with email, password and name.
    """
    users = data.get("users") if server == "poste_email_toolathlon" and isinstance(data, Mapping) else None
    if not isinstance(users, Mapping) or not users:
        return {}
    passwords = [user.get("password") if isinstance(user, Mapping) else None for user in users.values()]
    for one in passwords:
        if isinstance(one, str) and one:
            redaction.register(one, "<password of the mail>")
    email, user = next(iter(users.items()))
    password = passwords[0]
    if not isinstance(password, str) or not password:
        return {}
    config = {"email": str(email), "password": password, "name": str(user.get("name") or "")}
    return {"x-email-config": base64.b64encode(json.dumps(config).encode()).decode()}


class ServerData:
    """The data of one server. `server` is its name in the API.

    The document does not say whether its routes take the id of the server's item or that of the sandbox, so `ids`
    are tried in order, and the first that is known stays.
    """

    def __init__(self, api: KlavisClient, server: str, ids: tuple[str, ...]) -> None:
        self._api = api
        self.server = server
        self._ids = ids

    def initialize(self, data: Mapping[str, Any], *, deadline: float | None = None) -> None:
        """Put `data` into the server; `deadline` is in seconds."""
        self._known(lambda number: self._api.initialize_local_server(self.server, number, data, deadline=deadline))

    def dump(self, *, deadline: float | None = None) -> dict[str, Any]:
        """What the server holds; `deadline` is in seconds."""
        answer = self._known(lambda number: self._api.dump_local_server(self.server, number, deadline=deadline))
        return state_of(answer, self.server)

    def _known(self, call: Callable[[str], T]) -> T:
        for number in self._ids:
            try:
                result = call(number)
            except NotFoundError:
                if number == self._ids[-1]:
                    raise
            else:
                self._ids = (number,)
                return result
        raise AssertionError("unreachable")
