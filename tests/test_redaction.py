"""What is printed in place of a secret, and what stays readable."""

from __future__ import annotations

import base64
import html
import json
import re
import subprocess
import sys
import threading
import time
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_klavis.redaction import Registry, holds, redact, redact_mapping, register, register_url

KEY = "kl-a/b+c&d\"e'0123456789"
INSTANCE = "https://gmail-mcp-server.klavis.ai/mcp/?instance_id=9f8b7c6d-0000-4000-8000-1234567890ab"
LOCAL = "https://local-dev.klavis.ai/filesystem/mcp/?local_sandbox_id=9f8b7c6d-0000-4000-8000-1234567890ab"
SIGNED = "https://storage.googleapis.com/bucket/a.tar.gz?X-Goog-Expires=1800&X-Goog-Signature=0123456789abcdef01234567"


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.mark.parametrize(
    "spelled", [str, repr, json.dumps, html.escape, quote, lambda s: quote(s, safe=""), lambda s: f"{s}{s}"]
)
def test_a_secret_is_hidden_however_it_is_spelled(registry: Registry, spelled: Any) -> None:
    registry.register(KEY, "<key>")
    shown = registry.redact(f"before {spelled(KEY)} after")
    assert "0123456789" not in shown
    assert shown.startswith("before ")
    assert shown.endswith(" after")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (INSTANCE, "<gmail-mcp-server.klavis.ai url>"),
        (LOCAL, "<local-dev.klavis.ai/filesystem url>"),
        (SIGNED, "<storage.googleapis.com url>"),
        ("http://127.0.0.1:4711/git/mcp/?local_sandbox_id=abc", "<127.0.0.1:4711/git url>"),
        ("postgres://user:pass-word@db.test:5432/shop", "<db.test:5432 url>"),
        ("https://www.notion.so/Hub-0123", "<www.notion.so url>"),
    ],
)
def test_of_a_url_host_and_server_stay(registry: Registry, url: str, shown: str) -> None:
    registry.register_url(url)
    assert registry.redact(f"GET {url} failed") == f"GET {shown} failed"
    assert registry.redact(html.escape(url)) == shown


def test_parts_of_a_url_are_hidden_too(registry: Registry) -> None:
    registry.register_url(INSTANCE)
    registry.register_url("postgres://user:pass%2Fword@db.test/shop")
    registry.register_url(SIGNED)
    text = registry.redact(f"{INSTANCE.partition('.ai')[2]} 9f8b7c6d-0000-4000-8000-1234567890ab pass/word 1800")
    assert (
        text
        == "<gmail-mcp-server.klavis.ai url> <instance_id of gmail-mcp-server.klavis.ai> <password of db.test> 1800"
    )


def test_a_plain_host_is_no_secret(registry: Registry) -> None:
    for url in ("https://api.klavis.ai", "https://api.klavis.ai/", "no url at all", "http://[half"):
        registry.register_url(url)
    assert registry.redact("https://api.klavis.ai/sandbox") == "https://api.klavis.ai/sandbox"


def test_credentials_of_an_answer_are_named_by_their_place(registry: Registry) -> None:
    registry.register_answer(
        {
            "sandbox_id": "sandbox-0123456789-0123456789",
            "server_url": "https://x.klavis.ai/mcp/?instance_id=sandbox-0123456789-0123456789",
            "auth_data": {"access_token": "ghp_secret", "nested": {"users": [{"password": "hunter22"}]}, "port": 5432},
            "metadata": {"notion_key": "ntn_secret"},
        }
    )
    shown = registry.redact("ghp_secret hunter22 ntn_secret 5432 sandbox-0123456789-0123456789")
    assert shown == (
        "<auth_data.access_token> <auth_data.nested.users.password> <metadata.notion_key> 5432 "
        "sandbox-0123456789-0123456789"
    )


def test_what_the_embedded_backend_says_of_itself_stays(registry: Registry) -> None:
    said = {"root": "/tmp/pytest-klavis-1000/run/workspaces/box", "isolation": "strict", "backend": "embedded"}
    registry.register_answer({"local_sandbox_id": "l-1", "servers": [{"id": "i", "metadata": said}]})
    assert registry.redact(json.dumps(said)) == json.dumps(said)


def test_a_private_key_is_hidden_line_by_line(registry: Registry) -> None:
    lines = ("-----BEGIN KEY-----", "MIIEvQIBADANBgkqhkiG9w0BAQ", "AoIBAQC7VJTUt9Us8cKBwkaPJw", "-----END KEY-----")
    pem = "\n".join(lines)
    registry.register(pem, "<key>")
    indented = "\n".join(f"E     {line}" for line in pem.splitlines())
    for text in (pem, repr(pem), json.dumps({"k": pem}), indented):
        assert "MIIEvQ" not in registry.redact(text)
        assert "AoIBAQ" not in registry.redact(text)


def test_a_short_string_is_not_hunted(registry: Registry) -> None:
    registry.register("us", "<region>")
    registry.register("", "<nothing>")
    assert registry.redact("must discuss") == "must discuss"


def test_a_secret_within_a_secret_does_not_break_it_up(registry: Registry) -> None:
    registry.register("secret", "<short>")
    registry.register("my-secret-key", "<long>")
    assert registry.redact("my-secret-key secret") == "<long> <short>"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abc.DEF-123", "Authorization: Bearer <redacted>"),
        ("{'authorization': 'bearer abcdef9'}", "{'authorization': 'bearer <redacted>'}"),
        ("requires Bearer token authentication", "requires Bearer token authentication"),
        ("see https://s.test/b/o?a=1&X-Amz-Signature=ff&b=2.", "see https://s.test/b/o?<signed query>"),
        (f"'{LOCAL}'", "'https://local-dev.klavis.ai/filesystem/mcp/?<signed query>'"),
        ("https://docs.test/search?q=signature", "https://docs.test/search?q=signature"),
    ],
)
def test_patterns_catch_what_was_never_registered(registry: Registry, text: str, shown: str) -> None:
    assert registry.redact(text) == shown


def test_mappings_are_redacted_within_and_whole_under_a_secrets_key(registry: Registry) -> None:
    registry.register("the-secret", "<it>")
    given = {
        "a": ["the-secret", {"b": ("x the-secret",)}],
        "auth_data": {"k": 1},
        "metadata": None,
        "n": 3,
        "the-secret": 0,
    }
    assert registry.redact_mapping(given) == {
        "a": ["<it>", {"b": ["x <it>"]}],
        "auth_data": "<redacted>",
        "metadata": None,
        "n": 3,
        "<it>": 0,
    }


def test_threads_may_register_while_others_redact(registry: Registry) -> None:
    def register_many(who: int) -> None:
        for n in range(300):
            registry.register(f"secret-{who}-{n}.", "<s>")
            registry.redact("some text with secret-0-0. in it")

    threads = [threading.Thread(target=register_many, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.redact("secret-3-299. secret-0-0.") == "<s> <s>"


def test_the_process_has_one_registry() -> None:
    register("one-registry-secret", "<one>")
    register_url("https://one-registry.test/a/mcp/?x=1")
    assert redact("one-registry-secret https://one-registry.test/a/mcp/?x=1") == "<one> <one-registry.test/a url>"
    assert redact_mapping(["one-registry-secret"]) == ["<one>"]


def test_redaction_loads_nothing_heavy() -> None:
    code = "import sys, pytest_klavis.redaction; print({'httpx', 'pydantic'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


RANDOM_KEY = "sk-kl-4f9Xq27Zt81LmVb30PwRs65Yd"
ODD = "Tr\"ou'b\\4dor\n%41&<ö😀>"


def json_twice(secret: str) -> str:
    return json.dumps({"a": json.dumps({"b": secret})})


def bytes_in_json(secret: str) -> str:
    return json.dumps(repr(secret.encode()))


def lower_percent(secret: str) -> str:
    return re.sub("%..", lambda found: found[0].lower(), quote(secret, safe=""))


def some_percent(secret: str) -> str:
    return "".join(quote(one, safe="") if one in "\"'<>ö😀\n%\\" else one for one in secret)


def entities(secret: str) -> str:
    return "".join(f"&#{ord(one)};" if one in "&<>\"'" else one for one in secret)


def coloured(secret: str) -> str:
    return f"\x1b[33m{secret[:5]}\x1b[39;49;00m\x1b[1m{secret[5:9]}\x1b[0m{secret[9:]}"


@pytest.mark.parametrize("secret", [RANDOM_KEY, ODD, "pass\\new%2Fword&amp;"])
@pytest.mark.parametrize(
    "spelled",
    [
        *(str, repr, ascii, json.dumps, json_twice, bytes_in_json, quote, lower_percent, some_percent, html.escape),
        *(
            entities,
            coloured,
            lambda s: repr([s, "'", '"']),
            lambda s: html.escape(repr(s)),
            lambda s: repr(coloured(s)),
        ),
    ],
)
def test_spellings_inside_each_other_are_read(registry: Registry, secret: str, spelled: Any) -> None:
    registry.register(secret, "<X>")
    shown = registry.redact(f"before {spelled(secret)} after")
    assert "<X>" in shown
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    assert len(shown) < len("before <X> after") + 40
    for piece in ("Xq27", "4dor", "word"):
        assert piece not in shown


def test_colours_go_on_after_a_secret(registry: Registry) -> None:
    registry.register(RANDOM_KEY, "<X>")
    shown = registry.redact(f"\x1b[31mred {coloured(RANDOM_KEY)} plain")
    assert shown == "\x1b[31mred \x1b[33m<X>\x1b[39;49;00m\x1b[1m\x1b[0m plain"


@given(before=st.text(max_size=5), secret=st.text(min_size=7, max_size=30), after=st.text(max_size=5))
def test_a_secret_is_gone_whatever_it_is_and_whatever_stands_around_it(before: str, secret: str, after: str) -> None:
    registry = Registry()
    # With a letter and a digit it is not one that counts only as a whole word.
    registry.register(f"k1{secret}", "\0")
    shown = registry.redact(before + f"k1{secret}" + after)
    assert f"k1{secret}" not in shown
    assert "\0" in shown


@given(st.text(alphabet="abc123\\%&;x1bu\x1b[m\"'n=.h?:/", max_size=200))
def test_innocent_text_stays_as_it_is(text: str) -> None:
    registry = Registry()
    registry.register(RANDOM_KEY, "<X>")
    registry.register(ODD, "<Y>")
    assert registry.redact(text) == text


@pytest.mark.parametrize("user", ["", "u", "me", "user", "a-longer-user"])
def test_base64_of_what_holds_a_secret(registry: Registry, user: str) -> None:
    """Basic authentication, and headers that carry JSON."""
    registry.register("hunter-22-öß?>", "<password>")
    for text in (f"{user}:hunter-22-öß?>", json.dumps({"email": user, "password": "hunter-22-öß?>", "name": "n"})):
        for code in (base64.b64encode(text.encode()), base64.urlsafe_b64encode(text.encode())):
            shown = registry.redact(f"header {code.decode()} end")
            assert "<password>" in shown
            assert "nter-22" not in "".join(
                base64.b64decode(part + "A" * (-len(part) % 4), "-_").decode("latin-1")
                for part in re.findall("[A-Za-z0-9+/_-]{4,}", shown.replace("header ", "").replace("<password>", " "))
            )


@pytest.mark.parametrize(
    "text",
    [
        "cut short: sk-kl-4f9Xq27Z",
        "…and the rest 1LmVb30PwRs65Yd'",
        "b'sk-kl-4f9Xq2'\n b'7Zt81LmVb30'\n b'PwRs65Yd'",
        "assert 'https://h.test/sk-kl-4f9Xq27Z...' == ''",
        "- xxxx1LmVb30PwR~s65Yd",
        "- \x1b[33m4f9Xq\x1b[0m27Zt8",
    ],
)
def test_pieces_of_what_chance_cannot_make_are_hidden(registry: Registry, text: str) -> None:
    registry.register(RANDOM_KEY, "<X>")
    shown = registry.redact(text)
    assert "<X>" in shown
    assert not [at for at in range(len(RANDOM_KEY) - 7) if RANDOM_KEY[at : at + 8] in shown]


def test_words_inside_a_secret_are_no_secret(registry: Registry) -> None:
    registry.register("github_pat_11AB-production-2026-11-22-oauth2service-x7Qp", "<X>")
    text = "github_pat_ production-2026-11-22 oauth2service github_path 2026-11-22-"
    assert registry.redact(text) == text


@pytest.mark.parametrize(
    "value",
    [
        *("us", "true", "5432", "1234567890", "2026-11-22", "2026-11-22T03:03:50Z", "10.0.0.17", "1.25", "enterprise"),
        *("us-central1", "service_account", "ACCOUNTADMIN", "Production Workspace", "db.example.com", "COMPUTE_WH"),
        123456,
    ],
)
def test_what_says_nothing_is_no_secret(registry: Registry, value: Any) -> None:
    registry.register_answer({"metadata": {"plan": value}, "auth_data": {"role": value}})
    assert registry.redact(f"the {value} is {value!r}") == f"the {value} is {value!r}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("password", "correcthorse"),
            ("pin_token", "123456"),
            ("api_key", "12345678"),
            ("private_key", "PLAINWORDS"),
        ),
        *(("account", "box-17@klavis-tests.dev"), ("user", "svc$reader"), ("code", "a8Kd02lq")),
        ("access_token", 7654321),
    ],
)
def test_what_is_called_a_secret_or_looks_like_one_is_hidden(registry: Registry, name: str, value: Any) -> None:
    registry.register_answer({"auth_data": {"deep": [{name: value}]}})
    assert registry.redact(f"it is {value}.") == f"it is <auth_data.deep.{name}>."


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("token_type", "Bearer"), ("token_type", "bearer"), ("api_key_name", "production"), ("secret", "disabled")),
        *(("token_expiry", "2026-11-22"), ("key_expires_at", "2026-11-22"), ("is_private", "internal")),
        ("token_scope", "repo user"),
    ],
)
def test_what_is_about_a_secret_is_none(registry: Registry, name: str, value: str) -> None:
    registry.register_answer({"auth_data": {name: value}})
    text = f"{value}, {value}T04:11:57Z"
    assert registry.redact(text) == text
    registry.register_answer({"auth_data": {name: "a8Kd02lq"}})
    assert registry.redact("a8Kd02lq") == f"<auth_data.{name}>"


def test_a_registered_bearer_does_not_switch_the_pattern_off(registry: Registry) -> None:
    registry.register("Bearer", "<X>")
    registry.register("authorization", "<Y>")
    text = "Authorization: Bearer rotated_9Qx71, {'authorization': 'abc_9Qx71'}"
    assert "9Qx71" not in registry.redact(text)


TOKEN = "ghp_16C7e42F292c6912E7710c838347Ae"


@pytest.mark.parametrize(
    ("value", "text", "shown"),
    [
        (f"https://{TOKEN}@github.com/a/b.git", f"user {TOKEN}.", "user <user of github.com>."),
        ("https://h.test/services/T0/x8Zk2LmN4pQ6rS9tUv", "POST /x8Zk2LmN4pQ6rS9tUv", "POST /<path of h.test>"),
        ("DB=postgres://u:pass-w0rd@h/db\nKEY='rk_51H'\n", "pass-w0rd rk_51H", "<password of h> <auth_data.it.KEY>"),
        ("jdbc:sqlserver://h:1433;user=sa;password=S3cr3t!", "by S3cr3t!", "by <auth_data.it.password>"),
        ("sqlserver://h;password=S3cr3t!/db", "by sqlserver://h;password=S3cr3t!/db", "by <h url>"),
        ('[{"apikey":"9f8e-key-55"}]', "9f8e-key-55", "<auth_data.it.apikey>"),
        (
            {"xoxb-2345-67ab89cdEFgh": {"team": "T0ab1c"}},
            "xoxb-2345-67ab89cdEFgh T0ab1c",
            "<auth_data.it> <auth_data.it.team>",
        ),
    ],
)
def test_credentials_inside_of_values_are_hidden_alone(registry: Registry, value: Any, text: str, shown: str) -> None:
    registry.register_answer({"auth_data": {"it": value}})
    assert registry.redact(text) == shown


def test_settings_of_any_length_and_depth_can_be_registered(registry: Registry) -> None:
    registry.register_answer({"auth_data": {"a": "a=" * 100_000, "b": "b" * 300_000, "c": "https://" * 10_000}})


def test_long_names_are_no_tokens(registry: Registry) -> None:
    name = "auth_provider_x509_cert_url"
    registry.register_answer(
        {"auth_data": {name: "a8Kd02lq"}, "server_urls": {"h4x0r-server-7f3c": "https://h.test/a"}}
    )
    registry.register_url("https://h.test/local-sandbox-v2-server/mcp/?x=1")
    text = f"{name} a8Kd02lq h4x0r-server-7f3c local-sandbox-v2-server"
    assert registry.redact(text) == text.replace("a8Kd02lq", f"<auth_data.{name}>")


def test_the_path_of_a_signed_url_is_no_secret(registry: Registry) -> None:
    """It holds the id of the sandbox, and that is what reports name it by."""
    path = "5b1f7c3e-92d4-4a6b-8e01-7d3c95fa2b48"
    registry.register_url(f"https://h.test/{path}/a.tar.gz?X-Goog-Signature=0123456789abcdef01234567")
    assert registry.redact(path) == path


def test_a_token_in_the_path_is_in_no_label(registry: Registry) -> None:
    registry.register_url(f"https://h.test/{TOKEN}/github/mcp")
    assert (
        registry.redact(f"https://h.test/{TOKEN}/github/mcp {TOKEN}") == "<h.test/github url> <path of h.test/github>"
    )


def test_an_innocent_uuid_keeps_what_it_shares_with_a_secret_one(registry: Registry) -> None:
    registry.register("5b1f7c3e-92d4-4a6b-8e01-7d3c95fa2b48", "<X>")
    for text in ("0d0d0d0d-92d4-4a0d-8d0d-0d0d0d0d0d0d", "0d0d0d0d-0dd4-4a6b-8d0d-0d0d0d0d0d0d"):
        assert registry.redact(text) == text
    assert registry.redact("92d4-4a6b") == "<X>"


def test_a_word_that_is_a_secret_is_hidden_as_a_word_only(registry: Registry) -> None:
    registry.register_answer({"auth_data": {"password": "correct", "pin_token": "202611", "db_password": "postgres"}})
    text = "incorrect correctness at 20261122 on postgres"
    assert registry.redact(text) == text
    assert registry.redact("correct, 202611_") == "<auth_data.password>, <auth_data.pin_token>_"


def test_a_credentials_file_given_as_text_is_read(registry: Registry) -> None:
    inner = {"type": "service_account", "private_key_id": "0f9e8d7c6b5a", "client_email": "svc@p-1.iam.test"}
    registry.register_answer({"auth_data": {"file": json.dumps(inner, indent=2)}})
    assert registry.redact("0f9e8d7c6b5a svc@p-1.iam.test service_account") == (
        "<auth_data.file.private_key_id> <auth_data.file.client_email> service_account"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{'x-email-config': 'eyJlbWFpbCI6ICJhIn0='}", "{'x-email-config': '<redacted>'}"),
        ("[(b'x-auth-data', b'eyJ0b2tlbiI6MX0=')]", "[(b'x-auth-data', b'<redacted>')]"),
        ("Authorization: Basic dXNlcjpwYXNzMQ==", "Authorization: Basic <redacted>"),
        ("X-API-Key=abcdef0123", "X-API-Key=<redacted>"),
        ("the authorization: required by all", "the authorization: required by all"),
        ("a basic requirement of v2", "a basic requirement of v2"),
    ],
)
def test_headers_that_carry_credentials_by_their_name(registry: Registry, text: str, shown: str) -> None:
    assert registry.redact(text) == shown


def test_holds_means_a_whole_known_secret() -> None:
    register("held-secret-4f9Xq27Zt81LmVb", "<held>")
    assert holds("test_a[held-secret-4f9Xq27Zt81LmVb]")
    assert holds(r"test_a[held-secret-4f9Xq27Zt81LmV\x62]")
    assert not holds("test_a[held-secret-4f9Xq27Z] Bearer abcdef9 https://h.test/?sig=1")


def test_thousands_of_dead_sandboxes_do_not_forget_the_key(registry: Registry) -> None:
    registry.register(RANDOM_KEY, "<key>")
    for number in range(3000):
        registry.register_url(f"https://h.test/mcp/?instance_id=7f3c{number:08d}-a1b2c3d4e5f6")
    last = "7f3c00002999-a1b2c3d4e5f6"
    shown = registry.redact(f"{RANDOM_KEY[:12]} {RANDOM_KEY} 7f3c00000001-a1b2c3d4e5f6 {last} {last[:14]}")
    assert shown == "<key> <key> " + " ".join(["<instance_id of h.test>"] * 3)


@pytest.mark.parametrize(
    "text",
    [
        "a...",
        "http://",
        "bearer ",
        "authorization:",
        "'",
        "\\",
        "%41",
        "%25",
        "http://a?b,",
        "A1",
        "authorization=",
        "x-api-key=",
    ],
)
def test_hostile_text_takes_no_longer_than_its_length(registry: Registry, text: str) -> None:
    """Ten times the text may not take a hundred times as long: nobody waits for the end of a quadratic search."""
    registry.register(RANDOM_KEY, "<key>")
    whole = text * (200_000 // len(text))
    took = [seconds_for(registry, whole[: len(whole) // 10]), seconds_for(registry, whole)]
    assert took[1] < 40 * took[0] + 0.5


def seconds_for(registry: Registry, text: str) -> float:
    started = time.process_time()
    registry.redact(text)
    return time.process_time() - started
