"""MCP over HTTP: both eras by hand, byte for byte, and with the client of the `mcp` package."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
import uuid
from typing import Any

import httpx
import pytest

from tests.embedded.conftest import User, processes_with, wait_until

SESSION_VERSIONS = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]
STATELESS = "2026-07-28"
META = "io.modelcontextprotocol/"


class Mcp:
    """A client made of single POSTs."""

    def __init__(self, user: User, server: str = "filesystem", **more: object) -> None:
        self.sandbox = user.acquire("filesystem", "terminal", **more)
        self.id = self.sandbox["local_sandbox_id"]
        self.url = next(s["mcp_server_url"] for s in self.sandbox["servers"] if s["server_name"] == server)
        self.root = self.sandbox["servers"][0]["metadata"]["root"]
        self.http = httpx.Client(timeout=60)

    def post(self, body: object, **headers: str) -> httpx.Response:
        return self.http.post(self.url, json=body, headers={name.replace("_", "-"): v for name, v in headers.items()})

    def ask(self, method: str, params: Any = None, **headers: str) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}
        answer = self.post(body, **headers).json()
        assert answer["id"] == 1
        return answer.get("result", answer.get("error"))

    def begin(self, version: str = "2025-11-25") -> dict[str, str]:
        """Initialize; the headers of the session."""
        params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        answer = self.post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
        assert answer.status_code == 200
        spoken = answer.json()["result"]["protocolVersion"]
        return {"Mcp_Session_Id": answer.headers["mcp-session-id"], "MCP_Protocol_Version": spoken}

    def stateless(self, method: str, params: dict[str, Any] | None = None, **headers: str) -> httpx.Response:
        meta = {f"{META}protocolVersion": STATELESS, f"{META}clientCapabilities": {}}
        named = {"Mcp_Name": params["name"]} if params and method == "tools/call" else {}
        said = {"MCP_Protocol_Version": STATELESS, "Mcp_Method": method, **named, **headers}
        body = {"jsonrpc": "2.0", "id": "a", "method": method, "params": {**(params or {}), "_meta": meta}}
        return self.post(body, **said)


@pytest.fixture
def mcp(user: User) -> Any:
    client = Mcp(user)
    yield client
    client.http.close()


@pytest.fixture
def terminal(user: User) -> Any:
    client = Mcp(user, "terminal")
    yield client
    client.http.close()


def _command(mcp: Mcp, line: str) -> dict[str, Any]:
    name = mcp.ask("tools/list")["tools"][0]["name"]
    return {"name": name, "arguments": {"command": line}}


# --- session era


@pytest.mark.parametrize("version", SESSION_VERSIONS)
def test_a_session_from_initialize_to_delete(mcp: Mcp, version: str) -> None:
    session = mcp.begin(version)
    assert session["MCP_Protocol_Version"] == version
    noted = mcp.post({"jsonrpc": "2.0", "method": "notifications/initialized"}, **session)
    assert (noted.status_code, noted.content) == (202, b"")
    assert mcp.ask("ping", **session) == {}
    tools = mcp.ask("tools/list", **session)["tools"]
    assert {"name", "description", "inputSchema"} <= tools[0].keys()
    arguments = {"path": f"{mcp.root}/a.txt", "content": "text"}
    made = mcp.ask("tools/call", {"name": _name(tools, "write_file"), "arguments": arguments}, **session)
    assert made["isError"] is False, made
    ended = mcp.http.delete(mcp.url, headers={"Mcp-Session-Id": session["Mcp_Session_Id"]})
    assert ended.status_code == 200
    late = mcp.post({"jsonrpc": "2.0", "id": 7, "method": "ping"}, **session)
    assert late.status_code == 404
    assert late.json()["id"] == 7
    assert "Session not found" in late.json()["error"]["message"]


def _name(tools: list[dict[str, Any]], end: str) -> str:
    return next(str(tool["name"]) for tool in tools if tool["name"].endswith(end))


def test_an_unknown_version_is_answered_with_the_newest_that_has_sessions(mcp: Mcp) -> None:
    for asked in ("1999-01-01", STATELESS, None, 7):
        params = {"protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        assert mcp.ask("initialize", params)["protocolVersion"] == "2025-11-25"


def test_initialize_says_who_answers_and_what_it_can(mcp: Mcp) -> None:
    result = mcp.ask("initialize", {"protocolVersion": "2025-06-18"})
    assert result["serverInfo"]["name"] == "klavis-filesystem"
    assert list(result["capabilities"]) == ["tools"]


def test_both_spellings_of_the_url_lead_there(mcp: Mcp) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    assert "/mcp/?" in mcp.url
    assert mcp.http.post(mcp.url.replace("/mcp/?", "/mcp?"), json=body).json()["result"] == {}


def test_state_is_the_sandboxes_and_not_the_sessions(mcp: Mcp) -> None:
    one, two = mcp.begin(), mcp.begin()
    assert one["Mcp_Session_Id"] != two["Mcp_Session_Id"]
    tools = mcp.ask("tools/list", **one)["tools"]
    path = f"{mcp.root}/seen.txt"
    mcp.ask("tools/call", {"name": _name(tools, "write_file"), "arguments": {"path": path, "content": "hi"}}, **one)
    arguments = {"path": path}
    read = mcp.ask("tools/call", {"name": _name(tools, "read_text_file"), "arguments": arguments}, **two)
    assert "hi" in read["content"][0]["text"]


def test_a_session_belongs_to_one_server_of_one_sandbox(user: User, mcp: Mcp) -> None:
    session = mcp.begin()
    other = Mcp(user)
    assert other.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}, **session).status_code == 404
    other.http.close()
    mcp.url = mcp.url.replace("/filesystem/", "/terminal/")
    assert mcp.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}, **session).status_code == 404


def test_get_is_not_allowed_and_delete_wants_a_session(mcp: Mcp) -> None:
    refused = mcp.http.get(mcp.url, headers={"Accept": "text/event-stream"})
    assert refused.status_code == 405
    assert refused.headers["allow"] == "POST, DELETE"
    assert mcp.http.delete(mcp.url).status_code == 400
    assert mcp.http.delete(mcp.url, headers={"Mcp-Session-Id": "x"}).status_code == 404


def test_batches_exist_where_the_version_has_them(mcp: Mcp) -> None:
    batch = [
        {"jsonrpc": "2.0", "id": 1, "method": "ping"},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": "b", "method": "nothing"},
        {"jsonrpc": "2.0", "id": 3, "method": "initialize", "params": {}},
        7,
    ]
    for version in ("2024-11-05", "2025-03-26"):
        answers = mcp.post(batch, **mcp.begin(version)).json()
        assert [answer["id"] for answer in answers] == [1, "b", 3, None]
        assert answers[0]["result"] == {}
        assert [answer["error"]["code"] for answer in answers[1:]] == [-32601, -32600, -32600]
    for version in ("2025-06-18", "2025-11-25"):
        refused = mcp.post(batch, **mcp.begin(version))
        assert refused.status_code == 400
        assert "no batches" in refused.json()["error"]["message"]
    assert mcp.post(batch[1:2], **mcp.begin("2025-03-26")).status_code == 202
    assert mcp.post([], **mcp.begin("2025-03-26")).status_code == 400


def _read(request_id: int, path: str) -> dict[str, Any]:
    params = {"name": "filesystem_read_text_file", "arguments": {"path": path}}
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


def _write(request_id: int, path: str) -> dict[str, Any]:
    params = {"name": "filesystem_write_file", "arguments": {"path": path, "content": ""}}
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


def test_an_answer_of_many_bytes_says_how_to_get_less(user: User, mcp: Mcp) -> None:
    assert user.run(mcp.id, "sh", "-c", r"head -c 4M /dev/zero | tr '\0' '\1' > ones; head -c 3M ones > some")
    big = mcp.post(_read(1, "ones"))
    assert len(big.content) < 1_000
    assert big.json()["result"]["isError"] is True
    assert "at most 16777216" in big.json()["result"]["content"][0]["text"]
    modern = mcp.stateless("tools/call", {"name": "filesystem_read_text_file", "arguments": {"path": "ones"}}).json()
    assert (modern["result"]["isError"], modern["result"]["resultType"]) == (True, "complete")


def test_the_answers_of_a_batch_share_one_budget_in_order(user: User, mcp: Mcp) -> None:
    user.run(mcp.id, "sh", "-c", r"head -c 3M /dev/zero | tr '\0' x > text")
    batch = [*(_read(number, "text") for number in range(20)), _write(20, "late")]
    answer = mcp.post(batch, **mcp.begin("2025-03-26"))
    assert len(answer.content) <= 16 << 20
    answers = answer.json()
    assert [one["id"] for one in answers] == list(range(21))
    assert [one["result"]["isError"] for one in answers[:3]] == [False, False, True]  # each has its text twice
    assert "fewer things in one batch" in answers[2]["result"]["content"][0]["text"]
    assert all("not carried out" in one["error"]["message"] for one in answers[3:])
    assert "late" not in user.download(mcp.id)


def test_a_batch_is_carried_out_in_order(mcp: Mcp) -> None:
    move = {"name": "filesystem_move_file", "arguments": {"source": "a", "destination": "b"}}
    moved = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": move}
    answers = mcp.post([_write(1, "a"), moved, _read(3, "b")], **mcp.begin("2025-03-26")).json()
    assert [one["result"]["isError"] for one in answers] == [False] * 3


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b'{"jsonrpc": "2.0", "id": NaN, "method": "ping"}', -32700),
        (b'{"jsonrpc": "2.0", "id": 1e999, "method": "ping"}', -32700),
        (b"[" * 100_000, -32700),
        (b"7", -32600),
        (b'"ping"', -32600),
        (b'{"id": 1, "method": "ping"}', -32600),
        (b'{"jsonrpc": "2.0", "id": null, "method": "ping"}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1.5, "method": "ping"}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": 5}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": [1]}', -32602),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "resources/list"}', -32601),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call"}', -32602),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "none"}}', -32602),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"cursor": "2"}}', -32602),
    ],
)
def test_what_is_no_request_is_a_json_rpc_error(mcp: Mcp, body: bytes, code: int) -> None:
    answer = mcp.http.post(mcp.url, content=body, headers={"Content-Type": "application/json"})
    assert answer.json()["error"]["code"] == code
    assert answer.status_code == (400 if answer.json()["id"] is None else 200)


def test_odd_text_comes_back_as_json(mcp: Mcp) -> None:
    body = b'{"jsonrpc": "2.0", "id": "\\ud800", "method": "tools/call", "params": {"name": "\\udc00 \\u00fc"}}'
    answer = mcp.http.post(mcp.url, content=body, headers={"Content-Type": "application/json"})
    assert answer.json()["id"] == "\ud800"
    assert "Unknown tool: \udc00 ü" in answer.json()["error"]["message"]


def test_only_json_is_spoken(mcp: Mcp) -> None:
    body = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}'
    assert mcp.http.post(mcp.url, content=body, headers={"Content-Type": "text/plain"}).status_code == 415
    assert mcp.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}, Accept="text/event-stream").status_code == 406
    assert mcp.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}, Accept="text/html, */*;q=0.1").status_code == 200


def test_responses_of_the_client_are_accepted(mcp: Mcp) -> None:
    assert mcp.post({"jsonrpc": "2.0", "id": 1, "result": {}}).status_code == 202


def test_a_url_that_leads_nowhere_is_a_404_with_the_requests_id(user: User, mcp: Mcp) -> None:
    body = {"jsonrpc": "2.0", "id": 5, "method": "initialize", "params": {}}
    base = user.found["url"]
    for url, words in [
        (f"{base}/filesystem/mcp/?local_sandbox_id={uuid.uuid4()}", "was released"),
        (f"{base}/filesystem/mcp/", "?local_sandbox_id="),
        (f"{base}/git/mcp/?local_sandbox_id={mcp.id}", "has no server 'git'; it has 'filesystem', 'terminal'"),
        (f"{base}/nothing/mcp/?local_sandbox_id={mcp.id}", "has no server 'nothing'"),
    ]:
        answer = mcp.http.post(url, json=body)
        assert answer.status_code == 404
        assert answer.json()["id"] == 5
        assert words in answer.json()["error"]["message"]
        assert mcp.http.get(url).status_code == 404


def test_a_released_sandbox_is_gone_for_its_sessions(user: User, mcp: Mcp) -> None:
    session = mcp.begin()
    user.api.delete(f"/local-sandbox/{mcp.id}")
    assert mcp.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}, **session).status_code == 404


def test_many_sessions_do_not_pile_up(mcp: Mcp) -> None:
    first = mcp.begin()
    for _ in range(1_000):
        mcp.begin()
    assert mcp.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}, **first).status_code == 404


def test_the_benchmark_decides_what_tools_there_are(user: User, mcp: Mcp) -> None:
    atlas = Mcp(user, benchmark="MCP_Atlas")
    plain = {tool["name"] for tool in mcp.ask("tools/list")["tools"]}
    flavoured = {tool["name"] for tool in atlas.ask("tools/list")["tools"]}
    atlas.http.close()
    assert "filesystem_read_file" in plain
    assert "read_file" in flavoured


# --- stateless era


def test_stateless_requests_stand_alone(mcp: Mcp) -> None:
    found = mcp.stateless("server/discover")
    assert "mcp-session-id" not in found.headers
    result = found.json()["result"]
    assert result["supportedVersions"] == [STATELESS]
    assert result["resultType"] == "complete"
    assert result["cacheScope"] == "private"
    assert isinstance(result["ttlMs"], int)
    assert result["_meta"][f"{META}serverInfo"]["name"] == "klavis-filesystem"
    tools = mcp.stateless("tools/list").json()["result"]
    assert {"ttlMs", "cacheScope", "resultType", "_meta", "tools"} == tools.keys()
    arguments = {"path": f"{mcp.root}/a", "content": "b"}
    done = mcp.stateless("tools/call", {"name": _name(tools["tools"], "write_file"), "arguments": arguments})
    assert done.json()["result"]["isError"] is False
    assert done.json()["result"]["resultType"] == "complete"


def test_stateless_requests_are_checked_as_the_reference_does(mcp: Mcp) -> None:
    bare = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    headers = {"MCP_Protocol_Version": STATELESS, "Mcp_Method": "tools/list"}
    cases = [
        (mcp.post(bare, **headers), 400, -32602),
        (mcp.post({**bare, "params": {"_meta": {f"{META}protocolVersion": STATELESS}}}, **headers), 400, -32602),
        (mcp.stateless("tools/list", Mcp_Method="tools/call"), 400, -32020),
        (mcp.stateless("tools/list", MCP_Protocol_Version="2027-01-01"), 400, -32020),
        (mcp.stateless("tools/call", {"name": "a"}, Mcp_Name="b"), 400, -32020),
        (mcp.stateless("nothing/here"), 404, -32601),
        (mcp.stateless("ping"), 404, -32601),
        (mcp.stateless("initialize"), 404, -32601),
        (mcp.stateless("tools/call", {"name": "none"}), 400, -32602),
        (mcp.post([bare], **headers), 400, -32600),
    ]
    for answer, status, code in cases:
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    meta = {f"{META}protocolVersion": "2027-01-01", f"{META}clientCapabilities": {}}
    future = mcp.post({**bare, "params": {"_meta": meta}}, MCP_Protocol_Version="2027-01-01", Mcp_Method="tools/list")
    assert future.json()["error"]["code"] == -32022
    assert future.json()["error"]["data"] == {"supported": [STATELESS], "requested": "2027-01-01"}
    assert mcp.post({"jsonrpc": "2.0", "method": "notifications/x"}, **headers).status_code == 202
    assert mcp.http.delete(mcp.url, headers={"MCP-Protocol-Version": STATELESS}).status_code == 405


# --- calls that are ended


def _in_background(call: Any) -> tuple[threading.Thread, list[httpx.Response]]:
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    return thread, answers


def _sleeping() -> tuple[str, str]:
    """A command that runs long enough to be ended, and the number in it by which it is found."""
    seconds = f"{300}.{time.monotonic_ns()}"
    return f"sleep {seconds}", seconds


def test_a_release_ends_a_running_call_and_its_processes(user: User, terminal: Mcp) -> None:
    command, mark = _sleeping()
    call = _command(terminal, command)
    body = {"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": call}
    thread, answers = _in_background(lambda: httpx.post(terminal.url, json=body, timeout=60))
    wait_until(lambda: processes_with(mark))
    user.api.delete(f"/local-sandbox/{terminal.id}")
    thread.join(20)
    assert answers[0].json()["id"] == 9
    assert "was released" in answers[0].json()["error"]["message"]
    wait_until(lambda: not processes_with(mark))


def test_a_session_cancels_by_a_notification(terminal: Mcp) -> None:
    command, mark = _sleeping()
    session = terminal.begin()
    headers = {name.replace("_", "-"): value for name, value in session.items()}
    body = {"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": _command(terminal, command)}
    thread, answers = _in_background(lambda: httpx.post(terminal.url, json=body, headers=headers, timeout=60))
    wait_until(lambda: processes_with(mark))
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 9}}
    assert terminal.post(cancel, **terminal.begin()).status_code == 202  # of another session: nothing happens
    assert processes_with(mark)
    assert terminal.post(cancel, **session).status_code == 202
    thread.join(20)
    assert (answers[0].status_code, answers[0].content) == (202, b""), "what was cancelled gets no answer"
    wait_until(lambda: not processes_with(mark))
    assert terminal.ask("ping", **session) == {}


def test_the_end_of_a_session_ends_its_calls(terminal: Mcp) -> None:
    command, mark = _sleeping()
    session, other = terminal.begin(), terminal.begin()
    headers = {name.replace("_", "-"): value for name, value in session.items()}
    body = {"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": _command(terminal, command)}
    thread, answers = _in_background(lambda: httpx.post(terminal.url, json=body, headers=headers, timeout=60))
    wait_until(lambda: processes_with(mark))
    assert terminal.http.delete(terminal.url, headers={"Mcp-Session-Id": other["Mcp_Session_Id"]}).status_code == 200
    assert processes_with(mark)
    assert terminal.http.delete(terminal.url, headers=headers).status_code == 200
    thread.join(20)
    assert answers[0].status_code == 202
    wait_until(lambda: not processes_with(mark))


def test_the_stateless_era_cancels_by_hanging_up(terminal: Mcp) -> None:
    command, mark = _sleeping()
    call = _command(terminal, command)
    hasty = httpx.Client(timeout=httpx.Timeout(60, read=1.5))
    terminal.http.close()
    terminal.http = hasty
    with pytest.raises(httpx.ReadTimeout):
        terminal.stateless("tools/call", call)
    wait_until(lambda: not processes_with(mark), 10)


# --- the client of the `mcp` package


@pytest.mark.parametrize("mode", ["auto", "legacy", STATELESS])
def test_the_mcp_packages_client_works_in_every_mode(mcp: Mcp, mode: str) -> None:
    package = pytest.importorskip("mcp")
    if not hasattr(package, "Client"):
        pytest.skip("mcp 1.x has no Client with modes")

    async def talk() -> None:
        async with package.Client(mcp.url, mode=mode) as client:
            tools = (await client.list_tools()).tools
            write = next(tool.name for tool in tools if tool.name.endswith("write_file"))
            read = next(tool.name for tool in tools if tool.name.endswith("read_text_file"))
            path = f"{mcp.root}/grüße.txt"
            made = await client.call_tool(write, {"path": path, "content": "ünïcode"})
            assert not made.is_error
            found = await client.call_tool(read, {"path": path})
            assert "ünïcode" in found.content[0].text
            failed = await client.call_tool(read, {"path": "/etc/passwd"})
            assert failed.is_error

    asyncio.run(talk())


def test_the_mcp_packages_client_reads_why_a_sandbox_is_not_there(user: User) -> None:
    package = pytest.importorskip("mcp")
    if not hasattr(package, "Client"):
        pytest.skip("mcp 1.x has no Client with modes")

    async def talk() -> None:
        async with package.Client(f"{user.found['url']}/git/mcp/?local_sandbox_id=gone") as client:
            await client.list_tools()

    with pytest.raises(Exception) as caught:  # an ExceptionGroup or the error itself
        asyncio.run(talk())
    errors: list[BaseException] = [caught.value]
    texts = ""
    while errors:
        error = errors.pop()
        texts += str(error)
        errors += getattr(error, "exceptions", ())
    assert "Local sandbox gone not found" in texts


def test_files_go_in_as_bytes_and_come_out_as_the_tool_says(user: User, mcp: Mcp) -> None:
    packed = base64.b64encode(b"\x00\x01").decode()
    assert user.run(mcp.id, "sh", "-c", f"echo {packed} | base64 -d > blob")["exit_code"] == 0
    tools = mcp.ask("tools/list")["tools"]
    found = mcp.ask("tools/call", {"name": _name(tools, "list_directory"), "arguments": {"path": mcp.root}})
    assert "blob" in found["content"][0]["text"]
