"""What can be known wrong is refused in words, before anything is acquired."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_klavis import arguments, spec
from pytest_klavis.errors import SpecError


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        (([],), {}, "no server was named"),
        (([""],), {}, "no server name"),
        (([" git"],), {}, "no server name"),
        ((["a/b"],), {}, "must not hold"),
        ((["git", "git"],), {}, "named more than once"),
        ((["ALL", "git"],), {}, "name nothing beside it"),
        ((["git", 3],), {}, "no server name"),
        ((3,), {}, "takes a list of names"),
        ((["git"],), {"worspace": "x"}, "did you mean 'workspace'"),
        ((["git"],), {"tags": {}}, "has no argument 'tags'"),
        ((["git"], "x"), {}, "too many positional"),
        ((), {}, "missing a required argument"),
        ((["git"],), {"git": True}, "there is no workspace="),
        ((["git"],), {"git": "yes", "workspace": "."}, "True or False"),
        ((["git"],), {"workspace": 3}, "a directory, a .tar.gz or a mapping"),
        ((["git"],), {"data": 3}, "a mapping or the path of a JSON file"),
        ((["git"],), {"ttl": "5 parsecs"}, "no duration"),
        ((["git"],), {"ttl": 5}, "60s to 24h"),
        ((["git"],), {"ttl": True}, "no duration"),
        ((["git"],), {"ttl": float("nan")}, "no duration"),
        ((["git"],), {"benchmark": ""}, "or None for none"),
        ((["git"],), {"account": ""}, "not empty"),
        ((["git"],), {"name": 3}, "not empty"),
    ],
)
def test_local_sandbox_refuses(args: tuple[Any, ...], kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        arguments.bind(spec.local_sandbox, args, kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((["github", "slack"],), {}, "use klavis_sandboxes"),
        (("github",), {"workspace": "x"}, "has no argument 'workspace'"),
        (("github",), {"tags": {"a": 1}}, "text to text"),
        (("github",), {"tags": "a"}, "text to text"),
        (("",), {}, "no server name"),
    ],
)
def test_klavis_sandbox_refuses(args: tuple[Any, ...], kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        arguments.bind(spec.klavis_sandbox, args, kwargs)


def test_a_server_of_the_other_kind_names_the_right_factory() -> None:
    with pytest.raises(SpecError, match="github is a remote sandbox: use klavis_sandbox"):
        spec.local_sandbox(["filesystem", "github"]).resolve(None)
    with pytest.raises(SpecError, match="git is a local sandbox: use local_sandbox"):
        spec.klavis_sandbox("git").resolve(None)


def test_names_are_resolved_by_benchmark_and_keep_how_they_were_given() -> None:
    ask = spec.local_sandbox(["python_execute", "FileSystem"])
    resolved, given = ask.resolve("Toolathlon")
    assert resolved.servers == ("code-executor", "filesystem")
    assert given == {"code-executor": "python_execute", "filesystem": "FileSystem"}
    assert resolved.benchmark == "Toolathlon"
    assert hash(resolved) == hash(spec.local_sandbox(["code-executor", "filesystem"]).resolve("Toolathlon")[0])


def test_two_names_of_one_server_are_refused() -> None:
    with pytest.raises(SpecError, match="same server, 'code-executor'"):
        spec.local_sandbox(["python_execute", "code-executor"]).resolve("Toolathlon")


def test_benchmark_none_wins_over_the_setting() -> None:
    assert spec.local_sandbox("git", benchmark=None).resolve("Toolathlon")[0].benchmark is None
    assert spec.local_sandbox("git").resolve("Toolathlon")[0].benchmark == "Toolathlon"
    assert spec.local_sandbox("git", benchmark="mcp_atlas").resolve("Toolathlon")[0].benchmark == "MCP_Atlas"


def test_unknown_names_pass() -> None:
    assert spec.local_sandbox("brand-new").resolve(None)[0].servers == ("brand-new",)


def test_several_servers_are_split_by_kind() -> None:
    names = spec.klavis_sandboxes(["github", "filesystem", "slack", "git"], data={"github": {"repos": []}})
    given: dict[str, Any] = {"data": {"github": {"repos": []}}, "ttl": "1h"}
    asks = spec.split_by_kind(names, given, None)
    assert [own for own, _ in asks] == [("github",), ("slack",), ("filesystem", "git")]
    assert asks[0][1].data == {"repos": []}
    assert {ask.ttl for _, ask in asks} == {3600}


@pytest.mark.parametrize(
    ("names", "arguments", "words"),
    [
        (["github"], {"workspace": {}}, "needs a local server"),
        (["brand-new"], {}, "its kind is unknown"),
        (["github", "GitHub"], {}, "same server, 'github'"),
    ],
)
def test_split_refuses(names: list[str], arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        spec.split_by_kind(names, arguments, None)


@pytest.mark.parametrize("data", [{"nope": {}}, ["github"]])
def test_several_servers_refuse_data_for_nobody(data: Any) -> None:
    with pytest.raises(SpecError, match="data="):
        spec.klavis_sandboxes(["github"], data=data)


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1h30m", 5400), (60, 60)]
)
def test_durations(text: str | int, expected: float) -> None:
    assert arguments.seconds(text) == expected


@pytest.mark.parametrize("text", ["", "m", "-5", "0", "1d", "inf", "1h 2"])
def test_durations_refuse(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        arguments.seconds(text)


def test_templates_are_filled_from_parameters() -> None:
    template = arguments.Template({"task": "calc", "n": 3})
    assert template.fill("data/{task}/{n}") == "data/calc/3"
    assert template.fill(Path("data/{task}")) == Path("data/calc")
    assert template.fill({"{task}": "x"}) == {"{task}": "x"}
    assert template.fill("a{}b{1}") == "a{}b{1}"
    with pytest.raises(SpecError, match="parameter 'tsk'; the test has 'n', 'task'"):
        template.fill("data/{tsk}")
    with pytest.raises(SpecError, match="not parametrized"):
        arguments.Template().fill("data/{task}")


@pytest.mark.parametrize("value", ["", ".", "..", "a/../b"])
def test_templates_refuse_what_names_no_folder_of_its_own(value: str) -> None:
    with pytest.raises(SpecError, match="names no folder of its own"):
        arguments.Template({"task": value}).fill("data/{task}")


def test_data_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "good.json").write_text('{"repos": []}')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "bad.json").write_text("{")

    def find(name: str) -> Path:
        return tmp_path / name

    assert arguments.load_data("good.json", find) == {"repos": []}
    assert arguments.load_data({"a": 1}, find) == {"a": 1}
    assert arguments.load_data(None, find) is None
    with pytest.raises(SpecError, match="holds a list"):
        arguments.load_data("list.json", find)
    with pytest.raises(SpecError, match="not readable JSON"):
        arguments.load_data("bad.json", find)
    with pytest.raises(SpecError, match="not readable JSON"):
        arguments.load_data("absent.json", find)
