"""Every call of the API as one row: its name in errors, route, answer, what it may be repeated after, its deadline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from pytest_klavis.api import models

__tracebackhide__ = True  # users read their own frames

AnswerT = TypeVar("AnswerT", bound=models.Answer)

CONNECT_TIMEOUT: Final = 10.0
"""Seconds that making a connection may take, each time; all else is under the deadline of the call."""


@dataclass(frozen=True)
class Repeat:
    """What a call may be sent again after, besides a connection that was never made.

    `statuses` are HTTP statuses; `lost` is an answer that did not come, or not whole.
    """

    statuses: frozenset[int]
    lost: bool


# Doing it twice is doing it once.
IDEMPOTENT: Final = Repeat(frozenset((429, 500, 502, 503, 504)), lost=True)
# A second acquire could be a second sandbox: repeated only where the first was turned away unread.
TURNED_AWAY: Final = Repeat(frozenset((429, 503)), lost=False)
# A command may have run; and this route says 503 for what waiting does not mend.
TOO_MANY: Final = Repeat(frozenset((429,)), lost=False)


@dataclass(frozen=True)
class Operation(Generic[AnswerT]):
    """One call. `deadline` (seconds) is over all of it: connecting, waiting, reading and repeating.

    Where the account's requests are paced, a `patient` one lets those go first that free or prepare a sandbox.
    """

    name: str
    method: str
    path: str
    answer: type[AnswerT]
    repeat: Repeat
    deadline: float
    patient: bool = False


_REMOTE = "/sandbox/{server_name}/{sandbox_id}"
_LOCAL = "/local-sandbox/{local_sandbox_id}"
_TYPED = "/local-sandbox/{server_name}/{sandbox_id}"

ACQUIRE_SANDBOX: Final = Operation(
    "acquire sandbox", "POST", "/sandbox/{server_name}", models.CreateSandboxResponse, TURNED_AWAY, 120, patient=True
)
GET_SANDBOX: Final = Operation("get sandbox", "GET", _REMOTE, models.SandboxInfo, IDEMPOTENT, 60)
LIST_SANDBOXES: Final = Operation("list sandboxes", "GET", "/sandbox", models.ListSandboxesResponse, IDEMPOTENT, 60)
RELEASE_SANDBOX: Final = Operation("release sandbox", "DELETE", _REMOTE, models.ReleaseSandboxResponse, IDEMPOTENT, 60)
RESET_SANDBOX: Final = Operation(
    "reset sandbox", "POST", f"{_REMOTE}/reset", models.ResetSandboxResponse, IDEMPOTENT, 120
)

ACQUIRE_LOCAL_SANDBOX: Final = Operation(
    "acquire local sandbox",
    "POST",
    "/local-sandbox",
    models.AcquireLocalSandboxResponse,
    TURNED_AWAY,
    180,
    patient=True,
)
GET_LOCAL_SANDBOX: Final = Operation("get local sandbox", "GET", _LOCAL, models.LocalSandboxInfo, IDEMPOTENT, 60)
LIST_LOCAL_SANDBOXES: Final = Operation(
    "list local sandboxes", "GET", "/local-sandbox", models.ListLocalSandboxesResponse, IDEMPOTENT, 60
)
RELEASE_LOCAL_SANDBOX: Final = Operation("release local sandbox", "DELETE", _LOCAL, models.Answer, IDEMPOTENT, 60)
RESET_LOCAL_SANDBOX: Final = Operation("reset local sandbox", "POST", f"{_LOCAL}/reset", models.Answer, IDEMPOTENT, 120)
CREATE_UPLOAD_URL: Final = Operation(
    "get upload URL", "POST", f"{_LOCAL}/upload-url", models.UploadUrlResponse, IDEMPOTENT, 60
)
INITIALIZE_LOCAL_SANDBOX: Final = Operation(
    "initialize local sandbox", "POST", f"{_LOCAL}/initialize", models.InitializeSandboxResponse, IDEMPOTENT, 300
)
DUMP_LOCAL_SANDBOX: Final = Operation(
    "dump local sandbox", "GET", f"{_LOCAL}/dump", models.DumpUrlResponse, IDEMPOTENT, 300
)

SEED_OPERATIONS: Final = (
    *(ACQUIRE_SANDBOX, GET_SANDBOX, LIST_SANDBOXES, RELEASE_SANDBOX, RESET_SANDBOX),
    *(ACQUIRE_LOCAL_SANDBOX, GET_LOCAL_SANDBOX, LIST_LOCAL_SANDBOXES, RELEASE_LOCAL_SANDBOX, RESET_LOCAL_SANDBOX),
    *(CREATE_UPLOAD_URL, INITIALIZE_LOCAL_SANDBOX, DUMP_LOCAL_SANDBOX),
)

# Documented after the reference. Data in and out as JSON: one pair of routes per server that holds data. What comes in
# is added to what is there, so a second time would make everything twice;
INITIALIZE_SANDBOX: Final = Operation(
    "initialize sandbox", "POST", f"{_REMOTE}/initialize", models.InitializeSandboxResponse, TURNED_AWAY, 300
)
DUMP_SANDBOX: Final = Operation("dump sandbox", "GET", f"{_REMOTE}/dump", models.Answer, IDEMPOTENT, 300)
# and the same for the three servers of local sandboxes that hold some beside the workspace.
INITIALIZE_LOCAL_SERVER: Final = Operation(
    "initialize local server", "POST", f"{_TYPED}/initialize", models.InitializeSandboxResponse, TURNED_AWAY, 300
)
DUMP_LOCAL_SERVER: Final = Operation("dump local server", "GET", f"{_TYPED}/dump", models.Answer, IDEMPOTENT, 300)
PREPARE: Final = Operation("prepare sandboxes", "POST", "/sandbox/prepare", models.Answer, IDEMPOTENT, 60)
# A program beside the servers of a local sandbox. One that was started twice would run twice.
CREATE_EXECUTION_UPLOAD_URL: Final = Operation(
    "get execution upload URL",
    "POST",
    f"{_LOCAL}/execution-upload-url",
    models.UploadUrlResponse,
    IDEMPOTENT,
    60,
)
EXECUTE: Final = Operation("execute", "POST", f"{_LOCAL}/execute", models.ExecuteResponse, TURNED_AWAY, 120)
EXECUTION_STATUS: Final = Operation(
    "get execution status", "GET", f"{_LOCAL}/execution-status", models.ExecutionStatusResponse, IDEMPOTENT, 60
)
EXECUTION_LOGS: Final = Operation(
    "get execution logs", "GET", f"{_LOCAL}/execution-logs", models.ExecutionLogsResponse, IDEMPOTENT, 60
)
EXPORT_ARTIFACTS: Final = Operation(
    "export artifacts", "POST", f"{_LOCAL}/export-artifacts", models.DumpUrlResponse, IDEMPOTENT, 300
)
# The embedded backend's own.
RUN_COMMAND: Final = Operation("run command", "POST", f"{_LOCAL}/run", models.RunResponse, TOO_MANY, 180)
