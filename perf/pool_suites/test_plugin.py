"""A declared sandbox of this plugin."""

from __future__ import annotations

import os
import time

import pytest

from pytest_klavis import LocalSandbox

WORKSPACES = {"directory": "seed", "mapping": {"a.txt": "x"}}
SEED = WORKSPACES[os.environ["POOL_WORKSPACE"]] if os.environ["POOL_SEEDED"] == "yes" else None


@pytest.mark.local_sandbox(["filesystem"], workspace=SEED)
def test_body(sandbox: LocalSandbox, body: float) -> None:
    assert sandbox.root
    time.sleep(body)
