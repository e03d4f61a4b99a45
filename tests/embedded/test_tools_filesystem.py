"""The filesystem server's tools, called as an agent would."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_klavis.embedded.files import WorkspaceFiles
from pytest_klavis.embedded.isolation import Jail, Limits, choose
from pytest_klavis.embedded.tools import ToolContext, ToolResult, tools

if TYPE_CHECKING:
    from pathlib import Path

jsonschema: Any = pytest.importorskip("jsonschema")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("one\ntwo\nthree\n")
    (folder / "sub" / "b.json").write_text("{}")
    (folder / "sub" / "deep" / "c.py").write_text("x = 1\n")
    return folder


@pytest.fixture
def context(root: Path, tmp_path: Path) -> ToolContext:
    isolation = asyncio.run(choose("none"))  # these tools start no process
    return ToolContext(
        WorkspaceFiles(root, disk=1 << 20), Jail(root, tmp_path / "scratch"), isolation, "/data", Limits()
    )


@pytest.fixture
def call(context: ToolContext) -> Any:
    """Call a tool of the upstream build; what it answers fits the schema it announces."""

    def call(name: str, **arguments: Any) -> ToolResult:
        tool = tools("filesystem", "MCP_Atlas")[name]
        result = asyncio.run(tool.call(context, arguments))
        if result.is_error:
            assert result.structured is None
        else:
            assert tool.output_schema is not None
            jsonschema.Draft202012Validator(tool.output_schema).validate(result.structured)
        return result

    return call


def text(result: ToolResult) -> str:
    assert not result.is_error, result.content
    assert result.structured == {"content": result.content[0]["text"]}
    return str(result.content[0]["text"])


def failure(result: ToolResult) -> str:
    assert result.is_error, result.content
    return str(result.content[0]["text"])


@pytest.mark.parametrize("path", ["a.txt", "./a.txt", "/data/a.txt", "/data/sub/../a.txt", "{root}/a.txt"])
def test_a_file_has_many_names(call: Any, root: Path, path: str) -> None:
    assert text(call("read_text_file", path=path.format(root=root))) == "one\ntwo\nthree\n"
    assert text(call("read_file", path=path.format(root=root))) == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"head": 1}, "one"),
        ({"head": 2}, "one\ntwo"),
        ({"head": 99}, "one\ntwo\nthree"),
        ({"head": 1.0}, "one"),
        ({"head": 1.5}, "one\ntwo"),
        ({"tail": 1}, ""),
        ({"tail": 2}, "three\n"),
        ({"tail": 99}, "one\ntwo\nthree\n"),
        ({"head": 0}, "one\ntwo\nthree\n"),
    ],
)
def test_head_and_tail(call: Any, part: dict[str, float], expected: str) -> None:
    assert text(call("read_text_file", path="a.txt", **part)) == expected


def test_a_large_file_can_be_read_in_parts(call: Any, root: Path) -> None:
    with (root / "log").open("w") as file:
        for number in range(3_000_000):
            file.write(f"{number:07}\n")
    refused = "EFBIG: file is larger than 4194304 bytes: use head or tail to read 'log' in parts"
    assert failure(call("read_text_file", path="log")) == refused
    assert failure(call("read_media_file", path="log")).startswith("EFBIG: file is larger than 4194304 bytes, open")
    assert text(call("read_text_file", path="log", head=2)) == "0000000\n0000001"
    assert text(call("read_text_file", path="log", tail=3)) == "2999998\n2999999\n"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("read_file", {"path": "none"}, "ENOENT: no such file or directory, open '/data/none'"),
        ("read_file", {"path": "sub"}, "EISDIR: illegal operation on a directory, open '/data/sub'"),
        ("read_file", {"path": "a.txt/x"}, "ENOTDIR: not a directory, open '/data/a.txt/x'"),
        (
            "read_file",
            {"path": "/etc/passwd"},
            "Access denied - path outside allowed directories: /etc/passwd not in /data",
        ),
        ("read_file", {"path": "../x"}, "Access denied - path outside allowed directories: /x not in /data"),
        (
            "read_file",
            {"path": "out/passwd"},
            "Access denied - symlink target outside allowed directories: /etc not in /data",
        ),
        (
            "read_file",
            {"path": "a.txt", "head": 1, "tail": 1},
            "Cannot specify both head and tail parameters simultaneously",
        ),
        ("read_file", {"path": "a.txt", "head": -1}, "head must be a number of lines, not -1"),
        (
            "read_file",
            {"path": "C:\\x"},
            "Access denied - Windows-style path received on a POSIX host: C:\\x",
        ),
        ("write_file", {"path": "lost", "content": ""}, "ENOENT: no such file or directory, open '/data/lost'"),
        ("create_directory", {"path": "lost"}, "ENOENT: no such file or directory, mkdir '/data/lost'"),
        ("list_directory", {"path": "none"}, "ENOENT: no such file or directory, scandir '/data/none'"),
        ("list_directory", {"path": "a.txt"}, "ENOTDIR: not a directory, scandir '/data/a.txt'"),
        ("write_file", {"path": "x/y", "content": ""}, "ENOENT: no such file or directory, open '/data/x/y'"),
        ("create_directory", {"path": "a.txt"}, "EEXIST: file already exists, mkdir '/data/a.txt'"),
        ("move_file", {"source": "a.txt", "destination": "sub/b.json"}, "Destination already exists: /data/sub/b.json"),
        (
            "move_file",
            {"source": "x", "destination": "y"},
            "ENOENT: no such file or directory, rename '/data/x' -> '/data/y'",
        ),
        (
            "edit_file",
            {"path": "a.txt", "edits": [{"oldText": "zz", "newText": ""}]},
            "Could not find exact match for edit:\nzz",
        ),
        (
            "search_files",
            {"path": ".", "pattern": "{1..9}{1..9}{1..9}{1..9}"},
            "the braces of '{1..9}{1..9}{1..9}{1..9}' stand for more than 1000 patterns",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_the_words_of_the_real_server(
    call: Any, root: Path, name: str, arguments: dict[str, Any], message: str
) -> None:
    (root / "out").symlink_to("/etc")
    (root / "lost").symlink_to("nowhere")
    assert failure(call(name, **arguments)) == message
    assert not (root / "nowhere").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "field"),
    [
        ("read_file", {}, "path: Field required"),
        ("read_file", {"path": 3}, "path: Input should be a valid string"),
        ("read_file", {"path": "a.txt", "head": "1"}, "head: Input should be a valid number"),
        ("read_file", {"path": "a.txt", "head": None}, "head: Input should be a valid number"),
        ("read_multiple_files", {"paths": []}, "paths: List should have at least 1 item"),
        ("read_multiple_files", {"paths": "a.txt"}, "paths: Input should be a valid list"),
        ("edit_file", {"path": "a", "edits": [{"oldText": "x"}]}, "edits.0.newText: Field required"),
        ("edit_file", {"path": "a", "edits": [], "dryRun": "yes"}, "dryRun: Input should be a valid boolean"),
        ("list_directory_with_sizes", {"path": ".", "sortBy": "date"}, "sortBy: Input should be 'name' or 'size'"),
    ],
)
def test_arguments_that_do_not_fit_are_named(call: Any, name: str, arguments: dict[str, Any], field: str) -> None:
    message = failure(call(name, **arguments))
    assert message.startswith(f"Input validation error: Invalid arguments for tool {name}: ")
    assert field in message


def test_no_arguments_and_no_object(context: ToolContext) -> None:
    tool = tools("filesystem", None)["filesystem_list_allowed_directories"]
    assert text(asyncio.run(tool.call(context, None))) == "Allowed directories:\n/data"
    broken: Any = ["path"]
    assert "expected an object, not list" in failure(asyncio.run(tool.call(context, broken)))


def test_writing_and_moving(call: Any, root: Path) -> None:
    assert text(call("write_file", path="/data/n.txt", content="hé😀")) == "Successfully wrote to /data/n.txt"
    assert (root / "n.txt").read_bytes() == "hé😀".encode()
    assert text(call("create_directory", path="p/q")) == "Successfully created directory p/q"
    assert text(call("move_file", source="n.txt", destination="p/q/n.txt")) == "Successfully moved n.txt to p/q/n.txt"
    assert (root / "p/q/n.txt").exists()
    assert text(call("write_file", path="s.txt", content="\ud83d\ude00 \ud800")) == "Successfully wrote to s.txt"
    assert (root / "s.txt").read_text() == "😀 �"


def test_a_full_disk_is_said(call: Any, root: Path) -> None:
    message = failure(call("write_file", path="big", content="x" * (1 << 20)))
    assert message.startswith("ENOSPC: no space left: the workspace holds 22 of its 1048576 bytes")
    assert not (root / "big").exists()


def test_editing_shows_a_diff_and_a_dry_run_changes_nothing(call: Any, root: Path) -> None:
    edits = [{"oldText": "two", "newText": "2"}, {"oldText": "three\n", "newText": "```"}]
    expected = (
        "````diff\nIndex: /data/a.txt\n"
        "===================================================================\n"
        "--- /data/a.txt\toriginal\n+++ /data/a.txt\tmodified\n"
        "@@ -1,3 +1,3 @@\n one\n-two\n-three\n+2\n+```\n\\ No newline at end of file\n````\n\n"
    )
    assert text(call("edit_file", path="a.txt", edits=edits, dryRun=True)) == expected
    assert (root / "a.txt").read_text() == "one\ntwo\nthree\n"
    assert text(call("edit_file", path="a.txt", edits=edits)) == expected
    assert (root / "a.txt").read_text() == "one\n2\n```"


def test_editing_tolerates_other_indentation(call: Any, root: Path) -> None:
    (root / "f.py").write_text("def f():\n        if x:\n            return 1\n")
    call(
        "edit_file", path="f.py", edits=[{"oldText": "if x:\n    return 1", "newText": "if y:\n    return 2\n    z()"}]
    )
    assert (root / "f.py").read_text() == "def f():\n        if y:\n        return 2\n    z()\n"


def test_the_diff_of_a_long_file_is_local_and_quick(call: Any, root: Path) -> None:
    lines = [f"line {number}" for number in range(30_000)]
    (root / "long").write_text("\n".join(lines) + "\n")
    diff = text(call("edit_file", path="long", edits=[{"oldText": "line 15000\n", "newText": "changed\n"}]))
    assert "@@ -14997,9 +14997,9 @@\n line 14996\n" in diff
    assert len(diff.splitlines()) < 20


def test_two_edits_at_once_both_count(context: ToolContext, root: Path) -> None:
    (root / "n").write_text("".join(f"<{number}>\n" for number in range(40)))
    tool = tools("filesystem", "MCP_Atlas")["edit_file"]

    async def edit_all() -> None:
        edits = [[{"oldText": f"<{number}>", "newText": f"[{number}]"}] for number in range(40)]
        await asyncio.gather(*(tool.call(context, {"path": "n", "edits": edit}) for edit in edits))

    asyncio.run(edit_all())
    assert (root / "n").read_text() == "".join(f"[{number}]\n" for number in range(40))


def test_names_are_sorted_as_people_do(call: Any, root: Path) -> None:
    names = ["_x", "-x", "[x]", "10", "9", "a", "ä", "A b", "Ab", "b", "B", "c.py", "Übung", "v"]
    for name in sorted(names):
        (root / "sub" / "deep" / name).write_text("")
    lines = text(call("list_directory_with_sizes", path="sub/deep")).splitlines()
    assert [line[7:37].strip() for line in lines[: len(names)]] == names


def test_listings(call: Any, root: Path) -> None:
    (root / "big.bin").write_bytes(b"x" * 2048)
    (root / "out").symlink_to("/etc/passwd")
    assert text(call("list_directory", path=".")) == "[FILE] a.txt\n[FILE] big.bin\n[FILE] out\n[DIR] sub"
    assert text(call("list_directory_with_sizes", path="/data", sortBy="name")).splitlines() == [
        f"[FILE] {'a.txt':30}       14 B",
        f"[FILE] {'big.bin':30}    2.00 KB",
        f"[FILE] {'out':30}        0 B",
        f"[DIR] {'sub':30} ",
        "",
        "Total: 3 files, 1 directories",
        "Combined size: 2.01 KB",
    ]
    assert json.loads(text(call("directory_tree", path="sub"))) == [
        {"name": "b.json", "type": "file"},
        {"name": "deep", "type": "directory", "children": [{"name": "c.py", "type": "file"}]},
    ]
    assert json.loads(text(call("directory_tree", path=".", excludePatterns=["deep", "*.txt", "out"]))) == [
        {"name": "big.bin", "type": "file"},
        {"name": "sub", "type": "directory", "children": [{"name": "b.json", "type": "file"}]},
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"path": ".", "pattern": "*.txt"}, "/data/a.txt"),
        ({"path": "/data", "pattern": "**/*.{py,json}"}, "/data/sub/b.json\n/data/sub/deep/c.py"),
        ({"path": "sub", "pattern": "**/*"}, "/data/sub/b.json\n/data/sub/deep\n/data/sub/deep/c.py"),
        ({"path": "sub", "pattern": "**", "excludePatterns": ["deep", "deep/**"]}, "/data/sub/b.json"),
        ({"path": ".", "pattern": "*.zip"}, "No matches found"),
        ({"path": ".", "pattern": "**/[!a-b].py"}, "/data/sub/deep/c.py"),
    ],
)
def test_searching(call: Any, arguments: dict[str, Any], expected: str) -> None:
    assert text(call("search_files", **arguments)) == expected


def test_a_pattern_made_to_be_slow_is_not(call: Any, root: Path) -> None:
    (root / ("a" * 200)).write_text("")
    assert text(call("search_files", path=".", pattern="**/" * 50 + "*a" * 100 + "b")) == "No matches found"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("search_files", {"path": ".", "pattern": "**"}),
        ("directory_tree", {"path": "."}),
        ("edit_file", {"path": "a.txt", "edits": [{"oldText": "one", "newText": "1"}]}),
    ],
)
def test_long_work_ends_with_its_time_and_with_its_sandbox(
    call: Any, context: ToolContext, root: Path, name: str, arguments: dict[str, Any]
) -> None:
    context.limits = Limits(wall_seconds=-1)
    assert failure(call(name, **arguments)).endswith("timed out after -1 seconds")
    context.limits = Limits()
    context.files.close()
    assert failure(call(name, **arguments)).endswith("was stopped: the sandbox was reset or released")
    assert (root / "a.txt").read_text() == "one\ntwo\nthree\n"


def test_media(call: Any, root: Path, context: ToolContext) -> None:
    (root / "p.PNG").write_bytes(b"\x89PNG")
    data = base64.b64encode(b"\x89PNG").decode()
    picture = {"type": "image", "data": data, "mimeType": "image/png"}
    result = call("read_media_file", path="p.PNG")
    assert (result.content, result.structured) == ([picture], {"content": [picture]})
    resource = {"uri": "file:///data/a.txt", "mimeType": "application/octet-stream"}
    body = base64.b64encode((root / "a.txt").read_bytes()).decode()
    part = {"type": "resource", "resource": {**resource, "blob": body}}
    assert call("read_media_file", path="a.txt").content == [part]
    klavis = tools("filesystem", None)["filesystem_read_media_file"]
    result = asyncio.run(klavis.call(context, {"path": "a.txt"}))
    blob = {"type": "blob", "data": body, "mimeType": "application/octet-stream"}
    assert (result.content, result.structured) == ([part], {"content": [blob]})


def test_several_files_at_once(call: Any) -> None:
    assert text(call("read_multiple_files", paths=["sub/b.json", "none", "/etc/passwd"])) == (
        "sub/b.json:\n{}\n\n---\nnone: Error - ENOENT: no such file or directory, open '/data/none'\n---\n"
        "/etc/passwd: Error - Access denied - path outside allowed directories: /etc/passwd not in /data"
    )


def test_file_information(call: Any, root: Path) -> None:
    (root / "a.txt").chmod(0o640)
    os.utime(root / "a.txt", (0, 1_700_000_000))
    lines = text(call("get_file_info", path="a.txt")).splitlines()
    assert lines[0] == "size: 14"
    assert lines[2:] == [
        "modified: Tue Nov 14 2023 22:13:20 GMT+0000 (Coordinated Universal Time)",
        "accessed: Thu Jan 01 1970 00:00:00 GMT+0000 (Coordinated Universal Time)",
        "isDirectory: false",
        "isFile: true",
        "permissions: 640",
    ]


def test_names_that_are_no_text_are_shown(call: Any, root: Path) -> None:
    (root / os.fsdecode(b"caf\xe9.txt")).write_text("")
    for name, arguments in (("list_directory", {}), ("directory_tree", {}), ("search_files", {"pattern": "caf*"})):
        assert "caf�.txt" in text(call(name, path=".", **arguments))
    json.dumps(call("list_directory", path=".").content, ensure_ascii=False).encode()
