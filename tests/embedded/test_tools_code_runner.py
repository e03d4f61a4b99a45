"""The code-runner server's tool, in real isolation."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_klavis.embedded.tools import tools
from tests.embedded.isolation_support import LEVELS
from tests.embedded.sandboxed import Box, new_box

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", params=LEVELS)
def box(request: pytest.FixtureRequest) -> Iterator[Box]:
    with new_box(request.param) as box:
        yield box


def run(box: Box, language: str, code: str) -> str:
    return box.text("code-runner", "run-code", code=code, languageId=language)


def fail(box: Box, language: str, code: str) -> str:
    return box.failure("code-runner", "run-code", code=code, languageId=language)


@pytest.fixture(autouse=True)
def _no_leftovers(box: Box) -> None:
    """What a killed snippet had written stays until the sandbox is reset."""
    for folder in (box.jail.scratch / "tmp").glob("run-*"):
        shutil.rmtree(folder)


def leftovers(box: Box) -> list[str]:
    return [path.name for path in (box.jail.scratch / "tmp").glob("run-*")]


def test_the_result_is_what_the_snippet_prints(box: Box) -> None:
    assert run(box, "python", "print(6 * 7)") == "42\n"
    assert run(box, "python", "print('ü', end='')") == "ü"
    assert run(box, "python", "pass") == ""
    assert run(box, "shellscript", 'x="a  b"; echo "$x" $((6 * 7))') == "a  b 42\n"
    assert run(box, "python", "import sys; sys.stdout.buffer.write(b'\\xff')") == "\ufffd"
    assert run(box, "python", "print(open(0).read() == '')") == "True\n"
    assert leftovers(box) == []


@pytest.mark.parametrize(
    ("language", "program", "code"),
    [
        ("javascript", "node", "console.log(6 * 7)"),
        ("perl", "perl", 'print 6 * 7, "\\n"'),
        ("ruby", "ruby", "puts 6 * 7"),
        ("php", "php", '<?php echo 6 * 7, "\\n";'),
        ("lua", "lua", "print(6 * 7)"),
    ],
)
def test_other_languages_run_where_they_are_installed(box: Box, language: str, program: str, code: str) -> None:
    if shutil.which(program, path="/usr/local/bin:/usr/bin:/bin") is None:
        text = fail(box, language, code)
        assert text.startswith(f'Error: Command failed: {program} "tmp.{language}"\n/bin/sh: 1: {program}: not found\n')
    else:
        assert run(box, language, code) == "42\n"


def test_a_language_that_is_not_there_is_said_with_those_that_are(box: Box) -> None:
    text = fail(box, "vbscript", "x")
    assert text.startswith(
        'Error: Command failed: cscript //Nologo "tmp.vbscript"\n/bin/sh: 1: cscript: not found\nThis sandbox can run: '
    )
    can_run = text.rpartition(": ")[2].strip().split(", ")
    assert {"python", "shellscript"} <= set(can_run)
    assert "vbscript" not in can_run
    # A program that says so itself is not taken for a missing one.
    said = fail(box, "shellscript", "echo '/bin/sh: 1: bash: not found' >&2; exit 126")
    assert "This sandbox can run" not in said


def test_failures_read_as_upstreams(box: Box) -> None:
    text = fail(box, "python", "print('lost')\n1 / 0")
    assert text.startswith(
        'Error: Command failed: python -u "tmp.python"\nTraceback (most recent call last):\n  File "'
    )
    assert text.endswith("ZeroDivisionError: division by zero\n")
    assert "/tmp.python" in text
    assert fail(box, "python", "raise SystemExit(7)") == 'Error: Command failed: python -u "tmp.python"\n'
    assert fail(box, "python", "import sys; print('o'); print('e', file=sys.stderr)") == "Stderr: e\n"
    assert fail(box, "python", "import os; os.kill(os.getpid(), 9)").startswith("Error: Command failed: python -u")
    assert fail(box, "python", "print('x' * 3_000_000)") == "Error: stdout maxBuffer length exceeded"
    loud = "import sys; sys.stderr.write('x' * 3_000_000)"
    assert fail(box, "python", loud) == "Error: stderr maxBuffer length exceeded"
    assert fail(box, "python", "") == "Code is required."
    assert "languageId: Input should be 'javascript', 'php'" in fail(box, "klingon", "x")
    assert leftovers(box) == []


def test_it_runs_in_the_workspace_with_a_home_and_a_temporary_directory_of_its_own(box: Box) -> None:
    box.files.write_bytes("data.csv", b"1,2\n")
    assert run(box, "python", "import os; print(os.getcwd(), open('data.csv').read().strip())") == f"{box.root} 1,2\n"
    where = "import os, tempfile; print(os.environ['HOME'], tempfile.gettempdir())"
    for place in run(box, "python", where).split():
        run(box, "python", f"open({place!r} + '/kept', 'w').write('x')")
        assert run(box, "python", f"print(open({place!r} + '/kept').read())") == "x\n"
        assert place != str(box.workspace)
    assert (box.jail.scratch / "home" / "kept").exists()
    assert (box.jail.scratch / "tmp" / "kept").exists()
    assert [path.name for path in box.workspace.iterdir()] == ["data.csv"]


def test_snippets_at_once_do_not_meet(box: Box) -> None:
    tool = tools("code-runner", None)["run-code"]

    async def all_at_once() -> list[Any]:
        calls = []
        for number in range(12):
            code = f"import time; time.sleep(0.1); print({number}, open(__file__).read().count('time'))"
            arguments = {"code": code, "languageId": "python"}
            calls.append(tool.call(box.context("code-runner"), arguments))
        return await asyncio.gather(*calls)

    answers = [result.content[0]["text"] for result in box.runner.run(all_at_once())]
    assert answers == [f"{number} 3\n" for number in range(12)]


def test_the_snippet_cannot_name_its_way_out(box: Box) -> None:
    assert "EOF" in run(box, "shellscript", "echo EOF; echo '$(touch evil)' > /dev/null")
    assert run(box, "python", 'print("\\"; touch evil; \\"")') == '"; touch evil; "\n'
    assert not (box.workspace / "evil").exists()
    outside = box.jail.scratch.parent / "outside"
    fail(box, "python", f"open({str(outside)!r}, 'w')")
    assert not outside.exists()
    assert "Error" in fail(box, "python", "import socket; socket.create_connection(('127.0.0.1', 9), 2)")


def test_a_snippet_that_does_not_end_is_ended(box: Box) -> None:
    quick = replace(box, limits=replace(box.limits, wall_seconds=1.0))
    text = fail(quick, "python", "print('begun')\nwhile True: pass")
    assert text == "Error: The code timed out after 1 seconds\nbegun\n"


def test_too_much_memory_is_a_failure_of_the_snippet(box: Box) -> None:
    assert "MemoryError" in fail(box, "python", "x = bytearray(8 << 30)")
