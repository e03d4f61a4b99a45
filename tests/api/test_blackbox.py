"""The Blackbox client: what it asks, what it makes of each answer, and how long it waits."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_klavis import errors
from pytest_klavis.api.blackbox import BlackboxClient
from pytest_klavis.redaction import redact
from tests.blackbox import (
    FILES,
    KEY,
    NO_ZIP,
    Blackbox,
    Misbehaviour,
    Run,
    blackbox_api,
    drips,
    error,
    reset,
    says,
    targz,
)

BODY = targz(FILES)


@pytest.fixture
def api() -> Iterator[Blackbox]:
    with blackbox_api() as found:
        yield found


@pytest.fixture
def client(api: Blackbox) -> BlackboxClient:
    return BlackboxClient(f"{api.url}/", f" {KEY}\n")


def test_what_is_asked(api: Blackbox, client: BlackboxClient, tmp_path: Path) -> None:
    api.runs["a b/c?"] = Run(archive=BODY)
    size = client.download_workspace("a b/c?", tmp_path / "w", path="/vercel/sandbox/a b&c", format="zip")
    assert size == len(BODY)
    assert (tmp_path / "w").read_bytes() == BODY
    (asked,) = api.requests
    assert asked.path == "/api/v1/tasks/a%20b%2Fc%3F/files/download"
    assert asked.query == {"path": "/vercel/sandbox/a b&c", "format": "zip"}
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["accept-encoding"] == "identity"
    assert client.status("a b/c?") == "completed"


@pytest.mark.parametrize("status", ["pending", "in_progress", "queued", "running", "completed", "hibernating"])
def test_a_status_is_passed_on(api: Blackbox, client: BlackboxClient, status: str) -> None:
    api.runs["run-1"].statuses = [status]
    assert client.status("run-1") == status


@pytest.mark.parametrize(
    "case",
    [
        (error(400, "Invalid path"), errors.RequestRefusedError, 400, "Invalid path"),
        (error(401, "Unauthorized"), errors.AuthError, 401, "Set BLACKBOX_API_KEY in the environment to a key"),
        (error(403, "Task belongs to"), errors.AuthError, 403, "another account than BLACKBOX_API_KEY .* needs Pro"),
        (error(409, f"no {KEY} here"), errors.RequestRefusedError, 409, "no <.*> here"),
        (error(500, "Failed to stream archive"), errors.ServerError, 500, "Failed to stream archive$"),
        (error(502, "x" * 5000), errors.ServerError, 502, r"x{1900,2000}\[\.\.\.\]"),
        (error(504, "late"), errors.ServerError, 504, "late"),
        (says(301, b""), errors.ApiError, 301, "Redirects are not followed"),
    ],
)
def test_a_refusal_has_operation_status_and_body(
    api: Blackbox,
    client: BlackboxClient,
    tmp_path: Path,
    case: tuple[Misbehaviour, type[errors.ApiError], int, str],
) -> None:
    fault, kind, status, words = case
    api.faults += [fault] * 9
    with pytest.raises(kind, match=words) as raised:
        client.download_workspace("run-1", tmp_path / "w")
    assert type(raised.value) is kind
    assert (raised.value.operation, raised.value.status) == ("download workspace", status)
    assert KEY not in str(raised.value)
    assert len(api.requests) == {500: 5, 502: 4, 504: 4}.get(status, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "case",
    [
        (reset, errors.TransportError, "was not answered by 127.0.0.1:.* .4 attempts."),
        (says(200, BODY[:99], {"Content-Length": "999"}), errors.TransportError, "download workspace was not answered"),
        (says(204, b""), errors.TransportError, "HTTP 204, which brings no file"),
        (says(200, {"error": "No sandbox"}), errors.ArchiveError, r"""no archive: '{"error": "No sandbox"}'"""),
        (says(200, b"\x00\xff\x1b[31m"), errors.ArchiveError, r"no archive: '\\x00\\ufffd\\x1b\[31m'"),
        (says(200, BODY, {"Content-Length": str(9 << 30)}), errors.ArchiveError, "more than the 4,294,967,296 allowed"),
    ],
)
def test_a_file_comes_whole_or_not_at_all(
    api: Blackbox,
    client: BlackboxClient,
    tmp_path: Path,
    case: tuple[Misbehaviour, type[errors.InfraError], str],
) -> None:
    fault, kind, words = case
    api.faults += [fault] * 9
    with pytest.raises(kind, match=words):
        client.download_workspace("run-1", tmp_path / "w")
    assert list(tmp_path.iterdir()) == []


def test_a_limit(client: BlackboxClient, tmp_path: Path) -> None:
    with pytest.raises(errors.ArchiveError, match="more than the 50 allowed"):
        client.download_workspace("run-1", tmp_path / "w", limit=50)
    with pytest.raises(errors.ArchiveError, match="it cannot be stored"):
        client.download_workspace("run-1", tmp_path / "absent" / "w")


def test_a_drip_ends_with_the_deadline(api: Blackbox, client: BlackboxClient, tmp_path: Path) -> None:
    api.faults += [drips(0.02)] * 9
    begun = time.monotonic()
    with pytest.raises(errors.TransportError, match="no whole answer within 1 s"):
        client.download_workspace("run-1", tmp_path / "w", deadline=1)
    assert time.monotonic() - begun < 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", [NO_ZIP, "Failed to create archive: /bin/sh: 1: tar: not found"])
def test_a_missing_program_is_answered_with_the_other_format(
    api: Blackbox, client: BlackboxClient, tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    api.faults += [error(500, text), error(500, "a hiccup")]
    with caplog.at_level(logging.WARNING):
        client.download_workspace("run-1", tmp_path / "w")
    assert [one.query["format"] for one in api.downloads()] == ["tar", "zip", "zip"]
    assert "cannot make a tar, so a zip is asked for" in caplog.text
    api.requests.clear()
    api.faults += [error(500, NO_ZIP)] * 9
    with pytest.raises(errors.ServerError, match="zip: command not found"):
        client.download_workspace("run-1", tmp_path / "w", format="zip")
    assert [one.query["format"] for one in api.downloads()] == ["zip", "tar", "tar", "tar", "tar"]


def test_an_appointment_is_kept(api: Blackbox, client: BlackboxClient, tmp_path: Path) -> None:
    api.faults.append(error(429, "slow down", {"Retry-After": "1"}))
    begun = time.monotonic()
    client.download_workspace("run-1", tmp_path / "w")
    assert time.monotonic() - begun >= 1
    api.faults += [error(429, "slow down", {"Retry-After": "3000"})]
    with pytest.raises(errors.RateLimitError, match="It asked to come back in 60 s"):
        client.download_workspace("run-1", tmp_path / "w", deadline=5)


def test_a_run_that_ends_while_it_is_waited_for(api: Blackbox, client: BlackboxClient, tmp_path: Path) -> None:
    api.runs["run-1"].statuses = ["pending", "completed"]
    client.download_workspace("run-1", tmp_path / "w")
    assert (len(api.downloads()), api.looks()) == (2, 1)
    # Between the 404 and the look at its status it got its sandbox and ended.
    api.requests.clear()
    api.faults.append(error(404, "No sandbox available for this task"))
    client.download_workspace("run-1", tmp_path / "w")
    assert (len(api.downloads()), api.looks()) == (2, 1)


def test_a_run_without_end_is_waited_for_with_growing_pauses(
    api: Blackbox, client: BlackboxClient, tmp_path: Path
) -> None:
    api.runs["run-1"] = Run(statuses=["in_progress"], has_sandbox=False)
    with pytest.raises(errors.NotFoundError, match="'run-1' is still in_progress after 3 s") as raised:
        client.download_workspace("run-1", tmp_path / "w", deadline=3)
    assert (raised.value.operation, raised.value.status) == ("download workspace", 404)
    assert raised.value.body == "No sandbox available for this task"
    assert api.looks() == len(api.downloads()) == 4  # at 0, 0.5, 1.25 and 2.4 s


@pytest.mark.parametrize("answer", [says(200, []), says(200, b"<html>"), says(200, {"status": 7})])
def test_a_status_that_cannot_be_read(
    api: Blackbox, client: BlackboxClient, monkeypatch: pytest.MonkeyPatch, answer: Misbehaviour
) -> None:
    api.status_faults.append(answer)
    assert client.status("run-1") == "unknown"
    api.status_faults += [error(503, "x")]
    assert client.status("run-1") == "completed"


def test_the_key_is_a_secret(api: Blackbox, client: BlackboxClient) -> None:
    assert redact(f"key={KEY}") != f"key={KEY}"
    assert KEY not in repr(client) + repr(vars(client).get("_host"))
    assert repr(client).startswith("BlackboxClient('127.0.0.1:")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BlackboxClient("http://127.0.0.1", ""), "BLACKBOX_API_KEY is empty"),
        (lambda: BlackboxClient("http://127.0.0.1", "sk-a b"), "no HTTP header carries"),
        (lambda: BlackboxClient("http://127.0.0.1", "sk-\u00e9"), "no HTTP header carries"),
        (lambda: BlackboxClient("ftp://127.0.0.1", KEY), "must be http.s.://host"),
        (lambda: BlackboxClient("http://user:planted@127.0.0.1", KEY), "without user, password"),
        (lambda: BlackboxClient("http://[::1", KEY), "must be http.s.://host"),
        (lambda: BlackboxClient("http://127.0.0.1", KEY).status(""), "run_id is ''"),
        (lambda: BlackboxClient("http://127.0.0.1", KEY).status(".."), "run_id is '..'"),
    ],
)
def test_what_cannot_be_right_is_refused_unsent(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(errors.SpecError, match=words) as raised:
        make()
    assert "planted" not in str(raised.value)
