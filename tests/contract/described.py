"""Every answer of the embedded server is as it describes itself: the status, the type and the body, field by field."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

import jsonschema  # type: ignore[import-untyped]  # its stubs are a package of their own

from pytest_klavis.embedded import openapi

if TYPE_CHECKING:
    import httpx


def hold(response: httpx.Response) -> None:
    """Fail when this answer to a REST call is not described. Reads the body; MCP and unknown routes are let through."""
    request = response.request
    path = request.url.path
    if (route := _route(path)) is None:
        return
    operation = openapi.document()["paths"][route].get(request.method.lower())
    if operation is None:
        assert response.status_code in (405, 403), f"{request.method} {path} is not described"
        return
    described = operation["responses"].get(str(response.status_code))
    assert described is not None, f"{request.method} {route}: {response.status_code} is not described"
    response.read()
    kind = response.headers.get("content-type", "").partition(";")[0]
    content = described.get("content", {})
    assert kind in content or not (content or response.content), f"{request.method} {route}: {kind!r} is not described"
    if kind == "application/json":
        _validator(content[kind]["schema"].get("$ref", "")).validate(response.json())


@cache
def _route(path: str) -> str | None:
    """The described path that a request's path is an instance of, the one with the fewest parameters."""
    paths = sorted(openapi.document()["paths"], key=lambda one: one.count("{"))
    return next((one for one in paths if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", one), path)), None)


@cache
def _validator(reference: str) -> Any:
    """For a named schema. An answer may hold nothing beyond it."""
    components = openapi.document()["components"]
    closed = {name: _closed(schema) for name, schema in components["schemas"].items()}
    whole = {"$ref": reference, "components": {"schemas": closed}} if reference else {}
    return jsonschema.Draft202012Validator(whole, format_checker=jsonschema.FormatChecker())


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    return schema if "properties" not in schema else {"additionalProperties": False, **schema}
