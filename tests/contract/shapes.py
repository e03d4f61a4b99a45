"""What two JSON Schemas allow, compared: a coarse shape of each, and where one allows more than the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
_LOWER, _UPPER = ("minimum", "exclusiveMinimum", "minItems", "minLength"), ("maximum", "exclusiveMaximum", "maxItems")


@dataclass
class Shape:
    """`values` is None where any value of the types will do; `open` is an object of any fields."""

    types: frozenset[str] = TYPES
    values: frozenset[Any] | None = None
    bounds: dict[str, float] = field(default_factory=dict)
    fields: dict[str, Shape] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    items: Shape | None = None

    @property
    def open(self) -> bool:
        return not self.fields


def shape(schema: dict[str, Any], document: dict[str, Any]) -> Shape:
    """The shape of a schema in an OpenAPI document, which its references lead into."""
    if "$ref" in schema:
        return shape(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document)
    if "anyOf" in schema:
        found = _either([shape(option, document) for option in schema["anyOf"]])
    else:
        named = schema.get("type")
        found = Shape(types=frozenset({named}) if named else TYPES)
        found.fields = {name: shape(inner, document) for name, inner in schema.get("properties", {}).items()}
        found.required = frozenset(schema.get("required", ()))
        found.items = shape(schema["items"], document) if "items" in schema else None
        found.bounds = {key: schema[key] for key in (*_LOWER, *_UPPER) if key in schema}
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    found.values = frozenset(values) if values is not None else found.values
    return found


def _either(options: list[Shape]) -> Shape:
    whole = Shape(types=frozenset().union(*(option.types for option in options)))
    telling = [option for option in options if option.types != {"null"}]
    if all(option.values is not None for option in telling):
        whole.values = frozenset({None}).union(*(option.values or () for option in telling))
    objects = [option for option in telling if option.fields]
    for option in telling:
        whole.bounds |= option.bounds
        whole.fields |= option.fields
        whole.items = option.items or whole.items
    if objects:
        whole.required = frozenset.intersection(*(option.required for option in objects))
    return whole


def wider(inner: Shape, outer: Shape, where: str) -> Iterator[str]:
    """Where `inner` allows what `outer` does not."""
    allowed = outer.types | ({"integer"} if "number" in outer.types else set())
    if not inner.types <= allowed and inner.types != TYPES:
        yield f"~ {where}: type {', '.join(sorted(inner.types - allowed))}"
    if outer.values is not None and not (inner.values or frozenset({...})) <= outer.values | {None}:
        yield f"~ {where}: values"
    for key, bound in outer.bounds.items():
        own = inner.bounds.get(key)
        if own is None or (own < bound if key in _LOWER else own > bound):
            yield f"~ {where}: {key}"
    for name in sorted(outer.required & inner.fields.keys() - inner.required):
        yield f"~ {where}.{name}: required"
    for name in sorted(inner.fields.keys() & outer.fields.keys()):
        yield from wider(inner.fields[name], outer.fields[name], f"{where}.{name}")
    if inner.items is not None and outer.items is not None:
        yield from wider(inner.items, outer.items, f"{where}[]")


def apart(ours: Shape, theirs: Shape, where: str) -> Iterator[str]:
    """Fields that only one of them has, all the way down."""
    if not ours.open and not theirs.open:
        yield from (f"+ {where}.{name}" for name in sorted(ours.fields.keys() - theirs.fields.keys()))
        yield from (f"- {where}.{name}" for name in sorted(theirs.fields.keys() - ours.fields.keys()))
    for name in sorted(ours.fields.keys() & theirs.fields.keys()):
        yield from apart(ours.fields[name], theirs.fields[name], f"{where}.{name}")
    if ours.items is not None and theirs.items is not None:
        yield from apart(ours.items, theirs.items, f"{where}[]")
