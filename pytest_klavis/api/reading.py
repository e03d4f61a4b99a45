"""From a successful answer to its model. The id of a sandbox that was acquired is read from anything that holds it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

import pydantic

from pytest_klavis.api import models
from pytest_klavis.errors import TransportError
from pytest_klavis.redaction import register_answer, register_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_klavis.api.operations import Operation
    from pytest_klavis.api.transport import Answer

__tracebackhide__ = True  # users read their own frames

ModelT = TypeVar("ModelT", bound=models.Answer)


def read(operation: Operation[ModelT], answer: Answer, known: Mapping[str, str]) -> ModelT:
    """Read an answer into its operation's model; its secrets are registered before anything can print them.

    `known` is what was asked about: an answer need not repeat it. Raises TransportError when a field is missing
    without which the answer is of no use.
    """
    __tracebackhide__ = True
    content = answer.json()
    register_answer(content)
    model = operation.answer
    fields: dict[str, Any] = {name: value for name, value in known.items() if name in model.model_fields}
    if isinstance(content, dict):
        fields |= {name: value for name, value in content.items() if value is not None or name not in fields}
    else:
        fields |= _salvage(model, answer)
    try:
        return model.model_validate(fields)
    except pydantic.ValidationError as error:
        missing = ", ".join(str(one["loc"][0]) for one in error.errors(include_input=False, include_url=False))
    raise unreadable(operation, answer, f"it lacks {missing}")


def unreadable(operation: Operation[Any], answer: Answer, why: str) -> TransportError:
    """Return the error for a success that says nothing. Its body may hold URLs and credentials, so it is not shown."""
    size = f"{len(answer.content):,} bytes"
    cut = f"; {answer.cut}" if answer.cut else ""
    text = f"{operation.name} was answered with HTTP {answer.status} and {size} that cannot be read: {why}{cut}"
    if not operation.repeat.lost:
        text += "\nThe call was carried out, so what it made may exist without anyone knowing its id."
    return TransportError(text)


def _salvage(model: type[models.Answer], answer: Answer) -> dict[str, str]:
    """Find the id in a body that is cut or garbled: a sandbox must not be lost for a brace."""
    field = next((name for name in ("local_sandbox_id", "sandbox_id") if name in model.model_fields), None)
    found = re.search(rb'"%s"\s*:\s*"([\w.:-]+)"' % field.encode(), answer.content) if field else None
    if field is None or found is None:
        return {}
    for url in re.findall(r"""https?://[^\s"'<>\\]+""", answer.content.decode("utf-8", "replace")):
        register_url(url)
    why = answer.cut or "the rest is no JSON"
    return {field: found[1].decode("ascii"), "message": f"only the id could be read of the answer: {why}"}
