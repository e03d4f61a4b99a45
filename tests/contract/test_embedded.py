"""The embedded server speaks the documented wire: its raw answers to our client against the OpenAPI document."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_klavis import errors
from pytest_klavis.api import operations
from pytest_klavis.api.client import KlavisClient
from tests.cloud import standalone
from tests.contract import openapi
from tests.contract.relay import Relay, Said

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = openapi.needs_document

KEY = "key-of-the-contract-test"


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """The URL of a server."""
    with standalone(key=KEY) as url:
        yield url


@pytest.fixture
def relay(served: str) -> Iterator[Relay]:
    with Relay(served) as relay:
        yield relay


@pytest.fixture
def client(relay: Relay) -> KlavisClient:
    return KlavisClient(relay.url, KEY)


@pytest.fixture
def box(client: KlavisClient) -> Iterator[str]:
    box = client.acquire_local_sandbox(["filesystem"], ttl_seconds=600)
    yield box.local_sandbox_id
    client.release_local_sandbox(box.local_sandbox_id)


def hold(said: Said, operation: operations.Operation[Any]) -> None:
    """Hold a success against what the document says of the operation: the status, and the body's schema."""
    responses = openapi.operation(operation.method, operation.path)["responses"]
    assert str(said.status) in responses, said
    reference = responses[str(said.status)]["content"]["application/json"]["schema"]
    if openapi.name_of(reference):
        openapi.validate(said.content, openapi.name_of(reference))
    else:
        assert isinstance(said.content, dict)


def hold_refusal(said: Said, *statuses: int) -> None:
    """Hold a refusal against the documented shapes: a list of complaints for a 422, else a sentence."""
    assert said.status in statuses, said
    if said.status == 422:
        openapi.validate(said.content, "HTTPValidationError")
        assert said.content["detail"]
    else:
        assert said.content.keys() == {"detail"}
        assert isinstance(said.content["detail"], str)
        assert said.content["detail"]


def test_every_local_operation_answers_as_documented(client: KlavisClient, relay: Relay, tmp_path: Path) -> None:
    seed, dump = tmp_path / "seed.tar.gz", tmp_path / "dump.tar.gz"
    (tmp_path / "hello.txt").write_text("hello")
    with tarfile.open(seed, "w:gz") as packed:
        packed.add(tmp_path / "hello.txt", "sub/hello.txt")

    box = client.acquire_local_sandbox(["filesystem"], benchmark="Toolathlon", ttl_seconds=600)
    id_ = box.local_sandbox_id
    assert client.get_local_sandbox(id_).benchmark == "Toolathlon"
    listed = client.list_local_sandboxes()
    assert listed.total_count == len(listed.local_sandboxes)
    assert id_ in [one.local_sandbox_id for one in listed.local_sandboxes]
    client.upload_archive(client.create_upload_url(id_).upload_url, seed)
    assert client.initialize_local_sandbox(id_).sandbox_id == id_
    client.download_archive(client.dump_local_sandbox(id_).download_url, dump)
    client.reset_local_sandbox(id_)
    client.release_local_sandbox(id_)

    with tarfile.open(dump) as packed:
        assert "./sub/hello.txt" in packed.getnames()
    local = [operation for operation in operations.SEED_OPERATIONS if "local" in operation.path]
    routes = {(said.method, said.path.replace(id_, "{local_sandbox_id}")): said for said in relay.said}
    assert routes.keys() == {(operation.method, operation.path) for operation in local}
    for operation in local:
        hold(routes[operation.method, operation.path], operation)


def test_an_acquired_sandbox_says_where_it_is(client: KlavisClient, served: str) -> None:
    box = client.acquire_local_sandbox(["filesystem"])
    client.release_local_sandbox(box.local_sandbox_id)
    (server,) = box.servers
    assert (box.status, server.status, server.server_name) == ("occupied", "occupied", "filesystem")
    assert server.mcp_server_url == f"{served}/filesystem/mcp/?local_sandbox_id={box.local_sandbox_id}"
    assert server.metadata is not None
    assert server.metadata["backend"] == "embedded"
    assert server.metadata["root"].startswith("/")


def test_all_servers_are_answered_as_documented_also_those_that_are_missing(client: KlavisClient, relay: Relay) -> None:
    box = client.acquire_local_sandbox("ALL")
    client.release_local_sandbox(box.local_sandbox_id)
    hold(relay.said[0], operations.ACQUIRE_LOCAL_SANDBOX)
    missing = [server for server in box.servers if server.status == "error"]
    assert missing
    assert all(server.metadata and server.metadata["reason"] and not server.mcp_server_url for server in missing)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda c: c.acquire_local_sandbox(["filesytem"]), id="unknown server"),
        pytest.param(lambda c: c.acquire_local_sandbox([]), id="no server"),
        pytest.param(lambda c: c.acquire_local_sandbox(["github"]), id="remote server"),
        pytest.param(lambda c: c.acquire_local_sandbox(["filesystem"], benchmark="Mine"), id="unknown benchmark"),
        pytest.param(lambda c: c.acquire_local_sandbox(["filesystem"], ttl_seconds=59), id="ttl too short"),
        pytest.param(lambda c: c.acquire_local_sandbox(["filesystem"], ttl_seconds=86_401), id="ttl too long"),
    ],
)
def test_a_wrong_acquire_is_refused_as_documented(
    client: KlavisClient, relay: Relay, call: Callable[[KlavisClient], Any]
) -> None:
    with pytest.raises(errors.RequestRefusedError):
        call(client)
    (said,) = relay.said
    hold_refusal(said, 422)


def test_a_region_that_is_none_is_refused_as_documented(relay: Relay, box: str) -> None:
    client = KlavisClient(relay.url, KEY, region="mars")
    with pytest.raises(errors.RequestRefusedError, match=r"query\.region"):
        client.create_upload_url(box)
    hold_refusal(relay.said[-1], 422)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda c: c.get_local_sandbox("gone"), id="get"),
        pytest.param(lambda c: c.reset_local_sandbox("gone"), id="reset"),
        pytest.param(lambda c: c.create_upload_url("gone"), id="upload url"),
        pytest.param(lambda c: c.initialize_local_sandbox("gone"), id="initialize"),
        pytest.param(lambda c: c.dump_local_sandbox("gone"), id="dump"),
        pytest.param(lambda c: c.run_command("gone", ["true"]), id="run"),
    ],
)
def test_a_sandbox_that_is_none_is_not_found(
    client: KlavisClient, relay: Relay, call: Callable[[KlavisClient], Any]
) -> None:
    with pytest.raises(errors.NotFoundError, match="gone"):
        call(client)
    hold_refusal(relay.said[-1], 404)


def test_releasing_twice_is_a_404_on_the_wire_and_a_success_here(client: KlavisClient, relay: Relay) -> None:
    box = client.acquire_local_sandbox(["filesystem"])
    client.release_local_sandbox(box.local_sandbox_id)
    client.release_local_sandbox(box.local_sandbox_id)
    hold_refusal(relay.said[-1], 404)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda c: c.acquire_sandbox("github"), id="acquire"),
        pytest.param(lambda c: c.get_sandbox("github", "s-1"), id="get"),
        pytest.param(lambda c: c.reset_sandbox("github", "s-1"), id="reset"),
    ],
)
def test_remote_operations_are_refused_as_documented(
    client: KlavisClient, relay: Relay, call: Callable[[KlavisClient], Any]
) -> None:
    with pytest.raises(errors.ApiError, match="embedded backend"):
        call(client)
    hold_refusal(relay.said[-1], 404, 422)


def test_there_are_no_remote_sandboxes_to_list_or_release(client: KlavisClient, relay: Relay) -> None:
    assert client.list_sandboxes({"run": "7"}).sandboxes == []
    hold(relay.said[-1], operations.LIST_SANDBOXES)
    client.release_sandbox("github", "s-1")
    hold_refusal(relay.said[-1], 404)


def test_a_wrong_key_is_refused_with_the_hint(relay: Relay) -> None:
    with pytest.raises(errors.AuthError, match="KLAVIS_API_KEY"):
        KlavisClient(relay.url, "another-key").list_local_sandboxes()
    hold_refusal(relay.said[-1], 401, 403)


def test_a_command_runs_in_the_workspace(client: KlavisClient, box: str) -> None:
    try:
        result = client.run_command(box, ["sh", "-c", "echo out; echo err >&2; exit 3"], timeout=30)
    except errors.RequestRefusedError as error:
        if error.status != 409:
            raise
        pytest.skip(f"no isolation on this machine: {error.body}")
    assert (result.exit_code, result.stdout, result.stderr, result.stopped) == (3, "out\n", "err\n", None)
