"""Whose lease it is, and until when."""

from __future__ import annotations

import pytest


def test_a_factory_that_outlives_its_test_gives_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_klavis import SpecError
        kept = []

        def test_first(local_sandbox):
            kept.append(local_sandbox)

        def test_second(local_sandbox):
            with pytest.raises(SpecError, match="its test is over"):
                kept[0]("filesystem")
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("* acquired, *")


def test_everything_of_a_set_is_checked_before_anything_is_acquired(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.local_sandbox("filesystem")
        @pytest.mark.local_sandbox("filesystem", workspace="nowhere", name="b")
        def test_it(sandboxes):
            pass
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.no_fnmatch_line("* acquired, *")


def test_two_acquires_at_once_open_one_way_to_the_backend(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import anyio, pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        async def test_it(local_sandbox):
            async def one():
                await local_sandbox.acquire("filesystem")
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(one)
            assert 0
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["4 acquired, 4 released, 0 leaked*"])
    folders = sorted(path.name for path in pytester.path.glob("klavis-artifacts/latest/*/attempt-1/*"))
    assert folders == ["local", "local-2", "local-3", "local-4"]


def test_evidence_of_a_shared_sandbox_reached_by_request_or_torn_down_elsewhere(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.fixture(scope="module")
        def box(module_local_sandbox):
            yield module_local_sandbox("filesystem", workspace={"a.txt": "x"})
            assert 0, "the teardown"

        def test_acquires(box):
            pass

        def test_reaches(request):
            request.getfixturevalue("box")
            assert 0, "the test"

        def test_last():
            pass
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=2, failed=1, errors=1)
    saved = sorted(path.parts[-3] for path in pytester.path.glob("klavis-artifacts/latest/*/attempt-1/local"))
    assert [name.split("-")[1] for name in saved] == ["test_last", "test_reaches"]


def test_a_forked_child_is_ended_as_ever(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import multiprocessing, time

        def test_it(local_sandbox):
            local_sandbox("filesystem")
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            child.start()
            time.sleep(0.2)
            child.terminate()
            child.join()
            assert child.exitcode == -15
        """
    )
    pytester.runpytest_subprocess("-p", "no:xdist").assert_outcomes(passed=1)


def test_an_awaited_acquire_does_not_count_for_the_timeout(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import time

        def pytest_klavis_acquired(item, sandbox):
            time.sleep(1.5)
        """
    )
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        async def test_it(local_sandbox):
            await local_sandbox.acquire("filesystem")
        """
    )
    pytester.runpytest_subprocess("--timeout=1").assert_outcomes(passed=1)


def test_a_benchmark_mark_rules_wide_factories_called_in_the_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.klavis_benchmark(name="toolathlon")
        def test_it(module_local_sandbox):
            assert "read_file" in {tool.name for tool in module_local_sandbox("filesystem").tools()}
        """
    )
    pytester.runpytest().assert_outcomes(passed=1)
