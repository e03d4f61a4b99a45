"""By hand: a sandbox per worker, reset between its tests."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from by_hand import Api


@pytest.fixture(scope="session")
def api() -> Api:
    return Api()


@pytest.fixture(scope="session")
def used() -> set[str]:
    """What a test has had before."""
    return set()


@pytest.fixture(scope="session")
def own(api: Api) -> Iterator[str]:
    number = api.acquire()
    try:
        yield number
    finally:
        api.release(number)


@pytest.fixture
def sandbox(api: Api, own: str, used: set[str]) -> str:
    if own in used:
        api.reset(own)
    used.add(own)
    api.seed(own)
    return own


@pytest.mark.usefixtures("sandbox")
def test_body(body: float) -> None:
    time.sleep(body)
