"""Starting and joining the embedded server from a user's process: what is refused, and what is said then."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import httpx
import pytest

from pytest_klavis import rundir
from pytest_klavis.backend import Endpoint, Owner, start_embedded
from pytest_klavis.errors import BackendError
from pytest_klavis.rundir import RunDir

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory for temporary files, of this process and of the servers it starts."""
    folder = Path(tempfile.mkdtemp(prefix="klavis-test-"))
    folder.chmod(0o711)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)  # a server that ends removes its own part


def _base(tmp: Path) -> Path:
    return tmp / f"pytest-klavis-{os.geteuid()}"


def _wait_until_gone(path: Path) -> None:
    end = time.monotonic() + 20
    while path.exists():
        assert time.monotonic() < end, f"{path} is still there"
        time.sleep(0.02)


def test_a_server_is_started_joined_and_gone_with_its_owners(tmp: Path) -> None:
    endpoint, owner = start_embedded("run")
    again, second = start_embedded("run")
    assert endpoint.name == "embedded"
    assert endpoint.isolation in {"strict", "landlock", "none", "unavailable"}
    assert endpoint.headers == {"X-Klavis-Owner": owner.id}
    assert (again.base_url, again.api_key) == (endpoint.base_url, endpoint.api_key)
    assert again.headers != endpoint.headers
    headers = {"Authorization": f"Bearer {endpoint.api_key}", **endpoint.headers}
    assert httpx.get(f"{endpoint.base_url}/local-sandbox", headers=headers).json()["total_count"] == 0
    owner.close()
    owner.close()  # twice is fine
    time.sleep(1.2)
    assert httpx.get(f"{endpoint.base_url}/local-sandbox", headers=headers).status_code == 200
    assert second.scratch.is_dir()
    second.close()
    _wait_until_gone(_base(tmp) / "run")


def test_a_key_is_not_shown() -> None:
    endpoint = Endpoint("cloud", "https://api.klavis.ai", "sk-secret")
    assert "sk-secret" not in repr(endpoint)


def test_a_server_that_does_not_start_says_why(tmp: Path) -> None:
    run = RunDir.of("run")
    run.make()
    run.workspaces.write_text("in the way")
    run.workspaces.chmod(0o600)
    run.archives.symlink_to("/nowhere/else")
    (run.path / "interpreter").write_text("in the way")
    with pytest.raises(BackendError, match="did not start") as caught:
        start_embedded("run")
    assert str(run.log) in str(caught.value)
    assert "File exists" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 21


def test_an_interpreter_that_cannot_run_is_said(monkeypatch: pytest.MonkeyPatch, tmp: Path) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(BackendError, match="cannot start the embedded Klavis server"):
        start_embedded("run")
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(BackendError, match=r"sys\.executable is empty"):
        start_embedded("run")


def test_a_start_that_is_held_up_ends_at_its_deadline(tmp: Path) -> None:
    run = RunDir.of("run")
    run.make()
    with filelock.FileLock(run.start_lock), pytest.raises(BackendError, match="waited 0 s for another process"):
        start_embedded("run", deadline=0.3)


@pytest.mark.parametrize("run_id", ["", "..", "a/b", ".hidden", "a b", "x" * 101, "a\0"])
def test_a_run_id_has_to_be_a_name(tmp: Path, run_id: str) -> None:
    with pytest.raises(BackendError, match="cannot name a directory"):
        start_embedded(run_id)


def test_a_directory_that_is_a_link_is_refused(tmp: Path) -> None:
    (tmp / "elsewhere").mkdir()
    _base(tmp).symlink_to(tmp / "elsewhere")
    with pytest.raises(BackendError, match="is a symbolic link"):
        start_embedded("run")
    assert list((tmp / "elsewhere").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")
def test_someone_elses_directory_is_refused(tmp: Path) -> None:
    _base(tmp).mkdir()
    os.chown(_base(tmp), 12_345, 12_345)
    with pytest.raises(BackendError, match="belongs to uid 12345"):
        start_embedded("run")


def test_a_directory_that_was_too_open_is_closed(tmp: Path) -> None:
    _base(tmp).mkdir()
    _base(tmp).chmod(0o777)
    RunDir.of("run").make()
    assert _base(tmp).stat().st_mode & 0o777 == rundir.directory_mode()


def test_an_owner_holds_its_file_until_it_closes(tmp: Path) -> None:
    run = RunDir.of("run")
    run.make()
    owner = Owner(run)
    owner.note({"sandbox": "a", "artifacts": None})
    owner.note({"sandbox": "a", "keep": True})
    (file,) = run.owners.iterdir()
    assert owner.is_registered()
    assert file.name == owner.id
    check = f"from pathlib import Path; from pytest_klavis import rundir; print(rundir.is_held(Path({str(file)!r})))"
    assert _python(check) == "True"
    if (child := os.fork()) == 0:
        owner.close()  # of a fork: nothing happens
        os._exit(0)
    os.waitpid(child, 0)
    assert _python(check) == "True"
    owner.close()
    assert _python(check) == "False"
    assert file.read_text() == '{"sandbox": "a", "artifacts": null}\n{"sandbox": "a", "keep": true}\n'


def test_an_owner_notices_that_its_run_has_ended(tmp: Path) -> None:
    run = RunDir.of("run")
    run.make()
    owner = Owner(run)
    rundir.set_aside(run.path)
    assert not owner.is_registered()
    run.make()
    assert not owner.is_registered()
    owner.close()


def _python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(rundir.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return done.stdout.strip()


def test_a_sweep_leaves_what_is_not_a_dead_run(tmp: Path) -> None:
    base = rundir.base_directory()
    for name in ("own", "young", "old", ".gone-half-removed"):
        (base / name / "deep" / "er").mkdir(parents=True)
    for name in ("own", "old"):
        os.utime(base / name, (time.time() - 120,) * 2)
    (base / "link").symlink_to(tmp)
    rundir.sweep_dead_runs(skip=base / "own")
    assert sorted(path.name for path in base.iterdir()) == ["link", "own", "young"]


def test_trees_are_removed_whatever_they_hold(tmp: Path) -> None:
    outside = tmp / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    tree = tmp / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "link").symlink_to(outside)
    (tree / "a" / "b" / "file").write_text("x")
    os.mkfifo(tree / "pipe")
    (tree / "a" / "b").chmod(0)
    (tree / "a").chmod(0)
    rundir.remove_tree(tree)
    rundir.remove_tree(tree)  # missing is fine
    assert not tree.exists()
    assert (outside / "kept").read_text() == "kept"
