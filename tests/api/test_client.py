"""What a client makes of strange answers, odd names and places; what it leaves alone."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from pytest_klavis.api.client import KlavisClient
from pytest_klavis.errors import BackendError, NotFoundError, SpecError
from tests.api.conftest import KEY
from tests.api.server import FakeApi, answer

SANDBOX = {"sandbox_id": "s-1", "server_name": "github", "status": "occupied", "message": "taken"}
LOCAL = {"local_sandbox_id": "l-1", "servers": [{"id": "i-1", "server_name": "git", "mcp_server_url": "http://h/git"}]}
URL_ANSWER = {"upload_url": "https://storage.test/b?X-Goog-Signature=1", "expires_in_minutes": 30}


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
