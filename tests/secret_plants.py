"""A suite that puts secrets wherever a test can put them; `test_secrets.py` runs it and reads all that comes out.

It is copied to a folder of its own: nothing in here is run by this repository's suite itself.
"""

# ruff: noqa: T201, T203, PT009, TRY301, UP031

from __future__ import annotations

import base64
import difflib
import io
import json
import logging
import os
import pprint
import subprocess
import sys
import unittest
import warnings
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import httpx
import pytest

INNOCENT = "the enterprise plan of the us region is true since 2026-11-22 on port 54321, see postgres"
NAMES = (
    *("klavis_key", "blackbox_key", "url", "instance_id", "upload_url", "download_url"),
    *("access_token", "private_key", "password", "notion_key", "account"),
)
each = pytest.mark.parametrize("name", NAMES)
odd = pytest.mark.parametrize("name", ["url", "private_key", "password", "klavis_key"])


@pytest.fixture(scope="session")
def api() -> Iterator[Any]:
    from pytest_klavis.api.client import KlavisClient

    client = KlavisClient(os.environ["KLAVIS_BASE_URL"], os.environ["KLAVIS_API_KEY"])
    yield client
    client.close()


@pytest.fixture(scope="session")
def answers(api: Any) -> dict[str, Any]:
    created = api.acquire_sandbox("github")
    return {
        "created": created,
        "info": api.get_sandbox("github", created.sandbox_id),
        "upload": api.create_upload_url("box"),
        "download": api.dump_local_sandbox("box"),
    }


@pytest.fixture(scope="session")
def told(answers: dict[str, Any]) -> dict[str, str]:
    """The secrets by name, as the answers of the API brought them."""
    url = answers["created"].server_urls["github"]
    auth, metadata = answers["info"].auth_data, answers["info"].metadata
    found = {
        "klavis_key": os.environ["KLAVIS_API_KEY"],
        "blackbox_key": os.environ["BLACKBOX_API_KEY"],
        "url": url,
        "instance_id": url.rpartition("=")[2],
        "upload_url": answers["upload"].upload_url,
        "download_url": answers["download"].download_url,
        "access_token": auth["access_token"],
        "private_key": auth["nested"]["private_key"],
        "password": auth["password"],
        "notion_key": metadata["toolathon_notion_integration_key"],
        "account": metadata["test_account_email"],
    }
    assert tuple(found) == NAMES
    return found


def spellings(secret: str) -> list[str]:
    raw = secret.encode()
    config = json.dumps({"email": "a@b.test", "password": secret, "name": "x"})
    spelled = [
        secret,
        repr(secret),
        ascii(secret),
        repr(raw),
        json.dumps(secret),
        json.dumps(secret, ensure_ascii=False),
    ]
    spelled += [
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        quote(secret).lower(),
        httpx.URL("http://h.test", params={"k": secret}).query.decode(),
    ]
    spelled += [escape(secret), escape(secret, quote=False), secret.encode("ascii", "xmlcharrefreplace").decode()]
    spelled += [json.dumps({"k": json.dumps({"k": secret})}), repr(json.dumps([secret])), repr([f"'{secret}\""])]
    spelled += [base64.b64encode(one).decode() for one in (raw, b"user:" + raw, b"u:" + raw, config.encode())]
    spelled += [base64.urlsafe_b64encode(raw).decode(), httpx.BasicAuth("me", secret)._auth_header]
    spelled += [
        f"\x1b[33m{secret[:9]}\x1b[0m\x1b[1m{secret[9:]}\x1b[0m",
        f"<{secret}>",
        f"k={secret}&x=1",
        f"x{secret}x",
    ]
    return spelled


class Holder:
    def __init__(self, secret: str) -> None:
        self.secret = secret

    def __repr__(self) -> str:
        return f"Holder({self.secret!r})"


class OwnWarning(UserWarning):
    def __str__(self) -> str:
        return f"own text {self.secret}"

    secret = ""


# -- what passes -----------------------------------------------------------------------------------


def test_printed(told: dict[str, str], answers: dict[str, Any], record_property: Any) -> None:
    print(INNOCENT)
    for name, secret in told.items():
        for spelled in spellings(secret):
            print(name, spelled)
            print(spelled, file=sys.stderr)
        subprocess.run(
            [sys.executable, "-c", "import sys; print(sys.argv[1]); print(sys.argv[1], file=sys.stderr)", secret],
            check=True,
        )
        record_property(name, secret)
        record_property(f"{name} deep", {"k": [secret]})
    for value in (*answers.values(), told):
        print(repr(value), str(value))
        pprint.pprint(vars(value) if hasattr(value, "__dict__") else value)
    print(answers["info"].model_dump_json(indent=1), answers["created"].model_dump())


def test_files_and_environment(told: dict[str, str], api: Any, klavis_settings: Any) -> None:
    for value in (os.environ, vars(klavis_settings), klavis_settings, api, vars(api)):
        print(value, repr(value))


def test_warned(told: dict[str, str]) -> None:
    for secret in told.values():
        warnings.warn(f"plain {secret}", stacklevel=1)
        own = OwnWarning("x")
        own.secret = secret
        warnings.warn(own, stacklevel=1)


def test_logged(told: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    agent = logging.getLogger("agent")
    stream = logging.StreamHandler()
    stream.setFormatter(logging.Formatter("%(message)s %(token)s", defaults={"token": ""}))
    agent.addHandler(stream)
    for secret in told.values():
        agent.info("f %s" % secret)
        agent.info("args %s %r", secret, {"k": secret})
        agent.info("mapping %(k)s", {"k": secret})
        agent.info("object %r", Holder(secret))
        agent.info("extra", extra={"token": secret})
        logging.LoggerAdapter(agent, {"token": secret}).info("adapted")
        agent.info("stack", stack_info=True)
        try:
            raise ValueError(secret)
        except ValueError as error:
            error.add_note(secret)
            agent.exception("raised")
    agent.removeHandler(stream)


def test_teardown_prints(told: dict[str, str], request: pytest.FixtureRequest) -> None:
    request.addfinalizer(lambda: print(told["klavis_key"], told["password"]))


@pytest.fixture(params=["KLAVIS_API_KEY"], ids=["a-name"])
def of_environment(request: pytest.FixtureRequest) -> str:
    return os.environ[request.param]


@pytest.mark.parametrize("key", [pytest.param(os.environ["KLAVIS_API_KEY"], id="named")])
def test_named_parameter(key: str, of_environment: str) -> None:
    assert key == of_environment


# -- what fails ------------------------------------------------------------------------------------


@each
def test_compared_texts(told: dict[str, str], name: str) -> None:
    secret = told[name]
    assert f"before {secret} after" == "something else"


@odd
def test_compared_shifted(told: dict[str, str], name: str) -> None:
    """pytest skips what both have in front, and shows the rest."""
    secret = told[name]
    assert "x" * 60 + secret == "x" * 60 + secret[: len(secret) // 2] + "~" + secret[len(secret) // 2 :]


@odd
def test_compared_long(told: dict[str, str], name: str) -> None:
    secret = told[name]
    lines = [f"line {number}" for number in range(30)]
    assert "\n".join([*lines, secret, *lines]) == "\n".join([*lines, *lines, secret[:-1]])


@odd
def test_compared_structures(told: dict[str, str], name: str) -> None:
    secret = told[name]
    assert {"a": {"b": [secret, "x" * 300]}, secret: 1} == {"a": {"b": ["y" * 300]}}


@odd
def test_compared_lists(told: dict[str, str], name: str) -> None:
    secret = told[name]
    assert ["a" * 100, secret, Holder(secret)] == ["a" * 100, secret + "!", secret.encode()]


@odd
def test_contained(told: dict[str, str], name: str) -> None:
    assert told[name] not in f"{'y' * 200} {told[name]} {'z' * 200}"


@odd
def test_bytes(told: dict[str, str], name: str) -> None:
    assert told[name].encode() * 3 == b""


@odd
def test_difflib(told: dict[str, str], name: str) -> None:
    secret = told[name]
    other = secret.replace("e", "E")
    for differ in (difflib.ndiff, difflib.unified_diff, difflib.context_diff):
        print("\n".join(differ(secret.splitlines(), other.splitlines())))
    pytest.fail("\n".join(difflib.ndiff([secret], [other])))


def ask(url: str, **how: Any) -> httpx.Response:
    transport = httpx.MockTransport(lambda request: httpx.Response(403, json={"you": str(request.url)}))
    with httpx.Client(transport=transport) as client:
        return client.get(url, **how)


def test_call_arguments(told: dict[str, str]) -> None:
    headers = {"Authorization": f"Bearer {told['klavis_key']}", "x-token": told["access_token"]}
    assert ask(told["upload_url"], headers=headers).status_code == 201


def test_header_mapping(told: dict[str, str]) -> None:
    config = base64.b64encode(json.dumps({"email": "e", "password": told["password"]}).encode()).decode()
    headers = {"Authorization": f"Bearer {told['blackbox_key']}", "x-email-config": config}
    sent = ask("https://h.test", headers=headers).request.headers
    print(sent.raw, dict(sent))
    assert sent == {}


def test_status_error(told: dict[str, str]) -> None:
    ask(told["download_url"], auth=("me", told["password"])).raise_for_status()


def test_connect_error(told: dict[str, str]) -> None:
    httpx.get(
        told["url"].replace("https://github-mcp-server.klavis.ai", "http://127.0.0.1:9"),
        headers={"k": told["notion_key"]},
    )


def deep(secret: str, depth: int = 3) -> None:
    local = {"depth": depth, "secret": secret}
    if depth:
        deep(secret, depth - 1)
    raise RuntimeError(f"deep in {local}")


@odd
def test_chained(told: dict[str, str], name: str) -> None:
    secret = told[name]
    try:
        try:
            deep(secret)
        except RuntimeError as error:
            raise KeyError(secret) from error
    except KeyError as error:
        error.add_note(f"note {secret}")
        raise OSError(5, secret, f"/tmp/{quote(secret, safe='')}")  # noqa: B904  the context is the point


@odd
def test_group(told: dict[str, str], name: str) -> None:
    secret = told[name]
    raise ExceptionGroup(secret, [ValueError(secret), ExceptionGroup("inner", [KeyError(secret)])])


def test_warning_as_error(told: dict[str, str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.warn(told["password"], stacklevel=1)


@odd
def test_failed_by_word(told: dict[str, str], name: str) -> None:
    pytest.fail(f"reason {told[name]}", pytrace=name != "url")


@odd
def test_skipped(told: dict[str, str], name: str) -> None:
    pytest.skip(f"reason {told[name]}")


@odd
def test_expected(told: dict[str, str], name: str) -> None:
    pytest.xfail(f"reason {told[name]}")


@pytest.mark.xfail(reason=f"for {os.environ['KLAVIS_API_KEY']}")
def test_marked() -> None:
    raise AssertionError


@pytest.mark.skipif(True, reason=f"for {os.environ['BLACKBOX_API_KEY']}")
def test_marked_skip() -> None:
    pass


def test_subtests(told: dict[str, str], subtests: pytest.Subtests) -> None:
    for secret in told.values():
        with subtests.test(msg=f"message {secret}", value=secret, deep={"k": secret}):
            print(secret)
            assert secret == ""


@pytest.fixture
def fails_early(told: dict[str, str]) -> None:
    raise LookupError(told["password"])


@pytest.fixture
def fails_late(told: dict[str, str]) -> Iterator[None]:
    yield
    print(told["private_key"])
    raise LookupError(told["private_key"])


def test_setup_error(fails_early: None) -> None:
    pass


def test_teardown_error(fails_late: None) -> None:
    pass


class TestOldStyle(unittest.TestCase):
    def test_compared(self) -> None:
        self.assertEqual({"k": os.environ["KLAVIS_API_KEY"]}, {"k": os.environ["BLACKBOX_API_KEY"]})

    def test_lines(self) -> None:
        self.assertMultiLineEqual("a\n" + os.environ["KLAVIS_API_KEY"], "b\n" + os.environ["BLACKBOX_API_KEY"][:-1])

    def test_several(self) -> None:
        for name in ("KLAVIS_API_KEY", "BLACKBOX_API_KEY"):
            with self.subTest(os.environ[name], value=os.environ[name]):
                self.fail(os.environ[name])


def documented() -> str:
    """
    >>> import os
    >>> os.environ["KLAVIS_API_KEY"]
    'something'
    >>> raise ValueError(os.environ["BLACKBOX_API_KEY"])
    """
    return ""


def test_wrapped(told: dict[str, str]) -> None:
    """Lines of forty characters, as tables of a terminal make them."""
    for secret in told.values():
        if not set(secret) & set('"\n'):
            print("\n".join(secret[at : at + 40] for at in range(0, len(secret), 40)))
    out = io.StringIO()
    pprint.pprint(told["klavis_key"].encode() * 4, stream=out, width=40)
    print(out.getvalue())
    pytest.fail("see above")


def test_attributes(told: dict[str, str], record_xml_attribute: Any, record_testsuite_property: Any) -> None:
    record_xml_attribute("assertions", told["klavis_key"])
    for name, secret in told.items():
        record_testsuite_property(name, secret)


def test_artifacts(told: dict[str, str], klavis_artifacts: Path) -> None:
    (klavis_artifacts / "mine.txt").write_text("the test's own file")
    pytest.fail(told["upload_url"])
