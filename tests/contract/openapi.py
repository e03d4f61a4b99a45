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


def validate(answer: Any, name: str) -> None:
    """Hold a JSON answer against a schema of the document."""
    components = document()["components"]
    whole = {"$ref": f"#/components/schemas/{name}", "components": components}
    jsonschema.Draft202012Validator(whole).validate(answer)
