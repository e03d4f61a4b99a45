"""A command in a sandbox ends the same on both backends: on the cloud it is carried out by executions."""

from __future__ import annotations

import ast
import base64
import json
import os
import secrets
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import Mock

import pytest

from pytest_klavis import clock
from pytest_klavis.api.client import KlavisClient
from pytest_klavis.errors import ArchiveError, BackendError, NotFoundError, RequestRefusedError, TransportError
from pytest_klavis.handles import execution, execution_main
from pytest_klavis.handles.execution import run_by_execution
from pytest_klavis.handles.running import Command, RunResult
from pytest_klavis.handles.signed import download

from .cloud import KEY, SEED, Cloud, Fault

SUITE = """
import asyncio, os, sys
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
    half = "a\\ud800"
    for wrong in (
        {"cwd": "/etc"}, {"cwd": "a/../.."}, {"cwd": half}, {"env": {"A=B": "c"}}, {"env": {"A": half}},
        {"timeout": 4000}, {"argv": ["echo", half]}, {"argv": ["echo", "a\\udc80"]}, {"argv": ["echo", "a\\0"]},
    ):
        with pytest.raises(SpecError, match="run"):
            box.run(**{"argv": ["ls"], **wrong})

def test_limits(box):
    late = box.run(["sh", "-c", "echo early; sleep 30 & sleep 30"], timeout=1.5)
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
    show = ["sh", "-c", "cat t.py; sleep 0.5; cat t.py"]
    done = await asyncio.gather(*(box.arun(show, files={"t.py": word}) for word in "abc"))
    assert [one.stdout for one in done] == ["aa", "bb", "cc"]
    assert box.list_files() == []
"""


@pytest.fixture(params=["embedded", "cloud"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "cloud":
        request.getfixturevalue("cloud")
    return str(request.param)


def test_the_same_on_both_backends(pytester: pytest.Pytester, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_PAUSE", "LONGEST_PAUSE"):
        monkeypatch.setattr(execution, name, 0.05)
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
    cloud: Cloud,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    word: str,
    log: bytes,
    error: type[Exception],
    words: str,
) -> None:
    monkeypatch.setattr(execution, "LATE", 20.0 if error is ArchiveError else 1.0)
    cloud.executions.words = dict.fromkeys(("pending", "running", "completed"), word)
    cloud.executions.spoil = log
    margin = 3.0 if error is TransportError else 20.0
    with pytest.raises(error, match=words):
        run_true(cloud, tmp_path, margin)


def run_true(cloud: Cloud, scratch: Path, margin: float) -> RunResult:
    with KlavisClient(cloud.url, KEY) as client:
        sandbox_id = client.acquire_local_sandbox(["terminal"]).local_sandbox_id
        return run_by_execution(client, sandbox_id, Command(("true",), ".", {}, 1.0, margin=margin), None, scratch)


@pytest.mark.parametrize(
    ("word", "error", "words"),
    [
        ("completed", BackendError, "(?s)ended as 'completed' without an answer.*main.py died"),
        ("running", TransportError, "(?s)was not over in time; it is 'running'.*main.py died"),
    ],
    ids=["ended", "running"],
)
def test_a_log_that_comes_again_and_again_is_no_news(  # noqa: PLR0917
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, error: type[Exception], words: str
) -> None:
    monkeypatch.setattr(execution, "LATE", 1.0)
    cloud.executions.words = {"completed": word}
    cloud.executions.spoil = b"Traceback: main.py died\n" * 2000
    cloud.executions.ignores_cursor = True
    began = clock.monotonic()
    with pytest.raises(error, match=words) as caught:
        run_true(cloud, tmp_path, 3.0 if error is TransportError else 20.0)
    assert clock.monotonic() - began < 15
    assert len(str(caught.value)) < 2 * execution.SHOWN_LOG
    assert cloud.count("GET .*/execution-logs") < 12


def test_a_log_that_never_ends_is_over_in_time(cloud: Cloud, tmp_path: Path) -> None:
    cloud.executions.spoil = b"again\n" * 100_000
    cloud.executions.piece = 10
    with pytest.raises(TransportError, match=r"(?s)was not over in time; it is 'completed'.*again"):
        run_true(cloud, tmp_path, 2.0)


def test_of_a_long_log_only_the_answer_and_the_end_are_kept() -> None:
    answer = {"stdout": secrets.token_hex(20_000)}
    text = base64.b64encode(zlib.compress(json.dumps(answer).encode())).decode()
    parts = [text[start : start + 3000] for start in range(0, len(text), 3000)]
    log = execution._Log("klavis-1")
    found = None
    for number, part in enumerate(parts, 1):
        assert found is None
        for piece in ("noise\n" * 10_000, f"klavis-1 {number}/{len(parts)} {part[:999]}", f"{part[999:]};\n"):
            found = log.add(piece)
        assert len(log._tail) <= execution.KEPT_LOG
    assert found == answer


def test_a_cloud_may_know_an_execution_late(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = Fault("GET .*/execution-(logs|status)", status=404, body='{"detail": "Execution not found"}', times=4)
    cloud.faults = [late]
    assert run_true(cloud, tmp_path, 20.0).exit_code == 0
    late.times = 1000
    monkeypatch.setattr(execution, "LATE", 1.0)
    (tmp_path / "2").mkdir()
    with pytest.raises(NotFoundError, match="Execution not found"):
        run_true(cloud, tmp_path / "2", 20.0)


@pytest.fixture
def workspace(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The workspace is on another file system than the executions."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    with TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def start(place: Path, workspace: Path, script: str, text: str, wait: float = 30.0) -> subprocess.Popen[str]:
    """`main.py` as a cloud starts it, with `t.py` to lay over the workspace."""
    (place / "files").mkdir(parents=True)
    (place / "files" / "t.py").write_text(text)
    shutil.copy(execution_main.__file__, place / "main.py")
    order = {"argv": ["sh", "-c", script], "cwd": ".", "env": {}, "timeout": 30, "nonce": "nonce", "wait": wait}
    (place / "order.json").write_text(json.dumps(order))
    environment = os.environ | {"AGENT_WORKSPACE": str(workspace)}
    return subprocess.Popen([sys.executable, "main.py"], cwd=place, env=environment, stdout=subprocess.PIPE, text=True)


def answer_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    printed, _ = process.communicate(timeout=60)
    found = execution._Log("nonce").add(printed)
    assert found is not None, printed
    return found


def names_in(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def appears(path: Path) -> None:
    until = clock.monotonic() + 30
    while not path.exists():
        assert clock.monotonic() < until
        clock.sleep(0.02)


def test_two_executions_at_once_do_not_mix(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "t.py").write_text("agent")
    (tmp_path / "linked").symlink_to(workspace)
    first = start(tmp_path / "a", workspace, "touch began; cat t.py; sleep 1; cat t.py", "A")
    appears(workspace / "began")
    second = start(tmp_path / "b", tmp_path / "linked", "cat t.py; sleep 0.5; cat t.py", "B")
    third = start(tmp_path / "c", workspace, "cat t.py", "C", wait=0.1)
    assert "another run() in this sandbox was not over" in answer_of(third)["trouble"]
    assert [answer_of(one)["stdout"] for one in (first, second)] == ["AA", "BB"]
    assert (workspace / "t.py").read_text() == "agent"
    assert names_in(workspace) == ["began", "t.py"]


def test_what_cannot_be_copied_is_put_aside_and_back(tmp_path: Path, workspace: Path) -> None:
    os.mkfifo(workspace / "t.py")
    assert answer_of(start(tmp_path / "a", workspace, "cat t.py; rm t.py; mkfifo t.py", "ours"))["stdout"] == "ours"
    assert (workspace / "t.py").is_fifo()
    (workspace / "t.py").unlink()
    (workspace / "t.py").mkdir()
    os.mkfifo(workspace / "t.py" / "inner")
    assert answer_of(start(tmp_path / "b", workspace, "cat t.py; chmod 0 t.py", "ours"))["stdout"] == "ours"
    assert (workspace / "t.py" / "inner").is_fifo()
    assert names_in(workspace) == ["t.py"]


def test_a_command_may_remove_what_was_put_aside(tmp_path: Path, workspace: Path) -> None:
    (workspace / "t.py").write_text("agent")
    done = answer_of(start(tmp_path / "a", workspace, "rm -rf .[!.]* *; echo gone", "ours"))
    assert (done["exit_code"], done["stdout"]) == (0, "gone\n")
    assert names_in(workspace) == []


def test_a_damaged_download_is_called_so_when_no_second_one_comes(tmp_path: Path) -> None:
    client = Mock(spec=KlavisClient)
    client.download_archive.side_effect = lambda url, target, **_: target.write_bytes(url.encode())
    target = tmp_path / "workspace.tar.gz"
    urls = iter(("bad", "good", "bad"))

    def ask(_: float) -> str:
        url = next(urls, None)
        if url is None:
            raise RequestRefusedError("dump", 409, "busy")
        return url

    def use(archive: Path) -> str:
        text = archive.read_text()
        if text == "bad":
            raise ArchiveError("damaged")
        return text

    until = clock.monotonic() + 60
    assert download(client, ask, target, until, use) == "good"
    assert names_in(tmp_path) == ["workspace.tar.gz"]
    with pytest.raises(RequestRefusedError):
        download(client, ask, target, until, use)
    assert names_in(tmp_path) == ["workspace.tar.gz.damaged"]


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
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names | {"__future__"}
