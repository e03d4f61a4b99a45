"""How a run's server lives and dies: owners that are killed, wills, races at start, leftovers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from pytest_klavis.embedded import isolation
from pytest_klavis.embedded.sandboxes import Sandboxes
from pytest_klavis.rundir import RunDir
from tests.embedded.conftest import User, alive, processes_with, untar, wait_until

Start = Callable[..., User]


def _evidence(folder: Path) -> dict[str, str]:
    wait_until((folder / "sandbox.json").exists)
    return untar((folder / "workspace.tar.gz").read_bytes())


def test_everything_goes_with_the_last_owner_even_when_it_is_killed(start: Start, place: Path) -> None:
    user = start()
    sandbox = user.acquire("terminal")["local_sandbox_id"]
    user.upload(sandbox, {"a": "1"})
    marker = f"klavis-{time.monotonic_ns()}"
    body = {"argv": ["sh", "-c", f"setsid sh -c 'sleep 300; : {marker}' & sleep 300"]}
    url, headers = f"{user.found['url']}/local-sandbox/{sandbox}/run", dict(user.api.headers)
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(httpx.post(url, json=body, headers=headers, timeout=60)))
    thread.start()
    wait_until(lambda: processes_with(marker))
    server = user.server_pid
    user.kill()
    wait_until(lambda: not alive(server))
    thread.join(20)
    assert not processes_with(marker)
    assert list(user.run_dir.parent.iterdir()) == []


def test_a_dead_owners_will_is_carried_out_and_others_go_on(start: Start, place: Path) -> None:
    dead, other = start(), start()
    dumped, dropped, released = (dead.acquire("filesystem")["local_sandbox_id"] for _ in range(3))
    dead.upload(dumped, {"report.md": "found"})
    dead.note(sandbox=dumped, artifacts=str(place / "evidence" / "dumped"))
    dead.note(sandbox=dropped, artifacts=None)
    dead.note(sandbox=released, artifacts=str(place / "evidence" / "released"))
    dead.api.delete(f"/local-sandbox/{released}")
    theirs = other.acquire()["local_sandbox_id"]
    assert other.found["url"] == dead.found["url"]
    dead.kill()
    assert _evidence(place / "evidence" / "dumped") == {"report.md": "found"}
    about = json.loads((place / "evidence" / "dumped" / "sandbox.json").read_text())
    assert about == {
        "sandbox_id": dumped,
        "servers": ["filesystem"],
        "benchmark": None,
        "reason": "the process that held it ended without releasing it",
    }

    def left() -> list[str]:
        return [item["local_sandbox_id"] for item in other.api.get("/local-sandbox").json()["local_sandboxes"]]

    wait_until(lambda: left() == [theirs])
    wait_until(lambda: len(list((dead.run_dir / "owners").iterdir())) == 1)
    assert sorted(path.name for path in (place / "evidence").iterdir()) == ["dumped"]
    other.api.delete(f"/local-sandbox/{theirs}")


def test_closing_is_like_dying(start: Start, place: Path) -> None:
    first, second = start(), start()
    sandbox = first.acquire()["local_sandbox_id"]
    assert second.api.get(f"/local-sandbox/{sandbox}").status_code == 200
    first.say("close")
    wait_until(lambda: second.api.get(f"/local-sandbox/{sandbox}").status_code == 404)


def test_a_will_that_cannot_be_carried_out_still_ends_in_a_release(start: Start, place: Path) -> None:
    user, witness = start(), start()
    sandbox = user.acquire()["local_sandbox_id"]
    (place / "file").write_text("in the way")
    user.note(sandbox=sandbox, artifacts=str(place / "file" / "below"))
    user.note(something="else")
    user.note(sandbox=["no", "id"])
    user.kill()
    wait_until(lambda: witness.api.get(f"/local-sandbox/{sandbox}").status_code == 404)
    assert "could not be saved" in (witness.run_dir / "server.log").read_text()


def test_a_kept_sandbox_keeps_its_server(start: Start) -> None:
    user = start()
    kept, other = user.acquire()["local_sandbox_id"], user.acquire()["local_sandbox_id"]
    user.upload(kept, {"a": "1"})
    user.note(sandbox=kept, artifacts="/nowhere")
    user.note(sandbox=kept, keep=True)
    api, server = user.api, user.server_pid
    user.kill()
    wait_until(lambda: api.get(f"/local-sandbox/{other}").status_code == 404)
    time.sleep(1.5)  # longer than a server stays without owners
    assert user.download(kept) == {"a": "1"}
    api.delete(f"/local-sandbox/{kept}")
    wait_until(lambda: not alive(server))
    assert not user.run_dir.exists()


def test_a_fork_of_an_owner_neither_keeps_nor_drops_anything(start: Start) -> None:
    user = start()
    sandbox = user.acquire()["local_sandbox_id"]
    user.say("fork")  # the child calls close() and exits
    time.sleep(1.0)
    assert user.api.get(f"/local-sandbox/{sandbox}").status_code == 200
    child, server = user.say("linger")["child"], user.server_pid  # the child outlives its parent
    user.kill()
    wait_until(lambda: not alive(server))
    assert alive(child)
    os.kill(child, signal.SIGKILL)


def test_processes_that_start_at_once_get_one_server(start: Start) -> None:
    users = [start() for _ in range(5)]
    assert len({user.found["url"] for user in users}) == 1
    assert len({user.found["owner"] for user in users}) == 5
    assert len(processes_with(str(users[0].run_dir))) == 1


def test_runs_do_not_share_a_server(start: Start) -> None:
    one, two = start("one"), start("two")
    assert one.found["url"] != two.found["url"]
    assert one.found["key"] != two.found["key"]
    wrong = httpx.get(f"{one.found['url']}/local-sandbox", headers={"Authorization": f"Bearer {two.found['key']}"})
    assert wrong.status_code == 403


def test_a_new_user_comes_while_the_server_leaves(start: Start) -> None:
    for moment in range(4):  # the last owner is gone: each newcomer meets the server at another moment of its end
        user = start()
        sandbox = user.acquire()["local_sandbox_id"]
        assert user.api.get(f"/local-sandbox/{sandbox}").status_code == 200
        user.kill()
        time.sleep(0.35 + 0.15 * moment)


def test_a_killed_server_is_replaced_and_its_leftovers_are_swept(start: Start) -> None:
    first = start()
    sandbox = first.acquire()["local_sandbox_id"]
    first.upload(sandbox, {"a": "1"})
    old = first.server_pid
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: not alive(old))
    assert json.loads((first.run_dir / "server.json").read_text())["url"] == first.found["url"]  # stale by now
    second = start()
    assert second.found["url"] != first.found["url"]
    assert second.api.get(f"/local-sandbox/{sandbox}").status_code == 404
    assert list((second.run_dir / "workspaces").iterdir()) == []
    assert second.acquire()["status"] == "occupied"


def test_dead_runs_are_swept_by_the_next_start(start: Start, place: Path) -> None:
    dead, running = start("dead"), start("running")
    dead.upload(dead.acquire("terminal")["local_sandbox_id"], {"a": "1"})
    running.acquire()
    os.kill(dead.server_pid, signal.SIGKILL)
    dead.kill()
    base = dead.run_dir.parent
    (base / "young").mkdir()  # may be starting right now
    (base / "old").mkdir()
    os.utime(base / "old", (time.time() - 3_600,) * 2)
    (base / "a file").write_text("not ours to judge")
    start("next").acquire()
    wait_until(lambda: sorted(path.name for path in base.iterdir()) == ["a file", "next", "running", "young"])
    assert running.api.get("/local-sandbox").json()["total_count"] == 1


def test_sigint_and_sighup_do_not_end_it_and_sigterm_ends_it_with_evidence(start: Start, place: Path) -> None:
    user = start()
    sandbox = user.acquire()["local_sandbox_id"]
    user.upload(sandbox, {"a": "1"})
    user.note(sandbox=sandbox, artifacts=str(place / "evidence"))
    server = user.server_pid
    for ignored in (signal.SIGINT, signal.SIGHUP):
        os.kill(server, ignored)
    time.sleep(0.3)
    assert user.api.get(f"/local-sandbox/{sandbox}").status_code == 200
    os.kill(server, signal.SIGTERM)
    wait_until(lambda: not alive(server))
    assert _evidence(place / "evidence") == {"a": "1"}
    assert not user.run_dir.exists()


def test_its_process_is_its_own(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLAVIS_API_KEY", "a-cloud-key")
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    user = start()
    assert user.found
    server = user.server_pid
    environment = Path(f"/proc/{server}/environ").read_bytes().decode().split("\0")
    names = {entry.partition("=")[0] for entry in environment if entry}
    where_servers_are = {"HOME", "XDG_DATA_HOME", "KLAVIS_SERVERS_DIR", "KLAVIS_SERVERS_LOCK"}
    assert names <= {"PATH", "LANG", "TZ", "TMPDIR", "LC_CTYPE", "LC_ALL"} | where_servers_are | {
        name for name in names if "COVERAGE" in name
    }
    assert os.getsid(server) != os.getsid(0)
    assert Path(f"/proc/{server}/fd/0").resolve() == Path("/dev/null")
    assert Path(f"/proc/{server}/cwd").resolve() == Path("/")
    children = Path(f"/proc/{user.process.pid}/task/{user.process.pid}/children").read_text().split()
    assert str(server) not in children


def test_the_run_directory_is_private(start: Start) -> None:
    user = start()
    sandbox = user.acquire()["local_sandbox_id"]
    user.upload(sandbox, {"a": "1"})
    expected = 0o711 if os.geteuid() == 0 else 0o700
    for path in (user.run_dir.parent, user.run_dir, user.run_dir / "workspaces", user.run_dir / "workspaces" / sandbox):
        assert path.stat().st_mode & 0o777 == expected
    for path in (user.run_dir / "server.json", user.run_dir / "server.log", *(user.run_dir / "owners").iterdir()):
        assert path.stat().st_mode & 0o777 == 0o600
    assert (user.run_dir / "archives").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_as_root_each_sandbox_has_its_own_uid(start: Start) -> None:
    user = start()
    workspaces = [user.run_dir / "workspaces" / user.acquire()["local_sandbox_id"] / "workspace" for _ in range(20)]
    uids = {path.stat().st_uid for path in workspaces}
    assert len(uids) == 20
    assert min(uids) > 30_000


def test_a_sandbox_ends_when_its_time_is_over(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.make()

    async def live_and_expire() -> None:
        sandboxes = Sandboxes(run, await isolation.choose())
        short = sandboxes.acquire(["filesystem"], {}, None, None, 0.2)
        long = sandboxes.acquire(["filesystem"], {}, None, None, 60)
        await asyncio.sleep(0.1)
        assert sandboxes.find(short.id) is short
        await asyncio.sleep(0.3)
        await sandboxes.settle()
        assert sandboxes.find(short.id) is None
        assert not short.home.exists()
        assert not short.archives.exists()
        assert sandboxes.find(long.id) is long
        assert long.home.exists()
        await sandboxes.close()
        assert not long.home.exists()

    asyncio.run(live_and_expire())


def test_a_sandbox_acquired_in_the_name_of_the_dead_does_not_stay(start: Start) -> None:
    witness = start()
    headers = {"X-Klavis-Owner": "123-already-dead"}
    body = {"server_names": ["filesystem"]}
    sandbox = witness.api.post("/local-sandbox", json=body, headers=headers).json()["local_sandbox_id"]
    wait_until(lambda: witness.api.get(f"/local-sandbox/{sandbox}").status_code == 404)
    odd = witness.api.post("/local-sandbox", json=body, headers={"X-Klavis-Owner": "../x"})
    assert odd.status_code == 422


def test_trees_made_to_resist_are_removed(start: Start) -> None:
    user = start()
    sandbox = user.acquire("terminal")["local_sandbox_id"]
    deep = "for i in $(seq 1500); do mkdir d && cd d || exit 1; done; mkdir -p x/y; touch x/y/f; chmod 0 x/y x"
    assert user.run(sandbox, "sh", "-c", deep)["exit_code"] == 0
    user.api.delete(f"/local-sandbox/{sandbox}")
    wait_until(lambda: not (user.run_dir / "workspaces" / sandbox).exists())
