"""However a run ends while its process can still act, the cloud has everything back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cloud import Cloud, Fault

FIXTURES = """
import os, pathlib, signal, sys, time
import pytest

@pytest.fixture(scope="session")
def shared(session_local_sandbox, session_klavis_sandbox):
    return session_local_sandbox("filesystem"), session_klavis_sandbox("slack")

@pytest.fixture
def own(local_sandbox, klavis_sandbox):
    return local_sandbox("filesystem", workspace={"a.txt": "x"}), klavis_sandbox("github", data={"repos": []})
"""


def nothing_left(cloud: Cloud) -> None:
    assert cloud.held() == []
    assert cloud.accounts.live == {}


@pytest.mark.parametrize(
    ("body", "outcomes"),
    [
        ("assert 0", {"failed": 2}),
        ("raise SystemExit(3)", {"failed": 2}),
        ("raise MemoryError", {"failed": 2}),
        ("pytest.exit('enough', 4)", {}),
        ("raise KeyboardInterrupt", {}),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)", {}),
        ("os.kill(os.getpid(), signal.SIGHUP); time.sleep(5)", {}),
        ("signal.raise_signal(signal.SIGINT)", {}),
    ],
)
@pytest.mark.parametrize("arguments", [("-p", "no:xdist"), ("-n2",)], ids=["plain", "workers"])
def test_ways_out_of_a_body(
    pytester: pytest.Pytester, cloud: Cloud, body: str, outcomes: dict[str, int], arguments: tuple[str, ...]
) -> None:
    pytester.makepyfile(
        f"{FIXTURES}\ndef test_one(shared, own):\n    {body}\n\ndef test_two(shared, own):\n    {body}\n"
    )
    result = pytester.runpytest_subprocess(*arguments, timeout=120)
    if outcomes:
        result.assert_outcomes(**outcomes)
    assert cloud.count("POST /local-sandbox") >= 2
    nothing_left(cloud)


@pytest.mark.parametrize(
    "suite",
    [
        "def test_it(own):\n    assert 0\n\ndef test_never(own):\n    pass",
        "@pytest.fixture\ndef bad(own):\n    raise OSError\n\ndef test_it(bad):\n    pass",
        "@pytest.fixture\ndef bad(own):\n    yield\n    raise OSError\n\ndef test_it(bad):\n    pass",
        "@pytest.fixture\ndef bad(own):\n    yield\n    raise KeyboardInterrupt\n\ndef test_it(bad):\n    pass",
        "@pytest.fixture\ndef bad(own):\n    raise KeyboardInterrupt\n\ndef test_it(bad):\n    pass",
        "@pytest.mark.timeout(1, method='signal')\ndef test_it(own):\n    time.sleep(30)",
        "@pytest.fixture\ndef slow(own):\n    yield; time.sleep(9)\n\n@pytest.mark.timeout(2)\ndef test_it(slow): 0",
    ],
    ids=["-x", "setup", "teardown", "ctrl-c in a teardown", "ctrl-c in a setup", "timeout", "timeout in a teardown"],
)
def test_ways_out_of_everything_else(pytester: pytest.Pytester, cloud: Cloud, suite: str) -> None:
    pytester.makepyfile(f"{FIXTURES}\n{suite}\n")
    pytester.runpytest_subprocess("-x", "-p", "no:xdist", timeout=120)
    assert cloud.count("POST /sandbox/github") == 1
    nothing_left(cloud)


@pytest.mark.parametrize("route", ["initialize", "upload-url"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
def test_an_interrupt_while_a_sandbox_is_seeded(
    start: Callable[[str], subprocess.Popen[str]], cloud: Cloud, route: str, number: signal.Signals
) -> None:
    run = start("def test_it(own):\n    pass")
    cloud.faults = [Fault(f"POST /local-sandbox/.*/{route}", delay=3, then=lambda: run.send_signal(number))]
    assert ended(run).count("1 acquired, 1 released, 0 leaked") == 1
    nothing_left(cloud)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda one: one.name)
@pytest.mark.parametrize("kind", ["local-sandbox", "sandbox/github"])
def test_an_interrupt_while_an_acquire_is_answered(
    start: Callable[[str], subprocess.Popen[str]], cloud: Cloud, number: signal.Signals, kind: str
) -> None:
    run = start("def test_it(own):\n    pass")
    cloud.faults = [Fault(f"POST /{kind}", delay=2, then=lambda: run.send_signal(number))]
    output = ended(run)
    assert run.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "0 leaked" in output
    nothing_left(cloud)


def test_an_interrupt_is_not_lost_when_the_acquire_fails(
    start: Callable[[str], subprocess.Popen[str]], cloud: Cloud
) -> None:
    run = start("def test_it(own):\n    pass\n\ndef test_never(own):\n    pass")
    cloud.faults = [
        Fault("POST /local-sandbox", status=409, delay=1, then=lambda: run.send_signal(signal.SIGINT)),
    ]
    ended(run)
    assert run.returncode == pytest.ExitCode.INTERRUPTED
    assert cloud.count("POST .*") == 1


def test_an_interrupt_does_not_wait_for_ever_for_an_acquire(
    start: Callable[[str], subprocess.Popen[str]], cloud: Cloud
) -> None:
    run = start("def test_it(own):\n    pass")
    cloud.faults = [Fault("POST /local-sandbox", delay=30, then=lambda: run.send_signal(signal.SIGINT))]
    began = time.monotonic()
    output = ended(run)
    assert time.monotonic() - began < 20
    assert "MAYBE not released, as its acquire was not answered: a local sandbox (filesystem)" in output


def test_a_second_interrupt_is_not_held(start: Callable[[str], subprocess.Popen[str]], cloud: Cloud) -> None:
    run = start("def test_it(own):\n    pass")

    def twice() -> None:
        run.send_signal(signal.SIGINT)
        time.sleep(0.3)
        run.send_signal(signal.SIGINT)

    cloud.faults = [Fault("POST /local-sandbox", delay=30, then=twice)]
    began = time.monotonic()
    assert "MAYBE not released" in ended(run)
    assert time.monotonic() - began < 10


def test_an_interrupt_while_an_async_test_acquires(start: Callable[[str], subprocess.Popen[str]], cloud: Cloud) -> None:
    run = start(
        "@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n\n"
        "@pytest.mark.anyio\nasync def test_it(local_sandbox):\n    await local_sandbox.acquire('filesystem')"
    )
    cloud.faults = [Fault("POST /local-sandbox", delay=1, then=lambda: run.send_signal(signal.SIGINT))]
    assert "0 leaked" in ended(run)
    nothing_left(cloud)


ANYIO = "@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n\n@pytest.mark.anyio\n"


@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
def test_an_end_of_a_test_that_only_awaits_its_sandboxes(
    start: Callable[[str], subprocess.Popen[str]], cloud: Cloud, number: str
) -> None:
    run = start(
        f"{ANYIO}async def test_it(klavis_sandbox):\n    await klavis_sandbox.acquire('github')\n"
        f"    os.kill(os.getpid(), signal.{number}); time.sleep(5)"
    )
    assert "1 acquired, 1 released, 0 leaked" in ended(run)
    assert run.returncode == pytest.ExitCode.INTERRUPTED
    nothing_left(cloud)


FOUR = "def test_it(klavis_sandboxes):\n    klavis_sandboxes(['github', 'jira', 'slack', 'notion'])\n    "
CTRL_C = "signal.raise_signal(signal.SIGINT)"


def test_slow_evidence_leaves_time_for_the_release(start: Callable[[str], subprocess.Popen[str]], cloud: Cloud) -> None:
    run = start(f"{FOUR}{CTRL_C}")
    cloud.faults = [Fault("GET /sandbox/.*/dump", delay=30)]
    assert "4 acquired, 4 released, 0 leaked" in ended(run)
    nothing_left(cloud)


def test_a_slow_release_leaves_time_for_the_others(start: Callable[[str], subprocess.Popen[str]], cloud: Cloud) -> None:
    run = start(f"{FOUR}{CTRL_C}")
    cloud.faults = [Fault("DELETE /sandbox/github/.*", delay=30)]
    output = ended(run)
    assert "4 acquired, 3 released, 1 leaked" in output
    assert "NOT released: github-1" in output


def test_a_slow_acquire_leaves_time_for_what_is_held(
    start: Callable[[str], subprocess.Popen[str]], cloud: Cloud
) -> None:
    run = start(
        f"{ANYIO}async def test_it(klavis_sandbox):\n    await klavis_sandbox.acquire('github')\n"
        "    await klavis_sandbox.acquire('slack')"
    )
    cloud.faults = [Fault("POST /sandbox/slack", delay=6, then=lambda: run.send_signal(signal.SIGINT))]
    assert "0 leaked" in ended(run)
    nothing_left(cloud)  # the end waits for what is on its way


def test_a_second_interrupt_ends_the_clean_up_and_names_what_is_left(
    start: Callable[[str], subprocess.Popen[str]], cloud: Cloud
) -> None:
    run = start(f"{FOUR}{CTRL_C}")
    cloud.faults = [
        Fault("DELETE /sandbox/.*", delay=30, times=1, then=lambda: run.send_signal(signal.SIGINT)),
        Fault("DELETE /sandbox/.*", delay=30),
    ]
    output = ended(run)
    assert "4 acquired, 0 released, 4 leaked" in output
    assert [f"NOT released: {one}" in output for one in ("github-1", "jira-2", "slack-3", "notion-4")] == [True] * 4


def test_an_interrupt_while_the_client_acquires(start: Callable[[str], subprocess.Popen[str]], cloud: Cloud) -> None:
    run = start("def test_it(klavis_client):\n    klavis_client.acquire_sandbox('github')")
    cloud.faults = [Fault("POST /sandbox/github", delay=1, then=lambda: run.send_signal(signal.SIGINT))]
    assert "1 acquired, 1 released, 0 leaked" in ended(run)
    nothing_left(cloud)


def test_an_interrupt_bounds_the_releases_of_the_client(
    start: Callable[[str], subprocess.Popen[str]], cloud: Cloud
) -> None:
    acquires = "".join(f"    klavis_client.acquire_sandbox('{one}')\n" for one in ("github", "slack"))
    run = start(f"def test_it(klavis_client):\n{acquires}    {CTRL_C}")
    cloud.faults = [Fault("DELETE /sandbox/slack/.*", delay=30)]
    began = time.monotonic()
    output = ended(run)
    assert time.monotonic() - began < 45
    assert "2 acquired, 1 released, 1 leaked" in output
    assert "NOT released: slack-2" in output


def test_an_interrupt_while_a_set_is_given_back(
    start: Callable[[str], subprocess.Popen[str]], cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLAVIS_ACQUIRE_TIMEOUT", "3s")
    run = start("def test_it(klavis_sandboxes):\n    klavis_sandboxes(['github', 'jira', 'slack'])")
    cloud.faults = [
        Fault("POST /sandbox/slack", status=409),
        Fault("DELETE /sandbox/github/.*", status=500, delay=1, times=1, then=lambda: run.send_signal(signal.SIGINT)),
    ]
    ended(run)
    until = time.monotonic() + 20  # the interrupt may have come at the end: then it is the keeper's
    while (cloud.held() or cloud.accounts.live) and time.monotonic() < until:
        time.sleep(0.1)
    nothing_left(cloud)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def run(suite: str) -> subprocess.Popen[str]:
        (tmp_path / "test_it.py").write_text(f"{FIXTURES}\n{suite}\n")
        (tmp_path / "pytest.ini").write_text("[pytest]\n")
        command = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist"]
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=os.environ | {"PYTEST_ADDOPTS": "-p no:asyncio"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=_default_signals,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def ended(run: subprocess.Popen[str]) -> str:
    return run.communicate(timeout=60)[0]


def _default_signals() -> None:
    # A shell that started us in the background has SIGINT ignored, which children would inherit.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
