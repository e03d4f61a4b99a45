"""Client and models against the published OpenAPI document: every difference is in one table, with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_klavis import catalog
from pytest_klavis.api import models, operations
from pytest_klavis.api.client import KlavisClient
from pytest_klavis.api.operations import Operation
from tests.api.server import FakeApi, answer
from tests.contract import openapi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = openapi.needs_document

_OLD_TAGS = "the reference has an object; the document has a list, read as well"
_INTERNAL = "for the API's own use"
_NEWER_THAN_DOCUMENT = "in the documentation pages, which are newer than the document"

# What differs, and why it may. `+` is ours only, `-` the document's only, `~` is in both but not the same.
ALLOWED = {
    "+ acquire sandbox: body tags": "the reference labels sandboxes with an object; the document has `tag` instead",
    "+ list sandboxes: query tags": "the reference filters by a JSON string; the document by `tag`",
    "- release sandbox: query is_ttl": _INTERNAL,
    "- release local sandbox: query is_ttl": _INTERNAL,
    "+ CreateSandboxResponse.metadata": _NEWER_THAN_DOCUMENT,
    "~ SandboxInfo.tags: array, object": _OLD_TAGS,
    "~ SandboxListItem.tags: array, object": _OLD_TAGS,
    "~ LocalSandboxServerItem.tags: array, object": _OLD_TAGS,
    "+ server mock_notion": _NEWER_THAN_DOCUMENT,
    "- ValidationError.input": "it echoes what was sent, so it is not modelled and not shown",
    "- ValidationError.ctx": "as `input`",
    "~ get execution upload URL: ExecutionUploadUrlResponse": "the fields of UploadUrlResponse, under another name",
    "~ export artifacts: ExportArtifactsResponse": "the fields of DumpUrlResponse, under another name",
}

# Every call with everything that it can send.
CALLS: dict[Operation[Any], Callable[[KlavisClient], Any]] = {
    operations.ACQUIRE_SANDBOX: lambda c: c.acquire_sandbox(
        "github", benchmark="MCP_Atlas", test_account_email="a@b.c", tags={"a": "b"}, tag="t", ttl_seconds=60
    ),
    operations.GET_SANDBOX: lambda c: c.get_sandbox("github", "s-1"),
    operations.LIST_SANDBOXES: lambda c: c.list_sandboxes({"a": "b"}, tag="t", server_name="github"),
    operations.RELEASE_SANDBOX: lambda c: c.release_sandbox("github", "s-1", instance_id="n-1"),
    operations.RESET_SANDBOX: lambda c: c.reset_sandbox("github", "s-1"),
    operations.ACQUIRE_LOCAL_SANDBOX: lambda c: c.acquire_local_sandbox(
        ["git"], benchmark="Toolathlon", test_account_email="a@b.c", ttl_seconds=60
    ),
    operations.GET_LOCAL_SANDBOX: lambda c: c.get_local_sandbox("s-1"),
    operations.LIST_LOCAL_SANDBOXES: lambda c: c.list_local_sandboxes(),
    operations.RELEASE_LOCAL_SANDBOX: lambda c: c.release_local_sandbox("s-1"),
    operations.RESET_LOCAL_SANDBOX: lambda c: c.reset_local_sandbox("s-1"),
    operations.CREATE_UPLOAD_URL: lambda c: c.create_upload_url("s-1"),
    operations.INITIALIZE_LOCAL_SANDBOX: lambda c: c.initialize_local_sandbox("s-1"),
    operations.DUMP_LOCAL_SANDBOX: lambda c: c.dump_local_sandbox("s-1"),
}
# Those that the document has beyond the reference.
NEWER_CALLS: dict[Operation[Any], Callable[[KlavisClient], Any]] = {
    operations.PREPARE: lambda c: c.prepare(benchmark="Toolathlon", server_name="github"),
    operations.CREATE_EXECUTION_UPLOAD_URL: lambda c: c.create_execution_upload_url("s-1", "eval"),
    operations.EXECUTE: lambda c: c.execute("s-1", "eval"),
    operations.EXECUTION_STATUS: lambda c: c.execution_status("s-1", "eval"),
    operations.EXECUTION_LOGS: lambda c: c.execution_logs("s-1", "eval", 7),
    operations.EXPORT_ARTIFACTS: lambda c: c.export_artifacts("s-1", "eval"),
}
# One route per server in the document, one with its name in the path here.
TYPED_CALLS: dict[Operation[Any], Callable[[KlavisClient, str], Any]] = {
    operations.INITIALIZE_SANDBOX: lambda c, name: c.initialize_sandbox(name, "s-1", {}, init_default_data=True),
    operations.DUMP_SANDBOX: lambda c, name: c.dump_sandbox(name, "s-1"),
    operations.INITIALIZE_LOCAL_SERVER: lambda c, name: c.initialize_local_server(
        name, "s-1", {}, init_default_data=True
    ),
    operations.DUMP_LOCAL_SERVER: lambda c, name: c.dump_local_server(name, "s-1"),
}
MODELS = (
    *(models.CreateSandboxResponse, models.SandboxInfo, models.SandboxListItem, models.ListSandboxesResponse),
    *(models.ReleaseSandboxResponse, models.ResetSandboxResponse, models.InitializeSandboxResponse),
    *(models.AcquireLocalSandboxResponse, models.LocalSandboxInfo, models.LocalSandboxServerItem),
    *(models.ListLocalSandboxesResponse, models.UploadUrlResponse, models.DumpUrlResponse),
    *(models.ExecuteResponse, models.ExecutionStatusResponse, models.ExecutionLogsResponse),
    *(models.HTTPValidationError, models.ValidationError),
)
REQUESTS: dict[type[models.Request], str] = {
    models.AcquireSandboxRequest: "acquire sandbox",
    models.AcquireLocalSandboxRequest: "acquire local sandbox",
}
ID = {
    "sandbox_id": "s-1",
    "local_sandbox_id": "s-1",
    "upload_url": "https://x.test/y",
    "download_url": "https://x.test/y",
    "status": "running",
}


def test_every_operation_of_the_reference_is_called() -> None:
    assert tuple(CALLS) == operations.SEED_OPERATIONS
    assert len(CALLS) == 13


def test_the_table_of_differences_is_neither_short_nor_long() -> None:
    found = {*_calls(), *_bodies(), *_answers(), *_names()}
    assert sorted(found - ALLOWED.keys()) == [], "differences without a reason"
    assert sorted(ALLOWED.keys() - found) == [], "reasons without a difference: remove them"


def test_every_operation_is_held_against_the_document() -> None:
    ours = {one for one in vars(operations).values() if isinstance(one, Operation)}
    assert ours - {*CALLS, *NEWER_CALLS, *TYPED_CALLS} == {operations.RUN_COMMAND}, "that is the embedded backend's own"


@pytest.mark.parametrize("operation", CALLS, ids=lambda operation: operation.name)
def test_route_and_answer(operation: Operation[Any]) -> None:
    status, name = openapi.success(operation.method, operation.path)
    assert status in ("200", "201")
    assert name == _name_of_answer(operation)


@pytest.mark.parametrize("operation", TYPED_CALLS, ids=lambda operation: operation.name)
def test_routes_with_the_name_of_a_server(operation: Operation[Any]) -> None:
    """Every server that the document has such a route for; and no other route looks like one of them."""
    before, after = operation.path.split("{server_name}")
    servers = openapi.servers_between(operation.method, before, after)
    assert len(servers) == (3 if before.startswith("/local") else 41)
    with FakeApi() as api:
        client = KlavisClient(api.url, "key-of-the-contract-test")
        api.says(answer(ID))
        for server in servers:
            TYPED_CALLS[operation](client, server)
            path = f"{before}{server}{after}"
            assert (api.asked[-1].method, api.asked[-1].path) == (operation.method, path.format(sandbox_id="s-1"))
            published = openapi.operation(operation.method, path)
            assert set(api.asked[-1].query) == openapi.query_of(published)
            assert (api.asked[-1].json is not None) == ("requestBody" in published)
            name = openapi.success(operation.method, path)[1]
            assert name == _name_of_answer(operation) or name.startswith("DumpSandboxResponse_")


@pytest.mark.parametrize("name", ["acquire", "status", "unknown"])
def test_what_the_document_allows_is_understood(name: str) -> None:
    """Answers as bare as the document permits: each required field, nothing else."""
    for model in MODELS:
        required = openapi.schema(model.__name__).get("required", [])
        sample = {field: [] if field in ("servers", "sandboxes", "local_sandboxes") else "x" for field in required}
        sample |= {"extra": name}
        assert model.model_validate(sample).model_extra == {"extra": name}


def _calls() -> Iterator[str]:
    """Differences between what the client sends and what the document takes: routes, queries, bodies, answers."""
    with FakeApi() as api:
        client = KlavisClient(api.url, "key-of-the-contract-test")
        api.says(answer(ID))
        for operation, call in {**CALLS, **NEWER_CALLS}.items():
            call(client)
            asked = api.asked[-1]
            filled = operation.path.format(server_name="github", sandbox_id="s-1", local_sandbox_id="s-1")
            assert (asked.method, asked.path) == (operation.method, filled)
            published = openapi.operation(operation.method, operation.path)
            yield from _between(set(asked.query), openapi.query_of(published), f"{operation.name}: query ")
            body = published.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            fields = openapi.schema(openapi.name_of(body))["properties"] if body else {}
            yield from _between(set(asked.json or {}), set(fields), f"{operation.name}: body ")
            name = openapi.success(operation.method, operation.path)[1]
            if name != _name_of_answer(operation):
                ours, theirs = openapi.schema(_name_of_answer(operation)), openapi.schema(name)
                assert {f: _types(one) for f, one in ours["properties"].items()} == {
                    f: _types(one) for f, one in theirs["properties"].items()
                }
                yield f"~ {operation.name}: {name}"


def _name_of_answer(operation: Operation[Any]) -> str:
    return operation.answer.__name__ if operation.answer is not models.Answer else ""


def _bodies() -> Iterator[str]:
    """The same for the models of the bodies; and what the document requires, they must require."""
    for model, name in REQUESTS.items():
        published = openapi.schema(model.__name__)
        yield from _between(set(model.model_fields), set(published["properties"]), f"{name}: body ")
        ours = {field for field, info in model.model_fields.items() if info.is_required()}
        assert ours == set(published.get("required", ()))


def _answers() -> Iterator[str]:
    """Fields of answers: which there are, of what type, and whether they can be null (then they are no promise)."""
    for model in MODELS:
        published = openapi.schema(model.__name__)
        ours = model.model_json_schema()
        yield from _between(set(ours["properties"]), set(published["properties"]), f"{model.__name__}.")
        for field in ours["properties"].keys() & published["properties"].keys():
            here, there = _types(ours["properties"][field]), _types(published["properties"][field])
            if here - {"null"} != there - {"null"}:
                yield f"~ {model.__name__}.{field}: {', '.join(sorted(here - {'null'}))}"
            default = published["properties"][field].get("default")
            promised = field in published.get("required", ()) or default is not None
            promised = promised or model is models.HTTPValidationError
            assert ("null" not in here) == promised, f"{model.__name__}.{field}"
        # Only what makes an answer useful may be required of it, and never more than was promised.
        assert set(ours.get("required", ())) <= set(published.get("required", ()))


def _names() -> Iterator[str]:
    """Servers, benchmarks and statuses: those of the reference are all in the document, and we know all of its."""
    for ours, newer, name in (
        (catalog.REMOTE_SERVERS, catalog.NEWER_REMOTE_SERVERS, "SandboxMCPServer"),
        (catalog.LOCAL_SERVERS, catalog.NEWER_LOCAL_SERVERS, "LocalSandboxMCPServer"),
        (catalog.BENCHMARKS, catalog.NEWER_BENCHMARKS, "BenchmarkEnum"),
        (catalog.STATUSES, (), "SandboxStatus"),
    ):
        published = set(openapi.schema(name)["enum"])
        assert set(ours) <= published
        yield from _between({*ours, *newer}, published, "server ")


def _between(ours: set[str], theirs: set[str], where: str) -> Iterator[str]:
    yield from (f"+ {where}{name}" for name in ours - theirs)
    yield from (f"- {where}{name}" for name in theirs - ours)


def _types(field: dict[str, Any]) -> set[str]:
    """The JSON types of a field; a reference is to an object or to an enum of strings."""
    if "anyOf" in field:
        return {one for option in field["anyOf"] for one in _types(option)}
    if "type" in field:
        return {field["type"]}
    return {"string"} if "enum" in openapi.document()["components"]["schemas"][openapi.name_of(field)] else {"object"}
