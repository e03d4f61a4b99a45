"""What the wire does to a lease on the cloud: trouble is an ERROR that says what came, and nothing is left behind."""

from __future__ import annotations

import json
import tarfile

import pytest

from tests.cloud import Accounts, Cloud, Fault, Odd

SEEDED = """
def test_it(local_sandbox):
    box = local_sandbox("filesystem", workspace={"a.txt": "x"})
    assert box.read_text("a.txt") == "x"
"""
FAILING = """
def test_it(local_sandbox):
    box = local_sandbox("filesystem", workspace={"a.txt": "x"})
    box.upload({"b.txt": "y"})
    assert 0
"""
LATER = """
def test_first(local_sandbox):
    local_sandbox("filesystem")

def test_second(local_sandbox):
    local_sandbox("filesystem")

def test_third(klavis_sandbox):
    klavis_sandbox("github")
"""


def nothing_left(cloud: Cloud) -> None:
    assert cloud.held() == []
    assert cloud.accounts.live == {}
    assert cloud.keys_at_storage == []


# -- acquire -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 409, 423, 429, 503])
@pytest.mark.parametrize("kind", ["local", "remote"])
def test_no_sandbox_to_be_had(pytester: pytest.Pytester, cloud: Cloud, status: int, kind: str) -> None:
    cloud.faults = [
        Fault("POST /(local-sandbox|sandbox/github)", status=status, body='{"detail": "none is idle: 7 of 7"}')
    ]
    call = "local_sandbox('filesystem')" if kind == "local" else "klavis_sandbox('github')"
    pytester.makepyfile(f"def test_it(local_sandbox, klavis_sandbox):\n    {call}")
    result = pytester.runpytest("--klavis-acquire-timeout=4s")
    result.assert_outcomes(errors=1)
    name = "acquire local sandbox" if kind == "local" else "acquire sandbox"
    result.stdout.fnmatch_lines([f"*{name} was answered with HTTP {status}: none is idle: 7 of 7"])
    nothing_left(cloud)


@pytest.mark.parametrize(
    "headers",
    [{}, {"Retry-After": "1"}, {"Retry-After": "soon"}, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}],
    ids=["without", "with", "nonsense", "past"],
)
def test_too_many_requests_are_waited_out(pytester: pytest.Pytester, cloud: Cloud, headers: dict[str, str]) -> None:
    cloud.faults = [Fault("POST /local-sandbox", status=429, headers=headers, times=2)]
    pytester.makepyfile(SEEDED)
    pytester.runpytest().assert_outcomes(passed=1)
    assert cloud.count("POST /local-sandbox") == 3
    nothing_left(cloud)


def test_a_retry_after_beyond_the_deadline_is_told(pytester: pytest.Pytester, cloud: Cloud) -> None:
    cloud.faults = [Fault("POST /local-sandbox", status=429, headers={"Retry-After": "1000000000"})]
    pytester.makepyfile(SEEDED)
    result = pytester.runpytest("--klavis-acquire-timeout=5s")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*Error: acquire local sandbox *429*"])


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_further_acquires(pytester: pytest.Pytester, cloud: Cloud, status: int) -> None:
    cloud.faults = [Fault("POST /local-sandbox", status=status, body='{"detail": "Invalid API key"}')]
    pytester.makepyfile(LATER)
    result = pytester.runpytest()
    result.assert_outcomes(errors=3)
    assert [one for one in cloud.requests if one.startswith("POST")] == ["POST /local-sandbox"]
    result.stdout.fnmatch_lines(
        [
            f"*AuthError: acquire local sandbox was answered with HTTP {status}: Invalid API key",
            "*Set KLAVIS_API_KEY in the environment*",
            "*ERROR*test_second*",
            f"*AuthError: acquire local sandbox was answered with HTTP {status}: Invalid API key",
            "*test_first was told so first; since then nothing more is asked for.",
        ]
    )


def test_a_key_that_is_revoked_at_the_release_leaks_and_says_so(pytester: pytest.Pytester, cloud: Cloud) -> None:
    cloud.faults = [Fault("DELETE /local-sandbox/.*", status=401, body='{"detail": "revoked"}')]
    pytester.makepyfile(LATER)
    result = pytester.runpytest()
    result.assert_outcomes(passed=1, errors=2)
    [held] = cloud.held()
    result.stdout.fnmatch_lines(
        [
            "*test_first was told so first*",
            "1 acquired, 0 released, 1 leaked*",
            f"NOT released: {held} (release local sandbox was answered with HTTP 401: revoked)",
        ]
    )


@pytest.mark.parametrize(
    ("route", "call"),
    [
        ("local-sandbox/.*/execution-upload-url", "local_sandbox('filesystem').run(['true'])"),
        ("sandbox/github/.*/initialize", "klavis_sandbox('github', data={})"),
    ],
    ids=["plan", "account"],
)
def test_what_the_key_may_not_do_elsewhere_does_not_stop_the_run(
    pytester: pytest.Pytester, cloud: Cloud, route: str, call: str
) -> None:
    cloud.faults = [Fault(f"POST /{route}", status=403, body='{"detail": "not part of your plan"}')]
    pytester.makepyfile(
        f"def test_it(local_sandbox, klavis_sandbox):\n    {call}\n\n"
        "def test_later(klavis_sandbox):\n    klavis_sandbox('slack')"
    )
    pytester.runpytest().assert_outcomes(errors=1, passed=1)
    nothing_left(cloud)


def test_what_a_server_refuses_does_not_stop_the_run(pytester: pytest.Pytester, cloud: Cloud) -> None:
    cloud.faults = [Fault("PUT /storage/.*", status=403, times=2)]
    pytester.makepyfile(f"{SEEDED}\ndef test_later(local_sandbox):\n    local_sandbox('filesystem')")
    pytester.runpytest().assert_outcomes(errors=1, passed=1)
    nothing_left(cloud)


def test_a_refused_body_is_told_by_place_and_without_what_was_sent(pytester: pytest.Pytester, cloud: Cloud) -> None:
    body = {
        "detail": [{"loc": ["body", "benchmark"], "msg": "Input should be 'A'", "type": "enum", "input": "planted"}]
    }
    cloud.faults = [Fault("POST /local-sandbox", status=422, body=json.dumps(body))]
    pytester.makepyfile(SEEDED)
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*HTTP 422: body.benchmark: Input should be 'A'"])
    result.stdout.no_fnmatch_line("*planted*")


@pytest.mark.parametrize("way", ["garbage", "reset", "hang"])
def test_an_acquire_whose_answer_is_lost_is_not_repeated(pytester: pytest.Pytester, cloud: Cloud, way: str) -> None:
    cloud.faults = [Fault("POST /local-sandbox", way=way, times=1)]  # type: ignore[arg-type]
    pytester.makepyfile(SEEDED)
    result = pytester.runpytest("--klavis-acquire-timeout=3s")
    result.assert_outcomes(errors=1)
    assert cloud.count("POST /local-sandbox") == 1
    # The keeper may have found it already.
    result.stdout.re_match_lines([".*TransportError", r"(MAYBE not released|SUSPECT), .*::test_it$"])


@pytest.mark.parametrize("status", [500, 502, 504])
@pytest.mark.parametrize("call", ["local_sandbox('filesystem')", "klavis_client.acquire_local_sandbox(['filesystem'])"])
def test_an_acquire_that_a_gateway_gave_up_may_have_been_made(
    pytester: pytest.Pytester, cloud: Cloud, status: int, call: str
) -> None:
    cloud.faults = [Fault("POST /local-sandbox", status=status)]
    pytester.makepyfile(f"def test_it(local_sandbox, klavis_client):\n    {call}")
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    assert cloud.count("POST /local-sandbox") == 1
    result.stdout.fnmatch_lines(
        ["*may have said so while the sandbox was made*", "MAYBE not released*a local sandbox*"]
    )


def test_the_time_for_an_acquire_is_for_a_second_one_as_well(pytester: pytest.Pytester, cloud: Cloud) -> None:
    cloud.odd = Odd("error")
    cloud.faults = [Fault("POST /sandbox/github", delay=2)]
    pytester.makepyfile("def test_it(klavis_sandbox):\n    klavis_sandbox('github')")
    result = pytester.runpytest("--klavis-acquire-timeout=3s")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*TransportError: acquire sandbox was not answered*"])


def test_an_answer_that_is_cut_still_tells_what_to_release(pytester: pytest.Pytester, cloud: Cloud) -> None:
    cloud.faults = [Fault("POST /local-sandbox", way="cut", times=1)]
    pytester.makepyfile(SEEDED)
    result = pytester.runpytest()
    # The id was in the part that came; the details tell the rest.
    result.assert_outcomes(passed=1)
    nothing_left(cloud)


def test_nobody_answers_at_all(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, cloud: Cloud) -> None:
    monkeypatch.setenv("KLAVIS_BASE_URL", "http://127.0.0.1:9")
    pytester.makepyfile(SEEDED)
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*TransportError: acquire local sandbox was not answered by 127.0.0.1:9 (4 attempts)*"]
    )
    result.stdout.no_fnmatch_line("MAYBE*")


# -- seeding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 403])
def test_an_expired_upload_url_is_asked_for_once_more(pytester: pytest.Pytester, cloud: Cloud, status: int) -> None:
    cloud.faults = [Fault("PUT /storage/.*", status=status, times=1)]
    pytester.makepyfile(SEEDED)
    pytester.runpytest().assert_outcomes(passed=1)
    assert cloud.count("POST /local-sandbox/.*/upload-url") == 2
    cloud.faults = [Fault("PUT /storage/.*", status=status, body="<Error>expired</Error>")]
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*SeedError*", "*Signed URLs expire*"])
    assert "X-Goog" not in str(result.stdout)
    nothing_left(cloud)


@pytest.mark.parametrize("status", [422, 500])
def test_a_seed_that_cannot_be_unpacked_releases(pytester: pytest.Pytester, cloud: Cloud, status: int) -> None:
    cloud.faults = [Fault("POST /local-sandbox/.*/initialize", status=status, body='{"detail": "no room"}')]
    (pytester.path / "seed").mkdir()
    (pytester.path / "seed" / "a.txt").write_text("x")
    pytester.makepyfile("def test_it(local_sandbox):\n    local_sandbox('filesystem', workspace='seed')")
    result = pytester.runpytest("--klavis-acquire-timeout=8s")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*SeedError*seed could not be put into it*HTTP {status}: no room*"])
    nothing_left(cloud)


@pytest.mark.parametrize("way", ["reset", "hang"])
def test_an_initialize_without_an_answer_is_repeated_or_releases(
    pytester: pytest.Pytester, cloud: Cloud, way: str
) -> None:
    pytester.makepyfile(SEEDED)
    cloud.faults = [Fault("POST /local-sandbox/.*/initialize", way=way, times=1)]  # type: ignore[arg-type]
    result = pytester.runpytest("--klavis-acquire-timeout=4s")
    result.assert_outcomes(**({"passed": 1} if way == "reset" else {"errors": 1}))
    nothing_left(cloud)


# -- dumping -------------------------------------------------------------------------------------


def test_a_dump_that_fails_changes_nothing_of_the_verdict(pytester: pytest.Pytester, cloud: Cloud) -> None:
    cloud.faults = [Fault("GET /local-sandbox/.*/dump", status=422, body='{"detail": "no dump"}')]
    pytester.makepyfile(FAILING)
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["its state could NOT be saved: *no dump*", "what is known of it: *", "1 acquired, 1 released*"]
    )
    [facts] = pytester.path.glob("klavis-artifacts/latest/*/attempt-1/local/sandbox.json")
    assert "no dump" in json.loads(facts.read_text())["dump_error"]
    nothing_left(cloud)


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 403, "body": "<Error>expired</Error>"},
        {"way": "cut"},
        {"way": "silently cut"},
        {"way": "garbage"},
        {"way": "reset"},
        {"status": 502},
    ],
    ids=str,
)
def test_a_broken_download_is_tried_once_more(
    pytester: pytest.Pytester, cloud: Cloud, fault: dict[str, object]
) -> None:
    cloud.faults = [Fault("GET /storage/.*", times=1, **fault)]  # type: ignore[arg-type]
    pytester.makepyfile(FAILING)
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["changed against the seed:", "  A b.txt (+1)", "saved in *"])
    [archive] = pytester.path.glob("klavis-artifacts/latest/*/attempt-1/local/workspace.tar.gz")
    with tarfile.open(archive) as opened:
        assert "./b.txt" in opened.getnames()
    nothing_left(cloud)


@pytest.mark.parametrize(
    ("way", "left"), [("silently cut", ["workspace.tar.gz.damaged"]), ("garbage", ["workspace.tar.gz.damaged"])]
)
def test_a_dump_that_stays_broken_is_kept_as_what_it_is(
    pytester: pytest.Pytester, cloud: Cloud, way: str, left: list[str]
) -> None:
    cloud.faults = [Fault("GET /storage/.*", way=way)]  # type: ignore[arg-type]
    pytester.makepyfile(FAILING)
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["its state could NOT be saved: *"])
    [folder] = pytester.path.glob("klavis-artifacts/latest/*/attempt-1/local")
    assert sorted(one.name for one in folder.iterdir()) == ["sandbox.json", *left]
    nothing_left(cloud)


def test_a_damaged_dump_that_a_test_asks_for_is_an_error(pytester: pytest.Pytester, cloud: Cloud) -> None:
    cloud.faults = [Fault("GET /storage/.*", way="silently cut", times=2)]
    pytester.makepyfile(SEEDED)
    result = pytester.runpytest("--klavis-artifacts=never")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*ArchiveError*"])
    nothing_left(cloud)


def test_a_place_for_evidence_that_cannot_be_written_still_releases(pytester: pytest.Pytester, cloud: Cloud) -> None:
    in_the_way = "open('klavis-artifacts', 'w').close()"
    pytester.makepyfile(FAILING.replace("assert 0", f"{in_the_way}; assert 0"))
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["its evidence could not be saved: *", "1 acquired, 1 released*"])
    nothing_left(cloud)


# -- release -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 502}, {"status": 504}, {"way": "reset"}], ids=str)
def test_a_release_is_repeated(pytester: pytest.Pytester, cloud: Cloud, fault: dict[str, object]) -> None:
    cloud.faults = [Fault("DELETE /local-sandbox/.*", times=2, **fault)]  # type: ignore[arg-type]
    pytester.makepyfile(SEEDED)
    result = pytester.runpytest()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["1 acquired, 1 released, 0 leaked*"])
    nothing_left(cloud)


def test_a_release_that_stays_broken_is_told_and_fails_no_test(pytester: pytest.Pytester, cloud: Cloud) -> None:
    cloud.faults = [Fault("DELETE /local-sandbox/.*", status=500, body='{"detail": "no luck"}')]
    pytester.makepyfile(SEEDED)
    result = pytester.runpytest()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*1 leaked*", "NOT released: * (release local sandbox was answered with HTTP 500: no luck)"]
    )


@pytest.mark.parametrize("status", [404, 410])
def test_one_that_is_gone_is_released(pytester: pytest.Pytester, cloud: Cloud, status: int) -> None:
    cloud.faults = [Fault("DELETE /(local-sandbox|sandbox/github)/.*", status=status)]
    pytester.makepyfile(LATER)
    result = pytester.runpytest()
    result.assert_outcomes(passed=3)
    result.stdout.re_match_lines([r"(\d) acquired, (\d reset, )?\1 released, 0 leaked"])


REMOTE = "def test_it(klavis_sandbox):\n    klavis_sandbox('github')"


def test_a_release_that_was_skipped_though_the_sandbox_is_ours(
    pytester: pytest.Pytester, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the API compares with is not what its URLs hold.
    shown = "https://github-mcp-server.klavis.ai/mcp/?instance_id=another-word-{}"
    monkeypatch.setattr(Accounts, "_url", lambda _self, _server, number: shown.format(number))
    pytester.makepyfile(REMOTE)
    result = pytester.runpytest()
    result.stdout.fnmatch_lines(["1 acquired, 1 released, 0 leaked*"])
    assert cloud.count("DELETE /sandbox/github/.*") == 2
    nothing_left(cloud)


def test_a_sandbox_that_is_somebody_elses_by_now_is_left_alone(pytester: pytest.Pytester, cloud: Cloud) -> None:
    cloud.faults = [Fault("DELETE /sandbox/github/.*", then=lambda: cloud.accounts.reuse("github-1"))]
    pytester.makepyfile(REMOTE)
    result = pytester.runpytest()
    result.stdout.fnmatch_lines(["1 acquired, 1 released, 0 leaked*"])
    assert cloud.count("DELETE /sandbox/github/.*") == 1
    assert list(cloud.accounts.live) == ["github-1"]
