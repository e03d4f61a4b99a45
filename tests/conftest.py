"""What every test starts from: no setting of the machine, and pytester."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pytest_klavis.embedded.side import Missing, locate

from .cloud import KEY, Cloud, faulty_cloud, standalone

pytest_plugins = "pytester"


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name == "KLAVIS_SERVERS_DIR":
            continue  # where the environment of the tests has its upstream servers
        if name.startswith(("KLAVIS_", "BLACKBOX_")) or name in {"CI", "PYTEST_ADDOPTS"}:
            monkeypatch.delenv(name)


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Suites inside the tests run in file order, and without plugins that they do not use: imports take time."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:randomly -p no:asyncio -p no:hypothesispytest")
    return pytester


@pytest.fixture
def upstream_servers() -> None:
    """Skips where the upstream servers are not installed; tox installs them."""
    found = locate()
    if isinstance(found, Missing):
        pytest.skip(found.reason)


@pytest.fixture(scope="session")
def server_behind() -> Iterator[str]:
    """The server that has the local sandboxes of all stand-ins for the cloud."""
    with standalone() as url:
        yield url


@pytest.fixture
def cloud(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, server_behind: str
) -> Iterator[Cloud]:
    """A stand-in for the cloud, which suites inside the test use as their backend, as fast as they like."""
    with faulty_cloud(server_behind) as found:
        monkeypatch.setenv("KLAVIS_API_KEY", KEY)
        monkeypatch.setenv("KLAVIS_BASE_URL", found.url)
        monkeypatch.setenv("KLAVIS_RATE", "off")
        monkeypatch.setenv("KLAVIS_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        yield found
