"""What is printed in place of a secret, and what stays readable."""

from __future__ import annotations

import html
import json
import subprocess
import sys
import threading
from typing import Any
from urllib.parse import quote

import pytest

from pytest_klavis.redaction import Registry, redact, redact_mapping, register, register_url

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


def test_a_secret_that_was_shortened_is_one_all_the_same() -> None:
    registry = Registry()
    registry.register("https://example.com/mcp?instance_id=0123456789", "<url>")
    assert registry.redact("assert 'https://exam...0123456789' == ''") == "assert '<url>' == ''"
    assert registry.redact("wait... and 'https://exam...other'") == "wait... and 'https://exam...other'"
