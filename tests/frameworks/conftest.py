from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clients.embedded import Box, embedded_server, local_sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def box() -> Iterator[Box]:
    with embedded_server() as api, local_sandbox(api, ["filesystem", "terminal"]) as sandbox:
        yield sandbox
