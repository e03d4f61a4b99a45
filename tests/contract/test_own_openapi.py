"""The embedded server's description of itself: against its routes, the API reference and the published document."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from pytest_klavis.api.operations import DUMP_LOCAL_SERVER, INITIALIZE_LOCAL_SERVER, SEED_OPERATIONS
from pytest_klavis.embedded import app, fields
from pytest_klavis.embedded import openapi as own
from tests.contract import openapi
from tests.contract.shapes import Shape, apart, shape, wider

if TYPE_CHECKING:
    from collections.abc import Iterator

# What the reference names and this server never answers.
UNUSED = {"CreateSandboxResponse", "SandboxInfo", "ReleaseSandboxResponse", "ResetSandboxResponse"}
_MAIL = "/local-sandbox/poste_email_toolathlon/{sandbox_id}"
MAIL_OPERATIONS = (
    replace(INITIALIZE_LOCAL_SERVER, path=f"{_MAIL}/initialize", name="initialize mail"),
    replace(DUMP_LOCAL_SERVER, path=f"{_MAIL}/dump", name="dump mail"),
)
REFERENCE = openapi.DOCUMENT.parents[1] / "seeds" / "klavis-sandbox-api-reference.md"

_NO_REMOTE = "there are no remote sandboxes here yet, so this never succeeds"
_NOTHING_INVALID = "nothing in such a request can be invalid here: an id that is none is not found"
_REFUSALS = "the document knows no refusals but 422"
_OLD_TAGS = "the reference labels and filters by an object; the document by `tag`, which is taken as well"
_OPTIONAL = "optional, and nothing to say here"

# What differs, and why it may. `+` is ours only, `-` the document's only, `~` is in both but not the same: an answer of
# ours may be something that the document does not allow, or a request that it allows is refused here.
ALLOWED = {
    **{f"- {name} sandbox: {status}": _NO_REMOTE for name in ("get", "release", "reset") for status in (200, 422)},
    "- acquire sandbox: 201": _NO_REMOTE,
    "- dump mail: 422": _NOTHING_INVALID,
    "~ dump mail: 200 .server_name: values": "the document allows the names of remote servers only",
    **{f"- {name} local sandbox: 422": _NOTHING_INVALID for name in ("get", "release", "reset")},
    **{f"+ status {status}": _REFUSALS for status in (400, 401, 403, 404, 409, 413, 500, 503)},
    "+ acquire sandbox: body .tags": _OLD_TAGS,
    "+ list sandboxes: query tags": _OLD_TAGS,
    "~ list sandboxes: 200 .sandboxes[].tags: type object": _OLD_TAGS,
    "- release sandbox: query is_ttl": "for the API's own use",
    "- release local sandbox: query is_ttl": "for the API's own use",
    "+ acquire local sandbox: header X-Klavis-Owner": "the process whose end is the end of the sandbox",
    "~ acquire local sandbox: body .server_names[]: values": "the servers that this backend has",
    "~ acquire local sandbox: body .server_names: minItems": "a sandbox without servers is a mistake, and told",
    "~ acquire local sandbox: body .benchmark: values": "MCP_Mark has no flavours here",
    **{
        f"- {where}.servers[].tags": _OPTIONAL
        for where in (
            "acquire local sandbox: 201 ",
            "get local sandbox: 200 ",
            "list local sandboxes: 200 .local_sandboxes[]",
        )
    },
    **{
        f"- {name}: 422 .detail[].ctx": _OPTIONAL
        for name in (
            *("acquire sandbox", "list sandboxes", "acquire local sandbox", "get upload URL"),
            *("initialize local sandbox", "dump local sandbox", "initialize mail"),
        )
    },
}


def _ours() -> dict[str, Any]:
    return own.document()


def test_every_server_that_there_is_can_be_named() -> None:
    names = _ours()["components"]["schemas"]["AcquireLocalSandboxRequest"]["properties"]["server_names"]
    assert {name for option in names["anyOf"] for name in option.get("items", {}).get("enum", ())} == {*fields.SERVERS}


def test_every_rest_route_is_described_and_nothing_else() -> None:
    built: Any = app.build(cast("Any", None), app.Doors("key", frozenset()))
    starlette: Starlette = built._app
    routes = {
        (method, route.path)
        for route in starlette.routes
        if isinstance(route, Route) and route.methods
        for method in route.methods - ({"HEAD"} if "mcp" in route.path else set())
    }
    assert {(method, path) for method, path in routes if "/mcp" not in path} == own.OPERATIONS.keys()


@openapi.needs_document
def test_the_table_of_differences_is_neither_short_nor_long() -> None:
    found = {*_between_documents()}
    assert sorted(found - ALLOWED.keys()) == [], "differences without a reason"
    assert sorted(ALLOWED.keys() - found) == [], "reasons without a difference: remove them"


def _between_documents() -> Iterator[str]:
    ours, theirs = _ours(), openapi.document()
    for operation in (*SEED_OPERATIONS, *MAIL_OPERATIONS):
        here = ours["paths"][operation.path][operation.method.lower()]
        there = openapi.operation(operation.method, operation.path)
        assert here["security"] == there["security"]
        yield from _parameters(here, there, operation.name)
        yield from _bodies(_body(here), _body(there), operation.name)
        yield from _statuses(here, there, operation.name)
        for status in here["responses"].keys() & there["responses"].keys():
            one, other = (
                shape(_json(side["responses"][status]), document) for side, document in ((here, ours), (there, theirs))
            )
            yield from (
                *apart(one, other, f"{operation.name}: {status} "),
                *wider(one, other, f"{operation.name}: {status} "),
            )


def _json(part: dict[str, Any]) -> dict[str, Any]:
    return part["content"]["application/json"]["schema"]  # type: ignore[no-any-return]


def _body(operation: dict[str, Any]) -> dict[str, Any]:
    return operation.get("requestBody", {})  # type: ignore[no-any-return]


def _bodies(here: dict[str, Any], there: dict[str, Any], name: str) -> Iterator[str]:
    assert bool(here) == bool(there), name
    if not here:
        return
    assert here.get("required", False) == there.get("required", False), name
    ours, theirs = shape(_json(here), _ours()), shape(_json(there), openapi.document())
    yield from (*apart(ours, theirs, f"{name}: body "), *wider(theirs, ours, f"{name}: body "))


def _parameters(here: dict[str, Any], there: dict[str, Any], name: str) -> Iterator[str]:
    ours, theirs = ({f"{one['in']} {one['name']}": one for one in side.get("parameters", ())} for side in (here, there))
    yield from (f"+ {name}: {one}" for one in ours.keys() - theirs.keys())
    yield from (f"- {name}: {one}" for one in theirs.keys() - ours.keys())
    for one in ours.keys() & theirs.keys():
        assert ours[one]["required"] == theirs[one]["required"]
        outer, inner = shape(ours[one]["schema"], _ours()), shape(theirs[one]["schema"], openapi.document())
        yield from wider(inner, outer, f"{name}: {one}")


def _statuses(here: dict[str, Any], there: dict[str, Any], name: str) -> Iterator[str]:
    # The document knows no refusals but 422.
    yield from (f"+ status {status}" for status in here["responses"].keys() - there["responses"].keys())
    yield from (f"- {name}: {status}" for status in there["responses"].keys() - here["responses"].keys())


@pytest.mark.skipif(not REFERENCE.exists(), reason="the API reference is not beside this checkout (../shared/seeds)")
def test_every_field_of_the_reference_is_there_as_it_says() -> None:
    schemas = _ours()["components"]["schemas"]
    compared = set()
    for name, table in _reference():
        if name in schemas:
            compared.add(name)
            ours = shape(schemas[name], _ours())
            for field, kind, required in table:
                if "Request" in name:
                    assert field in ours.fields, f"{name}.{field}"
                    assert (field in ours.required) == required, f"{name}.{field}"
                else:
                    assert field in ours.required or not required, f"{name}.{field}"
                assert field not in ours.fields or _fits(ours.fields[field], kind), f"{name}.{field}: {kind}"
    assert {name for name, table in _reference() if table} - compared == {*UNUSED, "MemoryUploadUrlResponse"}


def _reference() -> Iterator[tuple[str, list[tuple[str, str, bool]]]]:
    """Each schema of the reference: its name, and field, type and "required" of each row."""
    schemas = REFERENCE.read_text().partition("## Components")[2]
    for part in schemas.split("\n### ")[1:]:
        rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (Yes|No) \|", part, re.MULTILINE)
        yield part.split()[0], [(field, kind.replace("\\|", "|"), required == "Yes") for field, kind, required in rows]


def _fits(ours: Shape, kind: str) -> bool:
    """Whether a field is of one of the types that the reference names: `string`, `X[]`, `SomeObject`, an enum."""
    if kind == "`any`":
        return True
    allowed = set()
    for word in re.findall(r"[\w\[\]\"]+", kind):
        if word.endswith("[]") or word.startswith("integer)"):
            allowed.add("array")
        elif word in ("object", "null", "integer", "string"):
            allowed.add(word)
        else:
            allowed.add("string")  # an enum, a date, a literal
    return (ours.types & {"array", "object", "string", "integer", "null"}) <= allowed or "array" in ours.types
