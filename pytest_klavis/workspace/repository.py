"""Turning a seed into a git repository whose only commit depends on nothing but the tree."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from pytest_klavis.errors import SeedError

from .names import printable

if TYPE_CHECKING:
    from pathlib import Path

DATE = "2000-01-01T00:00:00Z"
AUTHOR = "pytest-klavis"
EMAIL = "pytest-klavis@localhost"
DEADLINE = 300  # seconds for one git command


def commit(tree: Path, home: Path, source: str) -> None:
    """Make `tree` a repository on branch main with everything in it committed, except what its .gitignore names.

    Git sees no configuration, hook or template of this machine; `home` is an empty directory that it may use.
    Raises SeedError, with `source` as the seed's name, when git fails.
    """
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CEILING_DIRECTORIES": str(tree.parent),
        "GIT_DEFAULT_HASH": "sha1",
        "GIT_DEFAULT_REF_FORMAT": "files",
        "GIT_TERMINAL_PROMPT": "0",
        **{f"GIT_{role}_NAME": AUTHOR for role in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{role}_EMAIL": EMAIL for role in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{role}_DATE": DATE for role in ("AUTHOR", "COMMITTER")},
    }
    for arguments in (
        ("init", "--quiet", "--template="),
        ("symbolic-ref", "HEAD", "refs/heads/main"),
        ("add", "--all"),
        ("-c", "gc.auto=0", "commit", "--quiet", "--allow-empty", "--no-verify", "--no-gpg-sign", "--message=Seed"),
        ("read-tree", "HEAD"),
    ):
        # The index of `add` holds inodes and times of this machine; one made from the commit holds none.
        index = {} if arguments[0] == "read-tree" else {"GIT_INDEX_FILE": str(home / "index")}
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=tree,
                env={**environment, **index},
                capture_output=True,
                timeout=DEADLINE,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SeedError(f"{source}: git {arguments[0]} did not run: {error}") from error
        if done.returncode:
            said = printable(done.stderr.decode(errors="replace")[-500:].strip())
            raise SeedError(f"{source}: git {' '.join(arguments)} failed with {done.returncode}: {said}")
