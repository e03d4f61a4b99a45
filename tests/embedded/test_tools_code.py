"""The code-executor server's tools, in real isolation."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.embedded.isolation_support import LEVELS
from tests.embedded.sandboxed import Box, new_box

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", params=LEVELS)
def box(request: pytest.FixtureRequest) -> Iterator[Box]:
    with new_box(request.param) as box:
        yield box


def succeed(box: Box, name: str, **arguments: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(box.text("code-executor", name, **arguments))
    assert answer["status"] == "success"
    return answer


def fail(box: Box, name: str, **arguments: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(box.failure("code-executor", name, **arguments))
    assert answer["status"] == "error"
    return answer


def test_code_is_kept_and_runs_in_the_workspace(box: Box) -> None:
    box.files.write_bytes("data.csv", b"1,2\n")
    answer = succeed(box, "execute_code", code="print(open('data.csv').read().strip())", filename="job.py")
    assert answer["output"] == "1,2\n"
    assert re.fullmatch(r"job_[0-9a-f]{8}\.py", answer["generated_filename"])
    assert answer["file_path"] == f"{box.root}/{answer['generated_filename']}"
    assert (box.workspace / answer["generated_filename"]).exists()
    assert succeed(box, "execute_code", code="print('ü')")["generated_filename"].startswith("code_")


def test_warnings_do_not_hide_the_output(box: Box) -> None:
    answer = succeed(box, "execute_code", code="import sys; print('out'); print('careful', file=sys.stderr)")
    assert (answer["output"], answer["stderr"]) == ("out\n", "careful\n")


def test_a_failure_shows_the_traceback(box: Box) -> None:
    answer = fail(box, "execute_code", code="print('before')\n1 / 0")
    assert answer["output"] == "before\n"
    assert "exit code 1" in answer["error"]
    assert "ZeroDivisionError: division by zero" in answer["error"]
    assert "exit code 7" in fail(box, "execute_code", code="raise SystemExit(7)")["error"]


def test_code_that_does_not_end_is_ended(box: Box) -> None:
    quick = replace(box, limits=replace(box.limits, wall_seconds=1.0))
    answer = fail(quick, "execute_code", code="print('begun')\nwhile True: pass")
    assert answer["error"].startswith("The code timed out after 1 seconds")
    assert answer["output"] == "begun\n"


def test_a_file_built_up_in_parts(box: Box) -> None:
    started = succeed(box, "initialize_code_file", content="x = 6\n", filename="lib/long.py")
    path = started["file_path"]
    assert re.fullmatch(re.escape(box.root) + r"/lib/long_[0-9a-f]{8}\.py", path)
    assert succeed(box, "append_to_code_file", file_path=path, content="print(x * 7)\n")["file_path"] == path
    assert succeed(box, "read_code_file", file_path=path)["content"] == "x = 6\nprint(x * 7)\n"
    assert succeed(box, "execute_code_file", file_path=path)["output"] == "42\n"
    relative = path.removeprefix(f"{box.root}/")
    assert succeed(box, "execute_code_file", file_path=relative)["output"] == "42\n"


@pytest.mark.parametrize("name", ["append_to_code_file", "execute_code_file", "read_code_file"])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none.py", "ENOENT: no such file or directory"),
        ("/etc/passwd", "Access denied - path outside allowed directories: /etc/passwd"),
        ("../x.py", "Access denied - path outside allowed directories"),
    ],
)
def test_files_that_cannot_be_used(box: Box, name: str, path: str, message: str) -> None:
    more = {"content": "x"} if name.startswith("append") else {}
    assert message in fail(box, name, file_path=path, **more)["error"]


def test_nothing_is_written_outside(box: Box) -> None:
    for filename in ("../evil", "/tmp/evil", "a/../../evil"):
        assert "Access denied" in fail(box, "execute_code", code="print(1)", filename=filename)["error"]


def test_packages(box: Box) -> None:
    answer = succeed(box, "check_installed_packages", packages=["json", "no_such_package", "not a name; at all"])
    assert answer["all_installed"] is False
    assert answer["not_installed"] == ["no_such_package", "not a name; at all"]
    assert answer["package_details"]["json"]["installed"] is True
    assert fail(box, "check_installed_packages", packages=[])["error"] == "No packages specified"


def test_installing_says_that_there_is_no_network_and_what_to_do(box: Box) -> None:
    answer = fail(box, "install_dependencies", packages=["no-such-package==1.0", "json"])
    assert "Cannot install no-such-package==1.0: this sandbox has no network" in answer["error"]
    assert "--klavis-python" in answer["error"]
    answer = succeed(box, "install_dependencies", packages=["json"])
    assert answer["output"] == "Requirement already satisfied: json"


def test_a_virtual_environment_of_the_workspace_is_used() -> None:
    with new_box() as box:
        before = succeed(box, "get_environment_config")["config"]
        assert before["type"] == "venv"
        prefix = succeed(box, "execute_code", code="import sys; print(sys.executable)")["output"].strip()
        assert prefix.startswith(before["venv_path"])
        assert "venv_path is required" in fail(box, "configure_environment", type="venv")["error"]
        assert "no bin/python" in fail(box, "configure_environment", type="venv", venv_path="env")["error"]
        assert "no conda" in fail(box, "configure_environment", type="conda", conda_name="base")["error"]
        assert "type: Input should be" in box.failure("code-executor", "configure_environment", type="docker")
        made = box.text("terminal", "run_command", command="python -m venv --without-pip env")
        assert made.endswith("return code: 0")
        answer = succeed(box, "configure_environment", type="venv", venv_path="env")
        assert answer["current"] == {"type": "venv", "venv_path": f"{box.root}/env"}
        assert answer["previous"] == before
        assert succeed(box, "execute_code", code="import sys; print(sys.prefix)")["output"] == f"{box.root}/env\n"
