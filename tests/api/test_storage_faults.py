"""Storage that misbehaves while an archive is on its way, and what is said of it."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Self

import httpx
import pytest

from pytest_klavis import errors
from pytest_klavis.api import models
from pytest_klavis.api.answers import Answer
from pytest_klavis.api.client import KlavisClient
from pytest_klavis.api.connection import Deadline
from pytest_klavis.api.operations import IDEMPOTENT, Operation
from pytest_klavis.api.refusals import refusal
from pytest_klavis.api.transfer import download
from tests.api.server import Behaviour, FakeApi, answer, close_delimited, cut, raw

DATA = os.urandom(300_000)


@pytest.fixture
def signed(api: FakeApi) -> str:
    return f"{api.url}/bucket/object.tar.gz?X-Goog-Signature=0123456789abcdef0123456789"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "seed.tar.gz"
    path.write_bytes(DATA)
    return path


def test_an_upload_whose_connection_breaks_half_way_is_repeated_from_the_start(
    client: KlavisClient, archive: Path
) -> None:
    archive.write_bytes(os.urandom(8 << 20))
    with Storage(reset_at=4 << 20, then=b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as storage:
        client.upload_archive(storage.url, archive)
    assert storage.tries == 2
    assert storage.body == archive.read_bytes()


def test_a_refusal_that_comes_while_the_body_is_sent_is_heard(client: KlavisClient, archive: Path) -> None:
    archive.write_bytes(os.urandom(8 << 20))
    refused = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 8\r\nConnection: close\r\n\r\n<Error/>"
    with (
        Storage(answer_at=1 << 20, then=refused) as storage,
        pytest.raises(errors.RequestRefusedError, match=r"HTTP 403: <Error/>\n.*expire"),
    ):
        client.upload_archive(storage.url, archive, deadline=20)
    assert storage.tries == 1


def test_a_storage_that_takes_nothing_cannot_keep_an_upload(client: KlavisClient, archive: Path) -> None:
    archive.write_bytes(os.urandom(32 << 20))  # more than the sockets' buffers take
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/o?sig=0"
        began = time.monotonic()
        with pytest.raises(errors.TransportError, match="no whole answer within 1 s") as error:
            client.upload_archive(url, archive, deadline=1)
        assert time.monotonic() - began < 3
        assert error.value.sent is True


@pytest.mark.parametrize("status", [429, 503])
def test_a_storage_that_says_when_to_come_back_is_asked_then(
    api: FakeApi, client: KlavisClient, signed: str, archive: Path, status: int
) -> None:
    api.says(answer({}, status, {"Retry-After": "1"}), answer())
    began = time.monotonic()
    client.upload_archive(signed, archive)
    assert time.monotonic() - began >= 1
    assert [asked.body for asked in api.asked] == [DATA, DATA]
    assert client.waited == 0  # which is about the API


@pytest.mark.parametrize(
    ("status", "expected", "hint"),
    [
        (301, errors.ApiError, "a signed URL is good for its own host only"),
        (400, errors.RequestRefusedError, "Signed URLs expire"),
        (401, errors.RequestRefusedError, "Signed URLs expire"),
        (403, errors.RequestRefusedError, "Signed URLs expire"),
        (404, errors.NotFoundError, ""),
        (410, errors.NotFoundError, ""),
        (412, errors.RequestRefusedError, ""),
        (500, errors.ServerError, ""),
        (501, errors.ServerError, ""),
    ],
)
@pytest.mark.parametrize("way", ["upload_archive", "download_archive"])
def test_each_status_of_a_storage_has_its_error(  # noqa: PLR0917 (a table)
    api: FakeApi, client: KlavisClient, archive: Path, status: int, expected: type, hint: str, way: str
) -> None:
    api.says(answer(b"<Error/>", status, {"Location": "https://other.test/"}))
    with pytest.raises(errors.ApiError, match=rf"archive was answered with HTTP {status}: <Error/>(\n|$)") as error:
        getattr(client, way)(f"{api.url}/o?sig=0", archive, deadline=1)
    assert archive.read_bytes() == DATA
    assert type(error.value) is expected
    assert hint in str(error.value)
    assert "KLAVIS_API_KEY" not in str(error.value)
    assert error.value.operation == way.replace("_", " ")


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(cut(DATA[:9], announced=len(DATA)), id="length"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n"), id="no last chunk"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nabcde"), id="within a chunk"),
    ],
)
def test_a_download_that_was_cut_anywhere_is_repeated(
    api: FakeApi, client: KlavisClient, signed: str, tmp_path: Path, behaviour: Behaviour
) -> None:
    api.says(behaviour, answer({}, 503), answer(DATA))
    assert client.download_archive(signed, tmp_path / "a") == len(DATA)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": DATA}


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(close_delimited(b"abc"), id="ended by closing"),
        pytest.param(
            raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 99\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
            id="chunks and a length",
        ),
    ],
)
def test_a_download_without_a_length_is_taken_as_it_ends(
    api: FakeApi, client: KlavisClient, signed: str, tmp_path: Path, behaviour: Behaviour
) -> None:
    api.says(behaviour)
    assert client.download_archive(signed, tmp_path / "a") == 3
    assert (tmp_path / "a").read_bytes() == b"abc"


@pytest.mark.parametrize("status", [202, 204, 206])
def test_a_success_that_brings_no_file_is_told(
    api: FakeApi, client: KlavisClient, signed: str, tmp_path: Path, status: int
) -> None:
    api.says(raw(f"HTTP/1.1 {status} OK\r\nContent-Length: 0\r\n\r\n".encode()))
    with pytest.raises(errors.TransportError, match=f"answered with HTTP {status}, which brings no file"):
        client.download_archive(signed, tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_file_larger_than_the_disk_is_not_begun(
    api: FakeApi, client: KlavisClient, signed: str, tmp_path: Path
) -> None:
    api.says(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000000000\r\n\r\nabc"))
    with pytest.raises(errors.ArchiveError, match=r"1,000,000,000,000,000,000 bytes, but .* has only"):
        client.download_archive(signed, tmp_path / "a", limit=10**19)
    assert not list(tmp_path.iterdir())


def test_a_download_with_a_key_of_its_own_and_errors_of_its_own(api: FakeApi, tmp_path: Path) -> None:
    operation = Operation("get the moon", "GET", "", models.Answer, IDEMPOTENT, 60)
    request = httpx.Request("GET", f"{api.url}/moon", headers={"Authorization": "Bearer moon-key-1"})
    made = []

    def refuse(operation: Operation[models.Answer], refused: Answer) -> errors.ApiError:
        made.append(refused.status)
        return refusal(operation, refused, "moon", key="MOON_KEY")

    api.says(answer(DATA), answer({"error": "no"}, 401))
    size = download(operation, request, tmp_path / "a", limit=1 << 20, clock=Deadline(5), refusal=refuse)
    assert (size, (tmp_path / "a").read_bytes()) == (len(DATA), DATA)
    with pytest.raises(errors.AuthError, match="get the moon was answered with HTTP 401: no\nSet MOON_KEY in"):
        download(operation, request, tmp_path / "b", limit=1 << 20, clock=Deadline(5), refusal=refuse)
    assert made == [401]
    assert {asked.headers["authorization"] for asked in api.asked} == {"Bearer moon-key-1"}


class Storage:
    """One that stops reading: it resets the first connection, or answers, when so many bytes have come."""

    def __init__(self, *, then: bytes, reset_at: int = 0, answer_at: int = 0) -> None:
        self._then, self._reset_at, self._answer_at = then, reset_at, answer_at
        self.tries = 0
        self.body = b""

    def __enter__(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/o?sig=0"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes the accept
        self._thread.join(20)
        self._socket.close()
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                self.tries += 1
                length = 0
                while line := stream.readline().strip().lower():
                    length = int(line.partition(b":")[2]) if line.startswith(b"content-length") else length
                if self._reset_at and self.tries == 1:
                    stream.read(self._reset_at)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    continue  # closed with a reset
                self.body = stream.read(self._answer_at or length)
                connection.sendall(self._then)
                connection.shutdown(socket.SHUT_WR)
                while self._answer_at and stream.read(1 << 20):  # as careful servers do, so that the answer is read
                    pass
