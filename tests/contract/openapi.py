"""The published OpenAPI document, where it lies beside the repository: a newer dialect than the reference we follow."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # its stubs are a package of their own
import pytest

DOCUMENT = Path(__file__).parents[3] / "shared" / "data" / "klavis-openapi.json"

needs_document = pytest.mark.skipif(
    not DOCUMENT.exists(), reason="the OpenAPI document of Klavis is not beside this checkout (../shared/data)"
)


@cache
def document() -> dict[str, Any]:
    return json.loads(DOCUMENT.read_text())  # type: ignore[no-any-return]


def schema(name: str) -> dict[str, Any]:
    return document()["components"]["schemas"][name]  # type: ignore[no-any-return]


def operation(method: str, path: str) -> dict[str, Any]:
    return document()["paths"][path][method.lower()]  # type: ignore[no-any-return]


def name_of(reference: dict[str, Any]) -> str:
    """The schema's name in `{"$ref": ...}`, empty for a schema without one."""
    return str(reference.get("$ref", "")).rpartition("/")[2]


def success(method: str, path: str) -> tuple[str, str]:
    """The status of an operation's success, and the name of its answer's schema (empty where it has none)."""
    ((status, response),) = ((s, r) for s, r in operation(method, path)["responses"].items() if s != "422")
    return status, name_of(response["content"]["application/json"]["schema"])


def query_of(published: dict[str, Any]) -> set[str]:
    """The names of an operation's query parameters."""
    return {one["name"] for one in published.get("parameters", ()) if one["in"] == "query"}


def servers_between(method: str, before: str, after: str) -> list[str]:
    """The servers whose name alone stands between these two parts of a path."""
    paths = [path for path, methods in document()["paths"].items() if method.lower() in methods]
    found = [path[len(before) : -len(after)] for path in paths if path.startswith(before) and path.endswith(after)]
    return [name for name in found if not set(name) & set("/{}")]


def validate(answer: Any, name: str) -> None:
    """Hold a JSON answer against a schema of the document."""
    components = document()["components"]
    whole = {"$ref": f"#/components/schemas/{name}", "components": components}
    jsonschema.Draft202012Validator(whole).validate(answer)
