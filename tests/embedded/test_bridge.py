"""The bridged servers at each level: real documents, what a sandbox keeps to itself, and what ends its servers."""

from __future__ import annotations

import base64
import json
import os
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.embedded.conftest import User, _places, alive, tar, wait_until
from tests.embedded.isolation_support import level_or_skip
from tests.embedded.office import Office, skip_without_servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module", params=["strict", "landlock", "none"])
def office(request: pytest.FixtureRequest) -> Iterator[User]:
    """A server at one level."""
    skip_without_servers()
    level_or_skip(request.param)
    with _places() as place:
        user = User(place, "office", request.param)
        yield user
        user.end()


def processes_of(sandbox: str) -> list[int]:
    """The processes that work in a sandbox: it is in their mounts, or they are in it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            place = (entry / "mountinfo").read_text() + str((entry / "cwd").readlink())
            if sandbox in place and alive(int(entry.name)):
                found.append(int(entry.name))
    return found


def server_process(box: Office) -> int:
    """The process of the only bridged server of a sandbox."""
    found = {pid for pid in processes_of(box.id) if b"python" in Path(f"/proc/{pid}/cmdline").read_bytes()}
    (pid,) = {pid for pid in found if not _is_supervisor(pid)}
    return pid


def _is_supervisor(pid: int) -> bool:
    """Does it only watch another?"""
    return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


# -- real work


def test_a_workbook_is_written_and_read_back(office: User) -> None:
    box = Office(office, "excel")
    path = f"{box.root}/report.xlsx"
    assert "Created workbook" in box.text("excel", "create_workbook", filepath=path)
    rows = [["name", "amount"], ["tea", 3], ["coffee", 4]]
    box.text("excel", "write_data_to_excel", filepath=path, sheet_name="Sheet1", data=rows)
    read = json.loads(box.text("excel", "read_data_from_excel", filepath=path, sheet_name="Sheet1"))
    assert [cell["value"] for cell in read["cells"]] == ["name", "amount", "tea", 3, "coffee", 4]
    assert "report.xlsx" in box.text("filesystem", "filesystem_list_directory", path=box.root)


def test_a_document_is_written_and_read_back(office: User) -> None:
    box = Office(office, "word")
    path = f"{box.root}/letter.docx"
    box.text("word", "create_document", filename=path, title="A letter")
    box.text("word", "add_paragraph", filename=path, text="Dear reader")
    assert "Dear reader" in box.text("word", "get_document_text", filename=path)
    assert "letter.docx" in box.text("word", "list_available_documents")


def test_an_open_presentation_belongs_to_the_sandbox_and_to_no_session(office: User) -> None:
    box, other = Office(office, "powerpoint"), Office(office, "powerpoint")
    made = json.loads(box.text("powerpoint", "create_presentation"))["presentation_id"]
    box.text("powerpoint", "add_slide", presentation_id=made, title="Numbers")
    box.text("powerpoint", "save_presentation", presentation_id=made, file_path="deck.pptx")
    assert "deck.pptx" in box.text("filesystem", "filesystem_list_directory", path=box.root)
    assert "Numbers" in box.text("powerpoint", "extract_presentation_text", presentation_id=made)
    elsewhere = box_says(other, "extract_presentation_text", presentation_id=made)
    assert "error" in elsewhere.lower()
    assert "Numbers" not in elsewhere


def box_says(box: Office, name: str, **arguments: Any) -> str:
    return json.dumps(box.call("powerpoint", name, **arguments))


def test_paths_below_data_mean_the_workspace_at_every_level(office: User) -> None:
    box = Office(office, "excel", "word", "powerpoint")
    box.text("excel", "create_workbook", filepath="/data/a.xlsx")
    box.text("word", "create_document", filename="/data/a.docx")
    made = json.loads(box.text("powerpoint", "create_presentation"))["presentation_id"]
    box.text("powerpoint", "save_presentation", presentation_id=made, file_path="/data/a.pptx")
    assert sorted(box.run("ls")["stdout"].split()) == ["a.docx", "a.pptx", "a.xlsx"]


def test_what_another_sandbox_or_the_machine_has_is_not_there(office: User) -> None:
    if office.found["isolation"] == "none":
        pytest.skip("none isolates nothing")
    box, other = Office(office, "excel"), Office(office, "excel")
    box.text("excel", "create_workbook", filepath=f"{box.root}/mine.xlsx")
    theirs = str(office.run_dir / "workspaces" / box.id / "workspace" / "mine.xlsx")
    for path in (theirs, f"{other.root}/../mine.xlsx"):
        assert "Error" in str(other.call("excel", "get_workbook_metadata", filepath=path)["content"])
    out = f"{office.run_dir.parent}/out.xlsx"
    other.call("excel", "create_workbook", filepath=out)
    assert not Path(out).exists()


def test_an_agent_cannot_configure_the_server_by_a_file(office: User) -> None:
    box = Office(office, "powerpoint")
    box.text("filesystem", "filesystem_write_file", path=f"{box.root}/.env", content="FASTMCP_PORT=none\n")
    box.text("filesystem", "filesystem_write_file", path=f"{box.root}/ppt_mcp_server.py", content="raise SystemExit\n")
    box.reset()
    office.upload(box.id, {".env": "FASTMCP_PORT=none\n", "ppt_mcp_server.py": "raise SystemExit\n"})
    assert "presentation_id" in box.text("powerpoint", "create_presentation")


def test_what_upstream_refuses_is_passed_on(office: User) -> None:
    box = Office(office, "excel", "word")
    assert "sheet_name" in box.failure("excel", "read_data_from_excel", filepath=f"{box.root}/a.xlsx")
    extra = box.failure("word", "get_document_text", filename="a.docx", no_such_argument=1)
    assert "no_such_argument" in extra  # so its schema says additionalProperties: false
    answer = box.ask("excel", "tools/call", name="no_such_tool", arguments={})
    assert "Unknown tool: no_such_tool" in answer["error"]["message"]
    assert "create_workbook" in answer["error"]["message"]


def test_the_oracle_finds_servers_still_and_leaves_them_as_they_were(office: User) -> None:
    box = Office(office, "powerpoint")
    made = json.loads(box.text("powerpoint", "create_presentation"))["presentation_id"]
    files = base64.b64encode(tar({"check.py": "print('checked')"})).decode()
    assert office.run(box.id, "python", "check.py", files=files)["stdout"] == "checked\n"
    box.text("powerpoint", "add_slide", presentation_id=made)


# -- ends


def test_a_reset_ends_the_server_and_what_it_held(office: User) -> None:
    box = Office(office, "powerpoint")
    made = json.loads(box.text("powerpoint", "create_presentation"))["presentation_id"]
    before = server_process(box)
    box.reset()
    assert not alive(before)
    assert "error" in box_says(box, "extract_presentation_text", presentation_id=made).lower()
    box.text("powerpoint", "create_presentation")
    box.text("powerpoint", "save_presentation", file_path="new.pptx", presentation_id="presentation_1")
    assert "new.pptx" in box.run("ls")["stdout"]


def test_a_release_leaves_no_process(office: User) -> None:
    box = Office(office, "excel", "word", "powerpoint")
    box.text("excel", "create_workbook", filepath=f"{box.root}/a.xlsx")
    assert processes_of(box.id)
    box.release()
    wait_until(lambda: not processes_of(box.id))
    wait_until(lambda: not (office.run_dir / "workspaces" / box.id).exists())


def test_a_release_while_servers_are_starting_leaves_no_process(office: User) -> None:
    box = Office(office, "excel", "word", "powerpoint")
    box.release()
    wait_until(lambda: not (office.run_dir / "workspaces" / box.id).exists())
    assert not processes_of(box.id)


def test_a_release_ends_a_running_call(office: User) -> None:
    box = Office(office, "excel")
    with stopped_call(box, "excel", "create_workbook", filepath=f"{box.root}/a.xlsx") as call:
        box.release()
        assert "was released" in call.result()["error"]["message"]
    wait_until(lambda: not processes_of(box.id))


class stopped_call:  # noqa: N801 - reads as a word
    """A call of a server that was stopped, so that it is under way for as long as the block runs."""

    def __init__(self, box: Office, server: str, name: str, **arguments: Any) -> None:
        box.tools(server)
        box.ask(server, "tools/call", name=name, arguments={**arguments, "filepath": f"{box.root}/warm.xlsx"})
        self.pid = server_process(box)
        os.kill(self.pid, signal.SIGSTOP)
        self._pool = ThreadPoolExecutor(1)
        self._sent: Future[dict[str, Any]] = self._pool.submit(
            box.ask, server, "tools/call", name=name, arguments=arguments
        )
        stdin = Path(f"/proc/{self.pid}/fd/0")
        wait_until(lambda: _waiting(stdin) or self._sent.done())

    def __enter__(self) -> Future[dict[str, Any]]:
        return self._sent

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._pool.shutdown()


def _waiting(pipe: Path) -> int:
    """How many bytes nobody has read from a process's stdin."""
    import array
    import fcntl
    import termios

    try:
        descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return 0
    try:
        count = array.array("i", [0])
        fcntl.ioctl(descriptor, termios.FIONREAD, count)
        return count[0]
    finally:
        os.close(descriptor)


def test_a_server_that_dies_in_a_call_tells_and_is_started_anew(office: User) -> None:
    box = Office(office, "excel")
    path = f"{box.root}/a.xlsx"
    with stopped_call(box, "excel", "create_workbook", filepath=path) as call:
        os.kill(server_process(box), signal.SIGKILL)
        lost = call.result()["result"]
    assert lost["isError"]
    assert "create_workbook was lost" in lost["content"][0]["text"]
    assert "137" in lost["content"][0]["text"]
    assert "Created workbook" in box.text("excel", "create_workbook", filepath=path)


def test_a_server_that_dies_between_calls_tells_when_something_was_open(office: User) -> None:
    box = Office(office, "powerpoint")
    box.text("powerpoint", "create_presentation")
    pid = server_process(box)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid))
    assert "what it held open is lost" in box.failure("powerpoint", "create_presentation")
    assert "presentation_1" in box.text("powerpoint", "create_presentation")


def test_servers_end_with_the_embedded_server(start: Callable[..., User], office: User) -> None:
    user = start("killed", office.found["isolation"])
    box = Office(user, "excel", "powerpoint")
    box.text("excel", "create_workbook", filepath=f"{box.root}/a.xlsx")
    box.text("powerpoint", "create_presentation")
    assert processes_of(box.id)
    os.kill(user.server_pid, signal.SIGKILL)
    wait_until(lambda: not processes_of(box.id))


# -- many


def test_sixteen_agents_at_once(office: User) -> None:
    def work(number: int) -> str:
        box = Office(office, "excel")
        path = f"{box.root}/{number}.xlsx"
        box.text("excel", "create_workbook", filepath=path)
        box.text("excel", "write_data_to_excel", filepath=path, sheet_name="Sheet1", data=[[number]])
        read = json.loads(box.text("excel", "read_data_from_excel", filepath=path, sheet_name="Sheet1"))
        box.release()
        return str(read["cells"][0]["value"])

    Office(office, "excel").release()  # skips here, if it has to
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, range(16))) == [str(number) for number in range(16)]


# -- where the servers are not installed


def test_without_the_servers_an_acquire_says_what_to_do(
    start: Callable[..., User], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLAVIS_SERVERS_DIR", str(tmp_path / "none"))
    user = start("bare")
    answer = user.api.post("/local-sandbox", json={"server_names": ["filesystem", "word"]})
    assert answer.status_code == 409
    assert answer.json()["detail"].startswith("word cannot be served: ")
    assert answer.json()["detail"].endswith("pytest-klavis servers install")
    everything = user.api.post("/local-sandbox", json={"server_names": "ALL"})
    assert everything.status_code == 201
    servers = {item["server_name"]: item for item in everything.json()["servers"]}
    assert servers["word"]["status"] == "error"
    assert "pytest-klavis servers install" in servers["word"]["metadata"]["reason"]
    assert servers["filesystem"]["status"] == "occupied"
