"""A command in a sandbox ends the same on both backends: on the cloud it is carried out by executions."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from pytest_klavis.api.client import KlavisClient
from pytest_klavis.errors import ArchiveError, BackendError, TransportError
from pytest_klavis.handles import execution_main
from pytest_klavis.handles.execution import run_by_execution
from pytest_klavis.handles.running import Command

from .cloud import KEY, SEED, Cloud, Fault

SUITE = """
import os, sys
import pytest
from pytest_klavis import SpecError

@pytest.fixture
def box(local_sandbox):
    return local_sandbox(
        ["filesystem", "terminal"],
        workspace={
            "app/main.py": "print('main')",
            "tests/test_a.py": "agent",
            "tests/own.py": "own",
            "json.py": "raise SystemExit('the agent was here')",
        },
    )

def test_how_it_ended(box):
    done = box.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (done.exit_code, done.stdout, done.stderr, done.stopped) == (3, "out\\n", "err\\n", None)
    assert 0 < done.seconds < 20
    assert box.run(["sh", "-c", "kill -TERM $$"]).exit_code == 143
    assert box.run(["true"]) .exit_code == 0
    missing = box.run(["no-such-program"])
    assert missing.exit_code == 127
    assert "no-such-program" in missing.stderr

def test_where_and_with_what(box):
    assert box.run(["sh", "-c", 'pwd; ls; echo "$WORD"'], cwd="app", env={"WORD": "x y"}).stdout == (
        f"{box.root}/app\\nmain.py\\nx y\\n"
    )
    probe = "import json, os, sys; print(json.dumps([os.environ['PYTHONSAFEPATH'], os.environ['PYTHONNOUSERSITE']]))"
    assert box.run(["python", "-c", probe]).stdout == '["1", "1"]\\n'  # the library's json, not the agent's
    assert box.run(["python3", "-c", "import sys; print(sys.stdin.read() == '')"]).stdout == "True\\n"
    assert box.run(["python", "-c", "print('\\u00e4\\U0001f600')"]).stdout == "\\u00e4\\U0001f600\\n"
    assert "order.json" not in box.run(["find", ".", "/tmp", "-name", "order.json"]).stdout

def test_what_cannot_be_right(box):
    with pytest.raises(FileNotFoundError, match="working directory 'nowhere': No such file or directory"):
        box.run(["ls"], cwd="nowhere")
    with pytest.raises(FileNotFoundError, match="working directory 'json.py': Not a directory"):
        box.run(["ls"], cwd="json.py")
    box.run(["ln", "-s", "/etc", "out"])
    with pytest.raises(FileNotFoundError, match="working directory 'out' leads out of the workspace"):
        box.run(["ls"], cwd="out")
    for wrong in ({"cwd": "/etc"}, {"cwd": "a/../.."}, {"env": {"A=B": "c"}}, {"timeout": 4000}):
        with pytest.raises(SpecError, match="run"):
            box.run(["ls"], **wrong)

def test_limits(box):
    late = box.run(["sh", "-c", "echo early; sleep 30 & sleep 30"], timeout=3)
    assert (late.exit_code, late.stdout, late.stopped) == (137, "early\\n", "timeout")
    assert late.seconds < 20
    much = box.run(["sh", "-c", "yes aaaaaaaaaaaaaaa | head -c 3000000"])
    assert much.stdout[:1 << 20] == "aaaaaaaaaaaaaaa\\n" * (1 << 16)
    assert much.stdout[1 << 20:] == "\\n[... truncated ...]\\n"
    flood = box.run(["yes"], timeout=60)
    assert (flood.exit_code, flood.stopped) == (137, "output")

def test_files_win_and_are_gone_afterwards(box):
    links = "mkdir elsewhere; ln -s elsewhere linked; ln -s /etc e"
    box.run(["sh", "-c", f"{links}; mkdir -p check.py/sub; echo deep > check.py/sub/file"])
    before = box.diff().summary()
    listing = box.run(["sh", "-c", "ls -lR . | grep -v ^total"]).stdout
    show = "cat tests/test_a.py tests/own.py check.py linked/x e/passwd new/one; test ! -h linked && echo dir"
    files = {"tests/test_a.py": "1", "check.py": "2", "linked/x": "3", "e/passwd": "4", "new/one": "5"}
    done = box.run(["sh", "-c", show], files=files)
    assert (done.stdout, done.exit_code) == ("1own2345dir\\n", 0)
    assert box.diff().summary() == before
    assert box.run(["sh", "-c", "ls -lR . | grep -v ^total"]).stdout == listing
    vandal = "rm -rf tests; ln -s /etc tests; echo made > made"
    vandal = box.run(["sh", "-c", vandal], files={"tests/test_a.py": "ours"})
    assert vandal.exit_code == 0
    assert box.read_text("tests/test_a.py") == "agent"
    assert box.read_text("made") == "made\\n"
    oracle = {"hidden-oracle.py": "print(open('main.py').read())"}
    laid = box.run(["python", "hidden-oracle.py"], cwd="app", files=oracle)
    assert laid.stdout == "print('main')\\n"
    assert box.list_files("app/*") == ["app/main.py"]
    found = box.run(["sh", "-c", "find / -xdev -name hidden-oracle.py 2>/dev/null; find ~ /tmp -name hidden-oracle.py"])
    assert found.stdout == ""

def test_a_directory_of_files(box, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "run.sh").write_text("#!/bin/sh\\necho ran")
    (tmp_path / "run.sh").chmod(0o755)
    (tmp_path / "deep" / "a b.txt").write_text("x")
    done = box.run(["sh", "-c", "./run.sh && cat 'deep/a b.txt'"], files=tmp_path)
    assert done.stdout == "ran\\nx"

@pytest.mark.anyio
async def test_async(local_sandbox):
    box = await local_sandbox.acquire("terminal")
    assert (await box.arun(["echo", "hello"])).stdout == "hello\\n"
"""


@pytest.fixture(params=["embedded", "cloud"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "cloud":
        request.getfixturevalue("cloud")
    return str(request.param)


def test_the_same_on_both_backends(pytester: pytest.Pytester, backend: str) -> None:
    pytester.makeconftest("import pytest\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'")
    pytester.makepyfile(SUITE)
    result = pytester.runpytest()
    result.assert_outcomes(passed=7)
    result.stdout.fnmatch_lines([f"* acquired, * released, 0 leaked on the {backend} backend*"])


@pytest.mark.parametrize("word", ["working", "completed"])
def test_logs_in_pieces_late_and_with_noise(pytester: pytest.Pytester, cloud: Cloud, word: str) -> None:
    cloud.executions.piece = 700
    cloud.executions.words = {"running": word, "pending": "queued"}
    cloud.executions.noise = "Collecting pytest\u2026\n\x1b[32m\u00e4\u00e4\x1b[0m klavis-0 1/1 bm8=;\n".encode()
    cloud.faults = [
        Fault("GET /local-sandbox/.*/execution-logs", status=404, body='{"detail": "no log yet"}', times=2),
        Fault("GET /local-sandbox/.*/execution-logs", way="reset", after=3, times=1),
    ]
    pytester.makepyfile(
        """
        def test_it(local_sandbox):
            done = local_sandbox("terminal").run(["sh", "-c", "seq 3000; echo error >&2"])
            assert done.stdout == "".join(f"{n}\\n" for n in range(1, 3001))
            assert done.stderr == "error\\n"
        """
    )
    pytester.runpytest().assert_outcomes(passed=1)
    assert cloud.count("GET /local-sandbox/.*/execution-logs") > 3
    assert cloud.count("POST /local-sandbox/.*/execute") == 1
    assert cloud.keys_at_storage == []


@pytest.mark.parametrize(
    ("word", "log", "error", "words"),
    [
        (
            "completed",
            b"Traceback: out of memory",
            BackendError,
            "ended as 'completed' without an answer.*out of memory",
        ),
        ("failed", b"", BackendError, r"ended as 'failed' without an answer.*\(it is empty\)"),
        ("paused", b"still here", TransportError, "was not over in time; it is 'paused'.*still here"),
        ("completed", b"%s 1/1 bm8=;", ArchiveError, "came damaged"),
    ],
    ids=["no answer", "no log", "never over", "damaged"],
)
def test_an_execution_that_says_nothing_is_an_error(  # noqa: PLR0917
    cloud: Cloud, tmp_path: Path, word: str, log: bytes, error: type[Exception], words: str
) -> None:
    cloud.executions.words = dict.fromkeys(("pending", "running", "completed"), word)
    cloud.executions.spoil = log
    with KlavisClient(cloud.url, KEY) as client:
        sandbox_id = client.acquire_local_sandbox(["terminal"]).local_sandbox_id
        with pytest.raises(error, match=words):
            run_by_execution(client, sandbox_id, Command(("true",), ".", {}, 1.0, margin=20.0), None, tmp_path)


def test_a_dialect_without_executions_says_so(pytester: pytest.Pytester, cloud: Cloud) -> None:
    cloud.dialect = SEED
    pytester.makepyfile(
        """
        def test_it(local_sandbox):
            local_sandbox("terminal").run(["true"])
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*BackendError: run() needs the execution routes of the API, and this one has none*"])
    assert cloud.held() == []


@pytest.mark.parametrize("status", [400, 403])
def test_an_expired_upload_url_is_asked_for_once_more(pytester: pytest.Pytester, cloud: Cloud, status: int) -> None:
    cloud.faults = [Fault("PUT /bucket/.*", status=status, body="<Error>expired</Error>", times=1)]
    pytester.makepyfile(
        """
        def test_it(local_sandbox):
            assert local_sandbox("terminal").run(["echo", "hi"]).stdout == "hi\\n"
        """
    )
    pytester.runpytest().assert_outcomes(passed=1)
    assert cloud.count("POST /local-sandbox/.*/execution-upload-url") == 2


def test_what_is_sent_is_a_script_and_its_order(pytester: pytest.Pytester, cloud: Cloud) -> None:
    pytester.makepyfile(
        """
        def test_it(local_sandbox):
            local_sandbox("terminal").run(["true"], files={"a/b.txt": "x"})
        """
    )
    pytester.runpytest().assert_outcomes(passed=1)
    [execution] = cloud.executions.all
    assert {name.removeprefix("./") for name in execution.files} >= {"main.py", "order.json", "files/a/b.txt"}


def test_the_script_speaks_the_python_of_old_machines() -> None:
    tree = ast.parse(Path(execution_main.__file__).read_text(), feature_version=(3, 8))
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names | {"__future__"}
