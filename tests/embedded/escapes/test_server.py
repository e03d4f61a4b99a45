"""The server's own doors: its REST calls and MCP URLs from inside a sandbox, ids that are guessed, hostile archives."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.embedded.conftest import User, untar
from tests.embedded.escapes.support import TOKEN
from tests.embedded.isolation_support import LEVELS, open_folder

# Said from inside: what an agent's code can try with everything that it could have been told, but for the key.
CALL = """
import json, sys, urllib.request
method, url, headers, body = json.loads(sys.argv[1])
request = urllib.request.Request(url, method=method, headers=headers, data=body and json.dumps(body).encode())
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try: answer = opener.open(request, timeout=5)
except urllib.error.HTTPError as error: answer = error
print("REACHED", answer.status, answer.read().decode(errors="replace"))
"""
READ = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "filesystem_read_file", "arguments": {"path": "answer.txt"}},
}
MCP = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}


class Pair:
    """Two sandboxes of one server: the agent's, and one with something in it that is not for the agent."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.own, self.other = (user.acquire("filesystem", "terminal") for _ in range(2))
        self.own_id, self.other_id = (str(box["local_sandbox_id"]) for box in (self.own, self.other))
        user.upload(self.other_id, {"answer.txt": TOKEN})
        self.other_url = str(self.other["servers"][0]["mcp_server_url"])

    def inside(self, method: str, url: str, headers: dict[str, str], body: object = None) -> str:
        """A call by the agent's code."""
        argument = json.dumps([method, url, headers, body])
        done = self.user.run(self.own_id, "python", "-c", CALL, argument)
        return str(done["stdout"] + done["stderr"])


@pytest.fixture
def pair(start: Callable[..., User], request: pytest.FixtureRequest) -> Pair:
    level = getattr(request, "param", "auto")
    user = start(isolation=level)
    if level != "auto" and user.found["isolation"] != level:
        pytest.skip(f"no {level} here")
    return Pair(user)


def _attempts(pair: Pair) -> Iterator[tuple[str, str, str, dict[str, str], object]]:
    base, own, other = pair.user.found["url"], pair.own_id, pair.other_id
    yield "the stolen URL of another", "POST", pair.other_url, MCP, READ
    yield "its own URL with another's id", "POST", f"{base}/filesystem/mcp/?local_sandbox_id={other}", MCP, READ
    yield "the list of sandboxes", "GET", f"{base}/local-sandbox", {}, None
    yield "another sandbox", "GET", f"{base}/local-sandbox/{other}", {}, None
    command = {"argv": ["cat", "answer.txt"]}
    yield "a command in another sandbox", "POST", f"{base}/local-sandbox/{other}/run", MCP, command
    yield "a dump of another sandbox", "GET", f"{base}/local-sandbox/{other}/dump", {}, None
    yield "the end of another sandbox", "DELETE", f"{base}/local-sandbox/{other}", {}, None
    yield "a reset of itself", "POST", f"{base}/local-sandbox/{own}/reset", {}, None
    yield "a new sandbox", "POST", f"{base}/local-sandbox", MCP, {"server_names": ["filesystem"]}
    yield "a sandbox with a wrong key", "POST", f"{base}/local-sandbox", {**MCP, "Authorization": "Bearer x"}, {}


@pytest.mark.parametrize("pair", LEVELS, indirect=True)
def test_from_inside_no_door_is_reached(pair: Pair) -> None:
    for what, method, url, headers, body in _attempts(pair):
        said = pair.inside(method, url, headers, body)
        assert "REACHED" not in said, what
        assert TOKEN not in said, what
    assert pair.user.download(pair.other_id) == {"answer.txt": TOKEN}


def test_without_isolation_every_door_is_reached(start: Callable[..., User]) -> None:
    """So the test above can fail; and the key guards all but the URLs of servers, which are secrets themselves."""
    if Path("/data").exists():
        pytest.skip("the level none is refused here")
    pair = Pair(start(isolation="none"))
    for what, method, url, headers, body in _attempts(pair):
        said = pair.inside(method, url, headers, body)
        assert "REACHED" in said, what
        opened = what in ("the stolen URL of another", "its own URL with another's id")
        assert (TOKEN in said) == opened, what
        assert opened or "REACHED 401" in said or "REACHED 403" in said, (what, said)


# -- ids and paths that are guessed, by a client of the server's that has no key

GUESSES = ("", "*", "%", "..", ".", "%2e%2e", "..%2f..", "0", "null", "None", "-1", "a" * 5000, "\u0000", "' OR 1=1 --")


@pytest.mark.parametrize("shape", ["{guess}", "{half}", "{upper}", "{brace}", "{padded}"])
def test_no_guess_at_an_id_finds_a_sandbox(pair: Pair, shape: str) -> None:
    """The id is the secret: nothing that only resembles it is one."""
    other, base = pair.other_id, pair.user.found["url"]
    made = {"half": other[:18], "upper": other.upper(), "brace": f"{{{other}}}", "padded": f" {other} "}
    for guess in GUESSES if shape == "{guess}" else [shape.format(**made)]:
        for parameters in ({"local_sandbox_id": guess}, {"local_sandbox_id": [guess, guess]}):
            answer = httpx.post(f"{base}/filesystem/mcp/", params=parameters, json=READ, headers=MCP)
            assert answer.status_code in (400, 404), (guess, answer.text)
            assert TOKEN not in answer.text


def test_no_path_leads_to_what_the_server_keeps(pair: Pair) -> None:
    base, other = pair.user.found["url"], pair.other_id
    signed = pair.user.api.get(f"/local-sandbox/{other}/dump").json()["download_url"]
    path, _, query = signed.partition("?")
    name = path.rsplit("/", 1)[1]
    paths = (
        f"/storage/{other}/dumps/{name}",
        f"/storage/{pair.own_id}/dumps/{name}?{query}",
        f"/storage/{pair.own_id}/../{other}/dumps/{name}?{query}x",
        f"/storage/{other}/dumps/..%2f..%2f..%2fetc%2fpasswd?{query}",
        f"/storage/{other}/dumps/%2e%2e/{name}?{query}",
        f"/storage/{other}/uploads/{name}?{query}",
        "/storage/../server.json",
        "/..%2f..%2fserver.json",
        "/local-sandbox/..%2f..%2fserver.json",
        f"/filesystem%2f..%2f/mcp/?local_sandbox_id={other}",
    )
    for one in paths:
        answer = httpx.get(base + one)
        assert answer.status_code in (400, 401, 403, 404, 405), (one, answer.status_code)
        assert TOKEN not in answer.text
        assert pair.user.found["key"] not in answer.text
    assert untar(httpx.get(signed).content) == {"answer.txt": TOKEN}


# -- archives: seeds that want out, workspaces that want something in


def _member(name: str, kind: bytes = tarfile.REGTYPE, **more: Any) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    for key, value in more.items():
        setattr(member, key, value)
    return member


def _seeds(outside: Path) -> dict[str, list[tarfile.TarInfo]]:
    out = str(outside / "open")
    link, hard, folder = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
    return {
        "a path that climbs": [_member("../../../../../../.." + out + "/made")],
        "a path that climbs later": [_member("a/b/../../../../../../../../.." + out + "/made")],
        "an absolute path": [_member(out + "/made")],
        "two slashes": [_member("/" + out + "/made")],
        "a link, then through it": [_member("l", link, linkname=out), _member("l/made")],
        "a relative link, then through it": [_member("l", link, linkname="../" * 9 + out[1:]), _member("l/made")],
        "a chain of links": [
            _member("a", link, linkname="b"),
            _member("b", link, linkname=out),
            _member("a/made"),
        ],
        "a directory that becomes a link": [_member("d", folder), _member("d", link, linkname=out), _member("d/made")],
        "a hard link out": [_member("h", hard, linkname=str(outside / "secret"))],
        "a hard link that climbs": [_member("h", hard, linkname="../" * 9 + str(outside / "secret")[1:])],
        "a hard link to a link": [
            _member("l", link, linkname=str(outside / "secret")),
            _member("h", hard, linkname="l"),
        ],
        "a device": [_member("disk", tarfile.BLKTYPE, devmajor=254, devminor=0)],
        "a character device": [_member("mem", tarfile.CHRTYPE, devmajor=1, devminor=1)],
        "a pipe": [_member("pipe", tarfile.FIFOTYPE)],
        "an owner and a mode": [_member("suid", mode=0o6777, uid=0, gid=0)],
        "a name that is no name": [_member("a\nb"), _member("\x1b[2J")],
        "an unknown kind": [_member("x", b"Z")],
        "a sparse file": [_member("s", tarfile.GNUTYPE_SPARSE)],
    }


@pytest.fixture
def outside() -> Iterator[Path]:
    with open_folder() as folder:
        (folder / "secret").write_text(TOKEN)
        (folder / "secret").chmod(0o666)
        (folder / "open").mkdir()
        (folder / "open").chmod(0o777)
        yield folder


def test_no_seed_reaches_outside(user: User, outside: Path) -> None:
    for what, members in _seeds(outside).items():
        sandbox = user.acquire("terminal")["local_sandbox_id"]
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for member in members:
                archive.addfile(member, io.BytesIO(b""))
        url = user.api.post(f"/local-sandbox/{sandbox}/upload-url").json()["upload_url"]
        assert httpx.put(url, content=packed.getvalue()).status_code == 200
        answer = user.api.post(f"/local-sandbox/{sandbox}/initialize")
        assert answer.status_code in (200, 400, 422), (what, answer.text)
        assert list((outside / "open").iterdir()) == [], what
        assert (outside / "secret").stat().st_nlink == 1, what
        assert (outside / "secret").read_text() == TOKEN, what
        look = "find . -type b -o -type c -o -type p -o -perm /6000; cat * 2>/dev/null"
        assert user.run(sandbox, "sh", "-c", look)["stdout"] == "", what
        user.api.delete(f"/local-sandbox/{sandbox}")


# What an agent leaves so that a dump brings something of the host.
LURES = {
    "a link": "ln -s {secret} l",
    "a link to a folder": "ln -s {folder} l",
    "a link that climbs": "ln -s ../../../../../../..{secret} l",
    "a link to a link": "ln -s {secret} a; ln -s a b",
    "a link in a folder": "mkdir d; ln -s {secret} d/l",
    "a hard link": "ln {secret} h || true",
    "a pipe": "mkfifo p",
    "a socket": "python -c \"import socket; socket.socket(1).bind('s')\" || true",
    "a link to a process": "ln -s /proc/self/environ l; ln -s /proc/self/root{secret} m",
    "a loop": "ln -s l l; ln -s . here",
}


def test_no_dump_brings_what_is_outside(user: User, outside: Path) -> None:
    for what, script in LURES.items():
        sandbox = user.acquire("terminal")["local_sandbox_id"]
        done = user.run(sandbox, "sh", "-c", script.format(secret=outside / "secret", folder=outside))
        assert done["exit_code"] == 0, (what, done)
        answer = user.api.get(f"/local-sandbox/{sandbox}/dump")
        assert answer.status_code in (200, 400, 409, 422), (what, answer.text)
        assert TOKEN not in answer.text
        if answer.status_code == 200:
            content = httpx.get(answer.json()["download_url"]).content
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                for member in archive:
                    assert not member.islnk(), what
                    file = archive.extractfile(member) if member.isfile() else None
                    assert file is None or TOKEN.encode() not in file.read(), what
        user.api.delete(f"/local-sandbox/{sandbox}")
    assert os.path.exists(outside)  # noqa: PTH110
