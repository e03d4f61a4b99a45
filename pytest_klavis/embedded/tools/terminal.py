"""The tools of the terminal server, after cli-mcp-server 0.2.5 with every command, flag and shell operator allowed.

Upstream compares words of the command with lists and runs it as the host's user; here isolation is the rule and the
command is a real shell's.
"""

from typing import Annotated

from pydantic import Field

from pytest_klavis.embedded.tools.base import (
    ToolContext,
    ToolFailureError,
    ToolResult,
    readable,
    stopped_text,
    text_part,
)
from pytest_klavis.embedded.tools.schema import Flavour

MAX_COMMAND = 65_536  # bytes; the system takes 131,072 for one argument

# bash where there is one, else sh. The command is an argument: nothing of it is parsed twice.
_SHELL = 'if command -v bash >/dev/null 2>&1; then exec bash -c "$1"; else exec sh -c "$1"; fi'

_ENVIRONMENT = {"GIT_TERMINAL_PROMPT": "0"}


async def run_command(
    context: ToolContext,
    command: Annotated[
        str, Field(description="Command to execute (example: 'ls -l' or 'grep -r TODO . | sort > todo.txt')")
    ],
) -> ToolResult:
    """Runs a shell command in the workspace, in a sandbox without a network. Every command starts in the workspace's
    root; all commands, flags and shell operators (&&, ||, |, >, >>, <, <<, ;) are allowed. Use show_security_rules
    for the limits."""
    if not command.strip():
        raise ToolFailureError("Security violation: Empty command")
    if "\0" in command:
        raise ToolFailureError("Security violation: Invalid command format: it holds a NUL character")
    if len(command.encode("utf-8", "replace")) > MAX_COMMAND:
        raise ToolFailureError(
            f"Security violation: Command exceeds maximum length of {MAX_COMMAND}; write a script file and run that"
        )
    done = await context.run(["sh", "-c", _SHELL, "sh", readable(command)], env=_ENVIRONMENT)
    stdout, stderr = (stream.decode("utf-8", "replace") for stream in (done.stdout, done.stderr))
    content = [text_part(stdout)] if stdout else []
    content += [text_part(stderr) | {"error": True}] if stderr else []  # upstream marks it so
    if done.stopped is not None:
        content.append(text_part(f"\n{stopped_text('Command', done, context.limits)}"))
        return ToolResult(content, is_error=True)
    content.append(text_part(f"\nCommand completed with return code: {done.exit_code}"))
    return ToolResult(content)


async def show_security_rules(context: ToolContext) -> str:
    """Show what commands and operations are allowed in this environment."""
    limits = context.limits
    return f"""Security Configuration:
==================
Working Directory: {context.root}

Allowed Commands:
----------------
All commands allowed

Allowed Flags:
-------------
All flags allowed

Shell Operators:
---------------
All allowed (bash where it is installed, else sh); each command starts in the working directory

Isolation: {_ISOLATION[context.isolation.level]}

Security Limits:
---------------
Max Command Length: {MAX_COMMAND} characters
Command Timeout: {limits.wall_seconds:g} seconds
CPU time per process: {limits.cpu_seconds} seconds
Memory per process: {_mebibytes(limits.memory)}
Processes: {limits.processes}
File size: {_mebibytes(limits.file_size)}
Output kept per stream: {_mebibytes(limits.output)}
Workspace size: {_mebibytes(limits.disk)}
"""


_ISOLATION = {
    "strict": "strict - no network; only the working directory can be written; the host's files are not there",
    "landlock": "landlock - no network; only the working directory can be written; system files can be read",
    "seatbelt": "seatbelt - no network; only the working directory can be written; system files can be read",
    "none": "none - commands run as an ordinary process of the host",
    "unavailable": "unavailable - commands cannot be run here",
}


def _mebibytes(count: int) -> str:
    return f"{count / (1 << 20):g} MiB"


# One flavour: the fork that Klavis runs offers the same two tools.
FLAVOUR = Flavour(functions={"run_command": run_command, "show_security_rules": show_security_rules})
