"""The localmemory server's tools: a knowledge graph in one file of the workspace, as server-memory keeps it.

Two builds of @modelcontextprotocol/server-memory: 2025.8.4, and what Klavis forked (as 2025.11.25), whose results are
structured too.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field

from pytest_klavis.embedded.tools.base import (
    READ_LIMIT,
    ToolContext,
    ToolFailureError,
    ToolResult,
    explained,
    text_part,
)
from pytest_klavis.embedded.tools.knowledge import Graph, Item, ends
from pytest_klavis.embedded.tools.schema import Flavour, Function, Schema


class Entity(BaseModel):
    name: Annotated[str, Field(description="The name of the entity")]
    entityType: Annotated[str, Field(description="The type of the entity")]  # noqa: N815 - the wire's name
    observations: Annotated[list[str], Field(description="What is known about the entity, a sentence each")]


class Relation(BaseModel):
    source: Annotated[str, Field(alias="from", description="The name of the entity where the relation starts")]
    to: Annotated[str, Field(description="The name of the entity where the relation ends")]
    relationType: Annotated[str, Field(description="The type of the relation")]  # noqa: N815 - the wire's name


class Addition(BaseModel):
    entityName: Annotated[str, Field(description="The name of the entity to add to")]  # noqa: N815 - the wire's name
    contents: Annotated[list[str], Field(description="The observations to add")]


class Deletion(BaseModel):
    entityName: Annotated[str, Field(description="The name of the entity")]  # noqa: N815 - the wire's name
    observations: Annotated[list[str], Field(description="The observations to delete")]


@dataclass(frozen=True)
class Memory:
    """The tools of one build.

    `file`: where it keeps the graph, in the workspace. `structured`: results are also given as structured content,
    and hold nothing but what their schema names.
    """

    file: str
    structured: bool

    def create_entities(self, context: ToolContext, entities: list[Entity]) -> ToolResult:
        """Create multiple new entities in the knowledge graph. Those whose name is taken are left out."""
        with context.files.lock:
            graph = self._load(context)
            names = {entity["name"] for entity in graph.entities}
            new = [entity.model_dump() for entity in entities if entity.name not in names]
            graph.entities += [{"type": "entity", **item} for item in new]
            self._save(context, graph)
        return self._result(new, entities=new)

    def create_relations(self, context: ToolContext, relations: list[Relation]) -> ToolResult:
        """Create multiple new relations between entities in the knowledge graph. Relations should be in active
        voice. Those that are there already are left out."""
        with context.files.lock:
            graph = self._load(context)
            known = {ends(relation) for relation in graph.relations}
            given = [relation.model_dump(by_alias=True) for relation in relations]
            new = [item for item in given if ends(item) not in known]
            graph.relations += [{"type": "relation", **item} for item in new]
            self._save(context, graph)
        return self._result(new, relations=new)

    def add_observations(self, context: ToolContext, observations: list[Addition]) -> ToolResult:
        """Add new observations to existing entities in the knowledge graph"""
        with context.files.lock:
            graph = self._load(context)
            results = []
            for addition in observations:
                entity = graph.entity(addition.entityName)
                if entity is None:
                    raise ToolFailureError(f"Entity with name {addition.entityName} not found")
                new = [text for text in addition.contents if text not in entity["observations"]]
                entity["observations"] += new
                results.append({"entityName": addition.entityName, "addedObservations": new})
            self._save(context, graph)
        return self._result(results, results=results)

    def delete_entities(
        self,
        context: ToolContext,
        entityNames: Annotated[list[str], Field(description="The names of the entities to delete")],  # noqa: N803
    ) -> ToolResult:
        """Delete multiple entities and their associated relations from the knowledge graph"""
        gone = set(entityNames)
        with context.files.lock:
            graph = self._load(context)
            graph.entities = [entity for entity in graph.entities if entity["name"] not in gone]
            graph.relations = [item for item in graph.relations if not {item["from"], item["to"]} & gone]
            self._save(context, graph)
        return self._done("Entities deleted successfully")

    def delete_observations(self, context: ToolContext, deletions: list[Deletion]) -> ToolResult:
        """Delete specific observations from entities in the knowledge graph"""
        with context.files.lock:
            graph = self._load(context)
            for deletion in deletions:
                entity = graph.entity(deletion.entityName)
                if entity is not None:
                    kept = [text for text in entity["observations"] if text not in deletion.observations]
                    entity["observations"] = kept
            self._save(context, graph)
        return self._done("Observations deleted successfully")

    def delete_relations(self, context: ToolContext, relations: list[Relation]) -> ToolResult:
        """Delete multiple relations from the knowledge graph"""
        gone = {ends(relation.model_dump(by_alias=True)) for relation in relations}
        with context.files.lock:
            graph = self._load(context)
            graph.relations = [relation for relation in graph.relations if ends(relation) not in gone]
            self._save(context, graph)
        return self._done("Relations deleted successfully")

    def read_graph(self, context: ToolContext) -> ToolResult:
        """Read the entire knowledge graph"""
        return self._shown(self._load(context))

    def search_nodes(
        self,
        context: ToolContext,
        query: Annotated[str, Field(description="What to look for in names, types and observations of entities")],
    ) -> ToolResult:
        """Search for nodes in the knowledge graph: entities that have the query somewhere, in any case, and the
        relations between them"""
        wanted = query.lower()

        def found(entity: Item) -> bool:
            texts = (entity["name"], entity["entityType"], *entity["observations"])
            return any(wanted in text.lower() for text in texts)

        return self._shown(self._load(context).among(found))

    def open_nodes(
        self,
        context: ToolContext,
        names: Annotated[list[str], Field(description="The names of the entities to retrieve")],
    ) -> ToolResult:
        """Open specific nodes in the knowledge graph by their names, with the relations between them"""
        wanted = set(names)
        return self._shown(self._load(context).among(lambda entity: entity["name"] in wanted))

    def _load(self, context: ToolContext) -> Graph:
        with explained(context, "open", self.file):
            try:
                data = context.files.read_bytes(self.file, READ_LIMIT)
            except FileNotFoundError:
                return Graph()
        try:
            return Graph.parse(data)
        except ValueError as error:
            raise ToolFailureError(
                f"The memory file {context.shown(self.file)} is damaged: {error}."
                " It was left as it is: mend that line, or move the file away to begin with an empty memory."
            ) from error

    def _save(self, context: ToolContext, graph: Graph) -> None:
        data = graph.lines()
        if len(data) > READ_LIMIT:
            raise ToolFailureError(
                f"The memory is full: it would hold {len(data)} bytes, and {READ_LIMIT} at most are read again."
                " Nothing was changed: delete some of it first."
            )
        with explained(context, "open", self.file):
            context.files.write_bytes(self.file, data, parents=True)

    def _shown(self, graph: Graph) -> ToolResult:
        answer = {"entities": graph.entities, "relations": graph.relations}
        if self.structured:
            answer = {
                "entities": _only(graph.entities, "name", "entityType", "observations"),
                "relations": _only(graph.relations, "from", "to", "relationType"),
            }
        return self._result(answer, **answer)

    def _done(self, message: str) -> ToolResult:
        return ToolResult([text_part(message)], {"success": True, "message": message} if self.structured else None)

    def _result(self, value: Any, **structured: Any) -> ToolResult:
        text = json.dumps(value, ensure_ascii=False, indent=2).encode("utf-8", "backslashreplace").decode()
        return ToolResult([text_part(text)], structured if self.structured else None)

    def functions(self) -> dict[str, Function]:
        return {
            function.__name__: function
            for function in (
                self.create_entities,
                self.create_relations,
                self.add_observations,
                self.delete_entities,
                self.delete_observations,
                self.delete_relations,
                self.read_graph,
                self.search_nodes,
                self.open_nodes,
            )
        }


def _only(items: Iterable[Item], *keys: str) -> list[Item]:
    return [{key: item[key] for key in keys} for item in items]


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_ENTITIES: Schema = {"type": "array", "items": _object(name=_TEXT, entityType=_TEXT, observations=_TEXTS)}
_RELATIONS: Schema = {"type": "array", "items": _object(**{"from": _TEXT, "to": _TEXT, "relationType": _TEXT})}
_ADDED: Schema = {"type": "array", "items": _object(entityName=_TEXT, addedObservations=_TEXTS)}
_DONE = _object(success={"type": "boolean"}, message=_TEXT)
_GRAPH = _object(entities=_ENTITIES, relations=_RELATIONS)

# Where Toolathlon's tasks seed it; where Klavis keeps it is not published.
KLAVIS = Flavour(
    functions=Memory("memory/memory.json", structured=True).functions(),
    outputs={
        "create_entities": _object(entities=_ENTITIES),
        "create_relations": _object(relations=_RELATIONS),
        "add_observations": _object(results=_ADDED),
        "delete_entities": _DONE,
        "delete_observations": _DONE,
        "delete_relations": _DONE,
        "read_graph": _GRAPH,
        "search_nodes": _GRAPH,
        "open_nodes": _GRAPH,
    },
)
TOOLATHLON = Flavour(functions=Memory("memory/memory.json", structured=False).functions())
# As the benchmark's own server configuration names it, below /data.
ATLAS = Flavour(functions=Memory("repos/memory_mcp_server/memories-for-mcp.json", structured=False).functions())
