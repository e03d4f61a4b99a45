"""Each operation: the one request that is sent, and the model that is made of its answer."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from pytest_klavis.api import models
from pytest_klavis.api.client import KlavisClient
from pytest_klavis.errors import TransportError
from tests.api.conftest import KEY
from tests.api.server import FakeApi, answer, hang_up

Call = Callable[[KlavisClient], Any]

SANDBOX = {"sandbox_id": "s-1", "server_name": "github", "status": "occupied", "message": "taken"}
LOCAL = {"local_sandbox_id": "l-1", "servers": [{"id": "i-1", "server_name": "git", "mcp_server_url": "http://h/git"}]}
URL_ANSWER = {"upload_url": "https://storage.test/b?X-Goog-Signature=1", "expires_in_minutes": 30}
DONE = {"sandbox_id": "s-1", "status": "occupied", "message": "done"}


@pytest.mark.parametrize(
    ("call", "method", "path", "query", "body", "content", "expected"),
    [
        pytest.param(
            lambda c: c.acquire_sandbox(
                "github", benchmark="MCP_Atlas", test_account_email="a@b.c", tags={"run": "7"}, ttl_seconds=1800
            ),
            *("POST", "/sandbox/github", {}),
            {"benchmark": "MCP_Atlas", "test_account_email": "a@b.c", "tags": {"run": "7"}, "ttl_seconds": 1800},
            *(SANDBOX, models.CreateSandboxResponse),
            id="acquire sandbox",
        ),
        pytest.param(
            lambda c: c.acquire_sandbox("cal.com"),
            *("POST", "/sandbox/cal.com", {}, {}, SANDBOX, models.CreateSandboxResponse),
            id="acquire sandbox, nothing set",
        ),
        pytest.param(
            lambda c: c.get_sandbox("github", "s-1"),
            *("GET", "/sandbox/github/s-1", {}, None, SANDBOX, models.SandboxInfo),
            id="get sandbox",
        ),
        pytest.param(
            lambda c: c.list_sandboxes({"env": "prod"}),
            *("GET", "/sandbox", {"tags": '{"env": "prod"}'}, None),
            *({"sandboxes": [SANDBOX], "total_count": 1}, models.ListSandboxesResponse),
            id="list sandboxes",
        ),
        pytest.param(
            lambda c: c.list_sandboxes(tag="mine", server_name="github"),
            *("GET", "/sandbox", {"tag": "mine", "server_name": "github"}, None),
            *({"sandboxes": [], "total_count": 0}, models.ListSandboxesResponse),
            id="list sandboxes, newer filters",
        ),
        pytest.param(
            lambda c: c.release_sandbox("github", "s-1"),
            *("DELETE", "/sandbox/github/s-1", {}, None),
            *({"sandbox_id": "s-1", "status": "idle", "message": "released"}, models.ReleaseSandboxResponse),
            id="release sandbox",
        ),
        pytest.param(
            lambda c: c.release_sandbox("github", "s-1", instance_id="n-1"),
            *("DELETE", "/sandbox/github/s-1", {"instance_id": "n-1"}, None),
            *({"sandbox_id": "s-1", "status": "idle", "message": "released"}, models.ReleaseSandboxResponse),
            id="release sandbox, of this instance only",
        ),
        pytest.param(
            lambda c: c.reset_sandbox("github", "s-1"),
            *("POST", "/sandbox/github/s-1/reset", {}, None),
            *({"sandbox_id": "s-1", "status": "occupied", "message": "reset"}, models.ResetSandboxResponse),
            id="reset sandbox",
        ),
        pytest.param(
            lambda c: c.initialize_sandbox("github", "s-1", {"repos": []}),
            *("POST", "/sandbox/github/s-1/initialize", {}, {"repos": []}),
            *({"sandbox_id": "s-1", "status": "occupied", "message": "done"}, models.InitializeSandboxResponse),
            id="initialize sandbox",
        ),
        pytest.param(
            lambda c: c.dump_sandbox("github", "s-1"),
            *("GET", "/sandbox/github/s-1/dump", {}, None),
            *({"sandbox_id": "s-1", "data": {"repos": [{"metadata": {"colour": "aquamarine"}}]}}, dict),
            id="dump sandbox",
        ),
        pytest.param(
            lambda c: c.acquire_local_sandbox(
                ("filesystem", "git"), benchmark="Toolathlon", test_account_email="a@b.c", ttl_seconds=60
            ),
            *("POST", "/local-sandbox", {}),
            {
                "server_names": ["filesystem", "git"],
                "benchmark": "Toolathlon",
                "test_account_email": "a@b.c",
                "ttl_seconds": 60,
            },
            *(LOCAL, models.AcquireLocalSandboxResponse),
            id="acquire local sandbox",
        ),
        pytest.param(
            lambda c: c.acquire_local_sandbox("ALL"),
            *("POST", "/local-sandbox", {}, {"server_names": "ALL"}, LOCAL, models.AcquireLocalSandboxResponse),
            id="acquire local sandbox, all",
        ),
        pytest.param(
            lambda c: c.get_local_sandbox("l-1"),
            *("GET", "/local-sandbox/l-1", {}, None, {**LOCAL, "created_at": "2026-01-01"}, models.LocalSandboxInfo),
            id="get local sandbox",
        ),
        pytest.param(
            lambda c: c.list_local_sandboxes(),
            *("GET", "/local-sandbox", {}, None),
            *({"local_sandboxes": [{**LOCAL, "created_at": "x"}], "total_count": 1}, models.ListLocalSandboxesResponse),
            id="list local sandboxes",
        ),
        pytest.param(
            lambda c: c.release_local_sandbox("l-1"),
            *("DELETE", "/local-sandbox/l-1", {}, None, {"message": "started"}, type(None)),
            id="release local sandbox",
        ),
        pytest.param(
            lambda c: c.reset_local_sandbox("l-1"),
            *("POST", "/local-sandbox/l-1/reset", {}, None, {}, type(None)),
            id="reset local sandbox",
        ),
        pytest.param(
            lambda c: c.create_upload_url("l-1"),
            *("POST", "/local-sandbox/l-1/upload-url", {"region": "us"}, None, URL_ANSWER, models.UploadUrlResponse),
            id="upload url",
        ),
        pytest.param(
            lambda c: c.initialize_local_sandbox("l-1"),
            *("POST", "/local-sandbox/l-1/initialize", {"region": "us"}, None),
            *({"status": "occupied", "message": "Extracted archive"}, models.InitializeSandboxResponse),
            id="initialize local sandbox",
        ),
        pytest.param(
            lambda c: c.dump_local_sandbox("l-1"),
            *("GET", "/local-sandbox/l-1/dump", {"region": "us"}, None),
            *({"download_url": "https://storage.test/b?sig=1", "expires_in_minutes": 30}, models.DumpUrlResponse),
            id="dump local sandbox",
        ),
        pytest.param(
            lambda c: c.run_command("l-1", ["ls", "-l"], cwd="sub", env={"A": "1"}, timeout=5, files=b"tar"),
            *("POST", "/local-sandbox/l-1/run", {}),
            {
                "argv": ["ls", "-l"],
                "cwd": "sub",
                "env": {"A": "1"},
                "timeout": 5,
                "files": base64.b64encode(b"tar").decode(),
            },
            *({"exit_code": 3, "stdout": "o", "stderr": "e", "seconds": 0.5, "stopped": None}, models.RunResponse),
            id="run",
        ),
        pytest.param(
            lambda c: c.run_command("l-1", ["true"]),
            *("POST", "/local-sandbox/l-1/run", {}, {"argv": ["true"]}, {"exit_code": 0}, models.RunResponse),
            id="run, nothing set",
        ),
        pytest.param(
            lambda c: c.prepare(benchmark="Toolathlon", server_name="github"),
            *("POST", "/sandbox/prepare", {"benchmark": "Toolathlon", "server_name": "github"}, None, {}, type(None)),
            id="prepare",
        ),
        pytest.param(
            lambda c: c.prepare(),
            *("POST", "/sandbox/prepare", {}, None, {}, type(None)),
            id="prepare, nothing set",
        ),
        pytest.param(
            lambda c: c.initialize_sandbox("github", "s-1", None, init_default_data=True),
            *("POST", "/sandbox/github/s-1/initialize", {"init_default_data": "true"}, None),
            *(DONE, models.InitializeSandboxResponse),
            id="initialize sandbox, the API's own data",
        ),
        pytest.param(
            lambda c: c.initialize_local_server("canvas", "s-1", {"courses": [{"tags": {"a": 1}}]}),
            *("POST", "/local-sandbox/canvas/s-1/initialize", {}, {"courses": [{"tags": {"a": 1}}]}),
            *(DONE, models.InitializeSandboxResponse),
            id="initialize local server",
        ),
        pytest.param(
            lambda c: c.initialize_local_server("canvas", "s-1", {}, init_default_data=True),
            *("POST", "/local-sandbox/canvas/s-1/initialize", {"init_default_data": "true"}, {}),
            *(DONE, models.InitializeSandboxResponse),
            id="initialize local server, the API's own data",
        ),
        pytest.param(
            lambda c: c.dump_local_server("google_cloud", "s-1"),
            *("GET", "/local-sandbox/google_cloud/s-1/dump", {}, None),
            *({"sandbox_id": "s-1", "data": {"buckets": []}}, dict),
            id="dump local server",
        ),
        pytest.param(
            lambda c: c.create_execution_upload_url("l-1", "eval_1"),
            *("POST", "/local-sandbox/l-1/execution-upload-url", {"region": "us"}, {"execution_name": "eval_1"}),
            *(URL_ANSWER, models.UploadUrlResponse),
            id="execution upload url",
        ),
        pytest.param(
            lambda c: c.execute("l-1", "eval_1"),
            *("POST", "/local-sandbox/l-1/execute", {"region": "us"}, {"execution_name": "eval_1"}),
            *({"message": "started", "execution_name": "eval_1"}, models.ExecuteResponse),
            id="execute",
        ),
        pytest.param(
            lambda c: c.execution_status("l-1", "eval_1"),
            *("GET", "/local-sandbox/l-1/execution-status", {"execution_name": "eval_1"}, None),
            *({"status": "running"}, models.ExecutionStatusResponse),
            id="execution status",
        ),
        pytest.param(
            lambda c: c.execution_logs("l-1", "eval_1", 17),
            *("GET", "/local-sandbox/l-1/execution-logs", {"execution_name": "eval_1", "cursor": "17"}, None),
            *({"status": "completed", "logs": "ok\n", "cursor": 20}, models.ExecutionLogsResponse),
            id="execution logs",
        ),
        pytest.param(
            lambda c: c.export_artifacts("l-1", "eval_1"),
            *("POST", "/local-sandbox/l-1/export-artifacts", {"region": "us"}, {"execution_name": "eval_1"}),
            *({"download_url": "https://storage.test/b?sig=1", "expires_in_minutes": 30}, models.DumpUrlResponse),
            id="export artifacts",
        ),
    ],
)
def test_operation(  # noqa: PLR0917 (one row per operation)
    api: FakeApi,
    client: KlavisClient,
    call: Call,
    method: str,
    path: str,
    query: dict[str, str],
    body: Any,
    content: dict[str, Any],
    expected: type[Any],
) -> None:
    api.says(answer(content))

    result = call(client)

    (asked,) = api.asked
    assert (asked.method, asked.path, asked.query, asked.json) == (method, path, query, body)
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["x-klavis-owner"] == "owner-1"
    assert type(result) is expected
    if isinstance(result, models.Answer):
        parsed = result.model_dump()
        assert {name: parsed[name] for name in content if not isinstance(content[name], list)} == {
            name: value for name, value in content.items() if not isinstance(value, list)
        }
    assert client.calls == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.initialize_sandbox("github", "s-1", {"repos": []}),
        lambda c: c.initialize_local_server("canvas", "s-1", {"courses": []}),
    ],
    ids=["remote", "local"],
)
def test_data_is_not_sent_again_when_its_answer_is_lost(api: FakeApi, client: KlavisClient, call: Call) -> None:
    # It is added to what is there.
    api.says(hang_up, answer(DONE))
    with pytest.raises(TransportError, match="may have been carried out"):
        call(client)
    assert client.calls == 1
