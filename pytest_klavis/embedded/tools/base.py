"""What every tool works with: its context, its result, and the errors that an agent gets to read."""

from __future__ import annotations

import errno
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_klavis.embedded.files import (
    AccessDeniedError,
    ClosedError,
    DiskFullError,
    ForeignPathError,
    NotAFileError,
    TooLargeError,
    agent_path,
)
from pytest_klavis.embedded.isolation.model import BadCommandError
from pytest_klavis.embedded.isolation.places import DATA
from pytest_klavis.embedded.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pytest_klavis.embedded.files import WorkspaceFiles
    from pytest_klavis.embedded.isolation.model import Completed, Isolation, Jail
    from pytest_klavis.embedded.mail.office import Mail
    from pytest_klavis.limits import Limits

READ_LIMIT = 4 << 20  # bytes of a file that one answer may hold


class ToolFailureError(Exception):
    """The tool cannot do what it was asked; the text is for the agent, as an `isError` result."""


@dataclass
class ToolContext:
    """One sandbox as one server's tools see it.

    `root` is the workspace as the agent sees it. `state` belongs to this sandbox and server: it lives as long as the
    sandbox and is emptied by a reset. Whatever touches files runs in `threads`. `headers`: of
    the HTTP request. `mail`: of a sandbox that has the mail server.
    """

    files: WorkspaceFiles
    jail: Jail
    isolation: Isolation
    root: str
    limits: Limits
    state: dict[str, Any] = field(default_factory=dict)
    threads: Threads = field(default_factory=Threads)
    headers: Mapping[str, str] = field(default_factory=dict)
    mail: Mail | None = None

    def relative(self, text: str) -> str:
        """The path inside the workspace that the agent's `text` means. Raises ToolFailureError when it is outside."""
        try:
            return agent_path(text, (self.root, DATA, str(self.files.root)))
        except ForeignPathError as error:
            raise ToolFailureError(str(error)) from error
        except AccessDeniedError as error:
            raise ToolFailureError(f"{error} not in {self.root}") from error

    def deadline(self, what: str) -> Callable[[], None]:
        """What long work calls now and then: raises ToolFailureError when it takes too long or the sandbox is gone."""
        end = time.monotonic() + self.limits.wall_seconds

        def check() -> None:
            if self.files.closed:
                raise ToolFailureError(f"{what} was stopped: the sandbox was reset or released")
            if time.monotonic() > end:
                raise ToolFailureError(f"{what} timed out after {self.limits.wall_seconds:g} seconds")

        return check

    async def run(
        self,
        argv: Sequence[str],
        *,
        cwd: str = ".",
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        readable: Sequence[Path] = (),
    ) -> Completed:
        """Run a command in the sandbox. Raises ToolFailureError for one that cannot be run as asked, IsolationError."""
        try:
            return await self.isolation.run(
                argv, self.jail, cwd=cwd, env=env, limits=self.limits, stdin=stdin, readable=readable
            )
        except BadCommandError as error:
            raise ToolFailureError(str(error)) from error

    def shown(self, relative: str) -> str:
        """A path inside the workspace as the agent names it."""
        return self.root if relative == "." else f"{self.root}/{readable(relative)}"


@dataclass(frozen=True)
class ToolResult:
    """The parts of an MCP `tools/call` result."""

    content: list[dict[str, Any]]
    structured: dict[str, Any] | None = None
    is_error: bool = False


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def readable(text: str) -> str:
    """A file's name without what cannot be sent as UTF-8: bytes that are none show as U+FFFD."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:
        return utf8(text).decode()


def utf8(text: str) -> bytes:
    """`text` as UTF-8; pairs of surrogates are joined and single ones replaced, as JavaScript writes them."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def stopped_text(what: str, done: Completed, limits: Limits) -> str:
    """Why `what` did not come to its end, for the agent."""
    reasons = {
        "timeout": f"timed out after {limits.wall_seconds:g} seconds",
        "disk": f"was stopped: the workspace may hold at most {limits.disk} bytes",
        "output": f"was stopped: it wrote far more than the {limits.output} bytes that are kept",
    }
    return f"{what} {reasons.get(done.stopped or '', f'was stopped: {done.stopped}')}"


# Node's words, which agents have met before.
_WORDS = {
    errno.EACCES: "permission denied",
    errno.EEXIST: "file already exists",
    errno.EISDIR: "illegal operation on a directory",
    errno.ELOOP: "too many symbolic links encountered",
    errno.ENAMETOOLONG: "name too long",
    errno.ENOENT: "no such file or directory",
    errno.ENOSPC: "no space left on device",
    errno.ENOTDIR: "not a directory",
    errno.ENOTEMPTY: "directory not empty",
    errno.EPERM: "operation not permitted",
}


@contextmanager
def explained(context: ToolContext, operation: str, *paths: str) -> Iterator[None]:
    """Turn an OSError into a ToolFailureError in Node's form: "ENOENT: no such file or directory, open '/data/a'"."""
    try:
        yield
    except AccessDeniedError as error:
        raise ToolFailureError(f"{error} not in {context.root}") from error
    except OSError as error:
        code = error.errno or 0
        own = isinstance(error, ClosedError | DiskFullError | NotAFileError | TooLargeError)
        words = error.strerror if own else _WORDS.get(code, os.strerror(code).lower())
        where = " -> ".join(f"'{context.shown(path)}'" for path in paths)
        raise ToolFailureError(f"{errno.errorcode.get(code, 'EIO')}: {words}, {operation} {where}") from error
