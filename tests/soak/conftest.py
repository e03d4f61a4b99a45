"""Nothing in here runs unless it is asked for by its path: it takes minutes, and all of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Whether the command line names neither this folder nor something in it."""
    places = [(config.invocation_params.dir / str(one).partition("::")[0]).resolve() for one in config.args]
    return None if any(HERE in (place, *place.parents) for place in places) else True
