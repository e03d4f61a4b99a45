"""Runs worker.py on PDF files of the workspace, in isolation, and says how that ended. Knows no tool's words."""

import atexit
import functools
import importlib.util
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_klavis.embedded.rooted import PATH_MAX
from pytest_klavis.embedded.tools.base import ToolContext, ToolFailureError, readable, stopped_text

ROOM = 512 << 10  # bytes of an answer
_SPARE = 64 << 10  # bytes of what the worker says around that
_CPU_LIMIT = 128 + 24  # the exit code of what SIGXCPU ends


class PdfError(Exception):
    """The files could not be worked on.

    `kind`: "url", "missing", "denied", "outside", "open", "read" or "write"; `given`: the path that it is about, as the
    agent gave it. The text is the reason alone; of "outside" that path.
    """

    def __init__(self, text: str, kind: str, given: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.given = given


def is_url(path: str) -> bool:
    return path.startswith(("http://", "https://"))


async def work(
    context: ToolContext, do: str, files: Sequence[str], *, output: str | None = None, **more: Any
) -> dict[str, Any]:
    """The worker's answer to the request `do` about `files`, which are paths as the agent gives them.

    Raises PdfError, and ToolFailureError when it was ended by a limit.
    """
    request = {
        "do": do,
        "files": [_located(context, path) for path in files],
        "output": None if output is None else _located(context, output),
        "room": min(ROOM, context.limits.output),
        **more,
    }
    source, folder = _worker(), _pypdf()
    roomy = replace(context, limits=replace(context.limits, output=ROOM + _SPARE))
    argv = [context.isolation.python, "-I", "-S", "-B", "-c", source, str(folder)]
    done = await roomy.run(argv, stdin=json.dumps(request).encode(), readable=(folder,))
    if done.stopped is not None:
        raise ToolFailureError(stopped_text("Work on the PDF", done, context.limits))
    if done.exit_code == _CPU_LIMIT:
        limit = f"{context.limits.cpu_seconds} seconds of CPU time"
        raise ToolFailureError(f"Work on the PDF was stopped: it took more than {limit}")
    if done.exit_code != 0:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:1000]
        raise ToolFailureError(f"Work on the PDF ended early, with exit code {done.exit_code}: {last}")
    answer: dict[str, Any] = json.loads(done.stdout)
    if "error" in answer:
        raise PdfError(answer["error"], answer["kind"], answer["given"])
    return answer


def _located(context: ToolContext, path: str) -> dict[str, str]:
    if is_url(path):
        raise PdfError(f"this sandbox has no network ({path}); use a file of the workspace {context.root}", "url", path)
    if not path:
        raise PdfError("[Errno 2] No such file or directory: ''", "missing", path)
    if len(path) > PATH_MAX:
        raise PdfError(f"[Errno 36] File name too long: '{path[:80]}...'", "open", path[:80])
    try:
        return {"path": context.relative(path), "given": readable(path)}
    except ToolFailureError as error:
        raise PdfError(path, "outside", path) from error


@functools.cache
def _worker() -> str:
    return Path(__file__).with_name("worker.py").read_text(encoding="utf-8")


@functools.cache
def _pypdf() -> Path:
    """pypdf's folder. It is not imported here: what reads an agent's files stays out of this process."""
    spec = importlib.util.find_spec("pypdf")
    if spec is None or not spec.submodule_search_locations:
        raise ToolFailureError("pdf-tools needs the package pypdf, which is missing: pip install pypdf")
    folder = Path(spec.submodule_search_locations[0]).resolve()
    if os.geteuid() == 0 and not all(place.stat().st_mode & stat.S_IXOTH for place in (folder, *folder.parents)):
        return _copied(folder)
    return folder


def _copied(folder: Path) -> Path:
    """A copy for the users of sandboxes, who cannot go to where the package is (below /root, say)."""
    place = Path(tempfile.mkdtemp(prefix="pytest-klavis-pypdf-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    copy = place / "pypdf"
    shutil.copytree(folder, copy)
    for path in (place, copy, *copy.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return copy.resolve()
