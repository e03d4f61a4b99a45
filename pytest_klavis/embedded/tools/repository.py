"""One git repository of a workspace, and the environment in which git runs there."""

import posixpath

from pytest_klavis.embedded.tools.base import ToolContext, ToolFailureError, stopped_text

PARENTS = 20  # directories above that are looked at for a hint
# The author of commits where neither the repository nor HOME names one.
IDENTITY = {"user.name": "pytest-klavis", "user.email": "pytest-klavis@localhost"}


def _environment(context: ToolContext, config: dict[str, str]) -> dict[str, str]:
    """Git's environment: no prompt, no pager, English; nothing above the workspace is taken for a repository."""
    # Who owns the files says nothing here: all that git can reach is the agent's.
    settings = {"safe.directory": "*", **config}
    variables = {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_PAGER": "cat",
        "GIT_EDITOR": "true",
        "GIT_CEILING_DIRECTORIES": posixpath.dirname(context.root),
        "LC_ALL": "C.UTF-8",
        "LANGUAGE": "C",
        "GIT_CONFIG_COUNT": str(len(settings)),
    }
    for number, (key, value) in enumerate(settings.items()):
        variables |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return variables


class Repository:
    """One repository of the workspace. Holds no state: git does."""

    def __init__(self, context: ToolContext, path: str) -> None:
        self.context = context
        self.path = path

    async def try_git(
        self, *arguments: str, stdin: bytes = b"", config: dict[str, str] | None = None
    ) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        environment = _environment(self.context, config or {})
        done = await self.context.run(["git", *arguments], cwd=self.path, env=environment, stdin=stdin)
        if done.stopped is not None:
            raise ToolFailureError(stopped_text(f"git {arguments[0]}", done, self.context.limits))
        stdout, stderr = (stream.decode("utf-8", "replace") for stream in (done.stdout, done.stderr))
        if done.exit_code == 127 and not stdout:
            raise ToolFailureError(f"git could not be run in this sandbox: {stderr.strip() or 'not found'}")
        return done.exit_code, stdout, stderr.strip()

    async def git(
        self, *arguments: str, stdin: bytes = b"", config: dict[str, str] | None = None, raw: bool = False
    ) -> str:
        """stdout; its last line end only if `raw`. Raises ToolFailureError with what git said."""
        code, stdout, stderr = await self.try_git(*arguments, stdin=stdin, config=config)
        if code != 0:
            raise ToolFailureError(f"git {arguments[0]} failed with exit code {code}: {stderr or stdout}")
        return stdout if raw else stdout.removesuffix("\n")

    async def branch(self) -> str | None:
        """The branch that HEAD is on, or None when it is detached."""
        code, name, _ = await self.try_git("symbolic-ref", "--short", "-q", "HEAD")
        return name.strip() if code == 0 else None

    async def require(self, revision: str) -> None:
        """Raise ToolFailureError when `revision` names nothing."""
        code, _, _ = await self.try_git("rev-parse", "--verify", "--quiet", "--end-of-options", revision)
        if code != 0:
            raise ToolFailureError(f"Ref '{revision}' did not resolve to an object")

    def inner(self, file: str) -> str:
        """A path that the agent gives to git_add, relative to the repository."""
        if not file.startswith("/") and ".." not in file.split("/"):
            return file
        try:
            whole = self.context.relative(file if file.startswith("/") else posixpath.join(self.path, file))
        except ToolFailureError:
            whole = ".."
        if whole != ".." and (self.path in {".", whole} or whole.startswith(f"{self.path}/")):
            return posixpath.relpath(whole, self.path)
        raise ToolFailureError(f"Path '{file}' is outside the repository '{self.context.shown(self.path)}'")


async def repository(context: ToolContext, repo_path: str) -> Repository:
    """The repository that the agent means. Raises ToolFailureError when there is none."""
    return Repository(context, await context.threads.run(_find, context, repo_path))


def _find(context: ToolContext, repo_path: str) -> str:
    inner = context.relative(repo_path)
    files = context.files
    if posixpath.basename(inner) == ".git" and files.exists(f"{inner}/HEAD"):
        inner = posixpath.dirname(inner) or "."
    if not files.exists(inner):
        raise ToolFailureError(f"There is no '{repo_path}': repo_path must be a git repository below {context.root}")
    bare = all(files.exists(f"{inner}/{name}") for name in ("HEAD", "objects", "refs"))
    if not bare and not files.exists(f"{inner}/.git", follow=False):
        parents = [inner.rsplit("/", count)[0] for count in range(1, min(inner.count("/"), PARENTS) + 1)] + ["."]
        above = next((one for one in parents if files.exists(f"{one}/.git", follow=False)), None)
        hint = f"; it lies in the repository '{context.shown(above)}'" if above else ""
        raise ToolFailureError(f"'{repo_path}' is not a git repository (it has no .git){hint}")
    return inner
