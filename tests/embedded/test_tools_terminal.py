"""The terminal server's tools, in real isolation."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.embedded.isolation_support import LEVELS
from tests.embedded.sandboxed import Box, new_box

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", params=LEVELS)
def box(request: pytest.FixtureRequest) -> Iterator[Box]:
    with new_box(request.param) as box:
        yield box


def run(box: Box, command: str) -> list[str]:
    result = box.call("terminal", "run_command", command=command)
    assert not result.is_error
    return [part["text"] for part in result.content]


def test_output_errors_and_exit_code_come_apart(box: Box) -> None:
    assert run(box, "echo out; echo err >&2; exit 3") == ["out\n", "err\n", "\nCommand completed with return code: 3"]
    assert run(box, "true") == ["\nCommand completed with return code: 0"]
    content = box.call("terminal", "run_command", command="echo out; echo err >&2").content
    assert [part.get("error") for part in content] == [None, True, None]


def test_the_shell_is_a_real_one(box: Box) -> None:
    assert run(box, "pwd")[0] == f"{box.root}\n"
    assert run(box, "printf 'b\\na\\n' | sort > sorted.txt && cat < sorted.txt; rm sorted.txt")[0] == "a\nb\n"
    assert run(box, 'x=\'$HOME "q"\'; echo "$x"')[0] == '$HOME "q"\n'
    assert run(box, "cat <<'END'\nhere $x\nEND")[0] == "here $x\n"
    assert run(box, "no-such-command-here")[-1] == "\nCommand completed with return code: 127"
    assert run(box, "mkdir kept; cd / && pwd")[0] == "/\n"
    assert run(box, "ls -d kept")[0] == "kept\n"  # each command starts in the workspace again
    assert run(box, "python -c 'print(6 * 7)'")[0] == "42\n"
    assert run(box, "echo \ud83d\ude00")[0] == "😀\n"


def test_what_it_makes_belongs_to_the_workspace(box: Box) -> None:
    run(box, "echo hello > by-shell.txt")
    assert box.text("filesystem", "read_text_file", path="by-shell.txt") == "hello\n"
    box.text("filesystem", "write_file", path="by-tool.txt", content="1")
    run(box, "echo 2 >> by-tool.txt")
    assert (box.workspace / "by-tool.txt").read_text() == "12\n"


def test_commands_that_are_none(box: Box) -> None:
    assert box.failure("terminal", "run_command", command="  ") == "Security violation: Empty command"
    assert "NUL" in box.failure("terminal", "run_command", command="a\0b")
    assert "maximum length of 65536" in box.failure("terminal", "run_command", command="#" * 70_000)
    assert "command: Field required" in box.failure("terminal", "run_command")
    assert "command: Input should be a valid string" in box.failure("terminal", "run_command", command=["ls"])


def test_the_wall_limit_ends_a_command_and_says_so(box: Box) -> None:
    quick = replace(box, limits=replace(box.limits, wall_seconds=1.0))
    said = quick.failure("terminal", "run_command", command="echo begun; sleep 60")
    assert said == "begun\n\nCommand timed out after 1 seconds"


def test_the_rules_say_what_applies(box: Box) -> None:
    rules = box.text("terminal", "show_security_rules")
    for part in (
        f"Working Directory: {box.root}",
        "All commands allowed",
        f"Isolation: {box.isolation.level} - no network",
        "Command Timeout: 60 seconds",
        "Memory per process: 1024 MiB",
    ):
        assert part in rules
