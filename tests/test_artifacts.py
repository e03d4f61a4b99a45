"""Names of folders, and which of them are ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_klavis import artifacts


def test_a_folder_is_named_for_its_test() -> None:
    assert artifacts.slug("tests/agents/test_model.py::test_reads[openai/gpt-5]").startswith(
        "test_model-test_reads-openai-gpt-5-"
    )
    assert artifacts.slug("a.py::t[x]") != artifacts.slug("a.py::t[x]", "gw0")
    assert len(artifacts.slug(f"a.py::t[{'x' * 500}]")) <= 100
    assert "/" not in artifacts.slug("a.py::t[../../etc]\n\x00ü")


def test_attempts_and_sandboxes_get_folders_of_their_own(tmp_path: Path) -> None:
    assert artifacts.new_attempt(tmp_path, 1) == tmp_path / "attempt-1"
    (tmp_path / "attempt-1").mkdir()
    attempt = artifacts.new_attempt(tmp_path, 1)
    assert attempt == tmp_path / "attempt-2"
    first = artifacts.sandbox_folder(attempt, "a/b", set())
    assert first == attempt / "a-b"
    assert artifacts.sandbox_folder(attempt, "a/b", {first}) == attempt / "a-b-2"
    assert artifacts.sandbox_folder(attempt, "//", set()) == attempt / "sandbox"


def test_latest_is_ours_only_if_it_is_a_link(tmp_path: Path) -> None:
    root = tmp_path / "klavis-artifacts"
    artifacts.begin_run(root / "one")
    assert (root / ".gitignore").read_text() == "*\n"
    assert (root / "latest").resolve().name == "one"
    artifacts.begin_run(root / "two")
    assert (root / "latest").resolve().name == "two"
    (root / "latest").unlink()
    (root / "latest").mkdir()  # somebody else's
    artifacts.begin_run(root / "three")
    assert (root / "latest").is_dir()
    assert not list(root.glob(".latest-*"))


def test_nothing_is_written_into_a_folder_of_the_users(tmp_path: Path) -> None:
    artifacts.begin_run(tmp_path / "one")
    assert not (tmp_path / ".gitignore").exists()
    assert artifacts.is_ours(tmp_path / "one", tmp_path / "elsewhere")
    assert not artifacts.is_ours(tmp_path, tmp_path / "elsewhere")


def test_a_path_is_shown_even_when_we_are_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    assert artifacts.shown(gone / "a") == "a"
    gone.rmdir()
    assert artifacts.shown(tmp_path / "a") == str(tmp_path / "a")
