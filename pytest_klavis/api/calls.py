"""From a call to its answer: what the dialect refuses is left out, a refusal raises, a success becomes a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pytest_klavis.api import models
from pytest_klavis.api.connection import Deadline
from pytest_klavis.api.dialect import unknown_fields
from pytest_klavis.api.reading import read, unreadable
from pytest_klavis.api.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_klavis.api.answers import Answer
    from pytest_klavis.api.dialect import Dialect
    from pytest_klavis.api.operations import Operation
    from pytest_klavis.api.transport import Transport

__tracebackhide__ = True  # users read their own frames

ModelT = TypeVar("ModelT", bound=models.Answer)


class Calls:
    """The mechanics that all methods of a client share.

    `values` fill the path, `params` the query (None is left out), `deadline` is in seconds. A `body` is a Request,
    whose fields are ours, or any JSON of the user's, which is sent as it is.
    """

    def __init__(self, transport: Transport, dialect: Dialect, region: str) -> None:
        self.transport = transport
        self.dialect = dialect
        self.region = region

    def answer(
        self,
        operation: Operation[Any],
        values: Mapping[str, str],
        *,
        params: Mapping[str, str | None] | None = None,
        body: Any = None,
        deadline: float | None = None,
    ) -> Answer:
        """The answer, whatever its status, without what the dialect refuses by name."""
        query = {name: value for name, value in (params or {}).items() if value is not None}
        query = self.dialect.known("query", query)
        ours = self.dialect.known("body", body.body()) if isinstance(body, models.Request) else {}
        refused: dict[Any, frozenset[str]] = {"query": frozenset(), "body": frozenset()}
        clock = Deadline(operation.deadline if deadline is None else deadline)
        while True:
            content = ours if isinstance(body, models.Request) else body
            answer = self.transport.send(operation, values, params=query, body=content, clock=clock)
            again = {"query": unknown_fields(answer, "query", query), "body": unknown_fields(answer, "body", ours)}
            if not any(again.values()):
                break
            # A 422 did nothing, so the same without the field is no second acquire.
            query = {name: value for name, value in query.items() if name not in again["query"]}
            ours = {name: value for name, value in ours.items() if name not in again["body"]}
            refused = {place: names | again[place] for place, names in refused.items()}
        if answer.status != 422:  # else it may have meant something else
            for place, names in refused.items():
                self.dialect.learn(place, names)
        return answer

    def success(self, operation: Operation[Any], values: Mapping[str, str], **call: Any) -> Answer:
        """The answer, where it is a success. Raises an ApiError where it is none."""
        return self.checked(operation, self.answer(operation, values, **call))

    def checked(self, operation: Operation[Any], answer: Answer) -> Answer:
        """The same answer, or its ApiError."""
        if not answer.ok:
            raise refusal(operation, answer, self.transport.host)
        return answer

    def model(
        self,
        operation: Operation[ModelT],
        values: Mapping[str, str],
        *,
        known: Mapping[str, str] | None = None,
        **call: Any,
    ) -> ModelT:
        """The answer as its model. `known` is what it need not repeat, by default the `values`."""
        return read(operation, self.success(operation, values, **call), values if known is None else known)

    def content(self, operation: Operation[Any], values: Mapping[str, str], **call: Any) -> dict[str, Any]:
        """The answer as the JSON object that came."""
        answer = self.success(operation, values, **call)
        content = answer.json()
        if not isinstance(content, dict):
            raise unreadable(operation, answer, "the body is no JSON object")
        return content
