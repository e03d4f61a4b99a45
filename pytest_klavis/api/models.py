"""Requests and answers of the Klavis API, with the names of its reference; no behaviour.

The API has several dated dialects. So unknown fields are kept (`model_extra`), enums are open strings, and an answer
fails to parse only when it lacks the id that makes it useful: a field of the wrong type reads as empty. A field that
the reference promises is never None; one that it does not is. A repr shows no URL, credential or unknown field.

Source: the sandbox API reference; `auth_data` and `tags` of local servers and `metadata` of an acquire are newer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Self

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, WrapValidator, model_validator

if TYPE_CHECKING:
    from collections.abc import Iterable

__tracebackhide__ = True  # users read their own frames


def _or(empty: Any) -> WrapValidator:
    """Read a value that is not of the documented type as `empty`."""

    def tolerant(value: Any, parse: pydantic.ValidatorFunctionWrapHandler) -> Any:
        try:
            return parse(value)
        except pydantic.ValidationError:
            return empty

    return WrapValidator(tolerant)


def _only(item: type[BaseModel]) -> BeforeValidator:
    """Keep of a list what parses as `item`: one broken entry must not hide the others."""

    def readable(values: Any) -> list[BaseModel]:
        kept = []
        for value in values if isinstance(values, list) else ():
            try:
                kept.append(item.model_validate(value))
            except pydantic.ValidationError:
                continue
        return kept

    return BeforeValidator(readable)


Id = Annotated[str, Field(min_length=1)]
Text = Annotated[str, _or("")]
MaybeText = Annotated[str | None, _or(None)]
Count = Annotated[int, _or(0)]
MaybeObject = Annotated[dict[str, Any] | None, _or(None)]
Tags = Annotated[dict[str, Any] | list[str] | None, _or(None)]


# Where dialects have had the URL of a remote sandbox, the documented ones first.
_URLS = ("server_urls", "server_url", "mcp_server_urls", "mcp_server_url", "mcp_urls", "mcp_url", "urls", "url")


def _urls_in(value: Any, name: str) -> dict[str, str]:
    """Return the URLs in a string, an object of strings or objects, or a list of these; `name` is for a bare one."""
    if isinstance(value, str):
        return {name: value} if value.startswith(("https://", "http://")) else {}
    if isinstance(value, list):
        items = [(one.get("server_name") or one.get("name") if isinstance(one, dict) else None, one) for one in value]
    elif isinstance(value, dict):
        items = [(None if key in _URLS else key, one) for key, one in value.items()]
    else:
        items = []
    found: dict[str, str] = {}
    for key, one in items:
        found |= _urls_in(one, key if isinstance(key, str) else name)
    return found


class Answer(BaseModel):
    """Base of all answers: keeps unknown fields, prints no secrets."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True, coerce_numbers_to_str=True)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Show the declared fields only: an unknown one may be a credential."""
        return [(name, value) for name, value in super().__repr_args__() if name in type(self).model_fields]


class Request(BaseModel):
    """Base of all bodies: what is None is left out of them."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    def body(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


class AcquireSandboxRequest(Request):
    benchmark: str | None = None
    test_account_email: str | None = None
    tags: dict[str, str] | None = None
    tag: str | None = None  # newer: selects a specific sandbox
    ttl_seconds: int | None = None  # newer: 60..86400, the server's default is 7200


class AcquireLocalSandboxRequest(Request):
    server_names: list[str] | str
    benchmark: str | None = None
    test_account_email: str | None = None
    ttl_seconds: int | None = None


class _Served(Answer):
    """Base of the answers that say where a remote sandbox's server is."""

    sandbox_id: Id
    server_name: Text = ""
    _urls: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def urls(self) -> dict[str, str]:
        """The URLs of the sandbox by server name, whatever field the dialect has them in."""
        return dict(self._urls)

    @model_validator(mode="wrap")
    @classmethod
    def _find_urls(cls, given: Any, parse: pydantic.ModelWrapValidatorHandler[Self]) -> Self:
        answer = parse(given)
        if isinstance(given, dict):
            found = (_urls_in(given.get(name), answer.server_name) for name in _URLS)
            answer._urls = next(filter(None, found), {})  # noqa: SLF001 (its own)
        return answer


class CreateSandboxResponse(_Served):
    server_urls: Annotated[dict[str, str] | None, _or(None)] = Field(default=None, repr=False)
    status: Text = ""
    message: Text = ""
    metadata: MaybeObject = Field(default=None, repr=False)


class SandboxInfo(_Served):
    server_url: MaybeText = Field(default=None, repr=False)
    status: Text = ""
    benchmark: MaybeText = None
    updated_at: MaybeText = None
    metadata: MaybeObject = Field(default=None, repr=False)
    auth_data: MaybeObject = Field(default=None, repr=False)
    tags: Tags = None


class SandboxListItem(Answer):
    sandbox_id: Id
    server_name: Text = ""
    status: Text = ""
    benchmark: MaybeText = None
    tags: Tags = None
    updated_at: MaybeText = None


class ListSandboxesResponse(Answer):
    sandboxes: Annotated[list[SandboxListItem], _only(SandboxListItem)] = Field(default_factory=list)
    total_count: Count = 0


class ReleaseSandboxResponse(Answer):
    sandbox_id: Id
    status: Text = ""
    message: Text = ""


class ResetSandboxResponse(Answer):
    sandbox_id: Id
    status: Text = ""
    message: Text = ""


class InitializeSandboxResponse(Answer):
    sandbox_id: Id
    status: Text = ""
    message: Text = ""


class LocalSandboxServerItem(Answer):
    server_name: MaybeText = None
    id: Text = ""
    mcp_server_url: MaybeText = Field(default=None, repr=False)
    status: MaybeText = None
    benchmark: MaybeText = None
    updated_at: MaybeText = None
    metadata: MaybeObject = Field(default=None, repr=False)
    auth_data: MaybeObject = Field(default=None, repr=False)
    tags: Tags = None


class AcquireLocalSandboxResponse(Answer):
    local_sandbox_id: Id
    status: MaybeText = None
    benchmark: MaybeText = None
    servers: Annotated[list[LocalSandboxServerItem], _only(LocalSandboxServerItem)] = Field(default_factory=list)
    message: MaybeText = None


class LocalSandboxInfo(Answer):
    local_sandbox_id: Id
    created_at: Text = ""
    status: MaybeText = None
    benchmark: MaybeText = None
    servers: Annotated[list[LocalSandboxServerItem], _only(LocalSandboxServerItem)] = Field(default_factory=list)


class ListLocalSandboxesResponse(Answer):
    local_sandboxes: Annotated[list[LocalSandboxInfo], _only(LocalSandboxInfo)] = Field(default_factory=list)
    total_count: Count = 0


class UploadUrlResponse(Answer):
    upload_url: str = Field(repr=False)
    expires_in_minutes: Count = 0


class DumpUrlResponse(Answer):
    download_url: str = Field(repr=False)
    expires_in_minutes: Count = 0


class ExecuteResponse(Answer):
    message: Text = ""
    execution_name: Text = ""


class ExecutionStatusResponse(Answer):
    status: str  # pending, running, completed, failed


class ExecutionLogsResponse(Answer):
    """`logs` is what is new since the cursor that was sent, `cursor` the one to send next (bytes)."""

    status: str
    logs: Text = ""
    cursor: Count = 0


class RunResponse(Answer):
    """What a command in the sandbox left behind: the embedded backend's own route.

    `seconds` is wall time. `stopped` says what ended it before its own end ("timeout", "disk", ...), else None.
    """

    exit_code: int
    stdout: Text = ""
    stderr: Text = ""
    seconds: Annotated[float, _or(0.0)] = 0.0
    stopped: MaybeText = None


class ValidationError(Answer):
    """One complaint of a 422. `input` and `ctx` stay unread: they echo what was sent."""

    loc: Annotated[list[str | int], _or([])] = Field(default_factory=list)
    msg: Text = ""
    type: Text = ""


class HTTPValidationError(Answer):
    detail: Annotated[list[ValidationError], _only(ValidationError)] = Field(default_factory=list)
