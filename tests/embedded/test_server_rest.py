"""The REST calls as their reference has them: bodies, statuses, and who may come in."""

from __future__ import annotations

import contextlib
import http.client
import socket
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.embedded.conftest import User, wait_until


def _problems(user: User, body: object) -> list[dict[str, Any]]:
    answer = user.api.post("/local-sandbox", json=body)
    assert answer.status_code == 422
    found: list[dict[str, Any]] = answer.json()["detail"]
    assert all({"type", "loc", "msg"} <= item.keys() for item in found)
    return found


def test_acquire_answers_as_the_reference_has_it(user: User) -> None:
    found = user.acquire("filesystem", "git", benchmark="MCP_Atlas", test_account_email="a@b.c", ttl_seconds=600)
    assert found["status"] == "occupied"
    assert found["benchmark"] == "MCP_Atlas"
    assert str(uuid.UUID(found["local_sandbox_id"])) == found["local_sandbox_id"]
    assert [server["server_name"] for server in found["servers"]] == ["filesystem", "git"]
    server = found["servers"][0]
    assert server["id"] != found["local_sandbox_id"]
    assert server["mcp_server_url"] == (
        f"{user.found['url']}/filesystem/mcp/?local_sandbox_id={found['local_sandbox_id']}"
    )
    assert server["metadata"]["backend"] == "embedded"
    assert server["metadata"]["isolation"] == user.found["isolation"]
    if server["metadata"]["isolation"] == "strict":
        assert server["metadata"]["root"] == "/data"


def test_get_and_list_know_it_until_it_is_released(user: User) -> None:
    sandbox = user.acquire()["local_sandbox_id"]
    info = user.api.get(f"/local-sandbox/{sandbox}").json()
    assert info["local_sandbox_id"] == sandbox
    assert info["created_at"]
    listed = user.api.get("/local-sandbox").json()
    assert info in listed["local_sandboxes"]
    assert listed["total_count"] == len(listed["local_sandboxes"])
    released = user.api.delete(f"/local-sandbox/{sandbox}")
    assert released.status_code == 200
    assert f"Local sandbox release started for {sandbox}" in released.json()["message"]
    for method, path in [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/reset"),
        ("POST", "/initialize"),
        ("POST", "/upload-url"),
        ("GET", "/dump"),
        ("POST", "/run"),
    ]:
        gone = user.api.request(method, f"/local-sandbox/{sandbox}{path}", json={"argv": ["true"]})
        assert gone.status_code == 404, (method, path)
        assert sandbox in gone.json()["detail"]
    wait_until(lambda: not (user.run_dir / "workspaces" / sandbox).exists())


def test_all_lists_what_this_backend_has_not(user: User) -> None:
    found = user.acquire()
    everything = user.api.post("/local-sandbox", json={"server_names": "ALL"}).json()
    served = {item["server_name"] for item in everything["servers"] if item["status"] == "occupied"}
    missing = {item["server_name"]: item for item in everything["servers"] if item["status"] == "error"}
    assert "filesystem" in served
    assert missing["arxiv"]["mcp_server_url"] is None
    assert "'arxiv'" in missing["arxiv"]["metadata"]["reason"]
    assert found["local_sandbox_id"] != everything["local_sandbox_id"]


@pytest.mark.parametrize(
    ("body", "loc", "words"),
    [
        ({}, ["body", "server_names"], "Field required"),
        ({"server_names": "filesystem"}, ["body", "server_names"], "list of server names or 'ALL'"),
        ({"server_names": []}, ["body", "server_names"], "at least one of 'filesystem'"),
        ({"server_names": ["filesystm"]}, ["body", "server_names", 0], "did you mean 'filesystem'?"),
        ({"server_names": ["git", "arxiv"]}, ["body", "server_names", 1], "no server 'arxiv' yet; it has 'filesystem'"),
        ({"server_names": ["github"]}, ["body", "server_names", 0], "'github' is a remote server"),
        ({"server_names": [7]}, ["body", "server_names", 0], "no server 7"),
        ({"server_names": ["git"], "benchmark": "Toolathon"}, ["body", "benchmark"], "'MCP_Atlas' or 'Toolathlon'"),
        ({"server_names": ["git"], "benchmark": ["x"]}, ["body", "benchmark"], "'MCP_Atlas' or 'Toolathlon'"),
        ({"server_names": ["git"], "ttl_seconds": 59}, ["body", "ttl_seconds"], "from 60 to 86400 seconds"),
        ({"server_names": ["git"], "ttl_seconds": 86401}, ["body", "ttl_seconds"], "from 60 to 86400 seconds"),
        ({"server_names": ["git"], "ttl_seconds": True}, ["body", "ttl_seconds"], "valid integer"),
        ({"server_names": ["git"], "ttl_seconds": 90.5}, ["body", "ttl_seconds"], "valid integer"),
        ({"server_names": ["git"], "ttl_seconds": "90"}, ["body", "ttl_seconds"], "valid integer"),
        ({"server_names": ["git"], "test_account_email": 5}, ["body", "test_account_email"], "valid string"),
        (["git"], ["body"], "JSON object"),
    ],
)
def test_a_wrong_body_is_told_where_and_what_is_allowed(user: User, body: object, loc: list[Any], words: str) -> None:
    (problem,) = _problems(user, body)
    assert problem["loc"] == loc
    assert words in problem["msg"]


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity"])
@pytest.mark.parametrize("body", ['{"server_names": [%s]}', '{"server_names": ["git"], "ttl_seconds": %s}'])
def test_numbers_that_are_none_are_no_json(user: User, body: str, number: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = user.api.post("/local-sandbox", content=body % number, headers=headers)
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"][0]["msg"].startswith("JSON decode error: ")


@pytest.mark.parametrize("tags", ["[" * 20_000, "{", "NaN", "7", "[]", '"a"'])
def test_tags_that_are_no_json_are_refused(user: User, tags: str) -> None:
    answer = user.api.get("/sandbox", params={"tags": tags})
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"][0]["loc"] == ["query", "tags"]


def test_all_problems_of_a_body_are_told_at_once(user: User) -> None:
    assert len(_problems(user, {"server_names": ["a", "b"], "benchmark": "x", "ttl_seconds": 1})) == 4


def test_unknown_fields_and_null_are_accepted(user: User) -> None:
    user.acquire(ttl_seconds=None, benchmark=None, test_account_email=None, something_new={"a": 1})
    user.acquire(ttl_seconds=600.0)  # an integer, in JSON
    assert user.api.get("/sandbox", params={"tags": '{"a": "b"}'}).status_code == 200


def test_the_description_takes_no_key(user: User) -> None:
    answer = user.api.get("/openapi.json", headers={"Authorization": ""})
    assert answer.status_code == 200
    assert "/local-sandbox/{local_sandbox_id}/run" in answer.json()["paths"]


@pytest.mark.parametrize("body", ["", "{", '{"a": NaN}', "[" * 100_000, "\xff", "7" * 5_000])
def test_a_body_that_is_no_json_is_a_422(user: User, body: str) -> None:
    answer = user.api.post("/local-sandbox", content=body.encode("latin-1"))
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body"]


def test_remote_sandboxes_are_refused_with_a_reason(user: User) -> None:
    answer = user.api.post("/sandbox/github", json={})
    assert answer.status_code == 422
    assert "no remote server yet" in answer.json()["detail"][0]["msg"]
    assert "POST /local-sandbox" in user.api.post("/sandbox/git").json()["detail"][0]["msg"]
    assert "did you mean 'github'" in user.api.post("/sandbox/gihub").json()["detail"][0]["msg"]
    assert user.api.get("/sandbox").json() == {"sandboxes": [], "total_count": 0}
    assert user.api.get("/sandbox", params={"tags": "{"}).status_code == 422
    for method, path in [("GET", ""), ("DELETE", ""), ("POST", "/reset"), ("POST", "/initialize"), ("GET", "/dump")]:
        answer = user.api.request(method, f"/sandbox/github/x{path}")
        assert answer.status_code == 404
        assert "no remote sandboxes yet" in answer.json()["detail"]


def test_region_is_accepted_and_checked(user: User) -> None:
    sandbox = user.acquire()["local_sandbox_id"]
    for method, path in [("POST", "upload-url"), ("POST", "initialize"), ("GET", "dump")]:
        wrong = user.api.request(method, f"/local-sandbox/{sandbox}/{path}", params={"region": "eu"})
        assert wrong.status_code == 422
        assert wrong.json()["detail"][0]["loc"] == ["query", "region"]
    assert user.api.post(f"/local-sandbox/{sandbox}/upload-url", params={"region": "asia"}).status_code == 200


def test_the_key_is_asked_for(user: User) -> None:
    without = user.api.get("/local-sandbox", headers={"Authorization": ""})
    assert without.status_code == 401
    assert without.headers["www-authenticate"] == "Bearer"
    wrong = user.api.get("/local-sandbox", headers={"Authorization": "Bearer wrong"})
    assert wrong.status_code == 403
    assert wrong.json() == {"detail": "Invalid API key"}
    assert user.api.get("/local-sandbox", headers={"Authorization": "Basic eDp5"}).status_code == 401
    assert "key" not in user.found["repr"] or user.found["key"] not in user.found["repr"]


def test_unknown_paths_and_methods_are_json_too(user: User) -> None:
    assert user.api.get("/nothing").json() == {"detail": "Not Found"}
    answer = user.api.put("/local-sandbox", json={})
    assert answer.status_code == 405
    assert answer.json() == {"detail": "Method Not Allowed"}
    assert sorted(answer.headers["allow"].split(", ")) == ["GET", "POST"]
    assert user.api.head("/local-sandbox").status_code == 405


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "[::1", "10.0.0.1"])
def test_a_foreign_host_is_turned_away_everywhere(user: User, host: str) -> None:
    for path in ("/local-sandbox", "/git/mcp/?local_sandbox_id=x", "/storage/a/dumps/b", "/nothing"):
        answer = user.api.get(path, headers={"Host": host})
        assert answer.status_code == 403
        assert "is not allowed" in answer.json()["detail"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example", "http://["])
def test_a_foreign_origin_is_turned_away_everywhere(user: User, origin: str) -> None:
    for path in ("/local-sandbox", "/git/mcp/?local_sandbox_id=x", "/storage/a/dumps/b"):
        assert user.api.get(path, headers={"Origin": origin}).status_code == 403


def test_this_machine_is_let_in_by_its_names(user: User) -> None:
    port = user.found["url"].rpartition(":")[2]
    for name in (f"localhost:{port}", f"127.0.0.1:{port}", "LOCALHOST", f"[::1]:{port}"):
        answer = user.api.get("/local-sandbox", headers={"Host": name, "Origin": "http://localhost:3000"})
        assert answer.status_code == 200, name
    found = user.api.post("/local-sandbox", json={"server_names": ["git"]}, headers={"Host": f"localhost:{port}"})
    assert found.json()["servers"][0]["mcp_server_url"].startswith(f"http://localhost:{port}/git/mcp/")


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(user: User) -> None:
    connection = http.client.HTTPConnection(user.found["url"].removeprefix("http://"))
    try:
        connection.putrequest("POST", "/local-sandbox")
        connection.putheader("Authorization", f"Bearer {user.found['key']}")
        connection.putheader("Content-Length", str(17 << 20))
        connection.endheaders()
        assert connection.getresponse().status == 413
    finally:
        connection.close()


def test_a_chunked_body_that_is_too_large_is_refused(user: User) -> None:
    def chunks() -> Any:
        for _ in range(20):
            yield b" " * (1 << 20)

    assert user.api.post("/local-sandbox", content=chunks()).status_code == 413


def test_clients_that_misbehave_do_not_hurt_the_server(user: User) -> None:
    host, port = user.found["url"].removeprefix("http://").split(":")
    half = f"POST /local-sandbox HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {user.found['key']}\r\n"
    for rubbish in (
        b"\x16\x03\x01\x02\x00",  # TLS
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /%00%ff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        f"{half}Content-Length: 100\r\n\r\n{{".encode(),  # and hangs up in the middle
        f"{half}Content-Length: -1\r\n\r\n".encode(),
        f"{half}Transfer-Encoding: chunked\r\n\r\nzz\r\n".encode(),
        b"A" * 200_000,
    ):
        connection = socket.create_connection((host, int(port)), timeout=10)
        with connection, contextlib.suppress(OSError):  # it may have hung up by then
            connection.sendall(rubbish)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1 << 16)
    assert user.acquire()["status"] == "occupied"


def test_each_failed_request_is_one_line_in_the_log_without_its_query(user: User) -> None:
    user.api.get("/local-sandbox/log-me-please?secret=yes")

    def lines() -> list[str]:
        log = (user.run_dir / "server.log").read_text()
        return [line for line in log.splitlines() if "'/local-sandbox/log-me-please'" in line]

    wait_until(lambda: bool(lines()))  # the answer may come before the line
    (line,) = lines()
    log = (user.run_dir / "server.log").read_text()
    assert "GET" in line
    assert "404" in line
    assert "secret=yes" not in log


def test_reset_empties_workspace_and_keeps_the_sandbox(user: User) -> None:
    sandbox = user.acquire("filesystem", "terminal")["local_sandbox_id"]
    assert user.upload(sandbox, {"a/b.txt": "text"}).status_code == 200
    assert user.run(sandbox, "sh", "-c", "echo x > made; mkdir -p d/e; chmod 0 d; echo h > ~/h")["exit_code"] == 0
    assert user.api.post(f"/local-sandbox/{sandbox}/reset").json() == {}
    assert user.download(sandbox) == {}
    assert user.run(sandbox, "sh", "-c", "ls -A . ; cat ~/h")["stdout"] == ""
    again = user.api.post(f"/local-sandbox/{sandbox}/initialize")
    assert again.status_code == 409  # the upload went with the reset
    assert user.api.get(f"/local-sandbox/{sandbox}").json()["status"] == "occupied"


def test_hundreds_of_idle_sandboxes_are_cheap(user: User) -> None:
    def memory() -> int:
        lines = Path(f"/proc/{user.server_pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    before = memory()
    ids = [user.acquire("filesystem", "git", "terminal")["local_sandbox_id"] for _ in range(300)]
    assert memory() - before < 6_000  # KiB: 20 each
    for sandbox in ids:
        assert user.api.delete(f"/local-sandbox/{sandbox}").status_code == 200
    wait_until(lambda: not any((user.run_dir / "workspaces" / sandbox).exists() for sandbox in ids), 60)
