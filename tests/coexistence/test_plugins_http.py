"""Plugins that take the network away from a test: their mocks do not reach ours, and a block is named as what it is."""

from __future__ import annotations

import pytest

from .leaks import acquired

pytestmark = pytest.mark.plugins

USE = """
        box = local_sandbox("filesystem", workspace={"a.txt": "x"})
        assert httpx.get("https://judge.example/").json() == {"score": 1}
        assert box.read_text("a.txt") == "x"
        assert box.call_tool("filesystem_read_file", {"path": "a.txt"}).text == "x"
        box.upload({"b.txt": "y"})
        assert box.diff().added == ("b.txt",)
"""


def test_pytest_httpx(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        f"""
    import httpx

    def test_mocked(httpx_mock, local_sandbox):
        httpx_mock.add_response(url="https://judge.example/", json={{"score": 1}})
        {USE}
        assert len(httpx_mock.get_requests()) == 1
    """
    )
    result = pytester.runpytest_subprocess("-W", "error")
    result.assert_outcomes(passed=1)
    assert acquired(result) == 1


def test_respx(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        f"""
    import httpx
    import respx

    def test_fixture(respx_mock, local_sandbox):
        respx_mock.get("https://judge.example/").respond(json={{"score": 1}})
        {USE}
        assert len(respx_mock.calls) == 1

    @respx.mock
    def test_decorated(local_sandbox):
        respx.get("https://judge.example/").respond(json={{"score": 1}})
        {USE}
    """
    )
    result = pytester.runpytest_subprocess("-W", "error")
    result.assert_outcomes(passed=2)
    assert acquired(result) == 2


def test_a_failure_under_a_mock_keeps_its_evidence(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_fails(httpx_mock, respx_mock, local_sandbox):
            local_sandbox("filesystem").upload({"a.txt": "x"})
            assert 0
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    assert acquired(result) == 1
    assert len(list(pytester.path.glob("klavis-artifacts/latest/*/attempt-1/local/workspace.tar.gz"))) == 1


SOCKETS = """
    import socket
    import pytest

    def test_it(local_sandbox):
        assert local_sandbox("filesystem").list_files() == []

    @pytest.mark.enable_socket
    def test_allowed_by_mark(local_sandbox):
        assert local_sandbox("filesystem").list_files() == []
"""


@pytest.mark.parametrize("strict", [[], ["-W", "error"]], ids=["", "warnings as errors"])
@pytest.mark.parametrize("flag", ["--disable-socket", "--allow-hosts=192.0.2.1"])
def test_pytest_socket_is_named_when_it_blocks(pytester: pytest.Pytester, flag: str, strict: list[str]) -> None:
    pytester.makepyfile(SOCKETS)
    result = pytester.runpytest_subprocess(flag, *strict)
    outcomes = result.parseoutcomes()
    assert (outcomes["errors"], outcomes["passed"]) == (1, 1)  # an ERROR, not a FAIL of the agent
    result.stdout.re_match_lines(
        [r".*TransportError: .*pytest-socket blocked the connection.*--allow-hosts=127\.0\.0\.1, or with @pytest"]
    )
    assert acquired(result) == 1


@pytest.mark.parametrize(
    "flags",
    [["--allow-hosts=127.0.0.1,::1"], ["--disable-socket", "--allow-hosts=127.0.0.1,::1", "--allow-unix-socket"]],
    ids=["hosts", "disabled but for hosts"],
)
def test_pytest_socket_lets_loopback_pass(pytester: pytest.Pytester, flags: list[str]) -> None:
    pytester.makepyfile(
        SOCKETS
        + """
    def test_others_stay_blocked(local_sandbox):
        local_sandbox("filesystem")
        with pytest.raises(RuntimeError), pytest.warns(UserWarning):
            socket.create_connection(("192.0.2.1", 80), timeout=0.1)
    """
    )
    result = pytester.runpytest_subprocess(*flags)
    result.assert_outcomes(passed=3)
    assert acquired(result) == 3


def test_a_block_in_the_test_does_not_keep_the_sandbox(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_it(local_sandbox, request):
            local_sandbox("filesystem")
            request.getfixturevalue("socket_disabled")
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    assert acquired(result) == 1


def test_what_a_test_that_blocks_sockets_left_is_saved_when_they_are_open_again(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest_socket

        def test_it(local_sandbox):
            local_sandbox("filesystem", workspace={"a.txt": "x"})
            pytest_socket.disable_socket()
            assert False
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=1)  # the agent's: the evidence was there in the end
    result.stdout.re_match_lines([r".*could NOT be saved: .*pytest-socket blocked"])
    assert acquired(result) == 1
    assert len(list(pytester.path.glob("klavis-artifacts/latest/*/attempt-1/local/workspace.tar.gz"))) == 1
