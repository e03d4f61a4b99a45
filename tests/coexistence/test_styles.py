"""The ways in which tests are written: async with two plugins at once, unittest classes, subtests, in random order."""

from __future__ import annotations

import pytest

from .leaks import acquired


@pytest.fixture
def plain(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Suites with all plugins that are installed."""
    monkeypatch.delenv("PYTEST_ADDOPTS")
    return pytester


def test_asyncio_and_anyio_side_by_side(plain: pytest.Pytester) -> None:
    plain.makeini("[pytest]\nasyncio_mode = strict\nasyncio_default_fixture_loop_scope = function\n")
    plain.makepyfile(
        """
        import pytest

        @pytest.mark.asyncio
        @pytest.mark.local_sandbox("filesystem", workspace={"a.txt": "x"})
        async def test_asyncio(sandbox):
            assert await sandbox.aread_text("a.txt") == "x"

        @pytest.mark.anyio  # on asyncio and on trio
        @pytest.mark.local_sandbox("filesystem", workspace={"a.txt": "x"})
        async def test_anyio(sandbox, anyio_backend_name):
            assert await sandbox.aread_text("a.txt") == "x"

        def test_sync(local_sandbox):
            assert local_sandbox("filesystem").list_files() == []
        """
    )
    result = plain.runpytest("-p", "no:randomly")
    result.assert_outcomes(passed=4)
    assert acquired(result) == 4


def test_asyncio_auto(plain: pytest.Pytester) -> None:
    plain.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = module\n")
    plain.makepyfile(
        """
        import asyncio
        import pytest
        import pytest_asyncio

        pytestmark = pytest.mark.asyncio(loop_scope="module")

        @pytest.fixture(scope="module")
        async def shared(module_local_sandbox):
            return await module_local_sandbox.acquire("filesystem", workspace={"a.txt": "x"})

        @pytest.fixture
        async def own(local_sandbox):
            return await local_sandbox.acquire("filesystem")

        async def test_fixtures(shared, own):
            assert await shared.alist_files() == ["a.txt"]
            assert await own.alist_files() == []

        async def test_several_at_once(klavis_sandboxes, local_sandbox):
            boxes = await asyncio.gather(*(local_sandbox.acquire("filesystem") for _ in range(4)))
            assert len({box.id for box in boxes}) == 4
            files = await asyncio.gather(*(box.alist_files() for box in boxes))
            assert files == [[], [], [], []]

        async def test_given_up(local_sandbox):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await local_sandbox.acquire("filesystem")
        """
    )
    result = plain.runpytest("-p", "no:randomly")
    result.assert_outcomes(passed=3)
    assert acquired(result) in (6, 7)  # the one given up was on its way, or not


def test_unittest_classes(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import unittest
        import pytest

        class TestAgent(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def acquire(self, local_sandbox, class_local_sandbox):
                self.box = local_sandbox("filesystem", workspace={"a.txt": "x"})

            def test_reads(self):
                self.assertEqual(self.box.read_text("a.txt"), "x")

            def test_subtests(self):
                for name in ("a.txt", "b.txt"):
                    with self.subTest(name):
                        self.assertIn(name, self.box.list_files())

        @pytest.mark.local_sandbox("filesystem")
        class TestDeclared(unittest.IsolatedAsyncioTestCase):
            @pytest.fixture(autouse=True)
            def take(self, sandbox):
                self.box = sandbox

            async def test_async(self):
                self.assertEqual(await self.box.alist_files(), [])
        """
    )
    result = pytester.runpytest()
    result.stdout.fnmatch_lines(
        ["*1 failed, * passed*"] if pytest.version_tuple < (9, 0) else ["*test_subtests*b.txt*"]
    )
    assert result.parseoutcomes()["failed"] >= 1
    assert acquired(result) == 3
    assert len(list(pytester.path.glob("klavis-artifacts/latest/*/attempt-1/local/workspace.tar.gz"))) == 1


def test_doctests_and_setup_methods(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture
        def box(local_sandbox):
            return local_sandbox("filesystem", workspace={"a.txt": "x"})

        @pytest.fixture(autouse=True)
        def names(request, doctest_namespace):
            doctest_namespace["request"] = request
        """
    )
    pytester.maketxtfile(test_doc=">>> getfixture('box').list_files()\n['a.txt']\n")
    pytester.makepyfile(
        """
        class TestXunit:
            def setup_method(self):
                self.ready = True

            def test_it(self, box):
                assert self.ready and box.list_files() == ["a.txt"]
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=2)
    assert acquired(result) == 2


def test_reruns_with_a_wide_sandbox(pytester: pytest.Pytester) -> None:
    """The failing test is run again with a fresh sandbox of its own, and the module's as it is by then."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="module")
        def shared(module_local_sandbox):
            return module_local_sandbox("filesystem")

        def test_flaky(shared, local_sandbox):
            own = local_sandbox("filesystem")
            assert own.list_files() == []
            own.upload({"a.txt": "x"})
            shared.upload({f"{len(shared.list_files())}.txt": "x"})
            assert len(shared.list_files()) == 3

        def test_after(shared):
            assert len(shared.list_files()) == 3
        """
    )
    result = pytester.runpytest("--reruns=2")
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["rerun"]) == (2, 2)
    attempts = pytester.path.glob("klavis-artifacts/latest/*/attempt-*/local/workspace.tar.gz")
    assert {path.parent.parent.name for path in attempts} == {"attempt-1", "attempt-2"}
    assert acquired(result) == 4


def test_random_order_and_workers(plain: pytest.Pytester) -> None:
    plain.makepyfile(
        """
        import random
        import pytest

        @pytest.fixture(scope="module")
        def shared(module_local_sandbox):
            return module_local_sandbox("filesystem")

        @pytest.mark.parametrize("number", range(6))
        def test_it(shared, local_sandbox, number):
            own = local_sandbox("filesystem", workspace={"n.txt": str(number)})
            shared.upload({f"{number}.txt": "x"})
            assert own.read_text("n.txt") == str(number) and f"{number}.txt" in shared.list_files()
        """
    )
    result = plain.runpytest_subprocess("-n2", "-p", "no:asyncio")
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["Using --randomly-seed=*"])
    assert acquired(result) in (7, 8)


def test_the_seed_of_a_run_is_not_used_up(plain: pytest.Pytester) -> None:
    """What a test draws from `random` is the same with and without a sandbox before it."""
    plain.makepyfile(
        """
        import random

        def test_it(request):
            if request.config.getoption("keyword") == "test_it":
                request.getfixturevalue("local_sandbox")("filesystem", workspace={"a.txt": "x"}).diff()
            print(f"drawn {random.random()}")
        """
    )
    drawn = {
        line
        for more in ([], ["-k", "test_it"])
        for line in plain.runpytest_subprocess("-p", "no:asyncio", "--randomly-seed=7", "-s", *more).outlines
        if "drawn" in line
    }
    assert len(drawn) == 1
