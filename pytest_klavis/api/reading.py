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

    from pytest_klavis.api.answers import Answer
    from pytest_klavis.api.operations import Operation

__tracebackhide__ = True  # users read their own frames

ModelT = TypeVar("ModelT", bound=models.Answer)


def read(operation: Operation[ModelT], answer: Answer, known: Mapping[str, str]) -> ModelT:
    """Read an answer into its operation's model; its secrets are registered before anything can print them.

    `known` is what was asked about: an answer need not repeat it. Raises TransportError when a field is missing
    without which the answer is of no use.
    """
    model = operation.answer
    content = _registered(answer)
    fields: dict[str, Any] = {name: value for name, value in known.items() if name in model.model_fields}
    said = {name: value for name, value in content.items() if value is not None or name not in fields}
    try:
        return model.model_validate(fields | said)
    except pydantic.ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False)
        missing = ", ".join(str(*one["loc"][:1]) for one in wrong) or "readable names"
    try:
        return model.model_validate(fields | _salvage(model, answer, content))
    except pydantic.ValidationError:
        raise unreadable(operation, answer, f"it lacks {missing}") from None


def unreadable(operation: Operation[Any], answer: Answer, why: str) -> TransportError:
    """Return the error for a success that says nothing. Its body may hold URLs and credentials, so it is not shown."""
    size = f"{len(answer.content):,} bytes"
    cut = f"; {answer.cut}" if answer.cut else ""
    text = f"{operation.name} was answered with HTTP {answer.status} and {size} that cannot be read: {why}{cut}"
    if not operation.repeat.lost:
        text += "\nThe call was carried out, so what it made may exist without anyone knowing its id."
    return TransportError(text, sent=True)


def _registered(answer: Answer) -> dict[str, Any]:
    """The JSON object that came, its secrets registered; an empty one where it is none that can be walked."""
    content = answer.json()
    try:
        register_answer(content)
    except RecursionError:
        content = None
    return content if isinstance(content, dict) else {}


def _salvage(model: type[models.Answer], answer: Answer, content: Mapping[str, Any]) -> dict[str, Any]:
    """Find the id in a body that is cut, garbled or of another shape: a sandbox must not be lost for a brace."""
    field = next((name for name in ("local_sandbox_id", "sandbox_id") if name in model.model_fields), None)
    if field is None:
        return {}
    text = answer.content.decode("utf-8", "replace")
    found = re.search(rf'"{field}"\s*:\s*"?([\w.:-]+)', text)
    if isinstance(content.get(field), str):
        found_id = content[field]
    elif found is not None and found[1] != "null":
        found_id = found[1]
    else:
        return {}
    for url in re.findall(r"""https?://[^\s"'<>\\]+""", text):
        register_url(url)
    why = answer.cut or ("it has another shape" if content else "the rest is no JSON")
    return {field: found_id, "message": f"only the id could be read of the answer: {why}"}
