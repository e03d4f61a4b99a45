"""No sandbox at all: what pytest and its workers cost."""

from __future__ import annotations

import time


def test_body(body: float) -> None:
    time.sleep(body)
