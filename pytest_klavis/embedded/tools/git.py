"""The git server's tools, after mcp-server-git 2026.10.19: the real git, run inside the sandbox, never by a shell."""

import asyncio
from typing import Annotated

from pydantic import Field

from pytest_klavis.embedded.tools.base import ToolContext, ToolFailureError, readable
from pytest_klavis.embedded.tools.repository import IDENTITY, repository
from pytest_klavis.embedded.tools.schema import Flavour

RepoPath = str
Lines = Annotated[int, Field(description="Number of unchanged lines to show around a change")]
_TIMES = (
    "Accepts: ISO 8601 format (e.g., '2024-01-15T14:30:25'), relative dates (e.g., '2 weeks ago', 'yesterday'),"
    " or absolute dates (e.g., '2024-01-15', 'Jan 15 2024')"
)
_CONTEXT = 3
_RECORD = "%x00Commit: %H%nAuthor: %an%nDate: %aI%x00%B"
_SHOWN = "commit %H%nAuthor: %an <%ae>%nDate:   %ad%n%n%w(0,4,4)%B%x00"


def _alone(context: ToolContext) -> asyncio.Lock:
    """One git at a time in a sandbox: a check and the change that follows it belong together."""
    lock: asyncio.Lock = context.state.setdefault("lock", asyncio.Lock())
    return lock


def _no_flag(kind: str, value: str | None) -> None:
    if value and value.startswith("-"):
        raise ToolFailureError(f"Invalid {kind}: '{value}' - cannot start with '-'")


async def git_status(context: ToolContext, repo_path: RepoPath) -> str:
    """Shows the working tree status"""
    async with _alone(context):
        repo = await repository(context, repo_path)
        return f"Repository status:\n{await repo.git('status')}"


async def git_diff_unstaged(context: ToolContext, repo_path: RepoPath, context_lines: Lines = _CONTEXT) -> str:
    """Shows changes in the working directory that are not yet staged"""
    async with _alone(context):
        repo = await repository(context, repo_path)
        return f"Unstaged changes:\n{await repo.git('diff', f'--unified={context_lines}')}"


async def git_diff_staged(context: ToolContext, repo_path: RepoPath, context_lines: Lines = _CONTEXT) -> str:
    """Shows changes that are staged for commit"""
    async with _alone(context):
        diff = await (await repository(context, repo_path)).git("diff", f"--unified={context_lines}", "--cached")
        return f"Staged changes:\n{diff}"


async def git_diff(context: ToolContext, repo_path: RepoPath, target: str, context_lines: Lines = _CONTEXT) -> str:
    """Shows differences between branches or commits"""
    _no_flag("target", target)
    async with _alone(context):
        repo = await repository(context, repo_path)
        code, diff, stderr = await repo.try_git("diff", f"--unified={context_lines}", target, "--")
        if code != 0 and "bad revision" in stderr:
            raise ToolFailureError(f"Ref '{target}' did not resolve to an object")
        if code != 0:
            raise ToolFailureError(f"git diff failed with exit code {code}: {stderr}")
        return f"Diff with {target}:\n{diff.removesuffix(chr(10))}"


async def git_commit(context: ToolContext, repo_path: RepoPath, message: str) -> str:
    """Records changes to the repository"""
    async with _alone(context):
        repo = await repository(context, repo_path)
        merging, _, _ = await repo.try_git("rev-parse", "--verify", "--quiet", "MERGE_HEAD")
        if merging != 0:
            code, _, stderr = await repo.try_git("diff", "--cached", "--quiet")
            if code == 0:
                raise ToolFailureError(
                    "No changes staged for commit. Use git_add to stage changes first;"
                    " git_status shows what is currently staged."
                )
            if code != 1:
                raise ToolFailureError(f"git diff failed with exit code {code}: {stderr}")
        _, known, _ = await repo.try_git("config", "--get-regexp", r"^user\.(name|email)$")
        named = {line.split(" ", 1)[0] for line in known.splitlines()}
        config = {key: value for key, value in IDENTITY.items() if key not in named}
        options = ["--quiet", "--no-gpg-sign", "--allow-empty-message", "--cleanup=verbatim", "--file=-"]
        await repo.git("commit", *options, stdin=readable(message).encode(), config=config)
        return f"Changes committed successfully with hash {await repo.git('rev-parse', 'HEAD')}"


async def git_add(
    context: ToolContext,
    repo_path: RepoPath,
    files: Annotated[list[str], Field(description="Paths to stage, relative to the repository; ['.'] for all")],
) -> str:
    """Adds file contents to the staging area"""
    if not files:
        raise ToolFailureError("No files provided to stage. Pass one or more paths, or ['.'] to stage everything.")
    async with _alone(context):
        repo = await repository(context, repo_path)
        staged = await repo.git("add", "--verbose", "--", *[repo.inner(file) for file in files])
        if not staged:
            return (
                "No changes were staged: the given paths had nothing new to stage."
                " git_status shows what is modified or untracked."
            )
        return "Files staged successfully"


async def git_reset(context: ToolContext, repo_path: RepoPath) -> str:
    """Unstages all staged changes"""
    async with _alone(context):
        await (await repository(context, repo_path)).git("reset", "--quiet")
        return "All staged changes reset"


async def git_log(
    context: ToolContext,
    repo_path: RepoPath,
    max_count: int = 10,
    start_timestamp: Annotated[
        str | None, Field(description=f"Start timestamp for filtering commits. {_TIMES}")
    ] = None,
    end_timestamp: Annotated[str | None, Field(description=f"End timestamp for filtering commits. {_TIMES}")] = None,
) -> str:
    """Shows the commit logs"""
    _no_flag("start_timestamp", start_timestamp)
    _no_flag("end_timestamp", end_timestamp)
    options = [f"--max-count={max_count}", f"--format=tformat:{_RECORD}"]
    options += [f"--since={start_timestamp}"] if start_timestamp else []
    options += [f"--until={end_timestamp}"] if end_timestamp else []
    async with _alone(context):
        found = await (await repository(context, repo_path)).git("log", *options, raw=True)
    pieces = found.split("\0")[1:]
    entries = []
    for header, message in zip(pieces[::2], pieces[1::2], strict=False):
        first, _, date = header.rpartition("Date: ")
        moment = date.replace("T", " ").replace("Z", "+00:00")
        entries.append(f"{first}Date: {moment}\nMessage: {message.removesuffix(chr(10))}\n")
    return "Commit history:\n" + "\n".join(entries)


async def git_create_branch(
    context: ToolContext, repo_path: RepoPath, branch_name: str, base_branch: str | None = None
) -> str:
    """Creates a new branch from an optional base branch"""
    _no_flag("branch name", branch_name)
    _no_flag("base branch", base_branch)
    async with _alone(context):
        repo = await repository(context, repo_path)
        base = base_branch or await repo.branch()
        if base is None:
            raise ToolFailureError("HEAD is detached, so there is no current branch to branch from; pass base_branch")
        if base_branch and base_branch not in (await repo.git("for-each-ref", "--format=%(refname:short)")).split("\n"):
            raise ToolFailureError(f"No item found with id {base_branch}")
        code, _, stderr = await repo.try_git("branch", "--no-track", "--", branch_name, base)
        if code != 0 and "already exists" in stderr:
            raise ToolFailureError(f"Cannot create branch '{branch_name}': refs/heads/{branch_name} already exists")
        if code != 0:
            raise ToolFailureError(f"Cannot create branch '{branch_name}' from '{base}': {stderr}")
        return f"Created branch '{branch_name}' from '{base}'"


async def git_checkout(context: ToolContext, repo_path: RepoPath, branch_name: str) -> str:
    """Switches branches"""
    _no_flag("branch name", branch_name)
    async with _alone(context):
        repo = await repository(context, repo_path)
        await repo.require(branch_name)
        await repo.git("checkout", "--quiet", branch_name, "--")
        branch = await repo.branch()
        if branch is None:
            return f"HEAD is now detached at {(await repo.git('rev-parse', 'HEAD'))[:7]}"
        return f"Switched to branch '{branch}'"


async def git_show(context: ToolContext, repo_path: RepoPath, revision: str) -> str:
    """Shows the contents of a commit, or of a file or directory given as <revision>:<path>"""
    _no_flag("revision", revision)
    async with _alone(context):
        repo = await repository(context, repo_path)
        await repo.require(revision)
        kind = await repo.git("cat-file", "-t", revision)
        if kind == "blob":
            return await repo.git("cat-file", "blob", revision, raw=True)
        if kind == "tree":
            entries = (await repo.git("ls-tree", "-z", revision)).split("\0")
            pairs = (entry.split("\t", 1) for entry in entries if entry)
            return "\n".join(f"{name}/" if " tree " in mode else name for mode, name in pairs)
        options = ["--date=iso", "--first-parent", "-m", f"--format=format:{_SHOWN}"]
        header, _, diff = (await repo.git("show", *options, f"{revision}^{{commit}}", "--")).partition("\0")
        parts = [header.rstrip(), diff.strip("\n")]
        return "\n\n".join(part for part in parts if part)


async def git_branch(
    context: ToolContext,
    repo_path: Annotated[str, Field(description="The path to the Git repository.")],
    branch_type: Annotated[
        str,
        Field(
            description="Whether to list local branches ('local'), remote branches ('remote') or all branches('all')."
        ),
    ],
    contains: Annotated[
        str | None, Field(description="The commit sha that branch should contain. Leave it out if there is none")
    ] = None,
    not_contains: Annotated[
        str | None, Field(description="The commit sha that branch should NOT contain. Leave it out if there is none")
    ] = None,
) -> str:
    """List Git branches"""
    _no_flag("contains value", contains)
    _no_flag("not_contains value", not_contains)
    kinds = {"local": [], "remote": ["-r"], "all": ["-a"]}
    if branch_type not in kinds:
        raise ToolFailureError(f"Invalid branch type: {branch_type} (one of: {', '.join(kinds)})")
    options = kinds[branch_type]
    options += ["--contains", contains] if contains is not None else []
    options += ["--no-contains", not_contains] if not_contains is not None else []
    async with _alone(context):
        return await (await repository(context, repo_path)).git("branch", *options)


def _hints(*, reads: bool, destroys: bool = False, idempotent: bool = True) -> dict[str, bool]:
    return {
        "readOnlyHint": reads,
        "destructiveHint": destroys,
        "idempotentHint": idempotent,
        "openWorldHint": False,
    }


_FUNCTIONS = {
    function.__name__: function
    for function in (
        git_status,
        git_diff_unstaged,
        git_diff_staged,
        git_diff,
        git_commit,
        git_add,
        git_reset,
        git_log,
        git_create_branch,
        git_checkout,
        git_show,
        git_branch,
    )
}
_WRITES = {
    "git_commit": _hints(reads=False, idempotent=False),
    "git_add": _hints(reads=False),
    "git_reset": _hints(reads=False, destroys=True),
    "git_create_branch": _hints(reads=False, idempotent=False),
    "git_checkout": _hints(reads=False, idempotent=False),
}

KLAVIS = Flavour(functions=_FUNCTIONS, strict=False)
UPSTREAM = Flavour(
    functions=_FUNCTIONS,
    annotations={name: _WRITES.get(name, _hints(reads=True)) for name in _FUNCTIONS},
    refine={"git_add": {"files": {"minItems": 1}}},
    strict=False,
)
