"""Remote sandboxes against a stand-in for the cloud that speaks the documented protocol."""

from __future__ import annotations

import json

import pytest

from .cloud import Cloud, Fault


def test_a_remote_sandbox_from_acquire_to_release(pytester: pytest.Pytester, cloud: Cloud) -> None:
    (pytester.path / "shop.json").write_text(json.dumps({"repos": [{"name": "shop", "issues": [{"state": "open"}]}]}))
    pytester.makepyfile(
        """
        import pytest
        from pytest_klavis import RemoteSandbox

        @pytest.mark.klavis_sandbox("github", data="shop.json", tags={"run": "7"}, account="a@example.com", ttl="1h")
        def test_it(sandbox: RemoteSandbox):
            assert sandbox.find("repos", name="shop")["issues"][0]["state"] == "open"
            with pytest.raises(LookupError, match="no 'issues'; it has repos"):
                sandbox.find("issues")
            with pytest.raises(LookupError, match="0 of 1 repos have"):
                sandbox.find("repos", name="absent")
            assert list(sandbox.servers) == ["github"] and "instance_id" in sandbox.url
            assert sandbox.account == "a@example.com"
            assert sandbox.auth_data["access_token"] == "planted-token"
            assert "planted-token" not in repr(sandbox.auth_data) + repr(sandbox.info())
            sandbox.initialize({"repos": []})
            assert sandbox.dump() == {"repos": []}
            sandbox.reset()
            assert sandbox.dump() == {}

        def test_factory(klavis_sandbox):
            box = klavis_sandbox("jira", benchmark="mcp_atlas")
            assert box.account == "a@example.com"  # the API tells

        @pytest.mark.anyio
        @pytest.mark.klavis_sandbox("slack")
        async def test_async(sandbox):
            await sandbox.ainitialize({"channels": [{"name": "general"}]})
            assert (await sandbox.afind("channels", name="general")) == {"name": "general"}
            await sandbox.areset()
            assert await sandbox.adump() == {}
        """
    )
    result = pytester.runpytest("--klavis-benchmark=Toolathlon", "-k", "not async")
    result.assert_outcomes(passed=2, deselected=2)
    result.stdout.fnmatch_lines(
        ["klavis: cloud at 127.0.0.1:*billed*", "2 acquired, *2 released, 0 leaked on the cloud*"]
    )
    assert cloud.accounts.live == {}
    first, second = cloud.accounts.asked
    assert {"run": "7"}.items() < first.pop("tags").items()  # ours are beside it
    assert first == {"benchmark": "Toolathlon", "test_account_email": "a@example.com", "ttl_seconds": 3600}
    assert list(second.pop("tags")) == ["pytest-klavis"]
    assert second == {"benchmark": "MCP_Atlas", "ttl_seconds": 1800}
    pytester.runpytest("-k", "async").assert_outcomes(passed=2, deselected=2)
    assert cloud.accounts.live == {}


def test_remote_and_local_in_one_set(pytester: pytest.Pytester, cloud: Cloud) -> None:
    pytester.makepyfile(
        """
        def test_it(klavis_sandboxes):
            boxes = klavis_sandboxes(["github", "filesystem"], workspace={"a.txt": "x"}, data={"github": {"repos": []}})
            assert list(boxes) == ["github", "filesystem"]
            assert boxes["github"].dump() == {"repos": []}
            assert boxes["filesystem"].list_files() == ["a.txt"]
            assert set(boxes.mcp_config()["mcpServers"]) == {"github", "filesystem"}
            assert "instance_id" not in repr(boxes)
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=1)
    assert cloud.accounts.live == {}
    assert cloud.held() == []


def test_all_or_none(pytester: pytest.Pytester, cloud: Cloud) -> None:
    cloud.faults = [Fault("POST /sandbox/slack", status=404, body='{"detail": "no idle sandbox"}')]
    pytester.makepyfile(
        """
        def test_it(klavis_sandboxes):
            klavis_sandboxes(["github", "filesystem", "slack"])
        """
    )
    result = pytester.runpytest("--klavis-acquire-timeout=3s", "--klavis-pool-size=3")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*HTTP 404*no idle sandbox*"])
    assert cloud.accounts.live == {}
    assert cloud.held() == []


def test_a_failure_keeps_the_state(pytester: pytest.Pytester, cloud: Cloud) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.klavis_sandbox("github", data={"repos": [{"name": "shop"}]})
        def test_it(sandbox):
            assert sandbox.url == ""
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*its state: data.json*"])
    result.stdout.no_fnmatch_line("*-planted*")
    [saved] = pytester.path.glob("klavis-artifacts/latest/*/attempt-1/github/data.json")
    assert json.loads(saved.read_text()) == {"repos": [{"name": "shop"}]}
    assert "planted" not in (saved.parent / "sandbox.json").read_text()
    assert cloud.accounts.live == {}


def test_trouble_on_the_cloud_is_an_error(pytester: pytest.Pytester, cloud: Cloud) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.klavis_sandbox("github", data={"repos": []})
        def test_it(sandbox):
            pass
        """
    )
    cloud.faults = [Fault("POST /sandbox/github/.*/initialize", status=422, body='{"detail": "bad data"}')]
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*SeedError*could not be put into it*422*bad data*"])
    assert cloud.accounts.live == {}
    cloud.faults = [Fault("POST /sandbox/github", status=401)]
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*AuthError*HTTP 401*", "*Set KLAVIS_API_KEY in the environment*"])
    cloud.faults = [Fault("DELETE /sandbox/.*", status=422)]
    result = pytester.runpytest()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["1 acquired, 0 released, 1 leaked*", "NOT released: github-*"])


def test_the_client_gives_back_what_it_can_and_names_the_rest(pytester: pytest.Pytester, cloud: Cloud) -> None:
    cloud.faults = [Fault("DELETE /sandbox/slack/.*", status=422)]
    pytester.makepyfile(
        """
        def test_it(klavis_client):
            klavis_client.acquire_sandbox("github")
            klavis_client.acquire_sandbox("slack")
            klavis_client.acquire_sandbox("jira")
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["3 acquired, 2 released, 1 leaked*", "NOT released: slack-2 (release sandbox*422*"])
    assert list(cloud.accounts.live) == ["slack-2"]


@pytest.mark.parametrize("kind", ["klavis_sandbox('github', data={'repos': []})", "local_sandbox('canvas', data=DATA)"])
def test_data_is_put_in_once(pytester: pytest.Pytester, cloud: Cloud, kind: str) -> None:
    # What comes in is added to what is there: a second time would make everything twice.
    cloud.faults = [Fault("POST /.*/initialize", lose_answer=True, times=1)]
    pytester.makepyfile(
        f"DATA = {{'canvas': {{'courses': []}}}}\n\ndef test_it(klavis_sandbox, local_sandbox):\n    {kind}"
    )
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*SeedError*could not be put into it*", "1 acquired, 1 released, 0 leaked*"])
    assert cloud.count("POST /.*/initialize") == 1


def test_the_client_names_an_acquire_without_an_answer(pytester: pytest.Pytester, cloud: Cloud) -> None:
    cloud.faults = [Fault("POST /sandbox/github", lose_answer=True)]
    pytester.makepyfile("def test_it(klavis_client):\n    klavis_client.acquire_sandbox('github')")
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["MAYBE not released*: a remote sandbox (github), id unknown for klavis_client"])


def test_what_the_test_released_itself_is_not_released_again(pytester: pytest.Pytester, cloud: Cloud) -> None:
    pytester.makepyfile(
        """
        def test_it(klavis_client):
            number = klavis_client.acquire_sandbox("github").sandbox_id
            klavis_client.release_sandbox("github", number)
            box = klavis_client.acquire_local_sandbox(["filesystem"])
            klavis_client.release_local_sandbox(box.local_sandbox_id)
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["2 acquired, 2 released, 0 leaked*"])
    assert cloud.count("DELETE .*") == 2


def test_the_client_leaves_what_is_somebody_elses_by_now(pytester: pytest.Pytester, cloud: Cloud) -> None:
    cloud.faults = [Fault("GET /sandbox/github/.*", then=lambda: cloud.accounts.reuse("github-1"))]
    pytester.makepyfile(
        """
        def test_it(klavis_client):
            klavis_client.get_sandbox("github", klavis_client.acquire_sandbox("github").sandbox_id)
        """
    )
    pytester.runpytest().assert_outcomes(passed=1)
    assert list(cloud.accounts.live) == ["github-1"]


def test_a_forked_child_releases_nothing_of_the_client(pytester: pytest.Pytester, cloud: Cloud) -> None:
    pytester.makepyfile(
        """
        import os, sys

        def test_it(klavis_client):
            number = klavis_client.acquire_sandbox("github").sandbox_id
            child = os.fork()
            if child == 0:
                sys.exit(0)
            os.waitpid(child, 0)
            klavis_client.get_sandbox("github", number)
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:xdist")
    result.stdout.fnmatch_lines(["1 acquired, 1 released, 0 leaked*"])
    assert cloud.count("DELETE .*") == 1
    assert cloud.accounts.live == {}


def test_a_key_that_the_client_was_refused_with_stops_further_acquires(pytester: pytest.Pytester, cloud: Cloud) -> None:
    cloud.faults = [Fault("POST /sandbox/github", status=401)]
    pytester.makepyfile(
        """
        import pytest
        from pytest_klavis import AuthError

        def test_it(klavis_client):
            with pytest.raises(AuthError):
                klavis_client.acquire_sandbox("github")

        def test_later(klavis_sandbox):
            klavis_sandbox("github")
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*klavis_client was told so first*"])
    assert cloud.count("POST .*") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("KLAVIS_BASE_URL", "https://user:pw1@127.0.0.1:1/x"), ("KLAVIS_API_KEY", "my key")],
    ids=["URL with a password", "key with a space"],
)
def test_a_wrong_setting_of_the_machine_is_an_error_even_if_swallowed(
    pytester: pytest.Pytester, cloud: Cloud, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    pytester.makepyfile(
        """
        import contextlib

        def test_it(klavis_sandbox):
            with contextlib.suppress(Exception):
                klavis_sandbox("github")
        """
    )
    result = pytester.runpytest("-l")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*BackendError*{name}*"])
    result.stdout.no_fnmatch_line("*pw1*")
    assert cloud.requests == []


@pytest.mark.parametrize("value", ["datetime.date.today()", "float('nan')", "{1}", "b'x'", "'a\\ud800'"])
def test_data_that_is_no_json_is_refused_before_the_acquire(
    pytester: pytest.Pytester, cloud: Cloud, value: str
) -> None:
    pytester.makepyfile(
        f"import datetime\n\ndef test_it(klavis_sandbox):\n    klavis_sandbox('github', data={{'x': {value}}})"
    )
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*SpecError: data= cannot be sent, as it is no JSON: *"])
    assert cloud.requests == []
