"""code-runner: against mcp-server-code-runner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..playing import Table
from ..scenario import Scenario, call

if TYPE_CHECKING:
    from ..scenario import Call


def run(code: object, language: object = "python") -> Call:
    return call("run-code", code=code, languageId=language)


RUNS = Scenario(
    "runs",
    seed={"a.txt": "from the workspace\n", "helper.py": "VALUE = 42\n"},
    calls={
        "python": run("print('hello')"),
        "several lines": run("for i in range(3):\n    print(i)\n"),
        "no output": run("x = 1"),
        "without a line end": run("print('x', end='')"),
        "unicode": run("print('Grüße 🌍')"),
        "the exit code": run("import sys; sys.exit(3)"),
        "an exception": run("1 / 0"),
        "a syntax error": run("def"),
        "only stderr": run("import sys; print('warned', file=sys.stderr)"),
        "stdout and stderr": run("import sys; print('out'); print('err', file=sys.stderr)"),
        "output and a failure": run("print('before'); raise SystemExit('the end')"),
        "the working directory": run("print(open('a.txt').read())"),
        "a file is written": run("open('made.txt', 'w').write('made')"),
        "a module of the workspace": run("import helper; print(helper.VALUE)"),
        "nothing is remembered": run("print('x' in globals())"),
        "large output": run("print('x' * 100_000)"),
        "shell": run("echo one; echo two | tr a-z A-Z", "shellscript"),
        "a failing shell": run("exit 4", "shellscript"),
        "javascript": run("console.log([1, 2].map((x) => x * 2))", "javascript"),
        "an error in javascript": run("throw new Error('no')", "javascript"),
        "perl": run('print "hello\\n"', "perl"),
        "a language that is not installed": run("puts 1", "crystal"),
        "an unknown language": run("1", "cobol"),
        "no code": run(""),
        "no language": call("run-code", code="print(1)"),
        "no code given": call("run-code", languageId="python"),
        "code of a wrong type": run(5),
        "unknown argument": call("run-code", code="print(1)", languageId="python", timeout=5),
        "unknown tool": call("run-file", path="helper.py"),
    },
)

TABLE = Table(
    name="code-runner", server="code-runner", benchmark="MCP_Atlas", upstream="code-runner", scenarios=(RUNS,)
)
