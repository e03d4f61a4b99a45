"""By hand: a sandbox per test, released whatever happens in it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from by_hand import Api


@pytest.fixture(scope="session")
def api() -> Api:
    return Api()


@pytest.fixture
def sandbox(api: Api) -> Iterator[str]:
    number = api.acquire()
    try:
        api.seed(number)
        yield number
    finally:
        api.release(number)


@pytest.mark.usefixtures("sandbox")
def test_body(body: float) -> None:
    time.sleep(body)
