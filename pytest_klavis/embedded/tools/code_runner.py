"""The code-runner server's tool, after mcp-server-code-runner 0.1.8: a snippet runs with what is installed for it.

Upstream writes every snippet to one file in the temporary directory; here each call has a file of its own.
"""

import secrets
from typing import Annotated, Literal

from pydantic import Field

from pytest_klavis.embedded.tools.base import (
    ToolContext,
    ToolFailureError,
    ToolResult,
    stopped_text,
    text_part,
    utf8,
)
from pytest_klavis.embedded.tools.schema import Flavour

_COMMANDS = {
    "javascript": "node",
    "php": "php",
    "python": "python -u",
    "perl": "perl",
    "perl6": "perl6",
    "ruby": "ruby",
    "go": "go run",
    "lua": "lua",
    "groovy": "groovy",
    "powershell": "powershell -ExecutionPolicy ByPass -File",
    "bat": "cmd /c",
    "shellscript": "bash",
    "fsharp": "fsi",
    "csharp": "scriptcs",
    "vbscript": "cscript //Nologo",
    "typescript": "ts-node",
    "coffeescript": "coffee",
    "scala": "scala",
    "swift": "swift",
    "julia": "julia",
    "crystal": "crystal",
    "ocaml": "ocaml",
    "r": "Rscript",
    "applescript": "osascript",
    "clojure": "lein exec",
    "racket": "racket",
    "scheme": "csi -script",
    "ahk": "autohotkey",
    "autoit": "autoit3",
    "dart": "dart",
    "haskell": "runhaskell",
    "nim": "nim compile --verbosity:0 --hints:off --run",
    "lisp": "sbcl --script",
    "kit": "kitc --run",
    "v": "v run",
    "sass": "sass --style expanded",
    "scss": "scss --style expanded",
}
_EXTENSIONS = {"javascript": "js", "typescript": "ts", "powershell": "ps1"}
LanguageId = Annotated[Literal[*_COMMANDS], Field(description="Language ID")]  # type: ignore[valid-type]  # the table

# $1: a new folder for the snippet, in TMPDIR; $2: the name of its file; then the command. The snippet is on stdin.
_RUN = """
umask 077
folder="$TMPDIR/$1"; file="$folder/$2"; shift 2
trap 'rm -rf "$folder"' EXIT
mkdir "$folder" && cat > "$file" || exit 125
if ! command -v "$1" > /dev/null 2>&1; then
    echo "/bin/sh: 1: $1: not found" >&2
    exit 127
fi
"$@" "$file" < /dev/null
"""
_INSTALLED = 'for program; do command -v "$program" > /dev/null 2>&1 && echo "$program"; done; exit 0'
_ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "OPENSSL_CONF": "/dev/null",  # Node ends at once where the system's own is there but not readable
}


async def run_code(
    context: ToolContext,
    code: Annotated[str, Field(description="Code Snippet")],
    languageId: LanguageId,  # noqa: N803 - the wire's name
) -> ToolResult:
    """Run code snippet and return the result: what it printed. It runs in the workspace, without a network and with
    nothing on its standard input; to exit with another code than 0 or to write to standard error is a failure."""
    if not code:
        raise ToolFailureError("Code is required.")
    command: str = _COMMANDS[languageId]
    name = f"tmp.{_EXTENSIONS.get(languageId, languageId)}"
    argv = ["sh", "-c", _RUN, "sh", f"run-{secrets.token_hex(8)}", name, *command.split()]
    done = await context.run(argv, env=_ENVIRONMENT, stdin=utf8(code))
    stdout, stderr = (stream.decode("utf-8", "replace") for stream in (done.stdout, done.stderr))
    if done.stopped is not None:
        text = f"Error: {stopped_text('The code', done, context.limits)}\n{stdout}{stderr}"
        return ToolResult([text_part(text)], is_error=True)
    for stream, kept in (("stdout", done.stdout), ("stderr", done.stderr)):
        if len(kept) > context.limits.output:
            raise ToolFailureError(f"Error: {stream} maxBuffer length exceeded")
    if done.exit_code != 0:
        program = command.split(maxsplit=1)[0]
        if done.exit_code == 127 and stderr == f"/bin/sh: 1: {program}: not found\n":
            stderr += f"This sandbox can run: {', '.join(await _languages(context))}\n"
        raise ToolFailureError(f'Error: Command failed: {command} "{name}"\n{stderr}')
    if stderr:
        raise ToolFailureError(f"Stderr: {stderr}")
    return ToolResult([text_part(stdout)])


async def _languages(context: ToolContext) -> list[str]:
    """The languages whose program is installed."""
    programs = {language: command.split(maxsplit=1)[0] for language, command in _COMMANDS.items()}
    done = await context.run(["sh", "-c", _INSTALLED, "sh", *dict.fromkeys(programs.values())])
    installed = done.stdout.decode("utf-8", "replace").split()
    return [language for language, program in programs.items() if program in installed]


# One flavour: Klavis publishes no code-runner of its own.
FLAVOUR = Flavour(functions={"run-code": run_code}, closed=True)
