"""From a typed Python function to an MCP tool: input schema, checking of arguments, flavours of a server."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from pytest_klavis.embedded.tools.base import ToolContext, ToolFailureError, ToolResult, text_part

Schema = dict[str, Any]
# A plain function runs in a thread; a coroutine function on the event loop, from where processes are spawned.
Function = Callable[..., Any]

_ABSENT: Final = object()
_T = TypeVar("_T")
Absent = Annotated[_T | None, _ABSENT]
"""A parameter that may be left out but not be null: its schema knows neither default nor null."""


class InvalidArgumentsError(ToolFailureError):
    """Arguments that do not fit the input schema; the text names the fields."""


class Arguments:
    """The parameters of a tool's function, after the first (the context), as a model.

    `strict` takes JSON types as they are; otherwise pydantic converts ("3" to 3), and JSON text is read where no
    text is wanted, as servers built on the Python SDK do.
    """

    def __init__(self, function: Function, *, strict: bool) -> None:
        hints = get_type_hints(function, include_extras=True)
        fields: dict[str, Any] = {}
        absent: list[str] = []
        for name, parameter in list(inspect.signature(function).parameters.items())[1:]:
            kind, optional = _without_none(hints[name])
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[name] = (kind, default)
            if optional:
                absent.append(name)
        config = ConfigDict(strict=strict, extra="ignore")
        self._model: type[BaseModel] = create_model(getattr(function, "__name__", "tool"), __config__=config, **fields)
        self._strict = strict
        self.schema = _plain(self._model.model_json_schema())
        for name in absent:
            field_name = self._model.model_fields[name].alias or name
            self.schema["properties"][field_name].pop("default", None)

    def parse(self, arguments: Mapping[str, Any] | None) -> dict[str, Any]:
        """The function's keyword arguments. Raises InvalidArgumentsError."""
        given = {} if arguments is None else arguments
        if not isinstance(given, Mapping):
            raise InvalidArgumentsError(f"expected an object, not {type(given).__name__}")
        if not self._strict:
            given = {name: self._read(name, value) for name, value in given.items()}
        try:
            model = self._model.model_validate(given)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False, include_context=False)
            text = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in problems)
            raise InvalidArgumentsError(text) from None
        return {name: getattr(model, name) for name in self._model.model_fields}

    def _read(self, name: str, value: Any) -> Any:
        expected = self.schema["properties"].get(name, {})
        kinds = {expected.get("type"), *(option.get("type") for option in expected.get("anyOf", []))}
        if not isinstance(value, str) or "string" in kinds:
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value


@dataclass(frozen=True)
class Tool:
    """One tool as `tools/list` shows it, and what calls it."""

    name: str
    description: str
    input_schema: Schema
    output_schema: Schema | None
    annotations: dict[str, Any] | None
    arguments: Arguments = field(repr=False, compare=False)
    function: Function = field(repr=False, compare=False)

    async def call(self, context: ToolContext, arguments: Mapping[str, Any] | None) -> ToolResult:
        """Check the arguments and run. What the agent did wrong comes back as an `is_error` result.

        Raises IsolationError, and whatever is a fault of ours: neither is the agent's business.
        """
        try:
            values = self.arguments.parse(arguments)
            if inspect.iscoroutinefunction(self.function):
                outcome = await self.function(context, **values)
            else:
                outcome = await context.threads.run(self.function, context, **values)
        except InvalidArgumentsError as error:
            text = f"Input validation error: Invalid arguments for tool {self.name}: {error}"
            return ToolResult([text_part(text)], is_error=True)
        except ToolFailureError as error:
            return ToolResult([text_part(str(error))], is_error=True)
        if isinstance(outcome, ToolResult):
            return outcome
        return ToolResult([text_part(outcome)], {"content": outcome} if self.output_schema else None)


@dataclass(frozen=True)
class Flavour:
    """The tools of one server as one build of it offers them. The keys are tool names without the prefix.

    `refine` adds keywords to fields of an input schema for which the function itself has the words. `closed`: input
    schemas say that they know all arguments; one more is ignored all the same, as upstream does.
    """

    functions: Mapping[str, Function]
    prefix: str = ""
    annotations: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    outputs: Mapping[str, Schema] = field(default_factory=dict)
    refine: Mapping[str, Mapping[str, Schema]] = field(default_factory=dict)
    strict: bool = True
    closed: bool = False

    def tools(self) -> dict[str, Tool]:
        """The tools by full name, in order."""
        return {self.prefix + name: self._tool(name, function) for name, function in self.functions.items()}

    def _tool(self, name: str, function: Function) -> Tool:
        arguments = Arguments(function, strict=self.strict)
        properties = {key: dict(value) for key, value in arguments.schema["properties"].items()}
        for key, keywords in self.refine.get(name, {}).items():
            properties[key] |= keywords
        closed: Schema = {"additionalProperties": False} if self.closed else {}
        return Tool(
            name=self.prefix + name,
            description=" ".join((inspect.getdoc(function) or "").split()),
            input_schema=arguments.schema | {"properties": properties} | closed,
            output_schema=self.outputs.get(name),
            annotations=self.annotations.get(name),
            arguments=arguments,
            function=function,
        )


def _without_none(hint: Any) -> tuple[Any, bool]:
    """The type to validate, and whether it was marked Absent."""
    if get_origin(hint) is not Annotated:
        return hint, False
    kind, *marks = get_args(hint)
    if _ABSENT not in marks:
        return hint, False
    if get_origin(kind) in {Union, UnionType}:
        (kind,) = (option for option in get_args(kind) if option is not NoneType)
    for mark in marks:
        if mark is not _ABSENT:
            kind = Annotated[kind, mark]
    return kind, True


def _plain(schema: Schema, definitions: Schema | None = None) -> Schema:
    """pydantic's schema as the servers write theirs: no titles, no references."""
    known = schema.get("$defs", {}) if definitions is None else definitions
    if "$ref" in schema:
        return _plain(known[schema["$ref"].rpartition("/")[2]], known)
    plain = {key: value for key, value in schema.items() if key not in {"title", "$defs"}}
    if "properties" in plain:
        plain["properties"] = {key: _plain(value, known) for key, value in plain["properties"].items()}
    if isinstance(plain.get("items"), dict):
        plain["items"] = _plain(plain["items"], known)
    if "anyOf" in plain:
        plain["anyOf"] = [_plain(option, known) for option in plain["anyOf"]]
    return plain
