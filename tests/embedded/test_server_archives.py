"""Workspaces in and out: signed URLs, uploads, initialize and dumps."""

from __future__ import annotations

import gzip
import io
import tarfile
import time
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest

from pytest_klavis.embedded.signing import Signer
from pytest_klavis.embedded.web import Refusal
from tests.embedded.conftest import User, tar


def _upload_url(user: User, sandbox: str) -> str:
    answer = user.api.post(f"/local-sandbox/{sandbox}/upload-url").json()
    assert answer["expires_in_minutes"] == 30
    return str(answer["upload_url"])


def test_what_is_uploaded_is_in_the_dump(user: User) -> None:
    sandbox = user.acquire()["local_sandbox_id"]
    answer = user.upload(sandbox, {"report.md": "# Q3\n", "deep/er/data.csv": "a,b\n"})
    assert answer.status_code == 200
    body = answer.json()
    assert body["sandbox_id"] == sandbox
    assert body["status"] == "occupied"
    assert "2 files" in body["message"]
    assert user.download(sandbox) == {"report.md": "# Q3\n", "deep/er/data.csv": "a,b\n"}


def test_signed_urls_need_no_key_and_dumps_are_tar_gz_with_dotted_members(user: User) -> None:
    sandbox = user.acquire()["local_sandbox_id"]
    put = httpx.put(_upload_url(user, sandbox), content=tar({"a": "1"}), headers={"Content-Type": "application/gzip"})
    assert put.status_code == 200
    assert user.api.post(f"/local-sandbox/{sandbox}/initialize").status_code == 200
    answer = user.api.get(f"/local-sandbox/{sandbox}/dump").json()
    assert answer["expires_in_minutes"] == 30
    packed = httpx.get(answer["download_url"])
    assert packed.headers["content-type"] == "application/gzip"
    with tarfile.open(fileobj=io.BytesIO(packed.content)) as archive:
        assert archive.getnames() == [".", "./a"]
    assert httpx.get(answer["download_url"]).content == packed.content  # a second download may be asked for


def test_the_files_belong_to_the_sandbox(user: User) -> None:
    sandbox = user.acquire("terminal")["local_sandbox_id"]
    user.upload(sandbox, {"a.txt": "old", "d/b.txt": "old"})
    done = user.run(sandbox, "sh", "-c", "echo new > a.txt && echo new > d/b.txt && rm -r d && mkdir d && echo ok")
    assert (done["stdout"], done["stderr"]) == ("ok\n", "")
    assert user.download(sandbox) == {"a.txt": "new\n"}


def test_a_second_upload_is_laid_over_the_first_and_can_be_repeated(user: User) -> None:
    sandbox = user.acquire()["local_sandbox_id"]
    user.upload(sandbox, {"a": "1", "b": "1"})
    user.upload(sandbox, {"b": "2"})
    assert user.api.post(f"/local-sandbox/{sandbox}/initialize").status_code == 200
    assert user.download(sandbox) == {"a": "1", "b": "2"}


def test_initialize_without_an_upload_says_what_to_do(user: User) -> None:
    sandbox = user.acquire()["local_sandbox_id"]
    answer = user.api.post(f"/local-sandbox/{sandbox}/initialize")
    assert answer.status_code == 409
    assert "/upload-url" in answer.json()["detail"]


@pytest.mark.parametrize(
    "content",
    [b"", b"not a tar", gzip.compress(b"not a tar" * 1_000), tar({"a": "1"})[:-20], tar({"../out": "1"})],
    ids=["empty", "text", "zipped text", "cut off", "leads out"],  # the bytes hold the time
)
def test_an_archive_that_is_refused_changes_nothing(user: User, content: bytes) -> None:
    sandbox = user.acquire()["local_sandbox_id"]
    user.upload(sandbox, {"kept": "yes"})
    assert httpx.put(_upload_url(user, sandbox), content=content).status_code == 200
    answer = user.api.post(f"/local-sandbox/{sandbox}/initialize")
    assert answer.status_code == 400
    assert answer.json()["detail"]
    assert user.download(sandbox) == {"kept": "yes"}


def test_forged_urls_are_refused(user: User) -> None:
    mine, other = user.acquire()["local_sandbox_id"], user.acquire()["local_sandbox_id"]
    url = _upload_url(user, mine)
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    base = url.partition("?")[0]
    for forged in (
        base,
        f"{base}?signature={query['signature']}",
        f"{base}?{urlencode({**query, 'expires': str(int(query['expires']) + 1)})}",
        f"{base}?{urlencode({**query, 'signature': '0' * 64})}",
        f"{base}?{urlencode({**query, 'signature': chr(233)})}",
        url.replace(mine, other),
        url.replace("/uploads/", "/uploads/a"),
    ):
        assert httpx.put(forged, content=tar({})).status_code == 403, forged
    dump = user.api.get(f"/local-sandbox/{mine}/dump").json()["download_url"]
    assert httpx.get(dump.partition("?")[0]).status_code == 403
    assert httpx.get(dump.replace(mine, other)).status_code == 403
    assert httpx.put(dump, content=b"").status_code == 405
    authorized = httpx.get(dump.partition("?")[0], headers={"Authorization": f"Bearer {user.found['key']}"})
    assert authorized.status_code == 403  # the key is no signature


def test_signatures_expire_and_are_for_one_server_method_and_path() -> None:
    signer = Signer()

    def query(seconds: float) -> dict[str, str]:
        return {name: found[0] for name, found in parse_qs(signer.query("GET", "/a", seconds=seconds)).items()}

    signer.check("GET", "/a", query(60))
    with pytest.raises(Refusal, match="has expired"):
        signer.check("GET", "/a", query(-2))
    for method, path in (("PUT", "/a"), ("GET", "/b")):
        with pytest.raises(Refusal, match="not signed"):
            signer.check(method, path, query(60))
    with pytest.raises(Refusal, match="not signed"):
        Signer().check("GET", "/a", query(60))
    assert int(query(1_800)["expires"]) - time.time() == pytest.approx(1_800, abs=5)


def test_urls_end_with_the_sandbox(user: User) -> None:
    sandbox = user.acquire()["local_sandbox_id"]
    up, down = _upload_url(user, sandbox), user.api.get(f"/local-sandbox/{sandbox}/dump").json()["download_url"]
    user.api.delete(f"/local-sandbox/{sandbox}")
    assert httpx.put(up, content=tar({})).status_code == 404
    assert httpx.get(down).status_code == 404


def test_the_last_dumps_can_be_downloaded_and_older_ones_are_gone(user: User) -> None:
    sandbox = user.acquire()["local_sandbox_id"]
    urls = [user.api.get(f"/local-sandbox/{sandbox}/dump").json()["download_url"] for _ in range(5)]
    assert [httpx.get(url).status_code for url in urls] == [404, 404, 200, 200, 200]
    archives = user.run_dir / "archives" / sandbox
    assert len(list(archives.iterdir())) == 3


def test_an_upload_that_is_cut_off_leaves_nothing(user: User) -> None:
    sandbox = user.acquire()["local_sandbox_id"]
    url = urlsplit(_upload_url(user, sandbox))

    def cut() -> object:
        yield b"x" * 100_000
        raise ConnectionError("the client dies")

    with pytest.raises(ConnectionError):
        httpx.put(url.geturl(), content=cut())  # type: ignore[arg-type]
    assert user.api.post(f"/local-sandbox/{sandbox}/initialize").status_code == 409
    assert list((user.run_dir / "archives" / sandbox).iterdir()) == []


def test_what_an_agent_made_strange_does_not_stop_a_dump(user: User) -> None:
    sandbox = user.acquire("terminal")["local_sandbox_id"]
    user.run(
        sandbox, "sh", "-c", "mkfifo pipe; ln -s /etc/passwd out; echo t > f; mkdir shut; echo s > shut/s; chmod 0 shut"
    )
    assert user.download(sandbox)["f"] == "t\n"
