"""git with a repository that the agent made: its hooks and configuration run programs, its files point elsewhere.

Programs may run (the agent could start them itself) but only inside. Where a file of the repository points outside,
nothing of what is there comes back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.embedded.escapes.support import TOKEN
from tests.embedded.isolation_support import LEVELS, open_folder
from tests.embedded.sandboxed import Box, new_box

git = shutil.which("git")
pytestmark = pytest.mark.skipif(git is None, reason="git is not installed")

# What every program below does: it says that it ran, and tries to bring a secret in and something out.
LOOT = """#!/bin/sh
echo "${{0##*/}}" >> {ws}/ran
{{ cat {secret}; cat ~root/.ssh/id_rsa; env | grep KLAVIS_API; }} >> {ws}/taken 2>/dev/null
echo out > {folder}/out
(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null && echo connected >> {ws}/taken
cat 2>/dev/null || true
exit 0
"""
Calls = tuple[tuple[str, dict[str, Any]], ...]
CALLS: Calls = (
    ("git_status", {}),
    ("git_diff_unstaged", {}),
    ("git_add", {"files": ["."]}),
    ("git_diff_staged", {}),
    ("git_commit", {"message": "m"}),
    ("git_log", {}),
    ("git_show", {"revision": "HEAD"}),
    ("git_diff", {"target": "HEAD"}),
    ("git_create_branch", {"branch_name": "b"}),
    ("git_checkout", {"branch_name": "b"}),
    ("git_branch", {"branch_type": "all"}),
    ("git_reset", {}),
)

# Each runs ./N by way of some call above; N is its own name here. What excludes one another is in another round.
RUNNING = (
    {
        "pre-commit": "cp loot .git/hooks/N",
        "post-commit": "cp loot .git/hooks/N",
        "commit-msg": "cp loot .git/hooks/N",
        "post-checkout": "cp loot .git/hooks/N",
        "post-index-change": "cp loot .git/hooks/N",
        "reference-transaction": "cp loot .git/hooks/N",
        "core.fsmonitor": "git config core.fsmonitor ./N",
        "a-filter": "git config filter.x.clean ./N; echo '* filter=x' >> .gitattributes",
        "diff.external": "git config diff.external ./N",
    },
    {
        "pre-commit": "mkdir h; cp loot h/N; git config core.hooksPath h",
        "included": "git config -f more core.fsmonitor ./N; git config include.path ../more",
        "a-process": "git config filter.x.process ./N; echo '* filter=x' >> .gitattributes",
        "a-driver": "git config diff.x.command ./N; echo '* diff=x' >> .gitattributes",
    },
    {
        "included-if": "git config -f more core.fsmonitor ./N; git config includeIf.gitdir:**.path ../more",
        "a-conversion": "git config diff.x.textconv ./N; echo '* diff=x' >> .gitattributes",
    },
    {"of-the-home": "git config --global core.fsmonitor ./N"},
    {"of-the-worktree": "git config extensions.worktreeConfig true; git config --worktree core.fsmonitor ./N"},
)
# These are asked of programs that no call starts, or not without a terminal: nothing runs at all.
SILENT = {
    "core.pager": "git config core.pager ./loot",
    "core.editor": "git config core.editor ./loot",
    "core.sshCommand": "git config core.sshCommand ./loot; git remote add o ssh://x/y",
    "gpg.program": "git config gpg.program ./loot; git config commit.gpgSign true",
    "credential.helper": "git config credential.helper ./loot",
    "an alias": "for n in status log diff show; do git config alias.$n '!./loot'; done",
    "a merge driver": "git config merge.x.driver ./loot; echo '* merge=x' > .gitattributes",
    "an upload hook": "git config uploadpack.packObjectsHook ./loot",
    "a proxy": "git config core.gitProxy ./loot",
}


@contextlib.contextmanager
def _box(level: str, folder: Path) -> Iterator[Box]:
    with new_box(level) as box:
        if box.isolation.level != level:
            pytest.skip(f"no {level} here: {box.isolation.reason}")
        ws = box.root
        values = {"ws": ws, "secret": folder / "secret", "folder": folder / "open", "port": 9}
        script = LOOT.format(**values)
        _sh(box, "git init -q -b main && printf '%s' \"$0\" > loot && chmod 755 loot && echo 1 > file", script)
        _sh(
            box,
            "git -c user.name=a -c user.email=a@b add file && git -c user.name=a -c user.email=a@b commit -qm first",
        )
        _sh(box, "echo 2 >> file; mkdir -p .git/hooks")
        yield box


def _sh(box: Box, script: str, *arguments: str) -> None:
    done = box.runner.run(box.isolation.run(["sh", "-c", script, *arguments], box.jail))
    assert done.exit_code == 0, done


@pytest.fixture
def outside() -> Iterator[Path]:
    with open_folder() as folder:
        (folder / "secret").write_text(TOKEN)
        (folder / "open").mkdir()
        (folder / "open").chmod(0o777)
        yield folder


def _use(box: Box, calls: Calls = CALLS) -> str:
    """Calls of the server, as an agent makes them; all that they said."""
    said = []
    for name, arguments in calls:
        result = box.call("git", name, repo_path=box.root, **arguments)
        said.append(str(result.content))
    return "\n".join(said)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("together", RUNNING, ids=lambda together: next(iter(together)))
def test_what_git_runs_runs_inside(outside: Path, level: str, together: dict[str, str]) -> None:
    with _box(level, outside) as box:
        _lay(box, together)
        said = _use(box)
        assert set(together) <= set((box.workspace / "ran").read_text().split()), said  # or nothing is proved
        assert not (box.workspace / "taken").read_text()
        assert TOKEN not in said
        assert list((outside / "open").iterdir()) == []


def _lay(box: Box, together: dict[str, str]) -> None:
    script = "\n".join(f"cp loot {name}; {line.replace('N', name)}" for name, line in together.items())
    _sh(box, script)


@pytest.mark.parametrize("level", LEVELS)
def test_what_git_need_not_run_does_not_run(outside: Path, level: str) -> None:
    with _box(level, outside) as box:
        for script in SILENT.values():
            _sh(box, script)
        said = _use(box)
        assert not (box.workspace / "ran").exists(), said
        assert TOKEN not in said


def test_without_isolation_hooks_reach_everything(outside: Path) -> None:
    with _box("none", outside) as box:
        _lay(box, RUNNING[0])
        _use(box)
        assert TOKEN in (box.workspace / "taken").read_text()
        assert list((outside / "open").iterdir()) != []


# -- repositories that lie elsewhere

POINTING = {
    "a worktree outside": "git config core.worktree {repo}",
    "a .git that is a link": "rm -rf .git; ln -s {repo}/.git .git",
    "a .git that names another": "rm -rf .git; echo 'gitdir: {repo}/.git' > .git",
    "a common directory": "echo {repo}/.git > .git/commondir",
    "objects of another": "echo {repo}/.git/objects > .git/objects/info/alternates; echo {head} > .git/refs/heads/main",
    "a linked objects directory": (
        "rm -rf .git/objects; ln -s {repo}/.git/objects .git/objects; echo {head} > .git/refs/heads/main"
    ),
    "linked references": "rm -rf .git/refs; ln -s {repo}/.git/refs .git/refs",
    "a linked index": "rm .git/index; ln -s {repo}/.git/index .git/index",
    "a linked file": "rm file; ln -s {repo}/answer file",
    "an included file": "git config include.path {repo}/answer",
    "excluded files": "git config core.excludesFile {repo}/answer",
    "a template of messages": "git config commit.template {repo}/answer",
    "a mailmap": "git config mailmap.file {repo}/answer",
    "a submodule": "git -c protocol.file.allow=always submodule add {repo} s || true",
    "a clone": "git -c safe.directory='*' clone -q {repo} s || true",
    "a remote": "git remote add o {repo}; git fetch -q o || true; git checkout -q o/main || true",
    "a remote by a program": "git -c protocol.ext.allow=always fetch -q 'ext::cat {repo}/answer' || true",
}


def _repository(folder: Path) -> tuple[Path, str]:
    """A repository of somebody else's, that everybody may read."""
    repo = folder / "repo"
    (repo).mkdir()
    (repo / "answer").write_text(f"{TOKEN}\n")
    environment = {**os.environ, "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(folder)}
    for command in ("init -q -b main", "add .", "-c user.name=a -c user.email=a@b commit -qm TOKEN"):
        subprocess.run([str(git), *command.replace("TOKEN", TOKEN).split()], cwd=repo, env=environment, check=True)
    subprocess.run(["chmod", "-R", "a+rX", repo], check=True)
    head = subprocess.run([str(git), "rev-parse", "HEAD"], cwd=repo, capture_output=True, text=True, check=True)
    return repo, head.stdout.strip()


def _point(box: Box, outside: Path, how: str) -> str:
    repo, head = _repository(outside)
    _sh(box, POINTING[how].format(repo=repo, head=head))
    looks: Calls = (("git_status", {}), ("git_diff_unstaged", {}), ("git_log", {}), ("git_show", {"revision": head}))
    return _use(box, looks) + _everything(box)


def _everything(box: Box) -> str:
    """What is in the workspace after all that."""
    found = subprocess.run(
        ["grep", "-rIs", "--exclude-dir=.git", TOKEN, "."],
        cwd=box.workspace,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("how", POINTING)
def test_nothing_comes_from_a_repository_outside(outside: Path, level: str, how: str) -> None:
    with _box(level, outside) as box:
        assert TOKEN not in _point(box, outside, how)


@pytest.mark.parametrize("how", ["a .git that is a link", "a .git that names another", "objects of another"])
def test_without_isolation_it_comes(outside: Path, how: str) -> None:
    with _box("none", outside) as box:
        assert TOKEN in _point(box, outside, how)
