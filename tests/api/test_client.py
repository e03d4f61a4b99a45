"""Each operation: what is sent, and what is made of the answer."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pytest_klavis.api import models
from pytest_klavis.api.client import KlavisClient
from pytest_klavis.errors import BackendError, NotFoundError, RequestRefusedError, SpecError, TransportError
from tests.api.conftest import KEY
from tests.api.server import FakeApi, answer, cut

Call = Callable[[KlavisClient], Any]

SANDBOX = {"sandbox_id": "s-1", "server_name": "github", "status": "occupied", "message": "taken"}
LOCAL = {"local_sandbox_id": "l-1", "servers": [{"id": "i-1", "server_name": "git", "mcp_server_url": "http://h/git"}]}
URL_ANSWER = {"upload_url": "https://storage.test/b?X-Goog-Signature=1", "expires_in_minutes": 30}


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


def test_region_reaches_all_three_calls_that_choose_a_bucket(api: FakeApi) -> None:
    client = KlavisClient(api.url, KEY, region="asia")
    api.says(answer(URL_ANSWER), answer({}), answer({"download_url": "https://x.test/y"}))

    client.create_upload_url("l-1")
    client.initialize_local_sandbox("l-1")
    client.dump_local_sandbox("l-1")

    assert [asked.query for asked in api.asked] == [{"region": "asia"}] * 3


def test_a_base_url_may_have_a_path(api: FakeApi) -> None:
    api.says(answer({"sandboxes": []}))
    KlavisClient(f"{api.url}/gateway/", KEY).list_sandboxes()
    assert api.asked[0].path == "/gateway/sandbox"


def test_unknown_fields_and_enum_values_are_kept(api: FakeApi, client: KlavisClient) -> None:
    newer = {"id": "i-1", "server_name": "quantum", "status": "hibernating", "shard": {"n": 1}}
    api.says(answer({"local_sandbox_id": "l-1", "status": "warming", "servers": [newer], "lease": 9}))

    box = client.acquire_local_sandbox(["quantum"])

    assert (box.status, box.servers[0].status) == ("warming", "hibernating")
    assert box.model_extra == {"lease": 9}
    assert box.servers[0].model_extra == {"shard": {"n": 1}}


@pytest.mark.parametrize("tags", [{"run": "7"}, ["a", "b"], None])
def test_tags_come_as_an_object_or_in_newer_dialects_as_a_list(api: FakeApi, client: KlavisClient, tags: Any) -> None:
    api.says(answer({**SANDBOX, "tags": tags}))
    assert client.get_sandbox("github", "s-1").tags == tags


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(answer({"local_sandbox_id": "l-1"}, 201), id="nothing but the id"),
        pytest.param(
            answer({"local_sandbox_id": "l-1", "servers": "none", "status": 7, "message": {"a": 1}}, 201),
            id="wrong types",
        ),
        pytest.param(
            answer({"local_sandbox_id": "l-1", "servers": [None, 3, {"server_name": []}]}), id="broken servers"
        ),
        pytest.param(answer(b'{"servers": [], "local_sandbox_id": "l-1", "mess', 201), id="cut JSON"),
        pytest.param(cut(b'{"local_sandbox_id": "l-1", "servers": [{"i', announced=900, status=201), id="cut body"),
    ],
)
def test_an_acquired_sandbox_is_never_lost_to_a_strange_answer(
    api: FakeApi, client: KlavisClient, behaviour: Any
) -> None:
    api.says(behaviour)
    assert client.acquire_local_sandbox(["git"]).local_sandbox_id == "l-1"
    assert len(api.asked) == 1


@pytest.mark.parametrize(
    "content", [b"", b"<html>token-abcdef</html>", b"[]", b'{"servers": []}', b'{"sandbox_id": null}']
)
def test_an_acquire_without_an_id_says_so_and_shows_no_body(api: FakeApi, client: KlavisClient, content: bytes) -> None:
    api.says(answer(content, 201))
    with pytest.raises(TransportError, match=r"acquire sandbox was answered with HTTP 201.* lacks sandbox_id") as error:
        client.acquire_sandbox("github")
    assert "token-abcdef" not in str(error.value)
    assert "may exist" in str(error.value)


def test_a_broken_entry_does_not_hide_the_rest_of_a_list(api: FakeApi, client: KlavisClient) -> None:
    api.says(answer({"sandboxes": [{"status": "idle"}, SANDBOX, 4], "total_count": 3}))
    assert [item.sandbox_id for item in client.list_sandboxes().sandboxes] == ["s-1"]


@pytest.mark.parametrize("status", [404, 410])
def test_releasing_what_is_gone_is_a_success(api: FakeApi, client: KlavisClient, status: int) -> None:
    api.says(answer({"detail": "Sandbox not found"}, status))

    released = client.release_sandbox("github", "s-1")
    client.release_local_sandbox("l-1")

    assert released.sandbox_id == "s-1"
    assert str(status) in released.message


def test_an_asynchronous_release_may_answer_anything(api: FakeApi, client: KlavisClient) -> None:
    api.says(answer(b"", 204), answer(b"release started"))
    client.release_local_sandbox("l-1")
    client.reset_local_sandbox("l-1")


@pytest.mark.parametrize("refused", ["ttl_seconds", "tags"])
def test_a_field_that_the_dialect_does_not_know_is_left_out_from_then_on(
    api: FakeApi, client: KlavisClient, refused: str
) -> None:
    complaint = {"type": "extra_forbidden", "loc": ["body", refused], "msg": "Extra inputs are not permitted"}
    api.says(answer({"detail": [complaint]}, 422), answer(SANDBOX, 201))

    for _ in range(2):
        client.acquire_sandbox("github", tags={"run": "7"}, ttl_seconds=1800, benchmark="MCP_Atlas")

    kept = {"tags", "ttl_seconds", "benchmark"} - {refused}
    assert [set(asked.json) for asked in api.asked] == [{"tags", "ttl_seconds", "benchmark"}, kept, kept]
    assert client.refused_fields == {refused}


def test_a_field_with_a_wrong_value_is_no_question_of_dialect(api: FakeApi, client: KlavisClient) -> None:
    complaint = {"type": "less_than_equal", "loc": ["body", "ttl_seconds"], "msg": "at most 86400", "input": 10**9}
    api.says(answer({"detail": [complaint]}, 422))
    with pytest.raises(RequestRefusedError, match=r"body\.ttl_seconds: at most 86400"):
        client.acquire_local_sandbox(["git"], ttl_seconds=10**9)
    assert len(api.asked) == 1


@pytest.mark.parametrize("odd", ["", ".", ".."])
def test_an_empty_id_is_refused_before_it_becomes_another_route(api: FakeApi, client: KlavisClient, odd: str) -> None:
    with pytest.raises(SpecError, match="release local sandbox: local_sandbox_id"):
        client.release_local_sandbox(odd)
    assert api.asked == []


def test_names_cannot_climb_out_of_their_place_in_the_path(api: FakeApi, client: KlavisClient) -> None:
    api.says(answer(SANDBOX))
    client.get_sandbox("git hub?x=1", "../local-sandbox/l-1")
    assert api.asked[0].path == "/sandbox/git%20hub%3Fx%3D1/..%2Flocal-sandbox%2Fl-1"


@pytest.mark.parametrize(
    ("status", "content"), [(404, {"detail": "Not Found"}), (405, {"detail": "Method Not Allowed"}), (404, b"nope")]
)
def test_a_backend_without_the_run_route_says_that(
    api: FakeApi, client: KlavisClient, status: int, content: Any
) -> None:
    api.says(answer(content, status))
    with pytest.raises(BackendError, match="cannot run commands in a sandbox yet"):
        client.run_command("l-1", ["true"])


def test_a_run_in_a_sandbox_that_is_gone_is_another_matter(api: FakeApi, client: KlavisClient) -> None:
    api.says(answer({"detail": "no sandbox l-1: it was released"}, 404))
    with pytest.raises(NotFoundError, match="it was released"):
        client.run_command("l-1", ["true"])


def test_a_run_that_no_isolation_allows_tells_why_at_once(api: FakeApi, client: KlavisClient) -> None:
    api.says(answer({"detail": "no isolation: bubblewrap is missing"}, 503))
    with pytest.raises(BackendError, match="bubblewrap is missing"):
        client.run_command("l-1", ["true"])
    assert len(api.asked) == 1


def test_a_client_serves_several_threads(api: FakeApi, client: KlavisClient) -> None:
    api.says(answer(SANDBOX))
    threads = [threading.Thread(target=client.get_sandbox, args=("github", f"s-{n}")) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.calls == len(api.asked) == 8


def test_a_large_answer_is_read_whole(api: FakeApi, client: KlavisClient) -> None:
    data = {"rows": ["x" * 1000] * 3000}
    api.says(answer({"sandbox_id": "s-1", "data": data}))
    assert json.dumps(client.dump_sandbox("postgres", "s-1")["data"]) == json.dumps(data)
