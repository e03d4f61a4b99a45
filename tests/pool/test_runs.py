"""What runs do with the pool: small suites against a light cloud, in this process but for their keeper."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_klavis.pool.statedir import account_directory

from ..cloud import KEY, Cloud, light_cloud
from .processes import Process

QUIET = "--klavis-prefetch=off"
THREE = """
import pytest

@pytest.mark.parametrize("number", range(3))
def test_it(klavis_sandbox, number):
    klavis_sandbox("github")
"""


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cloud]:
    with light_cloud() as found:
        monkeypatch.setenv("KLAVIS_API_KEY", KEY)
        monkeypatch.setenv("KLAVIS_BASE_URL", found.url)
        monkeypatch.setenv("KLAVIS_RATE", "off")
        monkeypatch.setenv("KLAVIS_STATE_DIR", str(tmp_path / "state"))
        yield found
        assert found.books.open() == []
        assert found.books.troubles() == []


def _account(cloud: Cloud) -> Path:
    return account_directory(cloud.url, KEY).path


def test_a_time_to_live_of_its_own_is_no_reason_to_acquire_each_time(pytester: pytest.Pytester, cloud: Cloud) -> None:
    pytester.makepyfile(THREE.replace('"github"', '"github", ttl="10m"'))
    pytester.runpytest(QUIET, "--klavis-pool-size=1").assert_outcomes(passed=3)
    assert cloud.kinds["acquire"] == 1


def test_a_budget_that_is_used_up_waits_for_what_is_being_reset(pytester: pytest.Pytester, cloud: Cloud) -> None:
    cloud.latency = {"reset": 0.5}
    pytester.makepyfile(THREE)
    result = pytester.runpytest(QUIET, "--klavis-max-acquires=1")
    result.assert_outcomes(passed=3)
    assert cloud.kinds["acquire"] == 1


@pytest.mark.parametrize("arguments", [["--collect-only"], []], ids=["collect-only", "without-sandboxes"])
def test_who_uses_no_sandbox_touches_no_ledger(pytester: pytest.Pytester, cloud: Cloud, arguments: list[str]) -> None:
    account = _account(cloud)
    (account / "ledger-1.sqlite3").write_bytes(b"no ledger " * 1000)
    before = {path: path.stat().st_mtime_ns for path in account.rglob("*")}
    pytester.makepyfile("def test_it(request):\n    assert request.config.getoption('klavis_backend') is None\n")
    assert pytester.runpytest(*arguments).ret == 0
    assert {path: path.stat().st_mtime_ns for path in account.rglob("*")} == before
    pytester.makepyfile(THREE)
    result = pytester.runpytest(QUIET)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*NOTE: the ledger *"])


@pytest.mark.parametrize(
    "content",
    ["[1]", '{"test_it.py::test_it": [["remote github", 1800]], "test_it.py::test_other": 7}'],
    ids=["list", "older"],
)
def test_what_is_in_the_cache_costs_no_verdict(pytester: pytest.Pytester, cloud: Cloud, content: str) -> None:
    asks = pytester.path / ".pytest_cache" / "v" / "klavis" / "asks"
    asks.parent.mkdir(parents=True)
    asks.write_text(content)
    pytester.makepyfile(test_it=THREE)
    result = pytester.runpytest()
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*, 0 leaked*"])
    learned = json.loads(asks.read_text())
    assert "github" in learned["test_it.py::test_it"][0][0]


def test_a_forked_child_lets_go_of_nothing(tmp_path: Path) -> None:
    code = """
from pytest_klavis.api.client import KlavisClient
from pytest_klavis.pool.keeper import KeeperConfig
from pytest_klavis.pool.limiter import Limiter
from pytest_klavis.pool.pool import Pool
(folder / "owners").mkdir()
config = KeeperConfig("run", folder, "http://127.0.0.1:9", "sk-planted", cap=2)
pool = Pool(config, KlavisClient(config.base_url, config.api_key), Limiter(folder / "limiter", None))
entry = pool.ledger.intend("run", pool.owner, Want(GITHUB, 600))
held = pool.ledger.change(entry, "held", owner=pool.owner, sandbox_id="s-1")
sys.stdin.readline()
if (child := os.fork()) == 0:
    pool.let_go()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
say(*[one.state for one in pool.ledger.entries()])
pool.let_go()
say(*[one.state for one in pool.ledger.entries()])
"""
    process = Process(tmp_path, code)
    process.go()
    assert process.end() == (0, "held\ndirty\n")
