"""Machines on which isolation cannot have all it needs: the level that is chosen, why, and what lifts it.

The conditions are real (see container.py): filters, capabilities, namespaces and mounts as containers have them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_klavis.embedded.isolation.advice import advice, no_landlock
from tests.embedded.isolation_support import AS_ROOT, environment_of, level_or_skip, open_folder, python_for_others

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the levels are Linux's")

# Conditions, the level that `auto` takes, and words of its reason.
MACHINES = {
    "docker, a plain user": ("docker_filter plain", "landlock", ["new namespace", "seccomp=unconfined"]),
    "docker, root": ("docker_filter few_capabilities", "landlock", ["seccomp=unconfined", "--cap-add SYS_ADMIN"]),
    "root without CAP_SYS_ADMIN": ("few_capabilities", "landlock", ["--cap-add SYS_ADMIN"]),
    "docker with --cap-drop ALL, root": ("no_chown", "unavailable", ["cannot give files", "--user 1000"]),
    "docker of old, a plain user": (
        "docker_filter no_landlock plain",
        "unavailable",
        ["seccomp=unconfined", "forbids Landlock", "--klavis-isolation none"],
    ),
    "a filter without Landlock only": ("no_landlock plain", "strict", []),
    "uid_map cannot be written": ("plain no_uid_map", "landlock", ["setting up uid map: Permission denied"]),
    "no user namespaces": ("no_user_namespaces plain", "landlock", ["sysctl -w user.max_user_namespaces=15000"]),
    "a masked /proc": ("masked_proc plain", "landlock", ["systempaths=unconfined"]),
    "no /proc": ("no_proc plain", "landlock", ["bubblewrap could not set up the sandbox"]),
    "a plain machine": ("plain", "strict", []),
}


def _choose(conditions: str, level: str = "auto") -> dict[str, str]:
    with open_folder() as folder:
        folder.chmod(0o777)
        answer = subprocess.run(
            [python_for_others(), "-m", "tests.embedded.container", *conditions.split(), level],
            env=environment_of(folder),
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
    assert answer.returncode == 0, answer.stderr
    found: dict[str, str] = json.loads(answer.stdout)
    return found


@pytest.mark.parametrize("machine", MACHINES)
def test_what_is_chosen_and_why(machine: str) -> None:
    if not AS_ROOT:
        pytest.skip("only root can make such conditions")
    for name in ("strict", "landlock"):
        level_or_skip(name)
    conditions, level, words = MACHINES[machine]
    found = _choose(conditions)
    assert found["level"] == level, found["reason"]
    assert [word for word in words if word not in found["reason"]] == [], found["reason"]
    assert bool(found["reason"]) == (level != "strict")


def test_a_level_by_name_does_not_fall_back() -> None:
    if not AS_ROOT:
        pytest.skip("only root can make such conditions")
    found = _choose("docker_filter plain", "strict")
    assert found["level"] == "unavailable"
    assert "seccomp=unconfined" in found["reason"]


# -- what this machine does not have, by files as another has them

FAILED = "strict: bubblewrap could not set up the sandbox (exit code 1): bwrap: "
UID_MAP = FAILED + "setting up uid map: Permission denied"
NO_NAMESPACE = (
    FAILED + "No permissions to creating new namespace, likely because the kernel does not allow non-privileged user "
    "namespaces. On e.g. debian this can be enabled with 'sysctl kernel.unprivileged_userns_clone=1'."
)
SYSCTLS = {
    "AppArmor of Ubuntu 24.04": (
        {"sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"},
        UID_MAP,
        "`sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`",
    ),
    "Debian of old": (
        {"sys/kernel/unprivileged_userns_clone": "0\n"},
        NO_NAMESPACE,
        "`sudo sysctl -w kernel.unprivileged_userns_clone=1`",
    ),
    "none at all": (
        {"sys/user/max_user_namespaces": "0\n"},
        FAILED + "Creating new namespace failed",
        "`sudo sysctl -w user.max_user_namespaces=15000`",
    ),
    "a container": (
        {"self/status": "Seccomp:\t2\nCapEff:\t0000003fffffffff\n"},
        NO_NAMESPACE,
        "--security-opt seccomp=unconfined",
    ),
}


@pytest.mark.parametrize("machine", SYSCTLS)
def test_the_command_that_lifts_it(machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    files, said, command = SYSCTLS[machine]
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    text = advice(said, tmp_path)
    assert text.startswith(said.split(" On e.g.")[0])
    assert command in text
    assert "On e.g. debian" not in text


def test_an_unknown_cause_is_told_as_it_is(tmp_path: Path) -> None:
    assert advice("strict: something new", tmp_path) == "strict: something new"
    assert advice(UID_MAP, tmp_path) == UID_MAP


def test_why_there_is_no_landlock() -> None:
    import errno

    said = [no_landlock(number) for number in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, 0)]
    for text, word in zip(said, ("filter", "lsm=", "has no Landlock", "too old"), strict=True):
        assert word in text
