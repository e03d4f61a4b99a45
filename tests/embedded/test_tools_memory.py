"""The localmemory server's tools: the graph, its file in the workspace, and what hostile files and calls do to it."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_klavis.embedded.tools import tools
from pytest_klavis.embedded.tools.base import READ_LIMIT
from tests.embedded.sandboxed import Box, new_box

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.embedded.conftest import User

FILES = {
    None: "memory/memory.json",
    "Toolathlon": "memory/memory.json",
    "MCP_Atlas": "repos/memory_mcp_server/memories-for-mcp.json",
}
ADA = {"name": "Ada", "entityType": "person", "observations": ["writes programs", "likes trains"]}
BOB = {"name": "Bob", "entityType": "Person", "observations": []}
KNOWS = {"from": "Ada", "to": "Bob", "relationType": "knows"}


@pytest.fixture
def box() -> Iterator[Box]:
    with new_box() as box:
        yield box


def ask(box: Box, name: str, benchmark: str | None = None, **arguments: Any) -> Any:
    """The answer of a call that must succeed, which is JSON but for deletions."""
    text = box.text("localmemory", name, benchmark=benchmark, **arguments)
    return json.loads(text) if text[:1] in "[{" else text


def put(box: Box, text: str | bytes, benchmark: str | None = None) -> None:
    box.files.write_bytes(FILES[benchmark], text.encode() if isinstance(text, str) else text, parents=True)


def kept(box: Box, benchmark: str | None = None) -> str:
    return (box.workspace / FILES[benchmark]).read_text(encoding="utf-8")


@pytest.mark.parametrize("benchmark", [None, "MCP_Atlas", "Toolathlon"])
def test_a_graph_is_kept_as_json_lines(box: Box, benchmark: str | None) -> None:
    assert ask(box, "read_graph", benchmark) == {"entities": [], "relations": []}
    assert not (box.workspace / FILES[benchmark]).exists()
    assert ask(box, "create_entities", benchmark, entities=[ADA, BOB]) == [ADA, BOB]
    assert ask(box, "create_relations", benchmark, relations=[KNOWS]) == [KNOWS]
    assert kept(box, benchmark) == (
        '{"type":"entity","name":"Ada","entityType":"person","observations":["writes programs","likes trains"]}\n'
        '{"type":"entity","name":"Bob","entityType":"Person","observations":[]}\n'
        '{"type":"relation","from":"Ada","to":"Bob","relationType":"knows"}'
    )
    if os.geteuid() == 0:
        assert (box.workspace / FILES[benchmark]).stat().st_uid == box.jail.uid


@pytest.mark.parametrize("benchmark", ["MCP_Atlas", "Toolathlon"])
def test_the_older_build_shows_lines_as_they_are_and_nothing_structured(box: Box, benchmark: str) -> None:
    put(box, '{"type":"entity","name":"Ada","entityType":"p","observations":[],"since":1843}\n', benchmark)
    result = box.call("localmemory", "read_graph", benchmark)
    assert result.structured is None
    (entity,) = json.loads(result.content[0]["text"])["entities"]
    assert entity == {"type": "entity", "name": "Ada", "entityType": "p", "observations": [], "since": 1843}


def test_results_of_the_klavis_build_fit_their_schemas(box: Box) -> None:
    jsonschema: Any = pytest.importorskip("jsonschema")
    put(box, '{"type":"entity","name":"Eve","entityType":"p","observations":["x"],"since":1843}\n')
    calls: list[tuple[str, dict[str, Any]]] = [
        ("create_entities", {"entities": [ADA, BOB]}),
        ("create_relations", {"relations": [KNOWS]}),
        ("add_observations", {"observations": [{"entityName": "Bob", "contents": ["new"]}]}),
        ("read_graph", {}),
        ("search_nodes", {"query": "a"}),
        ("open_nodes", {"names": ["Eve"]}),
        ("delete_observations", {"deletions": [{"entityName": "Bob", "observations": ["new"]}]}),
        ("delete_relations", {"relations": [KNOWS]}),
        ("delete_entities", {"entityNames": ["Bob"]}),
    ]
    assert {name for name, _ in calls} == set(tools("localmemory", None))
    for name, arguments in calls:
        result = box.call("localmemory", name, None, **arguments)
        assert not result.is_error, result
        assert result.structured is not None
        jsonschema.validate(result.structured, tools("localmemory", None)[name].output_schema)
        text = result.content[0]["text"]
        said = {"success": True, "message": text} if name.startswith("delete_") else json.loads(text)
        assert said in (result.structured, *result.structured.values())
    assert '"since":1843' in kept(box)  # not shown, and not lost either


def test_what_is_there_already_is_left_out(box: Box) -> None:
    ask(box, "create_entities", entities=[ADA])
    assert ask(box, "create_entities", entities=[{**ADA, "observations": ["other"]}, BOB]) == [BOB]
    assert ask(box, "create_relations", relations=[KNOWS, KNOWS]) == [KNOWS, KNOWS]  # as upstream: within a call, no
    assert ask(box, "create_relations", relations=[KNOWS]) == []
    added = ask(box, "add_observations", observations=[{"entityName": "Ada", "contents": ["likes trains", "new"]}])
    assert added == [{"entityName": "Ada", "addedObservations": ["new"]}]


def test_an_observation_for_nobody_changes_nothing(box: Box) -> None:
    ask(box, "create_entities", entities=[ADA])
    before = kept(box)
    given = [{"entityName": "Ada", "contents": ["a"]}, {"entityName": "Zoe", "contents": ["b"]}]
    assert box.failure("localmemory", "add_observations", observations=given, benchmark=None) == (
        "Entity with name Zoe not found"
    )
    assert kept(box) == before


def test_searching_and_opening(box: Box) -> None:
    ask(box, "create_entities", entities=[ADA, BOB, {"name": "Ümit", "entityType": "city", "observations": ["Zug"]}])
    ask(box, "create_relations", relations=[KNOWS, {"from": "Ada", "to": "Ümit", "relationType": "visits"}])

    def names(name: str, **arguments: Any) -> tuple[list[str], list[str]]:
        graph = ask(box, name, **arguments)
        return [e["name"] for e in graph["entities"]], [r["relationType"] for r in graph["relations"]]

    assert names("search_nodes", query="PERSON") == (["Ada", "Bob"], ["knows"])
    assert names("search_nodes", query="ü") == (["Ümit"], [])
    assert names("search_nodes", query="zug") == (["Ümit"], [])
    assert names("search_nodes", query="") == (["Ada", "Bob", "Ümit"], ["knows", "visits"])
    assert names("open_nodes", names=["Bob", "Ada", "nobody"]) == (["Ada", "Bob"], ["knows"])
    assert names("open_nodes", names=[]) == ([], [])


def test_deleting(box: Box) -> None:
    ask(box, "create_entities", entities=[ADA, BOB])
    ask(box, "create_relations", relations=[KNOWS, {**KNOWS, "relationType": "pays"}])
    said = ask(box, "delete_observations", deletions=[{"entityName": "Ada", "observations": ["likes trains", "?"]}])
    assert said == "Observations deleted successfully"
    assert ask(box, "delete_relations", relations=[KNOWS]) == "Relations deleted successfully"
    graph = ask(box, "read_graph")
    assert graph["entities"][0]["observations"] == ["writes programs"]
    assert [relation["relationType"] for relation in graph["relations"]] == ["pays"]
    assert ask(box, "delete_entities", entityNames=["Bob", "nobody"]) == "Entities deleted successfully"
    assert ask(box, "read_graph")["relations"] == []


def test_texts_of_any_kind_come_back(box: Box) -> None:
    texts = ["a\nb", "\u2028", '"\\', "😀", "\x00", "<script>"]
    ask(box, "create_entities", entities=[{"name": "\ud83d half", "entityType": "", "observations": texts}])
    assert "\\ud83d half" in kept(box)
    (entity,) = ask(box, "read_graph")["entities"]
    assert entity["observations"] == texts
    ask(box, "add_observations", observations=[{"entityName": "\ud83d half", "contents": ["more"]}])
    assert ask(box, "read_graph")["entities"][0]["observations"][-1] == "more"


def test_calls_at_once_lose_nothing(box: Box) -> None:
    known = tools("localmemory", None)

    async def all_at_once() -> list[Any]:
        calls = []
        for number in range(60):
            entity = {"name": f"e{number}", "entityType": "t", "observations": []}
            calls.append(known["create_entities"].call(context, {"entities": [entity]}))
            relation = {"from": f"e{number}", "to": "e0", "relationType": "r"}
            calls.append(known["create_relations"].call(context, {"relations": [relation]}))
        return await asyncio.gather(*calls)

    context = box.context("localmemory")
    assert not any(result.is_error for result in box.runner.run(all_at_once()))
    graph = ask(box, "read_graph")
    assert {entity["name"] for entity in graph["entities"]} == {f"e{number}" for number in range(60)}
    assert {relation["from"] for relation in graph["relations"]} == {f"e{number}" for number in range(60)}


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        ('{"type":"entity","name":"A","entityType":"p","observations":[]}\n{broken\n', "line 2 is not JSON"),
        ('{"type":"entity","name":"A"}', "line 1 is entity without a text for 'entityType'"),
        ('{"type":"entity","name":"A","entityType":"p","observations":"x"}', "without a list of texts"),
        ('{"type":"entity","name":"A","entityType":"p","observations":[1]}', "without a list of texts"),
        ('{"type":"relation","from":"A","to":7,"relationType":"p"}', "line 1 is relation without a text for 'to'"),
        ('\ufeff{"type":"entity"}', "line 1 is not JSON"),
        ('{"type":"other","n":NaN}', "NaN is no value"),
        ("[" * 200_000, "line 1 is not JSON"),
        (
            '{"type":"entity","name":"A","entityType":"p","observations":[],"x":' + "[" * 500 + "]" * 500 + "}",
            "line 1 is nested more than 100 deep",
        ),
        (b"\xff\xfe\x00", "can't decode byte 0xff"),
        ("1" * 5000, "line 1 is not JSON"),
    ],
)
def test_a_damaged_file_is_named_and_left_alone(box: Box, damaged: str | bytes, said: str) -> None:
    put(box, damaged)
    before = (box.workspace / FILES[None]).read_bytes()
    for name, arguments in (
        ("read_graph", {}),
        ("search_nodes", {"query": ""}),
        ("create_entities", {"entities": [ADA]}),
        ("delete_entities", {"entityNames": ["A"]}),
    ):
        text = box.failure("localmemory", name, benchmark=None, **arguments)
        assert f"The memory file {box.root}/memory/memory.json is damaged: " in text
        assert said in text
        assert len(text) < 1000
    assert (box.workspace / FILES[None]).read_bytes() == before


def test_lines_of_another_kind_are_kept(box: Box) -> None:
    others = ['{"type":["entity"]}', '{"type":"note","text":"mine"}', "5", "null", '{"entities":[]}', '["entity"]']
    put(box, "\n".join([*others[:3], json.dumps({"type": "entity", **BOB}), "", "   ", *others[3:]]) + "\r\n")
    assert [entity["name"] for entity in ask(box, "read_graph")["entities"]] == ["Bob"]
    ask(box, "create_entities", entities=[ADA])
    lines = [line.strip() for line in kept(box).split("\n")]
    assert lines[2:] == others
    assert [entity["name"] for entity in ask(box, "read_graph")["entities"]] == ["Bob", "Ada"]


def test_what_is_no_file_is_named(box: Box) -> None:
    place = box.workspace / FILES[None]
    place.mkdir(parents=True)
    assert "EISDIR: illegal operation on a directory" in box.failure("localmemory", "read_graph", benchmark=None)
    assert "EISDIR" in box.failure("localmemory", "create_entities", entities=[ADA], benchmark=None)
    place.rmdir()
    os.mkfifo(place)
    assert "not a regular file but a FIFO" in box.failure("localmemory", "read_graph", benchmark=None)
    place.unlink()
    place.symlink_to("/etc/passwd")
    assert "outside allowed directories" in box.failure("localmemory", "read_graph", benchmark=None)
    assert "outside allowed" in box.failure("localmemory", "create_entities", entities=[ADA], benchmark=None)
    place.unlink()
    place.parent.rmdir()
    place.parent.write_text("a file")
    assert "ENOTDIR" in box.failure("localmemory", "read_graph", benchmark=None)


def test_a_memory_is_never_written_larger_than_can_be_read(box: Box) -> None:
    ask(box, "create_entities", entities=[ADA])
    before = kept(box)
    large = {"name": "large", "entityType": "t", "observations": ["x" * READ_LIMIT]}
    text = box.failure("localmemory", "create_entities", entities=[large], benchmark=None)
    assert "The memory is full" in text
    assert kept(box) == before
    put(box, "x" * (READ_LIMIT + 1))
    assert "EFBIG" in box.failure("localmemory", "read_graph", benchmark=None)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("create_entities", {}, "entities: Field required"),
        ("create_entities", {"entities": "x"}, "entities: Input should be a valid list"),
        (
            "create_entities",
            {"entities": [{"name": "C", "entityType": "p"}]},
            "entities.0.observations: Field required",
        ),
        ("create_relations", {"relations": [{"source": "a", "to": "b", "relationType": "r"}]}, "relations.0.from"),
        ("search_nodes", {"query": 3}, "query: Input should be a valid string"),
    ],
)
def test_arguments_that_do_not_fit(box: Box, name: str, arguments: dict[str, Any], said: str) -> None:
    text = box.failure("localmemory", name, benchmark=None, **arguments)
    assert text.startswith(f"Input validation error: Invalid arguments for tool {name}: ")
    assert said in text


def test_seeded_used_and_dumped(user: User) -> None:
    sandbox = user.acquire("localmemory", benchmark="Toolathlon")
    identity = sandbox["local_sandbox_id"]
    seed = {"memory/memory.json": json.dumps({"type": "entity", **ADA}) + "\n"}
    assert user.upload(identity, seed).status_code == 200
    asked = {"name": "create_entities", "arguments": {"entities": [BOB]}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": asked}
    result = user.api.post(sandbox["servers"][0]["mcp_server_url"], json=body).json()["result"]
    assert result["isError"] is False, result
    lines = [json.loads(line) for line in user.download(identity)["memory/memory.json"].split("\n")]
    assert lines == [{"type": "entity", **ADA}, {"type": "entity", **BOB}]
