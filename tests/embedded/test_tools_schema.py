"""What the tools announce and what they accept is the same; patterns and diffs on their own."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_klavis.embedded.tools import Tool, ToolFailureError, edits, glob, tools
from pytest_klavis.embedded.tools.schema import InvalidArgumentsError

jsonschema: Any = pytest.importorskip("jsonschema")
Draft202012Validator = jsonschema.Draft202012Validator

STRICT = {
    tool.name: tool
    for server in ("filesystem", "terminal", "code-executor", "localmemory", "pdf-tools")
    for tool in tools(server, None).values()
}
ALL = {
    (benchmark, name): tool
    for benchmark in (None, "MCP_Atlas")
    for server in ("filesystem", "git", "terminal", "code-executor", "code-runner", "localmemory", "pdf-tools")
    for name, tool in tools(server, benchmark).items()
}

_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=3)
)
_VALUES = st.one_of(
    _SCALARS,
    st.sampled_from(["name", "size", "venv", "conda"]),
    st.lists(_SCALARS, max_size=2),
    st.lists(st.text(max_size=2), max_size=2),
    st.lists(st.fixed_dictionaries({"oldText": _SCALARS}, optional={"newText": _SCALARS}), max_size=2),
    st.lists(st.fixed_dictionaries({"oldText": st.text(), "newText": st.text(), "more": _SCALARS}), max_size=2),
)


@given(data=st.data())
@settings(max_examples=400, deadline=None)
def test_arguments_are_accepted_exactly_when_they_fit_the_announced_schema(data: st.DataObject) -> None:
    tool: Tool = STRICT[data.draw(st.sampled_from(sorted(STRICT)))]
    names = [*tool.input_schema["properties"], "unknown"]
    arguments = data.draw(st.dictionaries(st.sampled_from(names), _VALUES))
    fits = Draft202012Validator(tool.input_schema).is_valid(arguments)
    if fits:
        tool.arguments.parse(arguments)
        return
    with pytest.raises(InvalidArgumentsError) as caught:
        tool.arguments.parse(arguments)
    assert any(name in str(caught.value) for name in tool.input_schema["properties"])


@pytest.mark.parametrize(("benchmark", "name"), ALL, ids=str)
def test_schemas_are_plain_json_schema(benchmark: str | None, name: str) -> None:
    schema = ALL[benchmark, name].input_schema
    Draft202012Validator.check_schema(schema)
    assert schema["type"] == "object"

    def keys(part: Any) -> set[str]:
        if isinstance(part, dict):
            return set(part).union(*map(keys, part.values()))
        return set().union(*map(keys, part)) if isinstance(part, list) else set()

    assert not keys(schema) & {"$ref", "$defs", "title"}


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.py", ["a.py", ".py"], ["a/b.py", "a.pyc"]),
        ("**/*.py", ["a.py", "a/b.py", "a/b/c.py"], ["a.txt"]),
        ("src/**", ["src/a", "src/a/b"], ["src", "a/src"]),
        ("**", ["a", "a/b"], []),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["a/xb", "b"]),
        ("{a,b/{c,d}}.txt", ["a.txt", "b/c.txt", "b/d.txt"], ["b.txt", "c.txt"]),
        ("v{1..3}", ["v1", "v3"], ["v4", "v{1..3}"]),
        ("[a-c]?", ["az", "c1"], ["d1", "a"]),
        ("[!a-c]", ["d"], ["a"]),
        ("!*.py", ["a.txt"], ["a.py"]),
        ("{a}", ["{a}"], ["a"]),
        ("a\\*", ["a*"], ["ab"]),
        ("[", ["["], ["a"]),
        ("#x", [], ["#x", "x"]),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    assert [path for path in yes if not glob.matches(path, pattern)] == []
    assert [path for path in no if glob.matches(path, pattern)] == []


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("{a{b,c}", "{ab"),
        ("a{b,c", "a{b,c"),
        ("{{a,b},c}d", "bd"),
        ("{{a}}{b,c}", "{{a}}c"),
        ("\\{a,b}", "{a,b}"),
        ("}{a,b}", "}b"),
    ],
)
def test_braces_that_do_not_close_or_hold_nothing_stand_for_themselves(pattern: str, path: str) -> None:
    assert glob.matches(path, pattern)


@pytest.mark.parametrize("pattern", ["{" * 4096, "{" * 2048 + "}" * 2048, "{" * 2000 + "}" * 2000 + "{1..9}"])
def test_a_pattern_of_braces_takes_little_time(pattern: str) -> None:
    start = time.process_time()
    assert not glob.matches("a", pattern)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("pattern", ["a" * 4097, "{1..1000}" + "{1..1}" * 600, "{a,b}" * 11])
def test_a_pattern_that_is_too_much_is_refused_at_once(pattern: str) -> None:
    start = time.process_time()
    with pytest.raises(ValueError, match=r"characters|more than 1000 patterns"):
        glob.matches("a", pattern)
    assert time.process_time() - start < 1


def test_an_edit_by_stripped_lines_is_linear() -> None:
    lines = 200_000
    content, old = "x\n" * lines + "END", "x \n" * (lines // 2) + "END "
    start = time.process_time()
    assert edits.replaced(content, old, "y") == "x\n" * (lines // 2) + "y"
    with pytest.raises(ToolFailureError, match="Could not find exact match"):
        edits.replaced(content, old + "\nmore", "y")
    assert time.process_time() - start < 5
    with pytest.raises(ToolFailureError, match="larger than"):
        edits.replaced(" " * 1_000_000 + "a\nb", "a \nb", "\n" * 1_000)


def test_only_whole_lines_match_an_edit() -> None:
    assert edits.replaced("ab\n a\n", "a \n", "c\n") == "ab\n c\n"
    assert edits.replaced("\n\ta\nb\n", " a\nb", "c\nd") == "\n\tc\nd\n"
    with pytest.raises(ToolFailureError):
        edits.replaced("aa\nb", "a \nb", "")


def test_a_diff_of_lines_that_are_all_alike_takes_little_time() -> None:
    old = "".join(f"x\n{number}\n" for number in range(1_000))
    new = "".join(f"x\n-{number}\n" for number in range(1_000))
    start = time.process_time()
    assert patched(old, edits.unified_diff("f", old, new)) == new
    assert time.process_time() - start < 2


@given(st.lists(st.sampled_from("abc\n"), max_size=60), st.lists(st.sampled_from("abc\n"), max_size=60))
@settings(deadline=None)
def test_a_diff_turns_one_text_into_the_other(before: list[str], after: list[str]) -> None:
    old, new = "".join(before), "".join(after)
    assert patched(old, edits.unified_diff("f", old, new)) == new


def patched(old: str, diff: str) -> str:
    """What patch(1) makes of it."""
    lines = old.splitlines(keepends=True)
    made: list[str] = []
    at = 0
    for hunk in diff.split("@@ -")[1:]:
        header, _, body = hunk.replace("\n\\ No newline at end of file\n", "\0").partition(" @@\n")
        first, count = map(int, header.split(" ")[0].split(","))
        start = first - 1 if count else first
        shown = [line.removesuffix("\0") for line in re.findall(r"[ +-][^\n\0]*[\n\0]", body)]
        assert [line[1:] for line in shown if line[0] != "+"] == lines[start : start + count]
        made += [*lines[at:start], *(line[1:] for line in shown if line[0] != "-")]
        at = start + count
    return "".join([*made, *lines[at:]])
