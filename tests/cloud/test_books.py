"""The stand-in's own logic where it is not obvious: books, expiry, reuse, limits."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cloud import KEY, SEED, Books, Cloud, Fault, light_cloud, simulated_cloud
from tests.cloud.books import SOMEBODY

OTHER = "sk-another-customer"


def ask(url: str, method: str, path: str, body: Any = None, *, key: str = KEY, timeout: float = 10) -> tuple[int, Any]:
    content = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url + path, content, {"Authorization": f"Bearer {key}"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answered:
            return answered.status, json.load(answered)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def light() -> Iterator[Cloud]:
    with light_cloud() as cloud:
        cloud.keys.add(OTHER)
        yield cloud


def acquire(light: Cloud, server: str = "github", **more: Any) -> dict[str, Any]:
    status, answer = ask(light.url, "POST", f"/sandbox/{server}", more)
    assert status == 201
    return dict(answer)


def put(light: Cloud, number: str, name: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as out:
        out.addfile(tarfile.TarInfo(name))
    _, signed = ask(light.url, "POST", f"/local-sandbox/{number}/upload-url")
    urllib.request.urlopen(urllib.request.Request(signed["upload_url"], packed.getvalue(), method="PUT")).close()
    assert ask(light.url, "POST", f"/local-sandbox/{number}/initialize")[0] == 200


def listed(light: Cloud, number: str) -> list[str]:
    _, signed = ask(light.url, "GET", f"/local-sandbox/{number}/dump")
    with (
        urllib.request.urlopen(signed["download_url"]) as answered,
        tarfile.open(fileobj=io.BytesIO(answered.read())) as opened,
    ):
        return opened.getnames()


def test_what_was_released_twice_or_never_held(light: Cloud) -> None:
    number = acquire(light)["sandbox_id"]
    assert light.books.open() == [number]
    assert ask(light.url, "DELETE", f"/sandbox/github/{number}")[0] == 200
    assert light.books.open() == []
    assert ask(light.url, "DELETE", f"/sandbox/github/{number}")[0] == 404
    assert ask(light.url, "DELETE", "/local-sandbox/nothing")[0] == 404
    assert ask(light.url, "POST", f"/sandbox/github/{number}/reset")[0] == 404
    double, never, reset = light.books.troubles()
    assert double.startswith(f"double release of {number}: it was released 0.")
    assert never == "double release of nothing: it was never acquired"
    assert reset == f"reset of {number}: nobody holds it"
    assert [one["how"] for one in light.books.history(number)] == ["released"]


def test_a_release_that_is_repeated_because_its_answer_was_lost_is_no_trouble(light: Cloud) -> None:
    number = acquire(light)["sandbox_id"]
    light.faults = [Fault("DELETE .*", lose_answer=True, times=1)]
    with pytest.raises(OSError):
        ask(light.url, "DELETE", f"/sandbox/github/{number}")
    assert ask(light.url, "DELETE", f"/sandbox/github/{number}")[0] == 404
    assert light.books.troubles() == []


def test_who_hung_up_may_release_again(light: Cloud) -> None:
    light.latency = {"release": 0.5}
    number = acquire(light)["sandbox_id"]
    with pytest.raises(TimeoutError):
        ask(light.url, "DELETE", f"/sandbox/github/{number}", timeout=0.1)
    until(lambda: not light.books.open())
    assert ask(light.url, "DELETE", f"/sandbox/github/{number}")[0] == 404
    assert light.books.troubles() == []


def test_an_expired_account_is_handed_out_again_and_a_late_release_hits_its_new_holder(light: Cloud) -> None:
    first = acquire(light)
    light.expire("github-1")
    assert ask(light.url, "GET", "/sandbox/github/github-1")[0] == 404
    _, second = ask(light.url, "POST", "/sandbox/github", {}, key=OTHER)
    assert second["sandbox_id"] == "github-1"
    assert second["server_urls"] != first["server_urls"]
    late = "/sandbox/github/github-1"
    old = first["server_urls"]["github"].partition("instance_id=")[2]
    assert "skipped" in ask(light.url, "DELETE", f"{late}?instance_id={old}")[1]["message"]
    assert light.books.troubles() == []
    assert ask(light.url, "POST", f"{late}/reset")[0] == 200
    assert ask(light.url, "DELETE", late)[0] == 200
    reset, release = light.books.troubles()
    assert reset.startswith("foreign reset of github-1")
    assert release.startswith("foreign release of github-1")
    assert light.accounts.live == {}


def test_what_somebody_else_has_is_not_ours(light: Cloud) -> None:
    acquire(light)
    light.accounts.reuse("github-1")
    assert light.books.open() == []
    assert ask(light.url, "GET", "/sandbox")[1]["total_count"] == 0
    assert light.books.history("github-1")[-1]["key"] == SOMEBODY
    assert acquire(light)["sandbox_id"] == "github-2"


def test_time_runs_out(light: Cloud) -> None:
    _, local = ask(light.url, "POST", "/local-sandbox", {"server_names": ["filesystem"], "ttl_seconds": 0.2})
    acquire(light, ttl_seconds=0.2)
    acquire(light)
    until(lambda: ask(light.url, "GET", "/sandbox")[1]["total_count"] == 1)
    until(lambda: ask(light.url, "GET", f"/local-sandbox/{local['local_sandbox_id']}")[0] == 404)
    assert light.books.open() == ["github-2"]
    assert ask(light.url, "DELETE", "/sandbox/github/github-1")[0] == 404
    assert light.books.troubles() == []


@pytest.mark.parametrize("leaves", [False, True])
def test_a_reset_empties_unless_it_leaves_dirt(light: Cloud, leaves: bool) -> None:
    light.reset_leaves_dirt = leaves
    remote = f"/sandbox/github/{acquire(light)['sandbox_id']}"
    ask(light.url, "POST", f"{remote}/initialize", {"repos": [1]})
    _, local = ask(light.url, "POST", "/local-sandbox", {"server_names": ["filesystem", "canvas"]})
    number = local["local_sandbox_id"]
    put(light, number, "a.txt")
    put(light, number, "b.txt")
    assert listed(light, number) == ["a.txt", "b.txt"]
    typed = f"/local-sandbox/canvas/canvas-of-{number}"
    assert ask(light.url, "POST", f"{typed}/initialize", {"courses": [1]})[0] == 200
    assert ask(light.url, "POST", f"{remote}/reset")[0] == ask(light.url, "POST", f"/local-sandbox/{number}/reset")[0]
    assert ask(light.url, "GET", f"{remote}/dump")[1]["data"] == ({"repos": [1]} if leaves else {})
    assert ask(light.url, "GET", f"{typed}/dump")[1]["data"] == ({"courses": [1]} if leaves else {})
    assert listed(light, number) == (["a.txt", "b.txt"] if leaves else [])


def test_capacity_counts_acquires_under_way(light: Cloud) -> None:
    light.capacity, light.latency, light.full_status = 2, {"acquire": 0.3}, 423
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(ask(light.url, "POST", "/sandbox/github", {})[0]))
        for _ in range(5)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(statuses) == [201, 201, 423, 423, 423]
    assert light.books.most == 2


@pytest.mark.parametrize("counts", [False, True])
def test_the_rate_is_a_strict_window(light: Cloud, counts: bool) -> None:
    light.rate, light.refused_count = 3.0, counts
    began = time.monotonic()
    statuses = [ask(light.url, "GET", "/sandbox")[0] for _ in range(7)]
    took = time.monotonic() - began
    if took < 1:
        assert statuses == [200] * 3 + [429] * 4
        assert light.window.refused == 4
    assert light.window.refused == statuses.count(429)


def test_labels_are_found_in_the_dialect_that_has_them() -> None:
    with light_cloud(SEED) as cloud:
        acquire(cloud, tags={"nonce": "a"})
        acquire(cloud, tags={"nonce": "b"})
        _, found = ask(cloud.url, "GET", "/sandbox?tags=%7B%22nonce%22%3A%20%22b%22%7D")
    assert [one["tags"] for one in found["sandboxes"]] == [{"nonce": "b"}]
    assert {"sandbox_id", "server_name", "status", "benchmark", "tags", "updated_at"} == set(found["sandboxes"][0])


def test_a_process_of_its_own_is_told_and_asked() -> None:
    with simulated_cloud(SEED, capacity=1, full_status=404) as cloud:
        status, answer = ask(cloud.url, "POST", "/local-sandbox", {"server_names": ["filesystem"]})
        assert status == 201
        assert "tags" not in answer["servers"][0]
        assert ask(cloud.url, "POST", "/local-sandbox", {"server_names": ["filesystem"]})[0] == 404
        cloud.change(dialect="newer", faults=[{"pattern": "GET .*", "status": 503}])
        assert ask(cloud.url, "GET", "/local-sandbox")[0] == 503
        state = cloud.change(expire=[answer["local_sandbox_id"]])
        assert state["requests"] == {"acquire": 2, "list": 1}
        assert (state["open"], state["troubles"], state["most"]) == ([], [], 1)
        assert [one["how"] for one in state["history"][answer["local_sandbox_id"]]] == ["expired"]
        with pytest.raises(urllib.error.HTTPError):
            cloud.change(nonsense=1)


def test_two_holds_of_one_sandbox_are_named() -> None:
    books = Books()
    books.acquired("a", KEY)
    books.acquired("a", KEY)
    assert books.troubles() == ["double lease of a: it was handed out while it was held"]
