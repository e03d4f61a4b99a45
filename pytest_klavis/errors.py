"""Every exception of the package.

KlavisError
├── SpecError              what was asked for cannot be right; nothing was acquired
├── ToolError              a tool answered with an error (the agent's business, not the infrastructure's)
└── InfraError             the sandbox or its API failed, so nothing is known about the agent
    ├── BackendError       no API to talk to: the embedded server did not start, a level is missing
    │   ├── UnavailableError       this backend has no such server
    │   └── ClosedError            the run is over, or has acquired as many as it may
    ├── ApiError           the API answered, but not as asked (operation, status, body)
    │   ├── AuthError              401, 403
    │   ├── NotFoundError          404, 410
    │   ├── RequestRefusedError    400, 409, 422 and other 4xx
    │   ├── RateLimitError         429
    │   └── ServerError            5xx
    ├── TransportError     no answer, or a broken one
    ├── ArchiveError       an archive that is damaged, hostile or too large
    └── SeedError          a workspace that could not be put into the sandbox

pytest reports an InfraError as an ERROR, never as a FAIL of the agent. Raise one yourself
when your own judge or model is down.
"""

from __future__ import annotations

from typing import Any


class KlavisError(Exception):
    """Base of every error that this package raises."""


class SpecError(KlavisError):
    """What was asked for cannot be right. Raised before anything is acquired."""


class ToolError(KlavisError):
    """A tool of a sandbox answered `isError`. `text` is what it said."""

    def __init__(self, tool: str, text: str) -> None:
        super().__init__(f"tool {tool!r} answered with an error: {text}")
        self.tool = tool
        self.text = text

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.tool, self.text), self.__dict__


class InfraError(KlavisError):
    """The sandbox or its API failed: nothing is known about the agent."""


class BackendError(InfraError):
    """There is no API to talk to, or it cannot do what the test needs."""


class UnavailableError(BackendError):
    """This backend has no such server; another one may."""


class ClosedError(BackendError):
    """The run acquires no more: it is over, or has had as many sandboxes as it may."""


class NoneLeftError(InfraError):
    """Never leaves the package: the API had none for one of a set, so what there is of the set goes back first."""

    def __init__(self, refusal: ApiError, seq: int | None) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal
        self.seq = seq
        """The place in the line that the set had."""


class ApiError(InfraError):
    """The API answered with a status that is no success.

    `operation` names the call ("acquire local sandbox"), `status` is the HTTP status,
    `body` what came with it: redacted, at most 2,000 characters; `hint` what to do about it.
    """

    def __init__(self, operation: str, status: int, body: str, hint: str = "") -> None:
        message = f"{operation} was answered with HTTP {status}: {body or '(empty body)'}"
        super().__init__(f"{message}\n{hint}" if hint else message)
        self.operation = operation
        self.status = status
        self.body = body
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.operation, self.status, self.body, self.hint), self.__dict__


class AuthError(ApiError):
    """401 or 403: the key is missing, wrong or not allowed to do this."""


class NotFoundError(ApiError):
    """404 or 410: the sandbox (or route) does not exist, or exists no more."""


class RequestRefusedError(ApiError):
    """The API refused the request itself: 400, 409, 422 or another 4xx."""


class RateLimitError(ApiError):
    """429: too many requests for this account."""


class ServerError(ApiError):
    """5xx: the API failed."""


# What the tree above says of statuses, for everything that travels: API, storage and Blackbox.
_BY_STATUS = {401: AuthError, 403: AuthError, 404: NotFoundError, 410: NotFoundError, 429: RateLimitError}
_BY_HUNDRED = {4: RequestRefusedError, 5: ServerError}


def class_of(status: int) -> type[ApiError]:
    """Return the class for an HTTP status that is no success."""
    return _BY_STATUS.get(status) or _BY_HUNDRED.get(status // 100, ApiError)


class TransportError(InfraError):
    """No answer came, or one that was cut, late or not what the API speaks.

    `sent` is whether the request may have arrived and been carried out; None where that is not known.
    """

    def __init__(self, message: str, *, sent: bool | None = None) -> None:
        super().__init__(message)
        self.sent = sent


class ArchiveError(InfraError):
    """An archive that is damaged, hostile or larger than its limits."""


class SeedError(InfraError):
    """The workspace or data could not be put into the sandbox."""
