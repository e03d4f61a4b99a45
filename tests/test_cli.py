"""`pytest-klavis serve` as a process: its two lines, its key, its end; and what all commands share."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from pytest_klavis.embedded.serving import refuse_open_data
from pytest_klavis.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def _serving(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A `serve` process and its TMPDIR; killed at the end if it is still there."""
    with tempfile.TemporaryDirectory(prefix="klavis-test-") as folder:
        place = Path(folder)
        place.chmod(0o711)
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest_klavis.cli", "serve", *arguments],
            env={**os.environ, "TMPDIR": folder, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process, place
        finally:
            process.kill()
            process.communicate()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def _ready(process: subprocess.Popen[str]) -> str:
    word, _, url = _line(process).partition(" ")
    assert word == "READY"
    return url


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_a_signal_and_leaves_nothing(ending: signal.Signals) -> None:
    with _serving() as (process, place):
        url = _ready(process)
        assert url.startswith("http://127.0.0.1:")
        name, _, key = _line(process).partition("=")
        assert name == "KLAVIS_API_KEY"
        headers = {"Authorization": f"Bearer {key}"}
        answer = httpx.post(f"{url}/local-sandbox", json={"server_names": ["terminal"]}, headers=headers)
        sandbox = answer.json()["local_sandbox_id"]
        ran = httpx.post(f"{url}/local-sandbox/{sandbox}/run", json={"argv": ["echo", "hi"]}, headers=headers)
        assert ran.json()["stdout"] == "hi\n"
        assert list(place.glob(f"pytest-klavis-*/serve-*/workspaces/{sandbox}"))
        process.send_signal(ending)
        assert process.wait(20) == 0
        assert list(place.glob("pytest-klavis-*/*")) == []


def test_the_key_of_the_environment_is_used_and_not_printed() -> None:
    with _serving(KLAVIS_API_KEY="my key is mine") as (process, _):
        url = _ready(process)
        assert httpx.get(f"{url}/local-sandbox").status_code == 401
        headers = {"Authorization": "Bearer my key is mine"}
        assert httpx.get(f"{url}/local-sandbox", headers=headers).status_code == 200
        process.terminate()
        out, err = process.communicate(timeout=20)
        assert out == ""
        assert "my key is mine" not in err


def test_hosts_are_allowed_by_name() -> None:
    with _serving("--allow-host", "klavis.test", "--host", "0.0.0.0") as (process, _):
        url = _ready(process)
        key = _line(process).partition("=")[2]
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.get(f"{url}/local-sandbox", headers={**headers, "Host": "klavis.test:80"}).status_code == 200
        refused = httpx.get(f"{url}/local-sandbox", headers={**headers, "Host": "other.test"})
        assert refused.status_code == 403
        assert "--allow-host" in refused.json()["detail"]


def test_a_port_that_is_taken_is_said() -> None:
    with _serving() as (first, _):
        port = _ready(first).rpartition(":")[2]
        with _serving("--port", port) as (second, place):
            _, err = second.communicate(timeout=20)
            assert second.returncode == 2
            assert f"cannot listen on 127.0.0.1 port {port}" in err
            assert list(place.glob("pytest-klavis-*/*")) == []


def test_no_isolation_is_refused_where_the_host_has_a_data_directory(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="'none' is refused because this host has"):
        refuse_open_data("none", data=tmp_path)
    refuse_open_data("none", data=tmp_path / "missing")
    refuse_open_data("auto", data=tmp_path)
    with _serving("--isolation", "none") as (process, _):
        if Path("/data").exists():
            assert process.wait(20) == 2
        else:
            assert _ready(process)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "70000"], "no TCP port"),
        (["--isolation", "some"], "invalid choice"),
        (["--nonsense"], "unrecognized"),
    ],
)
def test_wrong_arguments_are_told(arguments: list[str], words: str) -> None:
    with _serving(*arguments) as (process, _):
        _, err = process.communicate(timeout=20)
        assert process.returncode == 2
        assert words in err


def test_help_names_the_commands_and_loads_no_more_than_it_needs() -> None:
    probe = (
        "import sys; from pytest_klavis import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit as end:\n"
        "    print(end.code, sorted({'httpx', 'pydantic', 'pytest_klavis.pool.ledger'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert all(f"\n    {name}" in done.stdout for name in ("serve", "leases", "reap"))
    assert done.stdout.endswith("0 []\n")
