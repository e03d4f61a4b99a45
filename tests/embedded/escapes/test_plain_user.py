"""Most of this folder again, as somebody who is not root: root and plain users take different ways."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.embedded.isolation_support import AS_ROOT, environment_of, python_for_others

UID = 65_000


def test_everything_holds_for_a_plain_user_too(place: Path) -> None:
    if not AS_ROOT:
        pytest.skip("this is a plain user already")
    theirs = place / "theirs"
    theirs.mkdir()
    os.chown(theirs, UID, UID)
    options = ["-q", "-n", "2", "-p", "no:cacheprovider", f"--basetemp={theirs / 't'}"]
    options += [
        f"--ignore-glob=*test_{name}.py" for name in ("filter", "git", "planted", "races", "server")
    ]  # no other way there
    again = subprocess.run(
        [python_for_others(), "-m", "pytest", *options, str(Path(__file__).parent)],
        cwd=Path(__file__).parents[3],
        user=UID,
        group=UID,
        extra_groups=[],
        env=environment_of(theirs),
        check=False,
    )
    assert again.returncode == 0
