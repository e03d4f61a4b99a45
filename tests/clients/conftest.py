from __future__ import annotations

import gc
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from .embedded import Box, embedded_server, local_sandbox
from .modes import MODES

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx


@pytest.fixture(scope="session")
def api() -> Iterator[httpx.Client]:
    with embedded_server() as client:
        yield client


@pytest.fixture
def box(api: httpx.Client) -> Iterator[Box]:
    with local_sandbox(api, ["filesystem", "git", "terminal"]) as sandbox:
        yield sandbox


LOOPS = ["asyncio", *(["trio"] if find_spec("trio") is not None else [])]
# The client of fastmcp is for asyncio.
PAIRS = [(loop, mode) for mode in MODES for loop in LOOPS if not (loop == "trio" and "fastmcp" in mode)]


@pytest.fixture(params=PAIRS, ids="-".join)
def loop_and_mode(request: pytest.FixtureRequest) -> tuple[str, str]:
    loop, mode = request.param
    return loop, mode


@pytest.fixture
def anyio_backend(loop_and_mode: tuple[str, str]) -> str:
    return loop_and_mode[0]


@pytest.fixture
def mode(loop_and_mode: tuple[str, str]) -> str:
    return loop_and_mode[1]


@pytest.fixture(autouse=True)
def _garbage_stays_here() -> Iterator[None]:
    yield
    gc.collect()
