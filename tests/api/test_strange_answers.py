"""Answers as no document has them: an acquired sandbox is never lost, and nothing else is made up."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_klavis import errors
from pytest_klavis.api import operations
from pytest_klavis.api.answers import Answer
from pytest_klavis.api.client import KlavisClient
from pytest_klavis.api.reading import read
from tests.api.conftest import KEY
from tests.api.server import Behaviour, FakeApi, answer, close_delimited, cut, raw

LOCAL = {"local_sandbox_id": "l-1"}
NESTED = "[" * 5_000 + "]" * 5_000
DEEP = "[" * 3_000 + '{"url": "https://x.test/y?sig=1"}' + "]" * 3_000  # which Python 3.13 parses


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(answer({"local_sandbox_id": "l-1"}, 201), id="nothing but the id"),
        pytest.param(answer({**LOCAL, "servers": "none", "status": 7, "message": {"a": 1}}, 201), id="wrong types"),
        pytest.param(answer({**LOCAL, "servers": [None, 3, {"server_name": []}]}), id="broken servers"),
        pytest.param(answer({"data": {"sandbox": LOCAL}}), id="wrapped"),
        pytest.param(answer([LOCAL]), id="a list"),
        pytest.param(answer(b'{"servers": [], "local_sandbox_id": "l-1", "mess', 201), id="cut JSON"),
        pytest.param(answer(b'{"local_sandbox_id": "l-1", "local_sandbox_id": null}', 201), id="a key twice"),
        pytest.param(answer(b'{"local_sandbox_id": "l-1", "message": "\xff\xfe"}', 201), id="invalid UTF-8"),
        pytest.param(answer(b'{"local_sandbox_id": "l-1", "message": "\\ud800"}', 201), id="half a surrogate"),
        pytest.param(answer(b'{"local_sandbox_id": "l-1", "\\ud800": 1}', 201), id="half a surrogate as a key"),
        pytest.param(answer(b'{"local_sandbox_id": "l-1", "n": %s}' % (b"9" * 5000), 201), id="a large number"),
        pytest.param(answer(f'{{"local_sandbox_id": "l-1", "x": {NESTED}}}'.encode(), 201), id="too deep to parse"),
        pytest.param(answer(f'{{"local_sandbox_id": "l-1", "x": {DEEP}}}'.encode(), 201), id="too deep to walk"),
        pytest.param(answer(b'<html>"local_sandbox_id": "l-1"</html>', 201), id="HTML around it"),
        pytest.param(answer(b'\xef\xbb\xbf{"local_sandbox_id": "l-1"}', 201), id="a byte order mark"),
        pytest.param(cut(b'{"local_sandbox_id": "l-1", "servers": [{"i', announced=900, status=201), id="cut body"),
        pytest.param(
            raw(b"HTTP/1.1 201 C\r\nTransfer-Encoding: chunked\r\n\r\n1d\r\n" + json.dumps(LOCAL).encode()),
            id="cut within a chunk",
        ),
        pytest.param(
            answer(gzip.compress(json.dumps(LOCAL).encode()), headers={"Content-Encoding": "gzip"}), id="gzip"
        ),
        pytest.param(
            answer(
                gzip.compress(json.dumps({**LOCAL, "x": "y" * 90}).encode())[:60], headers={"Content-Encoding": "gzip"}
            ),
            id="half a gzip",
        ),
        pytest.param(answer(LOCAL, headers={"Content-Encoding": "gzip"}), id="a gzip that is none"),
        pytest.param(close_delimited(json.dumps(LOCAL).encode(), status=201), id="ended by closing"),
        pytest.param(close_delimited(b'{"local_sandbox_id": "l-1", "servers": [{"i', status=201), id="and cut so"),
    ],
)
def test_an_acquired_sandbox_is_never_lost_to_a_strange_answer(
    api: FakeApi, client: KlavisClient, behaviour: Behaviour
) -> None:
    api.says(behaviour)
    assert client.acquire_local_sandbox(["git"]).local_sandbox_id == "l-1"
    assert len(api.asked) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("https://x.test/y?sig=1"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("server_urls", "server_url", "server_name", "status", "message", "metadata", "tags", "servers", "auth_data")
KINDS = (operations.ACQUIRE_SANDBOX, operations.ACQUIRE_LOCAL_SANDBOX)


@settings(max_examples=400, deadline=None)
@given(
    operation=st.sampled_from(KINDS),
    sandbox_id=st.text(min_size=1, max_size=20),
    fields=st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), JSON, max_size=6),
    escaped=st.booleans(),
)
def test_any_object_with_an_id_gives_the_id(
    operation: operations.Operation[Any], sandbox_id: str, fields: dict[str, Any], escaped: bool
) -> None:
    name = "sandbox_id" if operation is operations.ACQUIRE_SANDBOX else "local_sandbox_id"
    content = json.dumps({**fields, name: sandbox_id}, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    box = read(operation, Answer(201, httpx.Headers(), content), {"server_name": "github"})
    assert getattr(box, name) == sandbox_id
    assert repr(box)


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_what_holds_no_id_is_a_transport_error_and_nothing_else(content: bytes) -> None:
    with pytest.raises(errors.TransportError, match="may exist without anyone knowing its id") as error:
        read(operations.ACQUIRE_SANDBOX, Answer(201, httpx.Headers(), content), {"server_name": "github"})
    assert error.value.sent is True


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"<html>token-abcdef</html>", b"[]", b"null", b'{"servers": []}'),
        *(b'{"sandbox_id": null}', b'{"sandbox_id": ""}', b'{"sandbox_id": {"a": "token-abcdef"}}', b'"sandbox_id"'),
    ],
)
def test_an_acquire_without_an_id_says_so_and_shows_no_body(api: FakeApi, client: KlavisClient, content: bytes) -> None:
    api.says(answer(content, 201))
    with pytest.raises(
        errors.TransportError, match=r"acquire sandbox was answered with HTTP 201.* sandbox_id"
    ) as error:
        client.acquire_sandbox("github")
    assert "token-abcdef" not in str(error.value)
    assert "may exist" in str(error.value)


@pytest.mark.parametrize("behaviour", [raw(b"HTTP/1.1 204 No Content\r\n\r\n"), answer(b"<html>ok</html>", 200)])
def test_a_success_without_what_was_asked_for_is_told(api: FakeApi, client: KlavisClient, behaviour: Behaviour) -> None:
    api.says(behaviour)
    with pytest.raises(errors.TransportError, match=r"get upload URL was answered with HTTP 20.*it lacks upload_url"):
        client.create_upload_url("l-1")
    with pytest.raises(errors.TransportError, match=r"dump sandbox was answered .* the body is no JSON object"):
        client.dump_sandbox("github", "s-1")
    assert client.reset_sandbox("github", "s-1").sandbox_id == "s-1"  # which is all that a reset promises
    assert client.list_local_sandboxes().local_sandboxes == []


PAGE = b"<!DOCTYPE html><html><title>502 Bad Gateway</title><body>" + b"<p>nginx</p>" * 100_000 + b"</body></html>"


@pytest.mark.parametrize(
    ("behaviour", "shown"),
    [
        pytest.param(answer(PAGE, 400), "<!DOCTYPE html><html><title>502 Bad Gateway", id="a large page"),
        pytest.param(answer(b"\xff\xfe\x00bad \x1b[31m", 400), "\ufffd\ufffd\\\\x00bad \\\\x1b", id="bytes"),
        pytest.param(cut(b'{"detail": "half of it', announced=900, status=400), '{"detail": "half of it', id="cut"),
        pytest.param(answer({"detail": "d", "code": 7}, 400), '{"detail": "d", "code": 7}', id="more than a detail"),
        pytest.param(
            answer({"detail": [{"loc": ["body", "x"], "type": "odd", "input": "the-input"}]}, 400),
            r"body\.x: odd$",
            id="no message",
        ),
        pytest.param(answer({"error": "No sandbox"}, 400), "No sandbox$", id="error alone"),
        pytest.param(answer(f'{{"x": {NESTED}}}'.encode(), 400), '{"x": \\[\\[\\[', id="too deep"),
        pytest.param(answer(b'{"detail": "a", "detail": "b"}', 400), "b$", id="a key twice"),
    ],
)
def test_an_error_shows_of_its_body_what_can_be_shown(
    api: FakeApi, client: KlavisClient, behaviour: Behaviour, shown: str
) -> None:
    api.says(behaviour)
    with pytest.raises(errors.RequestRefusedError, match=f"^acquire sandbox was answered with HTTP 400: {shown}") as e:
        client.acquire_sandbox("github")
    assert len(e.value.body) <= 2_000


@pytest.fixture
def plain(api: FakeApi) -> Iterator[KlavisClient]:
    with KlavisClient(api.url, KEY) as client:
        yield client


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(raw(b"\x16\x03\x01\x02\x00"), id="TLS"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\n12345"), id="two lengths"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"), id="no number"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n"), id="endless headers"),
        pytest.param(raw(b"HTTP/9.9 what\r\n\r\n"), id="another version"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), id="no chunk"),
        pytest.param(raw(b"HTTP/1.1 100 Continue\r\n\r\n"), id="only a promise"),
        pytest.param(raw(b""), id="nothing"),
    ],
)
def test_what_is_not_http_is_a_transport_error_after_some_attempts(
    api: FakeApi, plain: KlavisClient, behaviour: Behaviour
) -> None:
    api.says(behaviour)
    with pytest.raises(errors.TransportError, match=r"get sandbox was not answered by 127.*\(\d attempts\)"):
        plain.get_sandbox("github", "s-1", deadline=3)
    with pytest.raises(errors.InfraError) as error:
        plain.acquire_sandbox("github", deadline=3)
    assert isinstance(error.value, errors.TransportError)
    assert error.value.sent is True
