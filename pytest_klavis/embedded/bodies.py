"""The JSON bodies of the REST calls as types: mypy holds the handlers to them, openapi.py describes them to others.

Names are those of the API reference. What this server answers is narrower than what the reference allows: fields that
the reference leaves open are always there.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic reads the standard one from Python 3.12 on only

from pytest_klavis import catalog
from pytest_klavis.embedded import fields

# As JSON Schema has regular expressions; pydantic's have no look-ahead.
_NO_NUL = r"^[^\u0000]*$"
_NAME = f"^{fields.VARIABLE.pattern}$"
_RELATIVE = r"^(?!/)(?!([^\u0000]*/)?\.\.(/|$))[^\u0000]*$"
_PROGRAM = {"type": "string", "minLength": 1, "pattern": _NO_NUL}

_Benchmark = Annotated[str | None, Field(json_schema_extra={"enum": [*catalog.BENCHMARKS, None]})]
_Server = Annotated[str, Field(json_schema_extra={"enum": [*fields.SERVERS]})]
_Ttl = Annotated[int, Field(ge=fields.TTL_RANGE[0], le=fields.TTL_RANGE[-1])]
_Timeout = Annotated[float, Field(gt=0, le=fields.MAX_TIMEOUT)]
_Word = Annotated[str, Field(json_schema_extra={"pattern": _NO_NUL})]
_Directory = Annotated[str, Field(json_schema_extra={"pattern": _RELATIVE})]
_Variables = Annotated[dict[str, _Word], Field(json_schema_extra={"propertyNames": {"pattern": _NAME}})]
_Packed = Annotated[str, Field(json_schema_extra={"contentEncoding": "base64", "contentMediaType": "application/gzip"})]
_Url = Annotated[str, Field(json_schema_extra={"format": "uri"})]
_Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
_Status = Annotated[str, Field(json_schema_extra={"enum": [*catalog.STATUSES]})]
_Occupied = Literal["occupied"]


class AcquireSandboxRequest(TypedDict):
    """Optional: what a remote sandbox should be."""

    benchmark: NotRequired[str | None]
    test_account_email: NotRequired[str | None]
    tags: NotRequired[dict[str, Any] | None]
    tag: NotRequired[str | None]
    ttl_seconds: NotRequired[int | None]


class AcquireLocalSandboxRequest(TypedDict):
    """`ttl_seconds`: after so many the sandbox is released; null and absence mean the default."""

    server_names: Annotated[list[_Server], Field(min_length=1)] | Literal["ALL"]
    benchmark: NotRequired[_Benchmark]
    test_account_email: NotRequired[str | None]
    ttl_seconds: NotRequired[Annotated[_Ttl | None, Field(json_schema_extra={"default": fields.DEFAULT_TTL})]]


class RunRequest(TypedDict):
    """A command for the workspace. `cwd` is relative to it, `timeout` in seconds, `files` a tar.gz that is laid over
    `cwd` while the command runs."""

    argv: Annotated[list[_Word], Field(min_length=1, json_schema_extra={"prefixItems": [_PROGRAM]})]
    cwd: NotRequired[_Directory | None]
    env: NotRequired[_Variables | None]
    timeout: NotRequired[_Timeout | None]
    files: NotRequired[_Packed | None]


class Served(TypedDict):
    """`metadata` of a server that is there. `root` is the workspace as its tools name it."""

    root: str
    isolation: str
    backend: Literal["embedded"]


class Missing(TypedDict):
    """`metadata` of a server that this backend does not have."""

    backend: Literal["embedded"]
    reason: str


class MailUser(TypedDict):
    """Credentials of one address, for IMAP and SMTP."""

    password: str
    name: str


class MailAccess(TypedDict):
    """`auth_data` of poste_email_toolathlon: how a mail program gets in, first as the account that the tools use."""

    email: str
    password: str
    name: str
    imap_server: str
    imap_port: int
    smtp_server: str
    smtp_port: int
    use_ssl: bool
    use_starttls: bool
    users: dict[str, MailUser]


class LocalSandboxServerItem(TypedDict):
    """One server of a local sandbox."""

    server_name: str
    id: str
    mcp_server_url: _Url | None
    status: Literal["occupied", "error"]
    benchmark: _Benchmark
    updated_at: _Time
    metadata: Served | Missing
    auth_data: NotRequired[MailAccess]


class AcquireLocalSandboxResponse(TypedDict):
    """A new local sandbox."""

    local_sandbox_id: str
    status: _Occupied
    benchmark: _Benchmark
    servers: list[LocalSandboxServerItem]
    message: str


class LocalSandboxInfo(TypedDict):
    """A live local sandbox."""

    local_sandbox_id: str
    created_at: _Time
    status: _Occupied
    benchmark: _Benchmark
    servers: list[LocalSandboxServerItem]


class ListLocalSandboxesResponse(TypedDict):
    """All live local sandboxes of this server."""

    local_sandboxes: list[LocalSandboxInfo]
    total_count: int


class SandboxListItem(TypedDict):
    """One remote sandbox; there are none here yet."""

    sandbox_id: str
    server_name: str
    status: _Status
    benchmark: str | None
    tags: dict[str, Any] | None
    updated_at: _Time | None


class ListSandboxesResponse(TypedDict):
    """All remote sandboxes of this server."""

    sandboxes: list[SandboxListItem]
    total_count: int


class ReleaseMessage(TypedDict):
    """A release goes on in the background; the sandbox is not found any more."""

    message: str


class Empty(TypedDict):
    """Nothing to say."""


class UploadUrlResponse(TypedDict):
    """Where to PUT a tar.gz."""

    upload_url: _Url
    expires_in_minutes: int


class DumpUrlResponse(TypedDict):
    """Where to GET the tar.gz."""

    download_url: _Url
    expires_in_minutes: int


class InitializeSandboxResponse(TypedDict):
    """The workspace holds what was uploaded; `message` says what was left out."""

    sandbox_id: str
    status: _Occupied
    message: str


class PosteEmailAttachment(TypedDict):
    """A file in an email. `content` is base64, and empty where it is left out; `size` counts for nothing."""

    filename: str
    content_type: NotRequired[str | None]
    size: NotRequired[int | None]
    content: NotRequired[str | None]


class PosteEmail(TypedDict):
    """One email, as emails-mcp's backups have it."""

    email_id: NotRequired[str | None]
    subject: str
    from_addr: str
    to_addr: str
    cc_addr: NotRequired[str | None]
    bcc_addr: NotRequired[str | None]
    date: NotRequired[str | None]
    message_id: NotRequired[str | None]
    body_text: NotRequired[str | None]
    body_html: NotRequired[str | None]
    is_read: NotRequired[bool | None]
    is_important: NotRequired[bool | None]
    folder: NotRequired[str | None]
    attachments: NotRequired[list[PosteEmailAttachment] | None]


class PosteEmailUserData(TypedDict):
    """One user's email. `name` and `password` are this backend's own: what the tools take as their credentials."""

    emails: NotRequired[list[PosteEmail] | None]
    name: NotRequired[str | None]
    password: NotRequired[str | None]


class PosteEmailData(TypedDict):
    """What the mailboxes of a sandbox hold, by address."""

    users: NotRequired[dict[str, PosteEmailUserData]]


class DumpPosteEmailResponse(TypedDict):
    """What the mailboxes hold now, in the shape that they are initialized with."""

    sandbox_id: str
    server_name: str
    dumped_at: _Time
    data: dict[str, Any]


class RunResponse(TypedDict):
    """What a command left behind. `seconds` is wall time; `stopped` says what ended it before its own end."""

    exit_code: int
    stdout: str
    stderr: str
    seconds: float
    stopped: str | None


class ValidationError(TypedDict):
    """One complaint about a request; `input` is a short echo of what was sent."""

    type: str
    loc: list[str | int]
    msg: str
    input: str | int | float | bool | None


class HTTPValidationError(TypedDict):
    """What is wrong with a request: all of it at once."""

    detail: list[ValidationError]


class Problem(TypedDict):
    """Why a request was refused."""

    detail: str
