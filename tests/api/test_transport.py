"""Repeats, deadlines, errors by status, and that no error tells a secret."""

from __future__ import annotations

import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import httpcore
import httpx
import pytest

from pytest_klavis import errors
from pytest_klavis.api.answers import Answer, retry_after
from pytest_klavis.api.client import KlavisClient
from tests.api.conftest import KEY
from tests.api.server import Behaviour, FakeApi, answer, cut, drip, hang_up

if TYPE_CHECKING:
    from collections.abc import Callable

SANDBOX = {"sandbox_id": "s-1", "server_name": "github", "status": "idle", "message": ""}
LOCAL = {"local_sandbox_id": "l-1", "servers": []}
TROUBLE: list[Behaviour] = [hang_up, cut(b'{"sandb', announced=900), answer({}, 500), answer({}, 502), answer({}, 504)]

IDEMPOTENT: dict[str, Callable[[KlavisClient], Any]] = {
    "get": lambda c: c.get_sandbox("github", "s-1"),
    "list": lambda c: c.list_sandboxes(),
    "release": lambda c: c.release_sandbox("github", "s-1"),
    "reset": lambda c: c.reset_sandbox("github", "s-1"),
    "get local": lambda c: c.get_local_sandbox("l-1"),
    "release local": lambda c: c.release_local_sandbox("l-1"),
    "reset local": lambda c: c.reset_local_sandbox("l-1"),
    "initialize local": lambda c: c.initialize_local_sandbox("l-1"),
}
ONCE: dict[str, Callable[[KlavisClient], Any]] = {
    "acquire": lambda c: c.acquire_sandbox("github"),
    "acquire local": lambda c: c.acquire_local_sandbox(["git"]),
    "run": lambda c: c.run_command("l-1", ["true"]),
}


@pytest.mark.parametrize("call", IDEMPOTENT.values(), ids=IDEMPOTENT)
def test_idempotent_calls_are_repeated(api: FakeApi, client: KlavisClient, call: Callable[[KlavisClient], Any]) -> None:
    api.says(hang_up, answer({}, 500), answer({**SANDBOX, **LOCAL}))
    call(client)
    assert len(api.asked) == client.calls == 3
    assert len({(asked.method, asked.path, asked.body) for asked in api.asked}) == 1


@pytest.mark.parametrize("trouble", TROUBLE[:3], ids=["hang up", "cut", "500"])
def test_repeats_end_after_three(api: FakeApi, client: KlavisClient, trouble: Behaviour) -> None:
    api.says(trouble)
    with pytest.raises((errors.ServerError, errors.TransportError)):
        client.get_sandbox("github", "s-1")
    assert len(api.asked) == 4


@pytest.mark.parametrize("call", ONCE.values(), ids=ONCE)
@pytest.mark.parametrize("trouble", TROUBLE, ids=["hang up", "cut", "500", "502", "504"])
def test_what_would_acquire_or_run_twice_is_sent_once(
    api: FakeApi, client: KlavisClient, call: Callable[[KlavisClient], Any], trouble: Behaviour
) -> None:
    api.says(trouble)
    with pytest.raises((errors.ServerError, errors.TransportError)):
        call(client)
    assert len(api.asked) == 1


def test_a_lost_answer_to_an_acquire_says_what_that_means(api: FakeApi, client: KlavisClient) -> None:
    api.says(hang_up)
    with pytest.raises(errors.TransportError, match="may have been carried out; it was not repeated"):
        client.acquire_local_sandbox(["git"])


def test_a_connection_that_is_refused_is_tried_again_for_any_call() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = KlavisClient(f"http://127.0.0.1:{unused.getsockname()[1]}", KEY)
        with pytest.raises(
            errors.TransportError, match=r"acquire sandbox was not answered by 127\.0\.0\.1:\d+ \(4 att"
        ):
            client.acquire_sandbox("github")
    assert client.calls == 4


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("call", [ONCE["acquire"], IDEMPOTENT["get"]], ids=["acquire", "get"])
def test_retry_after_is_honoured_on_any_verb(
    api: FakeApi, client: KlavisClient, call: Callable[[KlavisClient], Any], status: int
) -> None:
    api.says(answer({}, status, {"Retry-After": "1"}), answer(SANDBOX))
    began = time.monotonic()
    call(client)
    assert time.monotonic() - began >= 1.0
    assert client.waited >= 1.0


def test_retry_after_may_be_a_date(api: FakeApi, client: KlavisClient) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    api.says(answer({}, 429, {"Retry-After": soon}), answer(SANDBOX))
    client.get_sandbox("github", "s-1")
    assert 0.5 < client.waited < 3


@pytest.mark.parametrize("odd", ["", "0", "-5", "soon", "Wed, 21 Oct 2015 07:28:00 GMT", "1e9", "\xb2", "nan"])
def test_a_retry_after_without_sense_asks_for_nothing(odd: str) -> None:
    assert retry_after(Answer(429, httpx.Headers([(b"Retry-After", odd.encode("latin-1"))]), b"")) is None


def test_a_429_without_retry_after_waits_a_second(api: FakeApi, client: KlavisClient) -> None:
    api.says(answer({}, 429), answer(SANDBOX))
    client.get_sandbox("github", "s-1")
    assert 1.0 <= client.waited < 2.0


def test_an_absurd_retry_after_is_not_waited_for(api: FakeApi, client: KlavisClient) -> None:
    api.says(answer({"detail": "Too Many Requests"}, 429, {"Retry-After": "1000000000"}))
    began = time.monotonic()
    with pytest.raises(errors.RateLimitError, match=r"HTTP 429: Too Many Requests\n.*come back in 60 s") as error:
        client.acquire_sandbox("github", deadline=5)
    assert time.monotonic() - began < 2
    assert error.value.status == 429


def test_a_429_that_stays_ends_with_the_deadline(api: FakeApi, client: KlavisClient) -> None:
    api.says(answer({}, 429))
    began = time.monotonic()
    with pytest.raises(errors.RateLimitError):
        client.acquire_sandbox("github", deadline=2)
    assert time.monotonic() - began < 2.5


DRIPPING_BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + b" " * 500


@pytest.mark.parametrize("raw", [DRIPPING_BODY, b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 500], ids=["body", "headers"])
@pytest.mark.parametrize("call", [IDEMPOTENT["get"], ONCE["acquire"]], ids=["get", "acquire"])
def test_a_server_that_drips_cannot_keep_a_call_beyond_its_deadline(
    api: FakeApi, raw: bytes, call: Callable[[KlavisClient], Any]
) -> None:
    class Hurried(KlavisClient):
        def get_sandbox(self, *args: Any, **_: Any) -> Any:
            return super().get_sandbox(*args, deadline=1)

        def acquire_sandbox(self, *args: Any, **_: Any) -> Any:
            return super().acquire_sandbox(*args, deadline=1)

    api.says(drip(raw, 0.05))
    began = time.monotonic()
    with pytest.raises(errors.TransportError, match="no whole answer within 1 s"):
        call(Hurried(api.url, KEY))
    assert 0.9 < time.monotonic() - began < 2
    assert len(api.asked) == 1


def test_a_server_that_says_nothing_cannot_either(client: KlavisClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(
            errors.TransportError, match=rf"list sandboxes was not answered by 127\.0\.0\.1:{port}: no wh"
        ):
            KlavisClient(f"http://127.0.0.1:{port}", KEY).list_sandboxes(deadline=0.5)
        assert time.monotonic() - began < 1.5


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (301, errors.ApiError),
        (400, errors.RequestRefusedError),
        (401, errors.AuthError),
        (403, errors.AuthError),
        (404, errors.NotFoundError),
        (409, errors.RequestRefusedError),
        (410, errors.NotFoundError),
        (418, errors.RequestRefusedError),
        (422, errors.RequestRefusedError),
        (500, errors.ServerError),
        (599, errors.ServerError),
    ],
)
def test_each_status_has_its_error(
    api: FakeApi, client: KlavisClient, status: int, expected: type[errors.ApiError]
) -> None:
    api.says(answer({"detail": "because of this"}, status))
    with pytest.raises(
        errors.ApiError, match=rf"^acquire sandbox was answered with HTTP {status}: because of"
    ) as error:
        client.acquire_sandbox("github")
    assert type(error.value) is expected
    assert (error.value.operation, error.value.status, error.value.body) == (
        "acquire sandbox",
        status,
        "because of this",
    )


@pytest.mark.parametrize("status", [401, 403])
def test_the_key_is_the_hint_when_the_key_is_the_trouble(api: FakeApi, client: KlavisClient, status: int) -> None:
    api.says(answer({"detail": "no"}, status))
    with pytest.raises(errors.AuthError, match="Set KLAVIS_API_KEY in the environment"):
        client.list_sandboxes()


def test_a_422_tells_places_and_messages_and_never_what_was_sent(api: FakeApi, client: KlavisClient) -> None:
    detail = [
        {"type": "enum", "loc": ["body", "server_names", 0], "msg": "Input should be 'git'", "input": "input-to-hide"},
        {"type": "x", "loc": ["body"], "msg": "and more", "ctx": {"given": "context-to-hide"}},
    ]
    api.says(answer({"detail": detail}, 422))
    with pytest.raises(errors.RequestRefusedError) as error:
        client.acquire_local_sandbox(["gti"])
    assert error.value.body == "body.server_names.0: Input should be 'git'\nbody: and more"


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"", r"\(empty body\)"),
        (b"<html>bad gateway</html>", "<html>bad gateway</html>"),
        (b"\x1b[31mred\x00", r"\\x1b\[31mred\\x00"),
        ({"error": "quota", "left": 0}, r'\{"error": "quota", "left": 0\}'),
        ({"detail": {"reason": "full"}}, r'\{"detail": \{"reason": "full"\}\}'),
    ],
)
def test_other_bodies_are_shown_as_they_are(api: FakeApi, client: KlavisClient, content: Any, shown: str) -> None:
    api.says(answer(content, 400))
    with pytest.raises(errors.RequestRefusedError, match=f"HTTP 400: {shown}$"):
        client.list_sandboxes()


def test_a_long_body_is_cut(api: FakeApi, client: KlavisClient) -> None:
    api.says(answer(b"x" * 1_000_000, 400))
    with pytest.raises(errors.RequestRefusedError) as error:
        client.list_sandboxes()
    assert len(error.value.body) == 2_000
    assert error.value.body.endswith("[...]")


SIGNED = "https://storage.googleapis.com/bucket/o.tgz?X-Goog-Signature=0123456789abcdef0123456789"
TOKEN = "tok-0a1b2c3d4e5f6g7h"


def test_no_secret_is_in_any_error_or_repr(api: FakeApi, client: KlavisClient) -> None:
    info = {**SANDBOX, "server_url": f"https://gm.klavis.ai/mcp/?instance_id={TOKEN}1234", "auth_data": {"k": [TOKEN]}}
    echo = {"seen": f"Bearer {KEY}", "url": SIGNED, "auth_data": {"x": "short"}, "note": f"{KEY} {TOKEN}"}
    said: list[str] = [repr(client)]

    api.says(answer(info))
    box = client.get_sandbox("github", "s-1")
    said.append(repr(box) + str(box))
    api.says(answer({**LOCAL, "servers": [{"id": "i", "mcp_server_url": SIGNED, "metadata": {"pw": TOKEN}}]}))
    said.append(repr(client.acquire_local_sandbox(["git"])))
    api.says(answer({"upload_url": SIGNED, "download_url": SIGNED, "extra_token": TOKEN}))
    said.append(repr(client.create_upload_url("l-1")) + repr(client.dump_local_sandbox("l-1")))
    for status in (400, 401, 404, 422, 429, 500):
        api.says(answer(echo, status))
        with pytest.raises(errors.ApiError) as error:
            client.acquire_sandbox("github", deadline=0.3)
        said.append(
            f"{error.value} {error.value!r} {error.value.body} {error.value.__cause__} {error.value.__context__}"
        )
    api.says(answer({"servers": [], "token": TOKEN, "url": SIGNED}, 201))
    with pytest.raises(errors.TransportError) as lost:
        client.acquire_local_sandbox(["git"])
    said.append(f"{lost.value!r} {lost.value.__context__!r}")

    text = "\n".join(said)
    for secret in (KEY, TOKEN, "0123456789abcdef", "instance_id", "short"):
        assert secret not in text
    assert "s-1" in text
    assert "storage.googleapis.com" in text


def test_a_model_shows_its_declared_fields_only(api: FakeApi, client: KlavisClient) -> None:
    api.says(answer({**SANDBOX, "brand_new": "hm"}))
    assert repr(client.get_sandbox("github", "s-1")) == (
        "SandboxInfo(sandbox_id='s-1', server_name='github', status='idle', benchmark=None, updated_at=None, tags=None)"
    )


@pytest.mark.parametrize(
    "base_url",
    ["", "api.klavis.ai", "ftp://api.klavis.ai", "http://", "https://user:pw-secret@h", "https://h/?a=1", "http://h:x"],
)
def test_a_base_url_must_be_one(base_url: str) -> None:
    with pytest.raises(errors.SpecError, match="the base URL is"):
        KlavisClient(base_url, KEY)


@pytest.mark.parametrize("key", ["", "  \n", "two words-secret", "umläut-secret", "line\nbreak-secret"])
def test_a_key_must_fit_a_header_and_is_not_quoted(key: str) -> None:
    with pytest.raises(errors.SpecError, match="KLAVIS_API_KEY") as error:
        KlavisClient("https://api.klavis.ai", key)
    assert "secret" not in str(error.value)


def test_a_key_read_from_a_file_may_end_in_a_newline(api: FakeApi) -> None:
    KlavisClient(api.url, f"{KEY}\n").list_sandboxes()
    assert api.asked[0].headers["authorization"] == f"Bearer {KEY}"


def test_mocks_of_the_users_http_are_not_handed_our_calls(
    api: FakeApi, client: KlavisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What pytest-httpx and respx patch, respectively.
    def mocked(*_: Any) -> Any:
        raise AssertionError("the user's mock was asked")

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", mocked)
    monkeypatch.setattr(httpcore.ConnectionPool, "handle_request", mocked)
    monkeypatch.setattr(httpcore.HTTPConnection, "handle_request", mocked)
    client.list_sandboxes()
    assert len(api.asked) == 1


def test_urls_are_not_logged(api: FakeApi, client: KlavisClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    client.list_sandboxes({"secret": "value"})
    client.release_local_sandbox("l-1")
    assert "tags" not in caplog.text
    assert KEY not in caplog.text


def test_a_proxy_of_the_environment_is_used_for_other_hosts(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", api.url.replace("://", "://user:proxy-secret@"))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    KlavisClient("http://klavis.test", KEY).list_sandboxes()
    assert api.asked[0].path == "http://klavis.test/sandbox"
    assert "proxy-authorization" in api.asked[0].headers

    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    KlavisClient(api.url, KEY).list_sandboxes()
    assert api.asked[1].path == "/sandbox"


def test_a_proxy_that_is_not_spoken_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://user:proxy-secret@127.0.0.1:1")
    with pytest.raises(errors.TransportError, match="socks5 proxies are not spoken here") as error:
        KlavisClient("http://klavis.test", KEY).list_sandboxes()
    assert "proxy-secret" not in str(error.value)
