"""Trouble with the infrastructure is an ERROR: never a FAIL of the agent, a skip or a pass."""

from __future__ import annotations

import pytest

# A sandbox that is pulled away under the test: every later call is answered with a real 404.
GONE = """
    import pytest
    from pytest_klavis import InfraError, NotFoundError

    @pytest.fixture
    def gone(local_sandbox, klavis_client):
        box = local_sandbox("filesystem")
        klavis_client.release_local_sandbox(box.id)
        return box
"""


def suite(pytester: pytest.Pytester, body: str) -> None:
    pytester.makepyfile(test_it=GONE + body)


BODIES = {
    "raised": """
    def test_it(gone):
        gone.list_files()
    """,
    "swallowed": """
    def test_it(gone):
        try:
            gone.list_files()
        except InfraError:
            pass
    """,
    "swallowed, then failed": """
    def test_it(gone):
        try:
            gone.list_files()
        except InfraError:
            pass
        assert 0, "the agent was judged"
    """,
    "cause": """
    def test_it(gone):
        try:
            gone.list_files()
        except InfraError as error:
            raise ValueError("wrapped") from error
    """,
    "context": """
    def test_it():
        try:
            raise InfraError("the judge is down")
        except InfraError:
            raise ValueError("wrapped")
    """,
    "group": """
    def test_it(gone):
        try:
            gone.list_files()
        except InfraError as error:
            raise BaseExceptionGroup("several", [ValueError("other"), error])
    """,
    "xfail": """
    @pytest.mark.xfail
    def test_it(gone):
        gone.list_files()
    """,
    "strict xfail": """
    @pytest.mark.xfail(strict=True, raises=NotFoundError)
    def test_it(gone):
        gone.list_files()
    """,
    "skip": """
    def test_it(gone):
        try:
            gone.list_files()
        except InfraError:
            pytest.skip("no sandbox today")
    """,
    "raises": """
    def test_it(gone):
        with pytest.raises(NotFoundError):
            gone.list_files()
    """,
    "tool call": """
    def test_it(gone):
        gone.call_tool("filesystem_list_directory", {"path": "."}, check=False)
    """,
    "fixture": """
    @pytest.fixture
    def files(gone):
        return gone.list_files()

    def test_it(files):
        pass
    """,
    "swallowed in a fixture": """
    @pytest.fixture
    def files(gone):
        try:
            return gone.list_files()
        except InfraError:
            return []

    def test_it(files):
        pass
    """,
    "without a traceback": """
    def test_it(gone):
        try:
            gone.list_files()
        except InfraError as error:
            error.__traceback__ = None
    """,
    "user": """
    def test_it():
        raise InfraError("the judge is down")
    """,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_an_infra_error_is_an_error(pytester: pytest.Pytester, body: str) -> None:
    suite(pytester, body)
    result = pytester.runpytest("--junitxml=junit.xml")
    result.assert_outcomes(errors=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    junit = (pytester.path / "junit.xml").read_text()
    assert 'errors="1" failures="0" skipped="0" tests="1"' in junit


def test_the_error_names_operation_status_and_body(pytester: pytest.Pytester) -> None:
    suite(pytester, BODIES["swallowed"])
    result = pytester.runpytest()
    result.stdout.fnmatch_lines(
        ["*ERROR at setup of test_it*", "*NotFoundError: *answered with HTTP 404*", "*The test caught or outlived*"]
    )


def test_an_agents_failure_stays_a_failure(pytester: pytest.Pytester) -> None:
    suite(
        pytester,
        """
    from pytest_klavis import ToolError

    def test_assert(local_sandbox):
        assert local_sandbox("filesystem").list_files() == ["report.md"]

    def test_tool(local_sandbox):
        local_sandbox("filesystem").call_tool("filesystem_read_file", {"path": "absent"})

    @pytest.mark.xfail
    def test_expected(local_sandbox):
        assert local_sandbox("filesystem").list_files() == ["report.md"]
    """,
    )
    pytester.runpytest().assert_outcomes(failed=2, xfailed=1)


def test_with_xdist_and_maxfail(pytester: pytest.Pytester) -> None:
    suite(pytester, BODIES["swallowed"] + BODIES["user"].replace("test_it", "test_other"))
    pytester.runpytest("-n2", "--junitxml=junit.xml").assert_outcomes(errors=2)
    assert 'errors="2" failures="0"' in (pytester.path / "junit.xml").read_text()
    result = pytester.runpytest("-x")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*stopping after 1 failures*"])


def test_reruns_get_a_fresh_sandbox(pytester: pytest.Pytester) -> None:
    suite(
        pytester,
        """
    tries = []

    def test_it(local_sandbox):
        box = local_sandbox("filesystem", workspace={"a.txt": "x"})
        assert box.list_files() == ["a.txt"]
        box.upload({"b.txt": "left behind"})
        tries.append(box.id)
        if len(tries) == 1:
            raise InfraError("the judge is down")
        assert len(tries) == 3
    """,
    )
    result = pytester.runpytest("--reruns=2")
    assert "1 passed, 2 rerun" in result.stdout.str()
    result.stdout.fnmatch_lines(["3 acquired, 3 released, 0 leaked*"])
    attempts = {path.name for path in pytester.path.glob("klavis-artifacts/latest/*/*")}
    assert attempts == {"attempt-1", "attempt-2"}


@pytest.mark.skipif(pytest.version_tuple < (9, 0), reason="subtests came with pytest 9")
def test_subtests(pytester: pytest.Pytester) -> None:
    suite(
        pytester,
        """
    def test_agent_fails(local_sandbox, subtests):
        box = local_sandbox("filesystem")
        with subtests.test("first"):
            assert box.list_files() == ["report.md"]
        box.upload({"later.txt": "x"})

    def test_infra(gone, subtests):
        with subtests.test("first"):
            gone.list_files()
    """,
    )
    result = pytester.runpytest()
    outcomes = result.parseoutcomes()
    assert outcomes["errors"] == 2  # the subtest and its test
    assert outcomes["failed"] == 2
    saved = list(pytester.path.glob("klavis-artifacts/latest/*agent_fails*/attempt-1/local/changes.txt"))
    assert "later.txt" in saved[0].read_text()  # one dump, after the body


def test_no_key_on_the_cloud_is_an_error_not_a_skip(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(local_sandbox):\n    local_sandbox('filesystem')")
    result = pytester.runpytest("--klavis-backend=cloud")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*set KLAVIS_API_KEY, or run on --klavis-backend=embedded*"])


def test_a_server_that_the_backend_lacks(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_remote(klavis_sandbox):
            klavis_sandbox("github")

        def test_local(local_sandbox):
            local_sandbox("arxiv")
        """
    )
    pytester.runpytest().assert_outcomes(skipped=2)
    result = pytester.runpytest("--klavis-require=on")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*the embedded backend has no local sandbox (arxiv)*", "*filesystem*"])
