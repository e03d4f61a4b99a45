"""The suite that is soaked, where it is called test_soaked.py: each test finds its sandboxes clean, and leaves dirt.

What it does with which sandbox is in a journal per process, `$SOAK_JOURNALS/<pid>`: lines of time, word, test, id.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_klavis import LocalSandbox, RemoteSandbox

SEEDED = Path(__file__).with_name("seed")
COUNT = int(os.environ["SOAK_TESTS"])
KINDS = ("seeded", "written", "empty", "remote", "preloaded", "several", "factory", "failing")
OURS = "SOAK: "
"""How a message of a failure begins that must not be."""


def numbers(kind: str) -> range:
    return range(KINDS.index(kind), COUNT, len(KINDS))


def journal(word: str, number: int, sandbox: str = "-") -> None:
    path = Path(os.environ["SOAK_JOURNALS"], str(os.getpid()))
    with path.open("a") as file:
        file.write(f"{time.monotonic()} {word} {number} {sandbox}\n")


def use(number: int, *sandboxes: LocalSandbox | RemoteSandbox, files: tuple[str, ...] = ()) -> None:
    """Check that they begin clean, or with just `files`, and make them dirty."""
    for one in sandboxes:
        journal("begin", number, one.id)
    try:
        for one in sandboxes:
            found = tuple(one.list_files()) if isinstance(one, LocalSandbox) else tuple(one.dump())
            if found != (files if isinstance(one, LocalSandbox) else ()):
                pytest.fail(f"{OURS}dirty lease of {one.id}: {found}", pytrace=False)
            if isinstance(one, LocalSandbox):
                one.upload({f"dirt-{number}.txt": "x"})
            else:
                one.initialize({"repos": [{"name": f"dirt-{number}"}]})
        time.sleep(random.Random(number).uniform(0.02, 0.3))
    finally:
        for one in sandboxes:
            journal("end", number, one.id)


@pytest.mark.local_sandbox(["filesystem"], workspace=SEEDED)
@pytest.mark.parametrize("number", numbers("seeded"))
def test_seeded(sandbox: LocalSandbox, number: int) -> None:
    use(number, sandbox, files=("a.txt", "b/c.txt"))


@pytest.mark.local_sandbox(["filesystem"], workspace={"d.txt": "x"})
@pytest.mark.parametrize("number", numbers("written"))
def test_written(sandbox: LocalSandbox, number: int) -> None:
    use(number, sandbox, files=("d.txt",))


@pytest.mark.local_sandbox(["filesystem"])
@pytest.mark.parametrize("number", numbers("empty"))
def test_empty(sandbox: LocalSandbox, number: int) -> None:
    use(number, sandbox)


@pytest.mark.klavis_sandbox("github")
@pytest.mark.parametrize("number", numbers("remote"))
def test_remote(sandbox: RemoteSandbox, number: int) -> None:
    use(number, sandbox)


@pytest.mark.klavis_sandbox("github", benchmark="Toolathlon")
@pytest.mark.parametrize("number", numbers("preloaded"))
def test_preloaded(sandbox: RemoteSandbox, number: int) -> None:
    journal("begin", number, sandbox.id)
    time.sleep(random.Random(number).uniform(0.02, 0.3))
    journal("end", number, sandbox.id)


@pytest.mark.local_sandbox(["filesystem"])
@pytest.mark.klavis_sandbox("slack")
@pytest.mark.parametrize("number", numbers("several"))
def test_several(sandboxes: dict[str, LocalSandbox | RemoteSandbox], number: int) -> None:
    use(number, *sandboxes.values())


@pytest.mark.parametrize("number", numbers("factory"))
def test_factory(local_sandbox: Callable[..., LocalSandbox], number: int) -> None:
    use(number, local_sandbox(["memory"]))


@pytest.mark.local_sandbox(["filesystem"], workspace=SEEDED)
@pytest.mark.parametrize("number", numbers("failing"))
def test_failing(sandbox: LocalSandbox, number: int) -> None:
    use(number, sandbox, files=("a.txt", "b/c.txt"))
    pytest.fail("as it should", pytrace=False)
