"""terminal: against cli-mcp-server with every command, flag and operator allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..playing import Table
from ..scenario import Folder, Link, Scenario, call

if TYPE_CHECKING:
    from ..scenario import Call


def run(command: object) -> Call:
    return call("run_command", command=command)


COMMANDS = Scenario(
    "commands",
    seed={
        "a.txt": "one\ntwo\nthree\n",
        "b.txt": "b\n",
        "grüße/ü.txt": "Grüße 🌍\n",
        "folder/x.py": "print('x')\n",
        "empty": Folder,
        "bytes.bin": b"\xff\xfe\x00\x80",
        "link.txt": Link("a.txt"),
    },
    calls={
        "one word": run("pwd"),
        "listing": run("ls -1"),
        "reading": run("cat a.txt"),
        "reading by the whole path": run("cat {root}/a.txt"),
        "reading through a link": run("cat link.txt"),
        "unicode": run("cat grüße/ü.txt"),
        "quotes": run("echo 'a  b' \"c  d\""),
        "printing": run("printf 'no line end'"),
        "nothing printed": run("true"),
        "failing": run("false"),
        "exit code": run("python3 -c 'import sys; sys.exit(7)'"),
        "to stderr": run("python3 -c 'import sys; print(1); print(2, file=sys.stderr)'"),
        "missing file": run("cat absent.txt"),
        "missing program": run("no-such-program --help"),
        "pipe": run("cat a.txt | sort | head -n 1"),
        "and": run("echo 1 && echo 2"),
        "or": run("false || echo otherwise"),
        "semicolon": run("echo 1; echo 2"),
        "redirection": run("echo text > made.txt"),
        "appending": run("echo more >> made.txt"),
        "input": run("sort < a.txt"),
        "here document": run("cat << END\nhere\nEND"),
        "several lines": run("echo 1 &&\necho 2"),
        "making a folder": run("mkdir -p new/deep"),
        "copying": run("cp a.txt new/copy.txt"),
        "moving": run("mv b.txt new/b.txt"),
        "removing": run("rm -r new"),
        "changing the mode": run("chmod 755 a.txt"),
        "change of folder and command": run("cd folder && python3 x.py"),
        "the folder is the root again": run("pwd"),
        "a variable is set for one command": run("X=5; echo $X"),
        "the variable is forgotten": run("echo $X;"),
        "search": run("grep -rn two ."),
        "find": run("find . -name '*.py'"),
        "python": run("python3 folder/x.py"),
        "no input": run("cat -"),
        "large output": run("python3 -c 'print(\"x\" * 200000)'"),
        "git": run("git init --quiet repo && git -C repo status --short"),
        "background": run("(sleep 0.1 &) ; echo started"),
        "killed by a signal": run("sh -c 'kill -9 $$'"),
        "bytes": run("cat bytes.bin"),
        "glob with an operator": run("ls *.txt && true"),
        "glob without an operator": run("ls *.txt"),
        "variable without an operator": run("echo $HOME"),
        "parent": run("ls ../"),
        "outside": run("cat /etc/hostname"),
        "unclosed quote": run("echo 'a"),
        "empty": run(""),
        "only spaces": run("   "),
        "longer than upstream takes": run("echo " + "x" * 2000),
        "no command": call("run_command"),
        "command of a wrong type": run(5),
        "command null": run(None),
        "unknown argument": call("run_command", command="echo 1", timeout=3),
        "unknown tool": call("run_python", command="1"),
    },
)

RULES = Scenario(
    "rules",
    calls={
        "rules": call("show_security_rules"),
        "rules with an argument": call("show_security_rules", verbose=True),
        "rules again": call("show_security_rules"),
    },
)

TABLE = Table(
    name="terminal", server="terminal", benchmark="MCP_Atlas", upstream="terminal", scenarios=(COMMANDS, RULES)
)
