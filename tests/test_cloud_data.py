"""Servers of local sandboxes that hold data beside the workspace: in, out, and in the evidence."""

from __future__ import annotations

import json
from typing import Literal

import pytest

from .cloud import Cloud, Fault

MAIL = {"emails": [{"subject": "Q3", "to": "ann@example.com"}]}
"""What a mail server is filled with."""


@pytest.mark.parametrize("route", ["item", "sandbox"])
def test_data_goes_in_and_comes_out(pytester: pytest.Pytester, cloud: Cloud, route: Literal["item", "sandbox"]) -> None:
    cloud.machines.id_of_typed_routes = route
    (pytester.path / "course.json").write_text(json.dumps({"courses": [{"name": "Art"}]}))
    pytester.makepyfile(
        f"""
        import pytest
        from pytest_klavis import SpecError
        MAIL = {MAIL!r}

        @pytest.mark.local_sandbox(
            ["filesystem", "emails", "canvas"],
            workspace={{"a.txt": "x"}},
            data={{"emails": MAIL, "canvas": "course.json"}},
        )
        def test_several(sandbox):
            assert sandbox.dump("emails") == MAIL
            assert sandbox.dump("poste_email_toolathlon") == MAIL  # the API's name will do as well
            assert sandbox.dump("canvas") == {{"courses": [{{"name": "Art"}}]}}
            sandbox.initialize({{"courses": []}}, server="canvas")
            assert sandbox.dump("canvas") == {{"courses": []}}
            assert sandbox.list_files() == ["a.txt"]
            with pytest.raises(SpecError, match="say which server's is meant; data is in emails, canvas"):
                sandbox.dump()
            with pytest.raises(SpecError, match="'filesystem' holds none; data is in emails, canvas"):
                sandbox.dump("filesystem")

        def test_one(local_sandbox):
            box = local_sandbox("poste_email_toolathlon")
            box.initialize(MAIL)
            assert box.dump() == MAIL
            box.reset()
            assert box.dump() == {{}}

        def test_a_set(klavis_sandboxes):
            boxes = klavis_sandboxes(["emails", "github"], data={{"emails": MAIL, "github": {{"repos": []}}}})
            assert boxes["emails"].dump() == MAIL
            assert boxes["github"].dump() == {{"repos": []}}

        @pytest.mark.anyio
        async def test_async(local_sandbox):
            box = await local_sandbox.acquire("canvas", data={{"canvas": {{"courses": []}}}})
            await box.ainitialize({{"courses": [1]}})
            assert await box.adump() == {{"courses": [1]}}
        """
    )
    result = pytester.runpytest("--klavis-benchmark=Toolathlon", "-k", "not async")
    result.assert_outcomes(passed=3, deselected=2)
    assert cloud.held() == []
    assert cloud.accounts.live == {}
    if route == "sandbox":  # found out once per server, and remembered
        assert cloud.count("POST /local-sandbox/canvas/canvas-of.*") == 1
    pytester.runpytest("-k", "async").assert_outcomes(passed=2, deselected=3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            '["filesystem", "git"], data={"git": {}}',
            "data= for 'git': it takes none, but files by workspace=; *'canvas'",
        ),
        ('["canvas"], data={"emails": {}}', "'emails' is not among the servers asked for: 'canvas'; *'google_cloud'*"),
        ('["canvas"], data={"canvas": 3}', "data['canvas']=3 is a int; taken is a mapping or the path of a JSON file"),
        ('["canvas"], data={"canvas": "nowhere.json"}', "*nowhere.json*"),
    ],
)
def test_what_cannot_be_right_acquires_nothing(
    pytester: pytest.Pytester, cloud: Cloud, arguments: str, words: str
) -> None:
    pytester.makepyfile(f"def test_it(local_sandbox):\n    local_sandbox({arguments})")
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*SpecError*{words.replace('[', '[[]')}*"])
    assert cloud.count("POST .*") == 0


def test_data_for_a_server_that_nobody_knows_yet_is_passed_on(pytester: pytest.Pytester, cloud: Cloud) -> None:
    pytester.makepyfile("def test_it(local_sandbox):\n    local_sandbox('brand-new', data={'brand-new': {}})")
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    assert cloud.count("POST /local-sandbox") == 1


def test_a_failure_keeps_the_data(pytester: pytest.Pytester, cloud: Cloud) -> None:
    pytester.makepyfile(
        f"""
        def test_it(local_sandbox):
            box = local_sandbox(["filesystem", "canvas"], data={{"canvas": {{"token": "sk-planted-cloud-key"}}}})
            box.initialize({MAIL!r} | {{"token": "sk-planted-cloud-key"}})
            assert 0
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["the data of canvas: data-canvas.json", "saved in *"])
    [saved] = pytester.path.glob("klavis-artifacts/latest/*/attempt-1/local/data-canvas.json")
    assert json.loads(saved.read_text())["emails"] == MAIL["emails"]
    assert "planted" not in saved.read_text()
    cloud.faults = [Fault("GET /local-sandbox/canvas/.*/dump", status=422, body='{"detail": "no dump today"}')]
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["the data of canvas could NOT be saved: *no dump today*", "what is known of it: *"])
    [archive] = pytester.path.glob("klavis-artifacts/latest/*/attempt-1/local/workspace.tar.gz")
    assert "no dump today" in (archive.parent / "sandbox.json").read_text()
    assert cloud.held() == []


def test_data_that_is_refused_is_an_error_and_releases(pytester: pytest.Pytester, cloud: Cloud) -> None:
    cloud.faults = [Fault("POST /local-sandbox/canvas/.*", status=422, body='{"detail": "bad course"}')]
    pytester.makepyfile("def test_it(local_sandbox):\n    local_sandbox('canvas', data={'canvas': {'courses': 1}})")
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*SeedError*data could not be put into it*422*bad course*", "1 acquired, 1 released*"])
    assert cloud.held() == []


def test_the_embedded_backend_has_none_of_them(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(local_sandbox):\n    local_sandbox('canvas', data={'canvas': {}})")
    pytester.runpytest("--klavis-require=off").assert_outcomes(skipped=1)
