"""git: against mcp-server-git."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..playing import Table
from ..scenario import AUTHOR, Folder, Scenario, call, git

if TYPE_CHECKING:
    from pathlib import Path

    from ..scenario import Call

REPO = "{root}/repo"


def on(tool: str, /, **arguments: object) -> Call:
    """A call with the repository of the seed."""
    return call(tool, repo_path=REPO, **arguments)


def _new(place: Path) -> Path:
    repo = place / "repo"
    repo.mkdir(exist_ok=True)
    git(repo, "init", "--quiet", "--initial-branch=main")
    for key, value in AUTHOR.items():
        git(repo, "config", f"user.{key}", value)
    return repo


def history(place: Path) -> None:
    """Three commits on main, two branches, a tag, a merge, and changes of every kind in the working tree."""
    repo = _new(place)
    (repo / "a.txt").write_text("".join(f"line {number}\n" for number in range(1, 21)))
    (repo / "gone.txt").write_text("to be deleted\n")
    (repo / "src").mkdir()
    (repo / "src" / "main.py").write_text("print('hello')\n")
    git(repo, "add", ".")
    git(repo, "commit", "--quiet", "-m", "first")
    git(repo, "tag", "v1")
    git(repo, "tag", "-a", "v1-annotated", "-m", "the first one")
    git(repo, "branch", "feature")
    git(repo, "branch", "topic/näme")
    (repo / "a.txt").write_text("".join(f"line {number}\n" for number in range(1, 20)) + "line twenty\n")
    (repo / "grüße.txt").write_text("Schöne Grüße 🌍\n")
    git(repo, "add", ".")
    git(repo, "commit", "--quiet", "-m", "second: grüße 🌍\n\nWith a body\nof two lines.")
    (repo / "binary.bin").write_bytes(bytes(range(256)))
    git(repo, "rm", "--quiet", "gone.txt")
    git(repo, "mv", "src/main.py", "src/app.py")
    git(repo, "add", ".")
    git(repo, "commit", "--quiet", "-m", "third")
    git(repo, "checkout", "--quiet", "feature")
    (repo / "feature.txt").write_text("a feature\n")
    git(repo, "add", ".")
    git(repo, "commit", "--quiet", "-m", "on feature")
    git(repo, "checkout", "--quiet", "main")
    git(repo, "merge", "--quiet", "--no-ff", "-m", "merge feature", "feature")
    git(repo, "update-ref", "refs/remotes/origin/main", "main")
    git(repo, "update-ref", "refs/remotes/origin/old", "v1")
    (place / "plain").mkdir()
    (place / "plain" / "x.txt").write_text("x")


def dirty(place: Path) -> None:
    history(place)
    repo = place / "repo"
    (repo / "a.txt").write_text("LINE 1\n" + "".join(f"line {number}\n" for number in range(2, 20)) + "LINE 20")
    (repo / "staged.txt").write_text("staged\n")
    (repo / "both.txt").write_text("one\n")
    git(repo, "add", "staged.txt", "both.txt")
    (repo / "both.txt").write_text("one\ntwo\n")
    (repo / "feature.txt").unlink()
    (repo / "untracked.txt").write_text("new\n")
    (repo / "with space ü.txt").write_text("new\n")
    (repo / ".gitignore").write_text("*.log\n")
    (repo / "x.log").write_text("ignored\n")


def empty(place: Path) -> None:
    _new(place)


def detached(place: Path) -> None:
    history(place)
    git(place / "repo", "checkout", "--quiet", "v1")


READING = Scenario(
    "reading a dirty tree",
    prepare=dirty,
    calls={
        "status": on("git_status"),
        "status by a relative path": call("git_status", repo_path="repo"),
        "status with a trailing slash": call("git_status", repo_path=REPO + "/"),
        "status of a folder in it": call("git_status", repo_path=REPO + "/src"),
        "status of its .git": call("git_status", repo_path=REPO + "/.git"),
        "status of no repository": call("git_status", repo_path="{root}/plain"),
        "status of what is missing": call("git_status", repo_path="{root}/absent"),
        "status of a file": call("git_status", repo_path=REPO + "/a.txt"),
        "status outside": call("git_status", repo_path="/"),
        "status without a path": call("git_status"),
        "status of a wrong type": call("git_status", repo_path=7),
        "status with an unknown argument": on("git_status", short=True),
        "unstaged": on("git_diff_unstaged"),
        "unstaged without context": on("git_diff_unstaged", context_lines=0),
        "unstaged with one line": on("git_diff_unstaged", context_lines=1),
        "unstaged with much context": on("git_diff_unstaged", context_lines=1000),
        "unstaged with negative context": on("git_diff_unstaged", context_lines=-1),
        "unstaged with context as text": on("git_diff_unstaged", context_lines="2"),
        "unstaged with context of a wrong type": on("git_diff_unstaged", context_lines="many"),
        "unstaged with a fraction": on("git_diff_unstaged", context_lines=1.5),
        "unstaged of no repository": call("git_diff_unstaged", repo_path="{root}/plain"),
        "unstaged without a path": call("git_diff_unstaged"),
        "staged": on("git_diff_staged"),
        "staged without context": on("git_diff_staged", context_lines=0),
        "staged with much context": on("git_diff_staged", context_lines=50),
        "staged with null context": on("git_diff_staged", context_lines=None),
        "staged of no repository": call("git_diff_staged", repo_path="{root}/plain"),
        "staged without a path": call("git_diff_staged"),
        "diff with a branch": on("git_diff", target="feature"),
        "diff with a tag": on("git_diff", target="v1"),
        "diff with HEAD": on("git_diff", target="HEAD"),
        "diff with an earlier commit": on("git_diff", target="HEAD~2", context_lines=1),
        "diff of two": on("git_diff", target="v1..feature"),
        "diff since they parted": on("git_diff", target="main...feature"),
        "diff of two words": on("git_diff", target="v1 feature"),
        "diff with a remote branch": on("git_diff", target="origin/old", context_lines=0),
        "diff with nothing known": on("git_diff", target="nowhere"),
        "diff with a file": on("git_diff", target="a.txt"),
        "diff with a flag": on("git_diff", target="--output=/tmp/x"),
        "diff with nothing": on("git_diff", target=""),
        "diff without a target": on("git_diff"),
        "diff of no repository": call("git_diff", repo_path="{root}/plain", target="HEAD"),
        "unknown tool": on("git_push"),
    },
)

LOGS = Scenario(
    "log",
    prepare=history,
    calls={
        "all": on("git_log"),
        "one": on("git_log", max_count=1),
        "two": on("git_log", max_count=2),
        "none": on("git_log", max_count=0),
        "negative": on("git_log", max_count=-1),
        "count as text": on("git_log", max_count="2"),
        "count of a wrong type": on("git_log", max_count="all"),
        "since long ago": on("git_log", start_timestamp="2020-01-01"),
        "since later": on("git_log", start_timestamp="2024-06-01"),
        "until before": on("git_log", end_timestamp="2020-01-01"),
        "until later": on("git_log", end_timestamp="2024-06-01T00:00:00"),
        "between": on("git_log", start_timestamp="2024-02-01", end_timestamp="2024-04-01"),
        "relative time": on("git_log", start_timestamp="30 years ago"),
        "since yesterday": on("git_log", start_timestamp="yesterday"),
        "nonsense time": on("git_log", start_timestamp="whenever"),
        "a flag for a time": on("git_log", start_timestamp="--all"),
        "of no repository": call("git_log", repo_path="{root}/plain"),
        "without a path": call("git_log"),
    },
)

SHOWING = Scenario(
    "show",
    prepare=history,
    calls={
        "HEAD, a merge": on("git_show", revision="HEAD"),
        "third": on("git_show", revision="HEAD~1"),
        "second": on("git_show", revision="HEAD~2"),
        "first": on("git_show", revision="v1"),
        "annotated tag": on("git_show", revision="v1-annotated"),
        "branch": on("git_show", revision="feature"),
        "branch with a slash": on("git_show", revision="topic/näme"),
        "file": on("git_show", revision="HEAD:a.txt"),
        "old file": on("git_show", revision="v1:src/main.py"),
        "unicode file": on("git_show", revision="HEAD:grüße.txt"),
        "binary file": on("git_show", revision="HEAD:binary.bin"),
        "directory": on("git_show", revision="HEAD:src"),
        "root directory": on("git_show", revision="HEAD:"),
        "missing file": on("git_show", revision="HEAD:absent.txt"),
        "unknown": on("git_show", revision="nowhere"),
        "too far back": on("git_show", revision="HEAD~99"),
        "range": on("git_show", revision="v1..HEAD"),
        "flag": on("git_show", revision="--stat"),
        "nothing": on("git_show", revision=""),
        "no revision": on("git_show"),
        "of no repository": call("git_show", repo_path="{root}/plain", revision="HEAD"),
    },
)

ADDING = Scenario(
    "add, commit, reset",
    prepare=dirty,
    calls={
        "add one": on("git_add", files=["untracked.txt"]),
        "add a name with spaces": on("git_add", files=["with space ü.txt"]),
        "add what is deleted": on("git_add", files=["feature.txt"]),
        "add it again": on("git_add", files=["untracked.txt"]),
        "add by the whole path": on("git_add", files=[REPO + "/a.txt"]),
        "add what is ignored": on("git_add", files=["x.log"]),
        "add what is missing": on("git_add", files=["absent.txt"]),
        "add a good and a missing one": on("git_add", files=["both.txt", "absent.txt"]),
        "add what is outside": on("git_add", files=["../plain/x.txt"]),
        "add a flag": on("git_add", files=["-f", "x.log"]),
        "add nothing": on("git_add", files=[]),
        "add text for a list": on("git_add", files="a.txt"),
        "add without files": on("git_add"),
        "add by a pattern": on("git_add", files=["*.txt"]),
        "add everything": on("git_add", files=["."]),
        "add everything again": on("git_add", files=["."]),
        "reset": on("git_reset"),
        "reset again": on("git_reset"),
        "reset of no repository": call("git_reset", repo_path="{root}/plain"),
        "reset without a path": call("git_reset"),
        "commit without anything staged": on("git_commit", message="nothing"),
        "add for a commit": on("git_add", files=["staged.txt", "both.txt"]),
        "commit": on("git_commit", message="add two files"),
        "commit again": on("git_commit", message="add two files"),
        "add for a second commit": on("git_add", files=["untracked.txt"]),
        "commit with a long message": on("git_commit", message="grüße 🌍\n\nbody\n# not a comment\n\n  indented\n\n\n"),
        "add for a third commit": on("git_add", files=["a.txt"]),
        "commit with an empty message": on("git_commit", message=""),
        "add for a fourth commit": on("git_add", files=["."]),
        "commit with a message like a flag": on("git_commit", message="--amend"),
        "commit without a message": on("git_commit"),
        "commit of a wrong type": on("git_commit", message={"text": "x"}),
        "commit of no repository": call("git_commit", repo_path="{root}/plain", message="x"),
        "status at the end": on("git_status"),
        "log at the end": on("git_log", max_count=4),
        "reset at the end": on("git_reset"),
    },
)

BRANCHES = Scenario(
    "branches",
    prepare=history,
    calls={
        "local": on("git_branch", branch_type="local"),
        "remote": on("git_branch", branch_type="remote"),
        "all": on("git_branch", branch_type="all"),
        "of a wrong type": on("git_branch", branch_type="both"),
        "containing": on("git_branch", branch_type="local", contains="feature"),
        "not containing": on("git_branch", branch_type="all", not_contains="feature"),
        "containing and not": on("git_branch", branch_type="all", contains="v1", not_contains="feature"),
        "containing what is unknown": on("git_branch", branch_type="local", contains="nowhere"),
        "containing a flag": on("git_branch", branch_type="local", contains="--all"),
        "containing nothing": on("git_branch", branch_type="local", contains=""),
        "without a type": on("git_branch"),
        "of no repository": call("git_branch", repo_path="{root}/plain", branch_type="local"),
        "create": on("git_create_branch", branch_name="new"),
        "create from a branch": on("git_create_branch", branch_name="from-feature", base_branch="feature"),
        "create from a tag": on("git_create_branch", branch_name="from-tag", base_branch="v1"),
        "create from a remote": on("git_create_branch", branch_name="from-remote", base_branch="origin/old"),
        "create from a commit": on("git_create_branch", branch_name="from-commit", base_branch="HEAD~1"),
        "create with a slash": on("git_create_branch", branch_name="bug/näme"),
        "create one that is there": on("git_create_branch", branch_name="feature"),
        "create from nothing known": on("git_create_branch", branch_name="x", base_branch="nowhere"),
        "create a bad name": on("git_create_branch", branch_name="a..b"),
        "create a name with a space": on("git_create_branch", branch_name="a b"),
        "create a flag": on("git_create_branch", branch_name="-d"),
        "create from a flag": on("git_create_branch", branch_name="x", base_branch="--force"),
        "create nothing": on("git_create_branch", branch_name=""),
        "create without a name": on("git_create_branch"),
        "check out": on("git_checkout", branch_name="feature"),
        "check out the same": on("git_checkout", branch_name="feature"),
        "check out a tag": on("git_checkout", branch_name="v1"),
        "create while detached": on("git_create_branch", branch_name="while-detached"),
        "check out a commit": on("git_checkout", branch_name="main~1"),
        "check out a branch with a slash": on("git_checkout", branch_name="bug/näme"),
        "check out a remote branch": on("git_checkout", branch_name="origin/old"),
        "check out a name of a remote branch": on("git_checkout", branch_name="old"),
        "check out what is unknown": on("git_checkout", branch_name="nowhere"),
        "check out a file": on("git_checkout", branch_name="a.txt"),
        "check out a flag": on("git_checkout", branch_name="-b"),
        "check out nothing": on("git_checkout", branch_name=""),
        "check out without a name": on("git_checkout"),
        "check out of no repository": call("git_checkout", repo_path="{root}/plain", branch_name="main"),
        "check out main": on("git_checkout", branch_name="main"),
    },
)

CONFLICTS = Scenario(
    "check out over changes",
    prepare=dirty,
    calls={
        "over changes": on("git_checkout", branch_name="feature"),
        "status": on("git_status"),
        "to an equal commit": on("git_checkout", branch_name="main"),
    },
)

EMPTY = Scenario(
    "an empty repository",
    prepare=empty,
    seed={"repo/a.txt": "a\n"},
    calls={
        "status": on("git_status"),
        "log": on("git_log"),
        "unstaged": on("git_diff_unstaged"),
        "staged": on("git_diff_staged"),
        "diff": on("git_diff", target="HEAD"),
        "show": on("git_show", revision="HEAD"),
        "branches": on("git_branch", branch_type="local"),
        "create a branch": on("git_create_branch", branch_name="x"),
        "check out": on("git_checkout", branch_name="main"),
        "commit without anything staged": on("git_commit", message="x"),
        "add": on("git_add", files=["a.txt"]),
        "staged now": on("git_diff_staged"),
        "first commit": on("git_commit", message="first"),
        "log now": on("git_log"),
        "show now": on("git_show", revision="HEAD"),
    },
)

EMPTY_RESET = Scenario(
    "reset in an empty repository",
    prepare=empty,
    seed={"repo/a.txt": "a\n"},
    calls={
        "reset": on("git_reset"),
        "add": on("git_add", files=["a.txt"]),
        "reset of what is staged": on("git_reset"),
    },
)

DETACHED = Scenario(
    "a detached head",
    prepare=detached,
    seed={"repo/new.txt": "new\n", "folder": Folder},
    calls={
        "status": on("git_status"),
        "branches": on("git_branch", branch_type="all"),
        "add": on("git_add", files=["new.txt"]),
        "commit": on("git_commit", message="detached"),
        "create a branch": on("git_create_branch", branch_name="kept"),
        "create a branch from HEAD": on("git_create_branch", branch_name="kept", base_branch="HEAD"),
        "log": on("git_log"),
    },
)

TABLE = Table(
    name="git",
    server="git",
    benchmark="MCP_Atlas",
    upstream="git",
    scenarios=(READING, LOGS, SHOWING, ADDING, BRANCHES, CONFLICTS, EMPTY, EMPTY_RESET, DETACHED),
)
