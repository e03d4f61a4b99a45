"""The git server's tools on real repositories, in real isolation."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

import pytest

from pytest_klavis.embedded.files import WorkspaceFiles
from pytest_klavis.embedded.tools import ToolContext, tools
from tests.embedded.sandboxed import Box, new_box

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

_HISTORY = """
git init -q -b main repo && cd repo
export GIT_AUTHOR_DATE=2024-01-15T14:30:25+0100 GIT_COMMITTER_DATE=2024-01-15T14:30:25+0100
export GIT_AUTHOR_NAME=Ann GIT_AUTHOR_EMAIL=ann@x GIT_COMMITTER_NAME=Ann GIT_COMMITTER_EMAIL=ann@x
printf '1\\n2\\n3\\n' > a.txt && mkdir d && echo x > d/x && git add . && git commit -qm "first

body"
printf '1\\ntwo\\n3\\n' > a.txt && git commit -qam second && git branch side HEAD~1 && git tag -am t v1
"""


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    """A repository `repo` with two commits; a test that changes it makes its own."""
    with new_box() as box:
        assert "return code: 0" in box.text("terminal", "run_command", command=_HISTORY)
        yield box


@pytest.fixture
def own() -> Iterator[Box]:
    with new_box() as box:
        assert "return code: 0" in box.text("terminal", "run_command", command=_HISTORY)
        yield box


def git(box: Box, name: str, repo_path: str = "repo", **arguments: Any) -> str:
    return box.text("git", f"git_{name}", repo_path=repo_path, **arguments)


def refusal(box: Box, name: str, repo_path: str = "repo", **arguments: Any) -> str:
    return box.failure("git", f"git_{name}", repo_path=repo_path, **arguments)


@pytest.mark.parametrize(
    "path", ["repo", "./repo", "/data/repo", "/data/d/../repo/", "repo/.git", "{root}/repo", "{real}/repo"]
)
def test_a_repository_has_many_names(box: Box, path: str) -> None:
    status = git(box, "status", path.format(root=box.root, real=box.workspace))
    assert status == "Repository status:\nOn branch main\nnothing to commit, working tree clean"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (".", "'.' is not a git repository (it has no .git)"),
        ("repo/d", "'repo/d' is not a git repository (it has no .git); it lies in the repository '{root}/repo'"),
        ("none", "There is no 'none': repo_path must be a git repository below {root}"),
        ("/etc", "Access denied - path outside allowed directories: /etc not in {root}"),
        ("../..", "Access denied - path outside allowed directories"),
    ],
)
def test_what_is_no_repository_is_said(box: Box, path: str, message: str) -> None:
    assert message.format(root=box.root) in refusal(box, "status", path)


def test_log(box: Box) -> None:
    log = git(box, "log")
    assert re.sub(r"[0-9a-f]{40}", "SHA", log) == (
        "Commit history:\n"
        "Commit: SHA\nAuthor: Ann\nDate: 2024-01-15 14:30:25+01:00\nMessage: second\n\n\n"
        "Commit: SHA\nAuthor: Ann\nDate: 2024-01-15 14:30:25+01:00\nMessage: first\n\nbody\n\n"
    )
    assert git(box, "log", max_count=1).count("Commit: ") == 1
    assert git(box, "log", max_count="1").count("Commit: ") == 1  # the real server reads numbers from text too
    assert git(box, "log", start_timestamp="2024-01-16") == "Commit history:\n"
    assert git(box, "log", start_timestamp="2024-01-14", end_timestamp="yesterday").count("Commit: ") == 2


def test_show(box: Box) -> None:
    shown = git(box, "show", revision="HEAD")
    assert re.sub(r"[0-9a-f]{40}", "SHA", shown).startswith(
        "commit SHA\nAuthor: Ann <ann@x>\nDate:   2024-01-15 14:30:25 +0100\n\n"
        "    second\n\ndiff --git a/a.txt b/a.txt\n"
    )
    assert "\n--- a/a.txt\n+++ b/a.txt\n@@ -1,3 +1,3 @@\n 1\n-2\n+two\n 3" in shown
    assert git(box, "show", revision="v1") == shown
    assert "new file mode" in git(box, "show", revision="HEAD~1")
    assert git(box, "show", revision="HEAD:a.txt") == "1\ntwo\n3\n"
    assert git(box, "show", revision="HEAD:") == "a.txt\nd/"
    assert refusal(box, "show", revision="none") == "Ref 'none' did not resolve to an object"


def test_diff_and_branches(box: Box) -> None:
    assert "-2\n+two" in git(box, "diff", target="side")
    assert git(box, "diff", target="side", context_lines=0).startswith("Diff with side:\ndiff --git")
    assert git(box, "diff", target="side..main") == git(box, "diff", target="side").replace("side", "side..main", 1)
    assert refusal(box, "diff", target="none") == "Ref 'none' did not resolve to an object"
    assert git(box, "branch", branch_type="local") == "* main\n  side"
    assert git(box, "branch", branch_type="local", contains="HEAD") == "* main"
    assert git(box, "branch", branch_type="all", not_contains="HEAD") == "  side"
    assert git(box, "branch", branch_type="remote") == ""
    assert refusal(box, "branch", branch_type="every") == "Invalid branch type: every (one of: local, remote, all)"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("diff", {"target": "--output=stolen"}, "Invalid target: '--output=stolen' - cannot start with '-'"),
        ("show", {"revision": "--output=stolen"}, "Invalid revision: '--output=stolen' - cannot start with '-'"),
        ("checkout", {"branch_name": "-f"}, "Invalid branch name: '-f' - cannot start with '-'"),
        ("create_branch", {"branch_name": "-D"}, "Invalid branch name: '-D' - cannot start with '-'"),
        ("create_branch", {"branch_name": "x", "base_branch": "-D"}, "Invalid base branch: '-D' - cannot start with"),
        ("log", {"start_timestamp": "--all"}, "Invalid start_timestamp: '--all' - cannot start with '-'"),
        ("log", {"end_timestamp": "--all"}, "Invalid end_timestamp: '--all' - cannot start with '-'"),
        ("branch", {"branch_type": "local", "contains": "-d"}, "Invalid contains value: '-d' - cannot start with '-'"),
        ("branch", {"branch_type": "all", "not_contains": "-d"}, "Invalid not_contains value: '-d' - cannot start"),
    ],
)
def test_nothing_becomes_an_option(box: Box, name: str, arguments: dict[str, str], message: str) -> None:
    assert message in refusal(box, name, **arguments)
    assert not list(box.workspace.rglob("stolen"))


def test_arguments_that_do_not_fit_are_named(box: Box) -> None:
    assert "files: Field required" in refusal(box, "add")
    assert "context_lines: Input should be a valid integer" in refusal(box, "diff_staged", context_lines="many")
    assert "message: Input should be a valid string" in refusal(box, "commit", message=["x"])


def test_from_a_change_to_a_commit(own: Box) -> None:
    own.files.write_bytes("repo/a.txt", b"1\n2\n3\n4\n")
    own.files.write_bytes("repo/-n.txt", b"new\n")
    assert "+4" in git(own, "diff_unstaged")
    assert refusal(own, "commit", message="early").startswith("No changes staged for commit. Use git_add")
    assert git(own, "add", files=["a.txt", "-n.txt", f"{own.root}/repo/d"]) == "Files staged successfully"
    assert git(own, "add", files='["a.txt"]').startswith("No changes were staged")  # a list as JSON text, as upstream
    assert "+4" in git(own, "diff_staged")
    assert git(own, "diff_unstaged") == "Unstaged changes:\n"
    assert git(own, "reset") == "All staged changes reset"
    assert git(own, "diff_staged") == "Staged changes:\n"
    assert git(own, "add", files=["."]) == "Files staged successfully"
    done = git(own, "commit", message="--amend is only a message\n\n# so is this")
    commit = re.fullmatch(r"Changes committed successfully with hash ([0-9a-f]{40})", done)
    assert commit
    log = git(own, "log", max_count=1)
    assert f"Commit: {commit[1]}\nAuthor: pytest-klavis\n" in log
    assert log.endswith("Message: --amend is only a message\n\n# so is this\n")


def test_the_repositorys_own_identity_wins(own: Box) -> None:
    own.call(
        "terminal", "run_command", command="cd repo && git config user.name Bea && git commit -q --allow-empty -m x"
    )
    own.files.write_bytes("repo/a.txt", b"x")
    git(own, "add", files=["a.txt"])
    git(own, "commit", message="mine")
    shown = git(own, "show", revision="HEAD")
    assert "Author: Bea <pytest-klavis@localhost>" in shown


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["../../etc/passwd"], "Path '../../etc/passwd' is outside the repository '{root}/repo'"),
        (["/etc/passwd"], "Path '/etc/passwd' is outside the repository '{root}/repo'"),
        (["{root}/other"], "Path '{root}/other' is outside the repository '{root}/repo'"),
        (["none"], "git add failed with exit code 128: fatal: pathspec 'none' did not match any files"),
        ([], "files"),
    ],
)
def test_what_cannot_be_staged(box: Box, files: list[str], message: str) -> None:
    said = refusal(box, "add", files=[file.format(root=box.root) for file in files])
    assert message.format(root=box.root) in said.replace("No files", "files")


def test_branching(own: Box) -> None:
    assert git(own, "create_branch", branch_name="one") == "Created branch 'one' from 'main'"
    assert git(own, "create_branch", branch_name="two", base_branch="side") == "Created branch 'two' from 'side'"
    said = refusal(own, "create_branch", branch_name="two")
    assert said == "Cannot create branch 'two': refs/heads/two already exists"
    assert refusal(own, "create_branch", branch_name="x", base_branch="none") == "No item found with id none"
    assert refusal(own, "create_branch", branch_name="x", base_branch="HEAD~1") == "No item found with id HEAD~1"
    assert git(own, "checkout", branch_name="two") == "Switched to branch 'two'"
    assert refusal(own, "checkout", branch_name="none") == "Ref 'none' did not resolve to an object"
    assert refusal(own, "checkout", branch_name="a.txt") == "Ref 'a.txt' did not resolve to an object"
    assert re.fullmatch(r"HEAD is now detached at [0-9a-f]{7}", git(own, "checkout", branch_name="v1"))
    assert refusal(own, "create_branch", branch_name="y").startswith("HEAD is detached")


def test_a_merge_is_concluded(own: Box) -> None:
    conflict = (
        "cd repo && git checkout -q side && echo other > a.txt && git -c user.name=a -c user.email=b commit -qam o"
    )
    own.call(
        "terminal", "run_command", command=f"{conflict}; git -c user.name=a -c user.email=b merge main; cp a.txt d/x"
    )
    own.files.write_bytes("repo/a.txt", b"solved\n")
    git(own, "add", files=["."])
    git(own, "commit", message="merged")
    assert "nothing to commit" in git(own, "status")
    assert git(own, "log").count("Commit: ") == 4
    assert "+solved" in git(own, "show", revision="HEAD")


def test_a_repository_cannot_reach_above_the_workspace(own: Box) -> None:
    own.call(
        "terminal", "run_command", command="mkdir -p broken/.git/refs broken/.git/objects && echo x > broken/.git/HEAD"
    )
    assert "git status failed with exit code 128: fatal: not a git repository" in refusal(own, "status", "broken")


def test_calls_at_once_wait_for_each_other(own: Box) -> None:
    """Two gits that write the index at once would find it locked."""
    context = ToolContext(own.files, own.jail, own.isolation, own.root, own.limits)
    add = tools("git", None)["git_add"]

    async def add_all() -> list[bool]:
        for number in range(8):
            own.files.write_bytes(f"repo/n{number}", b"x")
        calls = (add.call(context, {"repo_path": "repo", "files": [f"n{number}"]}) for number in range(8))
        return [result.is_error for result in await asyncio.gather(*calls)]

    assert own.runner.run(add_all()) == [False] * 8


def test_only_parents_nearby_are_looked_at_for_a_hint(own: Box) -> None:
    for depth, hint in ((20, True), (30, False)):
        folder = "repo/" + "/".join(["p"] * depth)
        own.files.mkdir(folder)
        assert ("it lies in the repository" in refusal(own, "status", folder)) is hint


def test_files_are_looked_at_in_threads(own: Box) -> None:
    """The event loop serves everybody."""
    looked: list[threading.Thread] = []

    class Watched(WorkspaceFiles):
        def stat(self, path: str, *, follow: bool = True) -> os.stat_result:
            looked.append(threading.current_thread())
            return super().stat(path, follow=follow)

        def open_read(self, path: str) -> BinaryIO:
            looked.append(threading.current_thread())
            return super().open_read(path)

    own.files.write_bytes("a.py", b"")
    watched = replace(own, files=Watched(own.workspace, own.jail.uid))
    calls: list[tuple[str, str, dict[str, str]]] = [
        ("git", "git_status", {"repo_path": "repo"}),
        ("git", "git_status", {"repo_path": "repo/d"}),
        ("code-executor", "execute_code_file", {"file_path": "a.py"}),
        ("code-executor", "configure_environment", {"type": "venv", "venv_path": "none"}),
    ]
    for server, name, arguments in calls:
        looked.clear()
        watched.call(server, name, **arguments)
        assert looked
        assert threading.main_thread() not in looked
