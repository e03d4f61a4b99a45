"""The memory file of localmemory: JSON lines, `{"type":"entity",...}` and `{"type":"relation",...}`. Opens no file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Item = dict[str, Any]
_KINDS = {"entity": ("name", "entityType"), "relation": ("from", "to", "relationType")}
_DEPTH = 100  # levels of lists and objects in one line; Python's JSON has to write what it has read


@dataclass
class Graph:
    """What the file holds; `others` are its lines of neither kind, which are kept."""

    entities: list[Item] = field(default_factory=list)
    relations: list[Item] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, data: bytes) -> Graph:
        """Raises ValueError, whose text names the line, for what is no graph."""
        graph = cls()
        for number, line in enumerate(data.decode().split("\n"), 1):
            if not line.strip():
                continue
            try:
                item = json.loads(line, parse_constant=_no_constant)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number} is not JSON: {error}") from error
            kind = item.get("type") if isinstance(item, dict) else None
            if not isinstance(kind, str) or kind not in _KINDS:
                graph.others.append(line.strip())
                continue
            _check(kind, item, number)
            (graph.entities if kind == "entity" else graph.relations).append(item)
        return graph

    def lines(self) -> bytes:
        items = [*self.entities, *self.relations]
        lines = [json.dumps(item, ensure_ascii=False, separators=(",", ":")) for item in items]
        text = "\n".join([*lines, *self.others])
        return text.encode("utf-8", "backslashreplace")  # half a surrogate pair, as JSON writes it

    def among(self, chosen: Callable[[Item], bool]) -> Graph:
        """The entities that are chosen, and the relations between them."""
        entities = [entity for entity in self.entities if chosen(entity)]
        names = {entity["name"] for entity in entities}
        return Graph(entities, [item for item in self.relations if {item["from"], item["to"]} <= names])

    def entity(self, name: str) -> Item | None:
        return next((entity for entity in self.entities if entity["name"] == name), None)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no value")


def _check(kind: str, item: Item, number: int) -> None:
    for key in _KINDS[kind]:
        if not isinstance(item.get(key), str):
            raise ValueError(f"line {number} is {kind} without a text for '{key}'")  # noqa: TRY004 - damage, no bug
    if kind == "entity":
        said = item.get("observations")
        if not isinstance(said, list) or not all(isinstance(text, str) for text in said):
            raise ValueError(f"line {number} is entity without a list of texts for 'observations'")
    level: list[Any] = [item]
    for _ in range(_DEPTH):
        level = [below for value in level for below in _below(value)]
    if level:
        raise ValueError(f"line {number} is nested more than {_DEPTH} deep")


def _below(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def ends(relation: Item) -> tuple[str, str, str]:
    return relation["from"], relation["to"], relation["relationType"]
