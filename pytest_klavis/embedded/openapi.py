"""The server's description of itself, at `GET /openapi.json`: each REST route with what it takes and answers.

The bodies are the types of bodies.py, limits and names the constants that the handlers check with. MCP has no place in
such a document: its endpoints are in the answers (`mcp_server_url`).
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from pytest_klavis.embedded import bodies, fields
from pytest_klavis.embedded.web import JSON_LIMIT, RUN_LIMIT
from pytest_klavis.rundir import OWNER_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]

ARCHIVE = object()  # a body that is a tar.gz
_TEXT: Json = {"type": "string"}
_TEXT_OR_NULL: Json = {"anyOf": [_TEXT, {"type": "null"}]}
_REGION: Json = {"type": "string", "enum": [*fields.REGIONS], "default": fields.REGIONS[0]}
_WHY = {
    400: "The archive is refused, or the client hung up",
    401: "No key",
    403: "A wrong key or signature, or a Host or Origin that this server does not answer to",
    404: "No such sandbox",
    409: "Not in the state that this needs",
    413: "The body is too large",
    422: "Validation Error",
    500: "A server of the sandbox could not be started or installed",
    503: "The servers are being installed: ask again",
}


@dataclass(frozen=True)
class Operation:
    """One method of one route. `answer` is the body of its `success`: a type of bodies.py, ARCHIVE or None.

    `refusals` are statuses besides those that follow from the rest; `query` and `headers` map names to schemas.
    A query parameter whose schema has `properties` is sent as JSON.
    """

    summary: str
    success: int | None
    answer: Any
    refusals: tuple[int, ...] = ()
    body: Any = None
    body_required: bool = True
    query: tuple[tuple[str, Json], ...] = ()
    headers: tuple[tuple[str, Json], ...] = ()
    keyed: bool = True


_IN_REGION = (("region", _REGION),)
_SIGNED = (("expires", _TEXT), ("signature", _TEXT))
_REMOTE, _LOCAL = "/sandbox/{server_name}/{sandbox_id}", "/local-sandbox/{local_sandbox_id}"
_MAIL = "/local-sandbox/poste_email_toolathlon/{sandbox_id}"
_OWNER = ((OWNER_HEADER, {"type": "string", "pattern": f"^{fields.OWNER.pattern}$"}),)

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("GET", "/sandbox"): Operation(
        "List all remote sandboxes: there are none here yet",
        200,
        bodies.ListSandboxesResponse,
        (422,),
        query=(
            ("tags", {"type": "object", "properties": {}}),
            ("tag", _TEXT_OR_NULL),
            ("server_name", _TEXT_OR_NULL),
        ),
    ),
    ("POST", "/sandbox/{server_name}"): Operation(
        "Acquire a remote sandbox: refused, there are none here yet",
        None,
        None,
        (422,),
        body=bodies.AcquireSandboxRequest,
        body_required=False,
    ),
    ("GET", _REMOTE): Operation("Get a remote sandbox", None, None, (404,)),
    ("DELETE", _REMOTE): Operation(
        "Release a remote sandbox", None, None, (404,), query=(("instance_id", _TEXT_OR_NULL),)
    ),
    ("POST", f"{_REMOTE}/reset"): Operation("Reset a remote sandbox", None, None, (404,)),
    ("POST", f"{_REMOTE}/initialize"): Operation("Put data into a remote sandbox", None, None, (404,)),
    ("GET", f"{_REMOTE}/dump"): Operation("Get the data of a remote sandbox", None, None, (404,)),
    ("POST", "/local-sandbox"): Operation(
        "Acquire a local sandbox",
        201,
        bodies.AcquireLocalSandboxResponse,
        (409, 500, 503),
        body=bodies.AcquireLocalSandboxRequest,
        headers=_OWNER,
    ),
    ("GET", "/local-sandbox"): Operation("List local sandboxes", 200, bodies.ListLocalSandboxesResponse),
    ("GET", _LOCAL): Operation("Get local sandbox details", 200, bodies.LocalSandboxInfo, (404,)),
    ("DELETE", _LOCAL): Operation("Release a local sandbox", 200, bodies.ReleaseMessage, (404,)),
    ("POST", f"{_LOCAL}/reset"): Operation("Reset a local sandbox to its initial state", 200, bodies.Empty, (404,)),
    ("POST", f"{_LOCAL}/upload-url"): Operation(
        "Get a URL to upload a workspace to", 200, bodies.UploadUrlResponse, (404, 422), query=_IN_REGION
    ),
    ("POST", f"{_LOCAL}/initialize"): Operation(
        "Extract what was uploaded into the workspace",
        200,
        bodies.InitializeSandboxResponse,
        (400, 404, 409, 422),
        query=_IN_REGION,
    ),
    ("GET", f"{_LOCAL}/dump"): Operation(
        "Pack the workspace and get a URL to download it from",
        200,
        bodies.DumpUrlResponse,
        (400, 404, 422),
        query=_IN_REGION,
    ),
    ("POST", f"{_MAIL}/initialize"): Operation(
        "Put email into the mailboxes of a local sandbox",
        200,
        bodies.InitializeSandboxResponse,
        (404, 409, 422),
        body=bodies.PosteEmailData,
        body_required=False,
        query=(("init_default_data", {"type": "boolean", "default": False}),),
    ),
    ("GET", f"{_MAIL}/dump"): Operation(
        "Get what the mailboxes of a local sandbox hold", 200, bodies.DumpPosteEmailResponse, (404, 409)
    ),
    ("POST", f"{_LOCAL}/run"): Operation(
        "Run a command in the workspace (this backend's own)",
        200,
        bodies.RunResponse,
        (400, 404, 409),
        body=bodies.RunRequest,
    ),
    ("PUT", "/storage/{sandbox_id}/uploads/{name}"): Operation(
        "Upload a tar.gz to a signed URL",
        200,
        None,
        (400, 404),
        body=ARCHIVE,
        body_required=False,
        query=_SIGNED,
        keyed=False,
    ),
    ("GET", "/storage/{sandbox_id}/dumps/{name}"): Operation(
        "Download a tar.gz from a signed URL", 200, ARCHIVE, (404,), query=_SIGNED, keyed=False
    ),
    ("GET", "/openapi.json"): Operation("This document", 200, dict, keyed=False),
}


@functools.cache
def document() -> Json:
    """The description, OpenAPI 3.1."""
    paths: dict[str, Json] = {}
    for (method, path), operation in OPERATIONS.items():
        paths.setdefault(path, {})[method.lower()] = _described(method, path, operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "The embedded Klavis of pytest-klavis",
            "description": "The sandbox API of Klavis, on loopback, with real local servers. MCP is spoken at the URLs "
            "that an acquire answers; they take no key.",
            "version": version("pytest-klavis"),
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"HTTPBearer": {"type": "http", "scheme": "bearer", "description": "The API key."}},
        },
    }


def _described(method: str, path: str, operation: Operation) -> Json:
    described: Json = {
        "operationId": _id(method, path),
        "summary": operation.summary,
        "parameters": [*_parameters(path, operation)],
        "responses": {str(status): response for status, response in sorted(_responses(operation))},
        "security": [{"HTTPBearer": []}] if operation.keyed else [],
    }
    if operation.body is not None:
        content = _content(operation.body)
        if not operation.body_required and operation.body is not ARCHIVE:
            for kind in content.values():
                kind["schema"] = {"anyOf": [kind["schema"], {"type": "null"}]}
        described["requestBody"] = {"content": content, "required": operation.body_required}
        if operation.body is bodies.RunRequest:
            described["requestBody"]["description"] = f"At most {RUN_LIMIT:,} bytes"
        elif operation.body is not ARCHIVE:
            described["requestBody"]["description"] = f"At most {JSON_LIMIT:,} bytes"
    return described


def _id(method: str, path: str) -> str:
    """Like `post_local_sandbox_local_sandbox_id_run`."""
    return "_".join([method.lower(), *re.findall(r"\w+", path.replace("-", "_"))])


def _parameters(path: str, operation: Operation) -> Iterator[Json]:
    for part in path.split("/"):
        if part.startswith("{"):
            yield {"name": part.strip("{}"), "in": "path", "required": True, "schema": _TEXT}
    for name, schema in operation.query:
        required = not operation.keyed
        shape = {"content": {"application/json": {"schema": schema}}} if "properties" in schema else {"schema": schema}
        yield {"name": name, "in": "query", "required": required, **shape}
    for name, schema in operation.headers:
        yield {"name": name, "in": "header", "required": False, "schema": schema}


def _responses(operation: Operation) -> Iterator[tuple[int, Json]]:
    if operation.success is not None:
        content = {} if operation.answer is None else {"content": _content(operation.answer)}
        links = {"links": _links()} if operation.answer is bodies.AcquireLocalSandboxResponse else {}
        yield operation.success, {"description": "Successful Response", **content, **links}
    statuses = {403, *operation.refusals}
    if operation.keyed:
        statuses |= {401}
    if operation.body is not None:
        statuses |= {400, 413}
        statuses |= set() if operation.body is ARCHIVE else {422}
    for status in statuses:
        body = bodies.HTTPValidationError if status == 422 else bodies.Problem
        yield status, {"description": _WHY[status], "content": _content(body)}


def _links() -> Json:
    """What can be done with a sandbox that was just acquired."""
    parameters = {"local_sandbox_id": "$response.body#/local_sandbox_id"}
    named = [_id(method, path) for method, path in OPERATIONS if path.startswith(_LOCAL)]
    return {name: {"operationId": name, "parameters": parameters} for name in named}


def _content(body: Any) -> Json:
    if body is ARCHIVE:
        return {"application/gzip": {"schema": {"contentMediaType": "application/gzip"}}}
    if body is dict:
        return {"application/json": {"schema": {"type": "object"}}}
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}}


def _schemas() -> Json:
    """All types that the operations name, and those in them."""
    named = {bodies.Problem, bodies.HTTPValidationError}
    for operation in OPERATIONS.values():
        named |= {body for body in (operation.body, operation.answer) if isinstance(body, type) and body is not dict}
    _, made = TypeAdapter.json_schemas(
        [(body.__name__, "validation", TypeAdapter(body)) for body in sorted(named, key=lambda body: body.__name__)],
        ref_template="#/components/schemas/{model}",
    )
    schemas: Json = made["$defs"]
    return schemas
