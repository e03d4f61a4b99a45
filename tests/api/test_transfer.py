"""Archives to and from signed URLs, with a storage that misbehaves."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pytest_klavis import errors
from pytest_klavis.api.client import KlavisClient
from tests.api.conftest import KEY
from tests.api.server import FakeApi, answer, cut, drip, hang_up

if TYPE_CHECKING:
    from pathlib import Path

DATA = os.urandom(300_000)


@pytest.fixture
def signed(api: FakeApi) -> str:
    return f"{api.url}/bucket/object.tar.gz?X-Goog-Signature=0123456789abcdef0123456789"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "seed.tar.gz"
    path.write_bytes(DATA)
    return path


def test_an_upload_is_bare_and_whole(api: FakeApi, client: KlavisClient, signed: str, archive: Path) -> None:
    client.upload_archive(signed, archive)
    (asked,) = api.asked
    assert (asked.method, asked.path, asked.body) == ("PUT", "/bucket/object.tar.gz", DATA)
    assert asked.query == {"X-Goog-Signature": "0123456789abcdef0123456789"}
    assert asked.headers["content-type"] == "application/gzip"
    assert asked.headers["content-length"] == str(len(DATA))
    assert not {"authorization", "x-klavis-owner"} & asked.headers.keys()
    assert client.calls == 0


@pytest.mark.parametrize("trouble", [hang_up, answer({}, 503), answer({}, 500)], ids=["hang up", "503", "500"])
def test_an_upload_is_repeated_from_the_start(
    api: FakeApi, client: KlavisClient, signed: str, archive: Path, trouble: object
) -> None:
    api.says(trouble, answer())  # type: ignore[arg-type]
    client.upload_archive(signed, archive)
    assert [asked.body for asked in api.asked] == [DATA, DATA]


@pytest.mark.parametrize("status", [400, 403])
def test_an_expired_url_is_not_the_keys_fault(
    api: FakeApi, client: KlavisClient, signed: str, archive: Path, status: int
) -> None:
    api.says(answer(b"<Error><Code>ExpiredToken</Code></Error>", status))
    with pytest.raises(
        errors.RequestRefusedError, match=rf"upload archive was answered with HTTP {status}.*\n.*expire"
    ) as e:
        client.upload_archive(signed, archive)
    assert "KLAVIS_API_KEY" not in str(e.value)
    assert "0123456789abcdef" not in str(e.value)
    assert len(api.asked) == 1


def test_an_archive_that_is_not_there_is_named(client: KlavisClient, signed: str, tmp_path: Path) -> None:
    with pytest.raises(errors.SeedError, match=r"none\.tar\.gz cannot be read: No such file"):
        client.upload_archive(signed, tmp_path / "none.tar.gz")


def test_a_download_is_bare_and_whole(api: FakeApi, client: KlavisClient, signed: str, tmp_path: Path) -> None:
    api.says(answer(DATA))
    dest = tmp_path / "workspace.tar.gz"
    assert client.download_archive(signed, dest) == len(DATA)
    assert dest.read_bytes() == DATA
    assert list(tmp_path.iterdir()) == [dest]
    (asked,) = api.asked
    assert (asked.method, asked.headers["accept-encoding"]) == ("GET", "identity")
    assert "authorization" not in asked.headers


def test_stored_bytes_are_not_decompressed(api: FakeApi, client: KlavisClient, signed: str, tmp_path: Path) -> None:
    api.says(answer(b"\x1f\x8b-as-stored", headers={"Content-Encoding": "gzip"}))
    client.download_archive(signed, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"\x1f\x8b-as-stored"


def test_a_download_that_was_cut_is_repeated(api: FakeApi, client: KlavisClient, signed: str, tmp_path: Path) -> None:
    api.says(cut(DATA[:9], announced=len(DATA)), hang_up, answer(DATA))
    client.download_archive(signed, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA


def test_a_download_appears_whole_or_not_at_all(
    api: FakeApi, client: KlavisClient, signed: str, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(b"older")
    api.says(cut(DATA[:9], announced=len(DATA)))
    with pytest.raises(
        errors.TransportError, match=r"download archive was not answered by 127\.0\.0\.1:\d+ \("
    ) as error:
        client.download_archive(signed, tmp_path / "a", deadline=1)
    assert "0123456789abcdef" not in f"{error.value!r}{error.value.__context__!r}"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"older"}


def test_a_dripping_storage_cannot_keep_a_download(
    api: FakeApi, client: KlavisClient, signed: str, tmp_path: Path
) -> None:
    api.says(drip(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + b"x" * 900, 0.02))
    began = time.monotonic()
    with pytest.raises(errors.TransportError, match="no whole answer within 1 s"):
        client.download_archive(signed, tmp_path / "a", deadline=1)
    assert time.monotonic() - began < 2
    assert not list(tmp_path.iterdir())


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n" + b"x" * 0x400 + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize("behaviour", [answer(b"x" * 0x400), drip(CHUNKED, 0)], ids=["announced", "not announced"])
def test_a_download_larger_than_its_limit_is_refused(
    api: FakeApi, client: KlavisClient, signed: str, tmp_path: Path, behaviour: object
) -> None:
    api.says(behaviour)  # type: ignore[arg-type]
    with pytest.raises(errors.ArchiveError, match="1,000"):
        client.download_archive(signed, tmp_path / "a", limit=1_000)
    assert not list(tmp_path.iterdir())
    assert client.download_archive(signed, tmp_path / "a", limit=0x400) == 0x400


def test_a_place_that_cannot_be_written_is_named(
    api: FakeApi, client: KlavisClient, signed: str, tmp_path: Path
) -> None:
    with pytest.raises(errors.ArchiveError, match=r"it cannot be stored as .*/none/a: No such file"):
        client.download_archive(signed, tmp_path / "none" / "a")


@pytest.mark.parametrize("status", [404, 410])
def test_a_dump_that_is_gone(api: FakeApi, client: KlavisClient, signed: str, tmp_path: Path, status: int) -> None:
    api.says(answer(b"<Error/>", status))
    with pytest.raises(errors.NotFoundError):
        client.download_archive(signed, tmp_path / "a")


@pytest.mark.parametrize("url", ["", "not a url", "file:///etc/passwd", "http://[half", "gs://bucket/secret-object"])
def test_a_url_that_is_none_is_not_shown(client: KlavisClient, tmp_path: Path, url: str) -> None:
    with pytest.raises(errors.TransportError, match="gave a URL that is none"):
        client.download_archive(url, tmp_path / "a")


def test_signed_urls_do_not_pass_the_key_on(api: FakeApi, signed: str, tmp_path: Path) -> None:
    api.says(answer(DATA))
    KlavisClient("https://api.klavis.ai", KEY).download_archive(signed, tmp_path / "a")
    assert KEY not in str(api.asked)


def test_an_archive_that_shrinks_while_it_is_sent_is_named(client: KlavisClient, tmp_path: Path) -> None:
    archive = tmp_path / "seed.tar.gz"
    with archive.open("wb") as file:
        file.truncate(64 << 20)  # more than the sockets' buffers take
    with socket.create_server(("127.0.0.1", 0)) as storage:

        def shrink() -> None:
            connection, _ = storage.accept()
            with connection:
                connection.recv(1)
                os.truncate(archive, 0)
                while connection.recv(1 << 20):
                    pass

        thread = threading.Thread(target=shrink)
        thread.start()
        with pytest.raises(errors.SeedError, match=r"seed\.tar\.gz became shorter while it was sent"):
            client.upload_archive(f"http://127.0.0.1:{storage.getsockname()[1]}/o?sig=0", archive)
        thread.join()
