"""Tools of the server that open files themselves, while a process of the sandbox swaps links under their hands."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_klavis.embedded.tools import ToolResult
from pytest_klavis.errors import ArchiveError
from pytest_klavis.workspace import archive
from tests.embedded.escapes.support import TOKEN
from tests.embedded.isolation_support import LEVELS, open_folder
from tests.embedded.sandboxed import Box, new_box

SECONDS = 1.0  # of trying, for each tool
# `d` is a directory or a link out of the workspace, `f` a file or a link out; `moved` comes and goes with its content.
FLIP = """
import contextlib, os, shutil, sys
def swap(make, *arguments):
    with contextlib.suppress(OSError): make(*arguments)
outside, = sys.argv[1:]
os.makedirs('real/sub'); open('real/secret.txt', 'w').write('mine'); open('mine.txt', 'w').write('mine')
os.makedirs('moved/sub'); open('moved/secret.txt', 'w').write('mine')
open('real/code.py', 'w').write('print(1)')
open('flipping', 'w').close()
while True:
    for directory, file in (('real', 'mine.txt'), (outside, outside + '/secret.txt')):
        swap(os.symlink, directory, 'new'); swap(os.rename, 'new', 'd')
        swap(os.symlink, file, 'new'); swap(os.rename, 'new', 'f')
        swap(os.rename, 'moved', 'away'); swap(os.symlink, outside, 'moved'); swap(os.unlink, 'moved')
        swap(os.rename, 'away', 'moved')
        if os.path.exists('away'): shutil.rmtree('moved', ignore_errors=True)  # a tool has made one meanwhile
"""
PATHS = ("d/secret.txt", "f", "moved/secret.txt")
FOLDERS = ("d", "moved", "d/sub")

Call = tuple[str, str, dict[str, Any]]


def _calls() -> Iterator[Call]:
    """Each tool that takes a path, with each path that changes."""
    for path in PATHS:
        for name in ("read_file", "read_text_file", "read_media_file", "get_file_info"):
            yield "filesystem", name, {"path": path}
        yield "filesystem", "read_multiple_files", {"paths": [path, path]}
        yield "filesystem", "write_file", {"path": path, "content": "written"}
        edits = [{"oldText": "mine", "newText": "mine"}]
        yield "filesystem", "edit_file", {"path": path, "edits": edits}
        yield "filesystem", "move_file", {"source": "mine.txt", "destination": f"{path}.moved"}
        yield "filesystem", "move_file", {"source": path, "destination": "taken.txt"}
        for name in ("read_code_file", "execute_code_file"):
            yield "code-executor", name, {"file_path": path}
        yield "code-executor", "append_to_code_file", {"file_path": path, "content": "written"}
    for folder in FOLDERS:
        for name in ("list_directory", "list_directory_with_sizes", "directory_tree"):
            yield "filesystem", name, {"path": folder}
        yield "filesystem", "search_files", {"path": folder, "pattern": "**/*secret*"}
        yield "filesystem", "create_directory", {"path": f"{folder}/made/deep"}
        yield "code-executor", "initialize_code_file", {"content": "x", "filename": f"{folder}/made"}
        yield "code-executor", "execute_code", {"code": "print(1)", "filename": f"{folder}/made"}
        yield "code-executor", "configure_environment", {"type": "venv", "venv_path": folder}
        for name in ("git_status", "git_log"):
            yield "git", name, {"repo_path": folder}
        yield "git", "git_add", {"repo_path": ".", "files": [f"{folder}/secret.txt"]}


@contextlib.contextmanager
def _flipping(level: str, outside: Path) -> Iterator[Box]:
    with new_box(level) as box:
        if box.isolation.level != level:
            pytest.skip(f"no {level} here: {box.isolation.reason}")
        loop = box.runner.get_loop()
        argv = ["python", "-c", FLIP, str(outside)]
        flipping = loop.create_task(box.isolation.run(argv, box.jail, timeout=300))
        box.runner.run(_appears(box.workspace / "flipping"))
        try:
            yield box
            assert not flipping.done(), flipping.result()
        finally:
            box.runner.run(_ended(flipping))


async def _appears(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():  # noqa: ASYNC240
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def _ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])


@pytest.fixture
def outside() -> Iterator[Path]:
    with open_folder() as folder:
        (folder / "secret.txt").write_text(TOKEN)
        (folder / "secret.txt").chmod(0o666)
        (folder / "sub").mkdir()
        (folder / "bin").mkdir()
        (folder / "bin" / "python").write_text(f"#!/bin/sh\necho {TOKEN}\n")
        for path in (folder, folder / "sub"):
            path.chmod(0o777)
        yield folder


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.mark.parametrize("level", LEVELS)
def test_no_tool_is_led_out(outside: Path, level: str) -> None:
    before = _tree(outside)
    reached = set()
    with _flipping(level, outside) as box:
        for server, name, arguments in _calls():
            deadline = time.monotonic() + SECONDS / 5
            while time.monotonic() < deadline:
                result: ToolResult = box.call(server, name, **arguments)
                said = str(result.content) + str(result.structured)
                assert TOKEN not in said, (server, name, arguments)
                if not result.is_error:
                    reached.add(name)
            assert _tree(outside) == before, (server, name, arguments)
    tools = {name for _, name, _ in _calls()}
    assert len(reached) >= len(tools) // 2, f"most calls failed, which proves little: {sorted(tools - reached)}"


def test_whoever_opens_by_name_is_led_out(outside: Path) -> None:
    """So the test above can fail."""
    with _flipping(LEVELS[-1], outside) as box:
        deadline = time.monotonic() + 20
        found = dict.fromkeys(PATHS, False)
        while not all(found.values()):
            assert time.monotonic() < deadline, found
            for path in PATHS:
                with contextlib.suppress(OSError):
                    found[path] = found[path] or (box.workspace / path).read_text() == TOKEN


@pytest.mark.parametrize("level", LEVELS)
def test_no_dump_holds_what_is_outside(outside: Path, level: str, tmp_path: Path) -> None:
    with _flipping(level, outside) as box:
        packed = 0
        for number in range(40):
            target = tmp_path / f"{number}.tar.gz"
            try:
                archive.pack(box.workspace, target, special="skip")
            except (OSError, ValueError, ArchiveError):
                continue  # what changes too fast cannot be packed
            packed += 1
            with tarfile.open(fileobj=io.BytesIO(target.read_bytes())) as tar:
                for member in tar:
                    file = tar.extractfile(member) if member.isfile() else None
                    assert file is None or TOKEN.encode() not in file.read()
        assert packed or level


@pytest.mark.parametrize("level", LEVELS)
def test_no_seed_is_written_outside(outside: Path, level: str, tmp_path: Path) -> None:
    """initialize merges an archive into a workspace in which somebody swaps directories for links."""
    seed = tmp_path / "seed.tar.gz"
    with tarfile.open(seed, "w:gz") as tar:
        for name in ("d/seeded.txt", "moved/seeded.txt", "moved/sub/seeded.txt", "f/seeded.txt"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"seed"))
    before = _tree(outside)
    with _flipping(level, outside) as box:
        for _ in range(40):
            with contextlib.suppress(OSError, ValueError, ArchiveError):
                archive.extract(seed, box.workspace, owner=box.jail.uid, merge=True)
            with contextlib.suppress(OSError, ValueError, ArchiveError):
                overlay = archive.laid_over(io.BytesIO(seed.read_bytes()), box.workspace, at=".", owner=box.jail.uid)
                with overlay:
                    pass
            assert _tree(outside) == before


@pytest.mark.parametrize("level", LEVELS)
def test_no_command_starts_outside(outside: Path, level: str) -> None:
    """The working directory is a directory or a link out of the workspace, whichever it is when somebody looks."""
    seen = set()
    with _flipping(level, outside) as box:
        for _ in range(25):
            with contextlib.suppress(Exception):
                done = box.runner.run(box.isolation.run(["sh", "-c", "pwd -P; cat secret.txt"], box.jail, cwd="d"))
                seen.add(done.stdout.decode())
        assert seen <= {f"{box.root}/real\nmine", f"{box.root}/real\n"}


def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(outside: Path) -> None:
    """Opening a pipe that nobody writes to waits; a tool that does would be lost, and a dump with it."""
    with new_box() as box:
        box.runner.run(box.isolation.run(["sh", "-c", "mkfifo p; mkdir q; mkfifo q/p; ln -s p l"], box.jail))
        results = []

        def use() -> None:
            for path in ("p", "l", "q/p"):
                for name in ("read_file", "read_media_file", "get_file_info", "edit_file", "write_file"):
                    more: dict[str, Any] = {"content": "x"} if name == "write_file" else {}
                    more |= {"edits": [{"oldText": "a", "newText": "b"}]} if name == "edit_file" else {}
                    results.append(box.call("filesystem", name, path=path, **more))

        thread = threading.Thread(target=use, daemon=True)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
        assert len(results) == 15
        assert os.path.lexists(box.workspace / "l")
