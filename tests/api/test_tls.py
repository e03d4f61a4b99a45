"""HTTPS: whose certificates are trusted, and the way through a proxy."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from pytest_klavis import errors
from pytest_klavis.api.client import KlavisClient
from tests.api.conftest import KEY
from tests.api.server import FakeApi, answer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")

LIST = """
import sys
from pytest_klavis.api.client import KlavisClient
print(KlavisClient(sys.argv[1], "key-of-the-tls-test").list_sandboxes().total_count)
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "own.pem"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run(
        [*command, "-addext", names, "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True
    )
    with path.open("a") as whole:
        whole.write((path.parent / "own.pem.crt").read_text())
    return path


@pytest.fixture
def secure(certificate: Path) -> Iterator[FakeApi]:
    with FakeApi(certificate=certificate) as api:
        api.says(answer({"sandboxes": [], "total_count": 42}))
        yield api


def test_a_certificate_that_is_not_trusted_is_not_tried_again(secure: FakeApi) -> None:
    client = KlavisClient(secure.url, KEY)
    with pytest.raises(
        errors.TransportError, match=r"127\.0\.0\.1:\d+: its certificate is not trusted .*SSL_CERT_FILE"
    ):
        client.list_sandboxes()
    assert client.calls == 1
    assert secure.asked == []


def test_own_roots_are_named_by_the_usual_variable(secure: FakeApi, certificate: Path) -> None:
    environment = {**os.environ, "SSL_CERT_FILE": f"{certificate}.crt", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", LIST, secure.url]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("42\n", "")


def test_https_goes_through_a_proxy_unread(secure: FakeApi, certificate: Path) -> None:
    port = int(secure.url.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        seen: list[bytes] = []
        thread = threading.Thread(target=_tunnel, args=(proxy, port, seen))
        thread.start()
        environment = {
            **{name: value for name, value in os.environ.items() if name.lower() != "no_proxy"},
            "HTTPS_PROXY": f"http://user:proxy-secret@127.0.0.1:{proxy.getsockname()[1]}",
            "SSL_CERT_FILE": f"{certificate}.crt",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        # Loopback is never proxied, and this name is not loopback to us: only the proxy knows where it leads.
        command = [sys.executable, "-c", LIST, "https://klavis.test"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        thread.join()
    assert b"CONNECT klavis.test:443" in seen[0]
    assert b"Proxy-Authorization: Basic" in seen[0]
    # The tunnel was made; what is behind it is not klavis.test, and TLS noticed.
    assert "Hostname mismatch" in done.stderr
    assert "proxy-secret" not in done.stderr


def _tunnel(proxy: socket.socket, port: int, seen: list[bytes]) -> None:
    """Be an HTTP proxy for one connection: everything asked for leads to `port`."""
    client, _ = proxy.accept()
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        seen.append(client.recv(65536))
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        back = threading.Thread(target=_pump, args=(server, client))
        back.start()
        _pump(client, server)
        back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(65536):
            sink.sendall(chunk)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
