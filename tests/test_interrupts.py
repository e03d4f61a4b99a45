"""An interrupt that waits for an answer on its way."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from pytest_klavis import interrupts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def as_at_a_terminal() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted_within(body: Callable[[], None]) -> None:
    with interrupts.held():
        os.kill(os.getpid(), signal.SIGINT)
        body()


@pytest.mark.usefixtures("as_at_a_terminal")
def test_one_that_has_waited_long_enough_is_told_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "PATIENCE", 0.05)
    with pytest.raises(KeyboardInterrupt, match="received SIGINT"):
        interrupted_within(lambda: time.sleep(20))
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


@pytest.mark.usefixtures("as_at_a_terminal")
def test_one_that_need_not_wait_that_long_comes_after_the_body() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted_within(lambda: done.append("the answer"))
    assert done == ["the answer"]
