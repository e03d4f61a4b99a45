"""localmemory: against both builds of @modelcontextprotocol/server-memory that the flavours follow."""

from __future__ import annotations

import json

from ..playing import Table
from ..scenario import Folder, Scenario, call


def entity(name: str, kind: str = "person", *observations: str) -> dict[str, object]:
    return {"name": name, "entityType": kind, "observations": list(observations)}


def relation(source: str, target: str, kind: str = "knows") -> dict[str, str]:
    return {"from": source, "to": target, "relationType": kind}


ADA, BOB, ACME = entity("Ada", "person", "writes code", "likes Tea"), entity("Bob"), entity("Acme", "company", "sells")
LINES = [{"type": "entity", **one} for one in (ADA, BOB, ACME)]
LINES += [{"type": "relation", **one} for one in (relation("Ada", "Bob"), relation("Ada", "Acme", "works at"))]
GRAPH = "\n".join(json.dumps(line) for line in LINES)


def scenarios(file: str) -> tuple[Scenario, ...]:
    """The same calls for each build; `file` is where it keeps its memory."""
    folder = file.rpartition("/")[0]
    return (
        Scenario(
            "growing",
            seed={folder: Folder},
            calls={
                "read nothing": call("read_graph"),
                "search nothing": call("search_nodes", query="Ada"),
                "open nothing": call("open_nodes", names=["Ada"]),
                "one entity": call("create_entities", entities=[ADA]),
                "two entities": call("create_entities", entities=[BOB, ACME]),
                "the same again": call("create_entities", entities=[ADA]),
                "one new of two": call("create_entities", entities=[BOB, entity("Cy", "person", "x")]),
                "the same twice at once": call("create_entities", entities=[entity("Di"), entity("Di", "other", "y")]),
                "no entities": call("create_entities", entities=[]),
                "unicode": call("create_entities", entities=[entity("Zoë 🌍", "Persön", "mag Tee\nund Kaffee")]),
                "empty name": call("create_entities", entities=[entity("")]),
                "many": call("create_entities", entities=[entity(f"n{number}") for number in range(30)]),
                "one relation": call("create_relations", relations=[relation("Ada", "Bob")]),
                "two relations": call(
                    "create_relations", relations=[relation("Ada", "Acme", "works at"), relation("Bob", "Ada")]
                ),
                "the same relation": call("create_relations", relations=[relation("Ada", "Bob")]),
                "another kind": call("create_relations", relations=[relation("Ada", "Bob", "likes")]),
                "a relation twice at once": call("create_relations", relations=[relation("Cy", "Di")] * 2),
                "to nobody": call("create_relations", relations=[relation("Ada", "Nobody")]),
                "to itself": call("create_relations", relations=[relation("Ada", "Ada")]),
                "no relations": call("create_relations", relations=[]),
                "observe": call("add_observations", observations=[{"entityName": "Ada", "contents": ["is tall"]}]),
                "observe again": call(
                    "add_observations", observations=[{"entityName": "Ada", "contents": ["is tall"]}]
                ),
                "observe one new of two": call(
                    "add_observations", observations=[{"entityName": "Ada", "contents": ["is tall", "has a cat 🐈"]}]
                ),
                "observe twice at once": call(
                    "add_observations", observations=[{"entityName": "Bob", "contents": ["a", "a"]}]
                ),
                "observe two": call(
                    "add_observations",
                    observations=[{"entityName": "Ada", "contents": ["1"]}, {"entityName": "Bob", "contents": ["2"]}],
                ),
                "observe nobody": call("add_observations", observations=[{"entityName": "Nobody", "contents": ["x"]}]),
                "observe somebody and nobody": call(
                    "add_observations",
                    observations=[
                        {"entityName": "Bob", "contents": ["kept?"]},
                        {"entityName": "Nobody", "contents": ["x"]},
                    ],
                ),
                "observe nothing": call("add_observations", observations=[{"entityName": "Ada", "contents": []}]),
                "no observations": call("add_observations", observations=[]),
                "read all": call("read_graph"),
                "unknown tool": call("forget_everything"),
            },
        ),
        Scenario(
            "reading",
            seed={file: GRAPH},
            calls={
                "graph": call("read_graph"),
                "graph with an argument": call("read_graph", depth=1),
                "search a name": call("search_nodes", query="Ada"),
                "search in another case": call("search_nodes", query="aDA"),
                "search a kind": call("search_nodes", query="company"),
                "search an observation": call("search_nodes", query="tea"),
                "search a part": call("search_nodes", query="c"),
                "search a relation": call("search_nodes", query="works at"),
                "search two words": call("search_nodes", query="Ada Bob"),
                "search nothing known": call("search_nodes", query="zebra"),
                "search everything": call("search_nodes", query=""),
                "search a pattern": call("search_nodes", query="A.a"),
                "open one": call("open_nodes", names=["Ada"]),
                "open two": call("open_nodes", names=["Ada", "Bob"]),
                "open in another order": call("open_nodes", names=["Bob", "Ada"]),
                "open the same twice": call("open_nodes", names=["Bob", "Bob"]),
                "open in another case": call("open_nodes", names=["ada"]),
                "open one known of two": call("open_nodes", names=["Acme", "Nobody"]),
                "open nobody": call("open_nodes", names=["Nobody"]),
                "open none": call("open_nodes", names=[]),
            },
        ),
        Scenario(
            "shrinking",
            seed={file: GRAPH + "\n"},
            calls={
                "an observation": call(
                    "delete_observations", deletions=[{"entityName": "Ada", "observations": ["writes code"]}]
                ),
                "an observation again": call(
                    "delete_observations", deletions=[{"entityName": "Ada", "observations": ["writes code"]}]
                ),
                "an observation in another case": call(
                    "delete_observations", deletions=[{"entityName": "Ada", "observations": ["likes tea"]}]
                ),
                "an observation of nobody": call(
                    "delete_observations", deletions=[{"entityName": "Nobody", "observations": ["x"]}]
                ),
                "no observations": call("delete_observations", deletions=[]),
                "a relation": call("delete_relations", relations=[relation("Ada", "Bob")]),
                "a relation again": call("delete_relations", relations=[relation("Ada", "Bob")]),
                "a relation of another kind": call("delete_relations", relations=[relation("Ada", "Acme", "likes")]),
                "no relations": call("delete_relations", relations=[]),
                "an entity and its relations": call("delete_entities", entityNames=["Acme"]),
                "the graph is smaller": call("read_graph"),
                "an entity again": call("delete_entities", entityNames=["Acme"]),
                "one known of two": call("delete_entities", entityNames=["Bob", "Nobody"]),
                "no entities": call("delete_entities", entityNames=[]),
                "the last one": call("delete_entities", entityNames=["Ada"]),
                "the graph is empty": call("read_graph"),
            },
        ),
        Scenario(
            "malformed",
            seed={file: GRAPH},
            calls={
                "observations as text": call("create_entities", entities=[entity("X") | {"observations": "x"}]),
                "entities as text": call("create_entities", entities="Ada"),
                "no entities given": call("create_entities"),
                "no relations to create": call("create_relations"),
                "without contents": call("add_observations", observations=[{"entityName": "Ada"}]),
                "no observations given": call("add_observations"),
                "search a number": call("search_nodes", query=5),
                "search without a query": call("search_nodes"),
                "open text": call("open_nodes", names="Ada"),
                "open without names": call("open_nodes"),
                "no list of observations": call("delete_observations", deletions=[{"entityName": "Ada"}]),
                "no deletions given": call("delete_observations"),
                "no relations to delete": call("delete_relations"),
                "no names given": call("delete_entities"),
                "extra keys": call("create_entities", entities=[entity("Ed") | {"age": 5}]),
                "without observations": call("create_entities", entities=[{"name": "X", "entityType": "t"}]),
                "without a kind": call("create_relations", relations=[{"from": "Ada", "to": "Bob"}]),
                "a relation without an end": call("delete_relations", relations=[{"from": "Ada"}]),
                "text for a list": call("delete_entities", entityNames="Ada"),
            },
        ),
        Scenario(
            "damaged",
            seed={file: GRAPH + "\nthis is no JSON\n"},
            calls={
                "read": call("read_graph"),
                "create": call("create_entities", entities=[BOB]),
                "search": call("search_nodes", query="Ada"),
            },
        ),
    )


ATLAS = Table(
    name="localmemory 2025.8.4",
    server="localmemory",
    benchmark="MCP_Atlas",
    upstream="localmemory-2025.8.4",
    scenarios=scenarios("repos/memory_mcp_server/memories-for-mcp.json"),
)
KLAVIS = Table(
    name="localmemory 2025.11.25",
    server="localmemory",
    benchmark=None,
    upstream="localmemory-2025.11.25",
    scenarios=scenarios("memory/memory.json"),
)
