"""The code-executor server's tools, after geobio's mcp_code_executor 0.2.0: Python files in the workspace, and runs.

Every answer is JSON text, as upstream's.
"""

import functools
import json
import posixpath
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from pytest_klavis.embedded.tools.base import (
    READ_LIMIT,
    ToolContext,
    ToolFailureError,
    ToolResult,
    explained,
    readable,
    stopped_text,
    text_part,
    utf8,
)
from pytest_klavis.embedded.tools.schema import Absent, Flavour

FilePath = Annotated[str, Field(description="Full path to the Python file")]
FileName = Annotated[str, Field(description="Optional: name of the file (a random part is added)")]
_ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}

# Answers for import names and for distribution names, without importing anything.
_CHECK = """
import importlib.metadata as metadata, importlib.util as util, json, sys
results = {}
owners = metadata.packages_distributions()
for package in json.loads(sys.argv[1]):
    version = location = None
    for name in [package, *owners.get(package.partition(".")[0], [])]:
        try:
            version = metadata.version(name)
            location = str(metadata.distribution(name).locate_file(""))
            break
        except (metadata.PackageNotFoundError, ValueError):
            pass
    try:
        spec = util.find_spec(package)
    except (ImportError, ValueError, AttributeError):
        spec = None
    if spec is None and version is None:
        results[package] = {"installed": False, "error": "Package not found"}
    else:
        origin = spec.origin if spec is not None else None
        results[package] = {"installed": True, "version": version, "location": origin or location}
print(json.dumps(results))
"""


def _in_json(function: Callable[..., Awaitable[ToolResult]]) -> Callable[..., Awaitable[ToolResult]]:
    """What the tool cannot do is said in JSON too."""

    @functools.wraps(function)
    async def answered(*arguments: Any, **named: Any) -> ToolResult:
        try:
            return await function(*arguments, **named)
        except ToolFailureError as error:
            return _error(error=str(error))

    return answered


async def execute_code(
    context: ToolContext,
    code: Annotated[str, Field(description="Python code to execute")],
    filename: Absent[FileName] = None,
) -> ToolResult:
    """Execute Python code: it is saved in the workspace and run there. For short snippets; for longer code, use
    initialize_code_file and append_to_code_file."""
    inner = _new_name(context, filename)
    await context.threads.run(_write, context, inner, code)
    return await _execute(context, inner, generated_filename=posixpath.basename(inner))


async def initialize_code_file(
    context: ToolContext,
    content: Annotated[str, Field(description="Initial content to write to the file")],
    filename: Absent[FileName] = None,
) -> ToolResult:
    """Create a new Python file in the workspace. The first step for longer code; follow with append_to_code_file."""
    inner = _new_name(context, filename)
    await context.threads.run(_write, context, inner, content)
    answer = {"message": "File initialized successfully", "file_path": context.shown(inner)}
    return _success(**answer, filename=posixpath.basename(inner))


async def append_to_code_file(
    context: ToolContext,
    file_path: FilePath,
    content: Annotated[str, Field(description="Content to append to the file")],
) -> ToolResult:
    """Append content to an existing Python file, to build up longer code in parts."""
    inner = context.relative(file_path)
    await context.threads.run(_append, context, inner, content)
    return _success(message="Content appended successfully", file_path=context.shown(inner))


async def execute_code_file(context: ToolContext, file_path: FilePath) -> ToolResult:
    """Execute an existing Python file, in the workspace. The last step after initialize_code_file and
    append_to_code_file."""
    inner = context.relative(file_path)
    await context.threads.run(_require, context, inner)
    return await _execute(context, inner)


async def read_code_file(context: ToolContext, file_path: FilePath) -> ToolResult:
    """Read an existing Python file, to check it before appending more or executing it."""
    inner = context.relative(file_path)
    content = await context.threads.run(_read, context, inner)
    return _success(content=content, file_path=context.shown(inner))


async def install_dependencies(
    context: ToolContext,
    packages: Annotated[list[str], Field(description="List of packages to install")],
) -> ToolResult:
    """Install Python packages. There is no network in this sandbox: only packages that are already there succeed."""
    config = _config(context)
    if not packages:
        return _error(error="No packages specified")
    plain = [package.strip() for package in packages]
    names = [name for name in plain if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name)]
    details = await _check(context, names) if names else {}
    missing = [name for name in plain if not details.get(name, {}).get("installed")]
    if not missing:
        output = "\n".join(f"Requirement already satisfied: {name}" for name in plain)
        return _success(env_type=config["type"], installed_packages=plain, output=output)
    return _error(
        env_type=config["type"],
        error=f"Cannot install {', '.join(missing)}: this sandbox has no network. Use what is installed"
        " (check_installed_packages) or the standard library. To the person who runs this suite: name a virtual"
        " environment that has the packages with --klavis-python=PATH_TO_ITS_PYTHON.",
    )


async def check_installed_packages(
    context: ToolContext,
    packages: Annotated[list[str], Field(description="List of packages to check")],
) -> ToolResult:
    """Check whether Python packages are installed, by import name or by distribution name."""
    if not packages:
        return _error(error="No packages specified")
    details = await _check(context, packages)
    absent = [name for name, detail in details.items() if not detail["installed"]]
    return _success(
        env_type=_config(context)["type"],
        all_installed=not absent,
        not_installed=absent,
        package_details=details,
    )


_PATHS = {"conda": "conda_name", "venv": "venv_path", "venv-uv": "uv_venv_path"}


async def configure_environment(
    context: ToolContext,
    kind: Annotated[Literal["conda", "venv", "venv-uv"], Field(alias="type", description="Type of Python environment")],
    conda_name: Absent[
        Annotated[str, Field(description="Name of the conda environment (required if type is 'conda')")]
    ] = None,
    venv_path: Absent[Annotated[str, Field(description="Path to the virtualenv (required if type is 'venv')")]] = None,
    uv_venv_path: Absent[
        Annotated[str, Field(description="Path to the UV virtualenv (required if type is 'venv-uv')")]
    ] = None,
) -> ToolResult:
    """Choose the virtual environment of the workspace in which Python code runs from now on."""
    value = {"conda": conda_name, "venv": venv_path, "venv-uv": uv_venv_path}[kind]
    if not value:
        return _error(error=f"{_PATHS[kind]} is required when type is '{kind}'")
    previous = _config(context)
    if kind == "conda":
        return _error(error="There is no conda in this sandbox; name a virtual environment in the workspace")
    if value != previous.get(_PATHS[kind]):
        inner = context.relative(value)
        if not await context.threads.run(context.files.exists, f"{inner}/bin/python", follow=False):
            return _error(
                error=f"'{value}' is not a virtual environment (it has no bin/python);"
                " one can be made in the workspace with: python -m venv --without-pip PATH"
            )
        value = context.shown(inner)
        context.state["python"] = f"{value}/bin/python"
    context.state["config"] = {"type": kind, _PATHS[kind]: value}
    return _success(message="Environment configuration updated", previous=previous, current=_config(context))


async def get_environment_config(context: ToolContext) -> ToolResult:
    """Get the current environment configuration"""
    return _success(config=_config(context))


def _config(context: ToolContext) -> dict[str, str]:
    prefix = posixpath.dirname(posixpath.dirname(context.isolation.python))
    config: dict[str, str] = context.state.get("config", {"type": "venv", "venv_path": prefix})
    return config


def _python(context: ToolContext) -> str:
    python: str = context.state.get("python", context.isolation.python)
    return python


def _new_name(context: ToolContext, filename: str | None) -> str:
    inner = context.relative(f"{(filename or 'code').removesuffix('.py')}_{secrets.token_hex(4)}.py")
    if inner.startswith("-"):
        raise ToolFailureError(f"filename must not start with '-': {filename}")
    return inner


def _write(context: ToolContext, inner: str, text: str) -> None:
    with explained(context, "open", inner):
        context.files.write_bytes(inner, utf8(text), parents=True)


def _require(context: ToolContext, inner: str) -> None:
    with explained(context, "access", inner):
        context.files.open_read(inner).close()


def _append(context: ToolContext, inner: str, text: str) -> None:
    with explained(context, "open", inner), context.files.lock:
        before = context.files.read_bytes(inner, READ_LIMIT)
        context.files.write_bytes(inner, before + utf8(text))


def _read(context: ToolContext, inner: str) -> str:
    with explained(context, "open", inner):
        return context.files.read_bytes(inner, READ_LIMIT).decode("utf-8", "replace")


async def _execute(context: ToolContext, inner: str, **more: Any) -> ToolResult:
    """Run a file with the workspace as its working directory. The exit code decides; upstream also takes any stderr
    for a failure, and then drops stdout."""
    done = await context.run([_python(context), "-u", context.shown(inner)], env=_ENVIRONMENT)
    stdout, stderr = (stream.decode("utf-8", "replace") for stream in (done.stdout, done.stderr))
    answer: dict[str, Any] = {"output": stdout, "file_path": context.shown(inner), **more}
    if done.stopped is not None:
        return _error(error=f"{stopped_text('The code', done, context.limits)}\n{stderr}".strip(), **answer)
    if done.exit_code != 0:
        failure = f"Command failed with exit code {done.exit_code}: python3 -u {context.shown(inner)}\n{stderr}"
        return _error(error=failure, **answer)
    return _success(**answer, **({"stderr": stderr} if stderr else {}))


async def _check(context: ToolContext, packages: list[str]) -> dict[str, dict[str, Any]]:
    # -I: only what is installed counts, and nothing in the workspace can answer in its place.
    names = json.dumps([readable(name) for name in packages])
    done = await context.run([_python(context), "-I", "-c", _CHECK, names], env=_ENVIRONMENT)
    if done.exit_code != 0:
        reason = done.stderr.decode("utf-8", "replace").strip()
        raise ToolFailureError(f"{_python(context)} ended with exit code {done.exit_code}: {reason}")
    details: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return details


def _success(**answer: Any) -> ToolResult:
    return ToolResult([text_part(json.dumps({"status": "success", **answer}, ensure_ascii=False))])


def _error(**answer: Any) -> ToolResult:
    return ToolResult([text_part(json.dumps({"status": "error", **answer}, ensure_ascii=False))], is_error=True)


# One flavour: Klavis publishes no code-executor of its own.
FLAVOUR = Flavour(
    functions={
        function.__name__: _in_json(function)
        for function in (
            execute_code,
            initialize_code_file,
            append_to_code_file,
            execute_code_file,
            read_code_file,
            install_dependencies,
            check_installed_packages,
            configure_environment,
            get_environment_config,
        )
    }
)
