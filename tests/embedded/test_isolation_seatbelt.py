"""The level of macOS, as far as it can be looked at elsewhere: its profile, its argv, where it is refused."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_klavis.embedded.isolation import IsolationError, choose
from pytest_klavis.embedded.isolation.interpreter import Interpreter, describe
from pytest_klavis.embedded.isolation.seatbelt import SANDBOX_EXEC, Seatbelt, profile, quoted
from tests.embedded.isolation_support import Box, make_box, open_folder

if TYPE_CHECKING:
    from collections.abc import Iterator


def _parsed(text: str) -> list[object]:
    """The profile as nested lists; strings keep their first quote."""
    tokens, at = [], 0
    while at < len(text):
        if text[at] == '"':
            end, word = at + 1, '"'
            while text[end] != '"':
                end += text[end] == "\\"
                word += text[end]
                end += 1
            tokens.append(word)
            at = end + 1
        elif text[at] in "()":
            tokens.append(text[at])
            at += 1
        elif text[at].isspace():
            at += 1
        else:
            end = at
            while text[end] not in '() \n"':
                end += 1
            tokens.append(text[at:end])
            at = end
    stack: list[list[object]] = [[]]
    for token in tokens:
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    assert len(stack) == 1
    return stack[0]


def _allowed(rules: list[object], operation: str) -> list[str]:
    """The paths for which an operation is allowed."""
    found = []
    for rule in rules:
        assert isinstance(rule, list)
        if rule[0] == "allow" and operation in rule:
            found += [part[1][1:] for part in rule if isinstance(part, list) and part[0] in ("subpath", "literal")]
    return found


def test_the_profile_denies_by_default_and_names_what_it_allows(tmp_path: Path) -> None:
    workspace, python = tmp_path / "work space", tmp_path / "python"
    rules = _parsed(profile((workspace,), (python,)))
    assert rules[:2] == [["version", "1"], ["deny", "default"]]
    assert ["deny", "network*"] in rules
    assert _allowed(rules, "file-write*") == [str(workspace)]
    reading = _allowed(rules, "file-read*")
    assert {str(workspace), str(python), "/usr", "/System"} <= set(reading)
    assert not {"/Users", "/private", "/Library", "/tmp", "/var"} & set(reading)
    assert ["allow", "mach-lookup", ["global-name", '"com.apple.system.opendirectoryd.libinfo']] in rules
    assert not [rule for rule in rules if isinstance(rule, list) and rule[0] == "allow" and "network" in str(rule)]


@pytest.mark.parametrize("name", ['qu"ote', "back\\slash", "paren)(", ';; comment "', "#|x|#", "umläut", "sp ace", "'"])
def test_no_name_of_a_path_changes_the_rules(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    rules = _parsed(profile((path,), ()))
    assert _allowed(rules, "file-write*") == [str(path)]
    assert len(rules) == len(_parsed(profile((tmp_path,), ())))


@pytest.mark.parametrize("name", ["line\nbreak", "nul\0", "tab\t", "escape\x1b", "delete\x7f"])
def test_control_characters_are_refused(name: str) -> None:
    with pytest.raises(IsolationError, match="control characters"):
        quoted(f"/data/{name}")


def test_paths_are_what_the_kernel_sees(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "tmp").symlink_to(tmp_path / "private")
    rules = _parsed(profile((tmp_path / "tmp",), (tmp_path / "tmp",)))
    assert _allowed(rules, "file-write*") == [str(tmp_path / "private")]
    assert str(tmp_path / "tmp") not in _allowed(rules, "file-read*")


def test_the_agents_environment_is_set_inside() -> None:
    interpreter = Interpreter(Path("/opt/python/bin/python"), Path("/opt/python/bin"), ())
    level = Seatbelt(SANDBOX_EXEC, interpreter)
    words = level.command(["a=b", "-x"], "(version 1)", {"PATH": "/bin", "DYLD_INSERT_LIBRARIES": "evil"})
    assert words[:3] == ["/usr/bin/sandbox-exec", "-p", "(version 1)"]
    assert words[3:7] == ["/usr/bin/env", "-i", "PATH=/bin", "DYLD_INSERT_LIBRARIES=evil"]
    assert words[-3:] == ['exec "$0" "$@"', "a=b", "-x"]


@pytest.mark.skipif(sys.platform == "darwin", reason="it is there")
def test_elsewhere_it_is_refused_with_what_there_is() -> None:
    isolation = asyncio.run(choose("seatbelt"))
    assert isolation.level == "unavailable"
    assert "seatbelt is macOS's sandbox-exec; on Linux there are strict and landlock" in isolation.reason


@pytest.mark.skipif(sys.platform != "darwin", reason="needs macOS")
def test_on_macos_it_is_what_auto_takes() -> None:
    isolation = asyncio.run(choose())
    assert isolation.level == "seatbelt", isolation.reason
    assert os.path.exists(SANDBOX_EXEC)  # noqa: PTH110


# -- the rest of the level, with a stand-in for Apple's program that confines nothing

STAND_IN = '#!/bin/sh\ntest "$1" = -p || exit 64\nprintf "%s" "$2" > {profile}\nshift 2\nexec "$@"\n'


@pytest.fixture
def box() -> Iterator[Box]:
    with open_folder() as place:
        folder = place / "python"
        folder.mkdir()
        program, written = place / "sandbox-exec", place / "profile"
        written.touch()
        written.chmod(0o666)
        program.write_text(STAND_IN.format(profile=written))
        program.chmod(0o755)
        interpreter = describe("/usr/bin/python3", folder, own_packages=True)
        yield make_box(Seatbelt(str(program), interpreter), place)


def test_a_command_runs_with_its_profile(box: Box) -> None:
    (box.workspace / "sub").mkdir()
    done = box.run(["sh", "-c", "pwd; env; cat; exit 3"], cwd="sub", env={"A": "b c"}, stdin=b"given")
    lines = done.stdout.decode().splitlines()
    assert (done.exit_code, done.stderr) == (3, b"")
    assert lines[0] == f"{box.workspace}/sub"
    assert "A=b c" in lines
    assert lines[-1] == "given"
    names = {line.partition("=")[0] for line in lines[1:-1]}
    assert names == {"PATH", "HOME", "TMPDIR", "LANG", "USER", "LOGNAME", "GIT_CONFIG_NOSYSTEM", "A", "PWD"}
    rules = _parsed((box.workspace.parent.parent / "profile").read_text())
    scratch = box.jail.scratch
    assert _allowed(rules, "file-write*") == [str(box.workspace), str(scratch / "home"), str(scratch / "tmp")]


def test_codes_are_those_of_a_shell(box: Box) -> None:
    box.put("plain", "no program")
    assert box.run(["no-such-program"]).exit_code == 127
    assert box.run(["./plain"]).exit_code == 126
    assert box.run(["sh", "-c", "kill -TERM $$"]).exit_code == 128 + 15


def test_a_timeout_ends_it(box: Box) -> None:
    done = box.run(["sleep", "60"], timeout=0.5)
    assert (done.stopped, done.exit_code) == ("timeout", 137)
