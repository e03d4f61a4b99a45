"""Commands in a sandbox: the run route, its files that come and go, and calls that are ended."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.embedded.conftest import User, processes_with, tar, wait_until


@pytest.fixture
def box(user: User) -> str:
    found: str = user.acquire("terminal")["local_sandbox_id"]
    return found


def _files(files: dict[str, str]) -> str:
    return base64.b64encode(tar(files)).decode()


def test_it_says_how_the_command_ended(user: User, box: str) -> None:
    done = user.run(box, "sh", "-c", "echo out; echo err >&2; exit 3")
    seconds = done.pop("seconds")
    assert done == {"exit_code": 3, "stdout": "out\n", "stderr": "err\n", "stopped": None}
    assert 0 < seconds < 20


def test_the_environment_keeps_the_agents_modules_and_byte_code_out(user: User, box: str) -> None:
    user.upload(box, {"json.py": "raise SystemExit('the agent was here')"})
    found = user.run(box, "python", "-c", "import json, os; print(json.__file__); print(*sorted(os.environ))")
    assert found["exit_code"] == 0
    for name in ("PYTHONSAFEPATH", "PYTHONNOUSERSITE", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE"):
        assert name in found["stdout"]
    assert not any(word in found["stdout"] for word in ("KLAVIS", "COVERAGE"))


def test_env_cwd_and_timeout_are_the_callers(user: User, box: str) -> None:
    user.upload(box, {"sub/f": "1"})
    assert user.run(box, "sh", "-c", 'ls; echo "$WORD"', cwd="sub", env={"WORD": "x y"})["stdout"] == "f\nx y\n"
    late = user.run(box, "sleep", "30", timeout=0.5)
    assert late["stopped"] == "timeout"
    assert late["seconds"] < 20


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "argv"),
        ({"argv": []}, "argv"),
        ({"argv": "ls"}, "argv"),
        ({"argv": ["a\0b"]}, "argv"),
        ({"argv": ["ls"], "cwd": "/etc"}, "cwd"),
        ({"argv": ["ls"], "cwd": "a/../../b"}, "cwd"),
        ({"argv": ["ls"], "env": {"A=B": "c"}}, "env"),
        ({"argv": ["ls"], "env": {"0": "c"}}, "env"),
        ({"argv": ["ls"], "env": []}, "env"),
        ({"argv": ["ls"], "cwd": False}, "cwd"),
        ({"argv": ["ls"], "env": {"A": 1}}, "env"),
        ({"argv": ["ls"], "timeout": 0}, "timeout"),
        ({"argv": ["ls"], "timeout": "9"}, "timeout"),
        ({"argv": ["ls"], "files": "no base64!"}, "files"),
    ],
)
def test_a_wrong_order_is_refused(user: User, box: str, body: dict[str, Any], field: str) -> None:
    answer = user.api.post(f"/local-sandbox/{box}/run", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", field]


def test_a_directory_that_is_not_there_is_the_callers_mistake(user: User, box: str) -> None:
    answer = user.api.post(f"/local-sandbox/{box}/run", json={"argv": ["ls"], "cwd": "nowhere"})
    assert answer.status_code == 422
    assert "nowhere" in answer.json()["detail"][0]["msg"]


def test_files_win_over_the_agents_and_are_gone_afterwards(user: User, box: str) -> None:
    user.upload(box, {"tests/test_a.py": "agent", "tests/own.py": "own", "elsewhere/x": "x"})
    user.run(
        box, "sh", "-c", "ln -s elsewhere linked; mkdir -p check.py/sub; echo deep > check.py/sub/file; ln -s /etc e"
    )
    before = user.download(box)
    listing = user.run(box, "sh", "-c", "ls -lR . | grep -v ^total")["stdout"]
    done = user.run(
        box,
        *(
            "sh",
            "-c",
            "cat tests/test_a.py tests/own.py check.py linked/x e/passwd new/one; test ! -h linked && echo dir",
        ),
        files=_files({"tests/test_a.py": "1", "check.py": "2", "linked/x": "3", "e/passwd": "4", "new/one": "5"}),
    )
    assert (done["stdout"], done["exit_code"]) == ("1own2345dir\n", 0)
    assert user.download(box) == before
    assert user.run(box, "sh", "-c", "ls -lR . | grep -v ^total")["stdout"] == listing


def test_files_are_laid_over_the_working_directory(user: User, box: str) -> None:
    user.upload(box, {"app/main.py": "print('main')"})
    done = user.run(box, "python", "oracle.py", cwd="app", files=_files({"oracle.py": "print(open('main.py').read())"}))
    assert done["stdout"] == "print('main')\n"
    assert user.download(box) == {"app/main.py": "print('main')"}


def test_what_the_command_does_to_the_files_does_not_outlast_it(user: User, box: str) -> None:
    user.upload(box, {"d/kept": "1", "d/oracle": "agent"})
    vandal = "rm -rf d; ln -s /etc d; echo made > made"
    user.run(box, "sh", "-c", vandal, files=_files({"d/oracle": "ours"}))
    assert user.download(box) == {"d/oracle": "agent", "made": "made\n"}  # the rest of d is the command's own doing


def test_files_that_are_no_archive_are_refused(user: User, box: str) -> None:
    for files in (base64.b64encode(b"nothing").decode(), _files({"../out": "x"})):
        answer = user.api.post(f"/local-sandbox/{box}/run", json={"argv": ["true"], "files": files})
        assert answer.status_code == 400


@pytest.mark.parametrize("how", ["delete", "reset"])
@pytest.mark.parametrize("files", [None, {"oracle": "x"}])
def test_a_running_command_ends_with_its_sandbox(user: User, box: str, how: str, files: dict[str, str] | None) -> None:
    marker = f"klavis-{time.monotonic_ns()}"
    script = f"setsid sh -c 'sleep 300; : {marker}-escaped' & sleep 300; : {marker}"
    body: dict[str, Any] = {"argv": ["sh", "-c", script]}
    if files is not None:
        body["files"] = _files(files)
    answers: list[httpx.Response] = []
    headers = dict(user.api.headers)
    url = f"{user.found['url']}/local-sandbox/{box}"
    thread = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{url}/run", json=body, headers=headers, timeout=60))
    )
    thread.start()
    wait_until(lambda: processes_with(f"{marker}-escaped"))
    ended = (
        user.api.delete(f"/local-sandbox/{box}") if how == "delete" else user.api.post(f"/local-sandbox/{box}/reset")
    )
    assert ended.status_code == 200
    thread.join(20)
    assert answers[0].status_code == (404 if how == "delete" else 409)
    assert f"was {'released' if how == 'delete' else 'reset'}" in answers[0].json()["detail"]
    wait_until(lambda: not processes_with(marker))
    if how == "delete":
        wait_until(lambda: not (user.run_dir / "workspaces" / box).exists())
    else:
        assert user.download(box) == {}
        assert user.run(box, "echo", "again")["stdout"] == "again\n"


@pytest.mark.parametrize("how", ["delete", "reset"])
def test_a_command_that_waits_for_its_turn_does_not_delay_the_end(user: User, box: str, how: str) -> None:
    marker = f"300.{time.monotonic_ns()}"
    url, headers = f"{user.found['url']}/local-sandbox/{box}", dict(user.api.headers)
    bodies = [{"argv": ["sleep", marker]}, {"argv": ["sleep", "20"], "files": _files({"oracle": "x"})}]
    answers: list[httpx.Response] = []
    threads = []
    for body in bodies:
        call = lambda body=body: answers.append(httpx.post(f"{url}/run", json=body, headers=headers, timeout=60))  # noqa: E731
        threads.append(threading.Thread(target=call))
        threads[-1].start()
        wait_until(lambda: processes_with(marker))
    time.sleep(0.3)  # the second one waits for the first
    start = time.monotonic()
    if how == "delete":
        assert user.api.delete(f"/local-sandbox/{box}").status_code == 200
        wait_until(lambda: not (user.run_dir / "workspaces" / box).exists())
    else:
        assert user.api.post(f"/local-sandbox/{box}/reset").status_code == 200
    assert time.monotonic() - start < 10
    for thread in threads:
        thread.join(30)
    assert [answer.status_code for answer in answers] == [404 if how == "delete" else 409] * 2
    if how == "reset":
        assert user.run(box, "ls")["stdout"] == ""


@pytest.mark.parametrize("level", ["strict", "landlock", "none"])
def test_an_agent_that_closes_its_workspace_hurts_only_itself(start: Callable[..., User], level: str) -> None:
    user = start(isolation=level)
    if user.found["isolation"] != level:
        pytest.skip(f"this machine has no {level}")
    box = user.acquire("terminal")["local_sandbox_id"]
    user.upload(box, {"a.txt": "1"})
    assert user.run(box, "sh", "-c", "mkdir -m 700 d && chmod 700 .")["exit_code"] == 0
    assert user.run(box, "cat", "a.txt")["stdout"] == "1"
    assert user.run(box, "pwd", cwd="d")["exit_code"] == 0
    assert user.run(box, "git", "init", "-q", "x")["exit_code"] == 0
    assert user.run(box, "sh", "-c", "chmod 000 a.txt d .")["exit_code"] == 0
    assert user.run(box, "ls")["exit_code"] == 0
    assert user.run(box, "chmod", "000", ".")["exit_code"] == 0
    assert user.download(box)["a.txt"] == "1"
