"""Dialects of the API: what one refuses by name is left out, what it echoes is noticed, what it lists is checked."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from pytest_klavis.api import models
from pytest_klavis.api.client import KlavisClient
from pytest_klavis.errors import RequestRefusedError, TransportError
from tests.api.conftest import KEY
from tests.api.server import FakeApi, answer, drip

SANDBOX = {"sandbox_id": "s-1", "server_name": "github", "status": "occupied", "message": "taken"}
EVERYTHING = {"tags", "ttl_seconds", "benchmark"}


def acquire(client: KlavisClient) -> models.CreateSandboxResponse:
    return client.acquire_sandbox("github", tags={"run": "7"}, ttl_seconds=1800, benchmark="MCP_Atlas")


def extra(*where: str | int, kind: str = "extra_forbidden", msg: str = "Extra inputs are not permitted") -> Any:
    return {"type": kind, "loc": list(where), "msg": msg}


@pytest.mark.parametrize("refused", ["ttl_seconds", "tags"])
@pytest.mark.parametrize(
    "phrased",
    [
        pytest.param(lambda name: {"detail": [extra("body", name)]}, id="pydantic 2"),
        pytest.param(lambda name: {"detail": [extra("body", "AcquireSandboxRequest", name)]}, id="pydantic 2, nested"),
        pytest.param(
            lambda name: {"detail": [extra("body", name, kind="value_error.extra", msg="extra fields not permitted")]},
            id="pydantic 1",
        ),
        pytest.param(lambda name: {"detail": [extra(name)]}, id="without the place"),
        pytest.param(lambda name: {"detail": f"unknown field '{name}'"}, id="text"),
        pytest.param(lambda name: {"error": f'Unrecognized request argument supplied: "{name}".'}, id="error"),
        pytest.param(lambda name: {"message": f"json: unknown field `{name}`"}, id="message"),
        pytest.param(
            lambda name: {"detail": [{"loc": ["body"], "msg": f"Unknown field: {name}", "type": "value_error"}]},
            id="text of the whole",
        ),
        pytest.param(
            lambda name: {"detail": f"Additional properties are not allowed ('{name}' was unexpected)"},
            id="JSON schema",
        ),
        pytest.param(lambda name: f"{name} is not a known field".encode(), id="no JSON"),
        pytest.param(lambda name: f"unknown field {name}", id="a string"),
    ],
)
def test_a_field_that_the_dialect_does_not_know_is_left_out_from_then_on(
    api: FakeApi, client: KlavisClient, refused: str, phrased: Callable[[str], Any]
) -> None:
    api.says(answer(phrased(refused), 422), answer(SANDBOX, 201))

    for _ in range(2):
        acquire(client)

    kept = EVERYTHING - {refused}
    assert [set(asked.json) for asked in api.asked] == [EVERYTHING, kept, kept]
    assert client.refused_fields == {refused}


@pytest.mark.parametrize("at_once", [True, False])
def test_several_unknown_fields_are_left_out_told_together_or_one_by_one(
    api: FakeApi, client: KlavisClient, at_once: bool
) -> None:
    one, other = extra("body", "tags"), extra("body", "ttl_seconds")
    told = [[one, other]] if at_once else [[one], [other]]
    api.says(*(answer({"detail": detail}, 422) for detail in told), answer(SANDBOX, 201))
    acquire(client)
    assert api.asked[-1].json == {"benchmark": "MCP_Atlas"}
    assert client.refused_fields == {"tags", "ttl_seconds"}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(
            {"detail": [extra("body", "ttl_seconds", kind="less_than_equal", msg="at most 86400")]}, id="value"
        ),
        pytest.param({"detail": "tag is unknown"}, id="a selector whose value is unknown"),
        pytest.param({"detail": [extra("body", "tags", "ttl_seconds")]}, id="a key of ours inside a value"),
        pytest.param(
            {"detail": [extra("body", "tags", "ttl_seconds", kind="value_error.extra")]}, id="so in pydantic 1"
        ),
        pytest.param({"detail": [extra("body", "tags", 0, kind="value_error.extra")]}, id="an entry"),
        pytest.param({"detail": [extra("path", "server_name", "github")]}, id="the path"),
        pytest.param({"detail": [extra("query", "tags")]}, id="the same name in another place"),
        pytest.param({"detail": [extra("body", "benchmark")]}, id="a field that every dialect has"),
        pytest.param({"detail": "benchmark is 'unknown field tags', which there is not"}, id="a quoted value"),
        pytest.param({"detail": "no such benchmark: unknown field 'tags'"}, id="a quoted value at the end"),
        pytest.param({"detail": "unknown value 'tags' of field benchmark"}, id="an unknown value"),
        pytest.param(
            {"detail": [{"type": "value_error", "loc": ["body", "benchmark"], "msg": "unknown field 'tags'"}]},
            id="the message of another field",
        ),
        pytest.param({"detail": {"tags": "unknown field"}}, id="another shape"),
        pytest.param([[]], id="a list"),
    ],
)
def test_a_value_that_is_refused_is_no_question_of_dialect(api: FakeApi, client: KlavisClient, content: Any) -> None:
    api.says(answer(content, 422))
    with pytest.raises(RequestRefusedError, match="acquire sandbox was answered with HTTP 422"):
        acquire(client)
    assert len(api.asked) <= 2  # a text that names a field may mean it: one more try tells
    assert client.refused_fields == frozenset()


def test_nothing_is_learned_from_a_refusal_that_leaving_out_does_not_mend(api: FakeApi, client: KlavisClient) -> None:
    api.says(
        answer({"detail": "unknown field 'tags'"}, 422), answer({"detail": "benchmark: unknown field 'tags'"}, 422)
    )
    with pytest.raises(RequestRefusedError, match="benchmark: unknown"):
        acquire(client)
    assert [set(asked.json) for asked in api.asked] == [EVERYTHING, EVERYTHING - {"tags"}]
    assert client.refused_fields == frozenset()


def test_only_a_422_refuses_a_field(api: FakeApi, client: KlavisClient) -> None:
    api.says(answer({"detail": [extra("body", "tags")]}, 400))
    with pytest.raises(RequestRefusedError):
        acquire(client)
    assert len(api.asked) == 1


@pytest.mark.parametrize(
    ("call", "name", "asks"),
    [
        (lambda c: c.create_upload_url("l-1"), "region", {"region"}),
        (lambda c: c.dump_local_sandbox("l-1"), "region", {"region"}),
        (lambda c: c.initialize_local_sandbox("l-1"), "region", {"region"}),
        (lambda c: c.release_sandbox("github", "s-1", instance_id="n-1"), "instance_id", {"instance_id"}),
        (lambda c: c.list_sandboxes(tag="t", server_name="github"), "tag", {"tag", "server_name"}),
        (lambda c: c.list_sandboxes({"a": "b"}, server_name="github"), "server_name", {"tags", "server_name"}),
        (lambda c: c.prepare(benchmark="B", server_name="github"), "server_name", {"benchmark", "server_name"}),
        (lambda c: c.initialize_sandbox("x", "s", {}, init_default_data=True), "init_default_data", None),
        (lambda c: c.initialize_local_server("x", "s", {}, init_default_data=True), "init_default_data", None),
    ],
)
@pytest.mark.parametrize("phrased", ["pydantic", "text"])
def test_a_query_parameter_that_is_refused_is_left_out_too(  # noqa: PLR0917 (what is asked, and how it is refused)
    api: FakeApi,
    client: KlavisClient,
    call: Callable[[KlavisClient], Any],
    name: str,
    asks: set[str] | None,
    phrased: str,
) -> None:
    detail = [extra("query", name)] if phrased == "pydantic" else f"Unexpected query parameter '{name}'"
    urls = {"upload_url": "https://x.test/y", "download_url": "https://x.test/y"}
    api.says(answer({"detail": detail}, 422), answer({**SANDBOX, **urls}))
    for _ in range(2):
        call(client)
    asks = asks or {name}
    assert [set(asked.query) for asked in api.asked] == [asks, asks - {name}, asks - {name}]


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.initialize_sandbox("github", "s-1", {"tags": {"a": "b"}, "region": "r"}),
        lambda c: c.execution_status("l-1", "tags"),
    ],
)
def test_what_is_the_users_is_never_left_out(
    api: FakeApi, client: KlavisClient, call: Callable[[KlavisClient], Any]
) -> None:
    detail = [extra(place, name) for place in ("body", "query") for name in ("tags", "execution_name", "region")]
    api.says(answer({"detail": detail}, 422))
    with pytest.raises(RequestRefusedError):
        call(client)
    assert len(api.asked) == 1


def test_clients_that_share_a_dialect_learn_for_each_other(api: FakeApi, client: KlavisClient) -> None:
    other = KlavisClient(api.url, KEY, dialect=client.dialect)
    stranger = KlavisClient(api.url, KEY)
    api.says(answer({"detail": "unknown field 'tags'"}, 422), answer({**SANDBOX, "tags": {"run": "7"}}, 201))
    for one in (client, other, stranger):
        acquire(one)
    assert ["tags" in asked.json for asked in api.asked] == [True, False, False, True]
    assert (client.echoes_tags, other.echoes_tags, stranger.echoes_tags) == (False, False, True)


@pytest.mark.parametrize(
    ("told", "echoes"),
    [
        ({"tags": {"run": "7"}}, True),
        ({"tags": {"run": "7", "of": "theirs"}}, True),
        ({"tags": {"run": "8"}}, False),
        ({"tags": ["run"]}, False),
        ({"tags": None}, False),
        ({"tags": 7}, False),
        ({}, None),
    ],
)
def test_whether_labels_are_echoed_is_seen_in_answers(
    api: FakeApi, client: KlavisClient, told: dict[str, Any], echoes: bool | None
) -> None:
    api.says(answer({**SANDBOX, **told}, 201))
    assert client.echoes_tags is None
    acquire(client)
    assert client.echoes_tags is echoes


@pytest.mark.parametrize(("told", "echoes"), [({"tags": {"run": "7"}}, True), ({"tags": ["x"]}, False), ({}, False)])
@pytest.mark.parametrize("by", ["get", "list"])
def test_details_and_lists_show_labels_too(
    api: FakeApi, client: KlavisClient, told: dict[str, Any], echoes: bool, by: str
) -> None:
    api.says(answer(SANDBOX), answer(SANDBOX, 201), answer({**SANDBOX, **told, "sandboxes": [{**SANDBOX, **told}]}))
    client.get_sandbox("github", "s-1")  # not labelled yet, so this says nothing
    acquire(client)
    assert client.echoes_tags is None
    if by == "get":
        client.get_sandbox("github", "s-1")
    else:
        client.list_sandboxes()
    assert client.echoes_tags is echoes


LISTED: list[dict[str, Any]] = [
    {"sandbox_id": "old", "server_name": "github", "tags": {"run": "7", "x": "y"}},
    {"sandbox_id": "new", "server_name": "GitHub", "tags": ["7", "mine"]},
    {"sandbox_id": "silent", "server_name": "slack"},
    {"sandbox_id": "odd", "server_name": 7, "tags": 3},
]


@pytest.mark.parametrize(
    ("filters", "shown"),
    [
        ({}, ["old", "new", "silent", "odd"]),
        ({"tags": {"run": "7"}}, ["old"]),
        ({"tags": {"run": "8"}}, []),
        ({"tag": "mine"}, ["new"]),
        ({"server_name": "github"}, ["old", "new"]),
        ({"tags": {"x": "y"}, "server_name": "slack"}, []),
    ],
)
def test_an_api_that_ignores_a_filter_does_not_hand_over_what_is_not_meant(
    api: FakeApi, client: KlavisClient, filters: dict[str, Any], shown: list[str]
) -> None:
    api.says(answer({"sandboxes": LISTED, "total_count": 4}))
    listed = client.list_sandboxes(**filters)
    assert [item.sandbox_id for item in listed.sandboxes] == shown
    if "tags" in filters:
        assert json.loads(api.asked[0].query["tags"]) == filters["tags"]


URL = "https://github-mcp-server.test/mcp/?instance_id=i-1"
OTHER = "http://gh.test/"


@pytest.mark.parametrize(
    ("fields", "urls"),
    [
        ({}, {}),
        ({"server_urls": {"github": URL}}, {"github": URL}),
        ({"server_urls": {"gh": URL, "extra": OTHER}}, {"gh": URL, "extra": OTHER}),
        ({"server_urls": {"gh": URL, "broken": 7, "none": None, "": ""}}, {"gh": URL}),
        ({"server_urls": {"gh": {"url": URL, "transport": "http"}}}, {"gh": URL}),
        ({"server_urls": URL}, {"github": URL}),
        ({"server_urls": [URL]}, {"github": URL}),
        ({"server_urls": [{"server_name": "gh", "url": URL}]}, {"gh": URL}),
        ({"server_urls": None, "server_url": URL}, {"github": URL}),
        ({"server_urls": {}, "server_url": {"gh": URL}}, {"gh": URL}),
        ({"server_url": {"url": URL}}, {"github": URL}),
        ({"server_url": URL, "mcp_server_url": OTHER}, {"github": URL}),
        ({"mcp_server_url": URL}, {"github": URL}),
        ({"mcp_server_urls": {"gh": URL}}, {"gh": URL}),
        ({"mcp_url": URL, "url": OTHER}, {"github": URL}),
        ({"server_url": "none", "server_urls": [[7, {"x": []}]]}, {}),
        ({"upload_url": URL}, {}),
    ],
)
def test_urls_are_found_in_the_fields_of_any_dialect(
    api: FakeApi, client: KlavisClient, fields: dict[str, Any], urls: dict[str, str]
) -> None:
    api.says(answer({**SANDBOX, **fields}))
    for box in (client.acquire_sandbox("github"), client.get_sandbox("github", "s-1")):
        assert box.urls == urls
        assert "instance_id" not in repr(box)


def test_leaving_a_field_out_does_not_begin_the_deadline_anew(api: FakeApi, client: KlavisClient) -> None:
    def slow_refusal(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(1.5)
        answer({"detail": "unknown field 'tags'"}, 422)(handler)

    api.says(slow_refusal, drip(b"HTTP/1.1 201 Created\r\nContent-Length: 900\r\n\r\n" + b" " * 900, 0.05))
    began = time.monotonic()
    with pytest.raises(TransportError, match="no whole answer within 2 s"):
        client.acquire_sandbox("github", tags={"run": "7"}, deadline=2)
    assert 1.9 < time.monotonic() - began < 3
    assert len(api.asked) == 2
