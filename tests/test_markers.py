"""Marks are checked at collection, in words that name the test."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("mark", "argument", "words"),
    [
        ('local_sandbox(["filesystem"], worspace="x")', "sandbox", "did you mean 'workspace'"),
        ("local_sandbox()", "sandbox", "missing a required argument: 'servers'"),
        ('klavis_sandbox("")', "sandbox", "no server name"),
        ('klavis_sandbox("github")', "local_sandbox", "asks for neither `sandbox` nor `sandboxes`"),
        ("klavis_benchmark(3)", "sandbox", "benchmark 3"),
        ("klavis_benchmark()", "sandbox", "missing a required argument: 'name'"),
    ],
)
@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_wrong_mark_fails_collection(
    pytester: pytest.Pytester, mark: str, argument: str, words: str, workers: str
) -> None:
    pytester.makepyfile(f"import pytest\n@pytest.mark.{mark}\ndef test_it({argument}):\n    pass")
    result = pytester.runpytest(f"-n{workers}")
    assert result.ret in {pytest.ExitCode.INTERRUPTED, pytest.ExitCode.TESTS_FAILED}
    result.stdout.fnmatch_lines([f"*::test_it: *{words}*"])


def test_an_overridden_sandbox_fixture_is_named(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import pytest\n@pytest.fixture\ndef sandbox():\n    return 'mine'")
    pytester.makepyfile(
        """
        import pytest

        def test_own(sandbox):
            assert sandbox == "mine"

        @pytest.mark.local_sandbox("filesystem")
        def test_box(klavis_box, sandbox):
            assert sandbox == "mine" and klavis_box.list_files() == []
        """
    )
    pytester.runpytest().assert_outcomes(passed=2)
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.local_sandbox("filesystem")
        def test_it(sandbox):
            pass
        """
    )
    result = pytester.runpytest()
    result.stdout.fnmatch_lines(["*`sandbox` is a fixture of your own (conftest.py:*): ask for `klavis_box`*"])


def test_two_marks_of_one_name(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.local_sandbox("git")
        @pytest.mark.local_sandbox("filesystem")
        def test_it(sandboxes):
            pass
        """
    )
    pytester.runpytest().stdout.fnmatch_lines(["*two marks declare a sandbox 'local': give one of them a name=*"])


def test_sandbox_without_a_mark(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_none(sandbox): pass")
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no mark declares a sandbox*"])


def test_several_declared_and_one_asked_for(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.local_sandbox("filesystem")
        @pytest.mark.local_sandbox("filesystem", name="b")
        def test_two(sandbox):
            pass
        """
    )
    result = pytester.runpytest()
    result.stdout.fnmatch_lines(["*the marks declare local, b: ask for `sandboxes`*"])


def test_the_nearest_mark_wins_and_places_keep_their_order(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        pytestmark = [pytest.mark.local_sandbox("git", name="one"), pytest.mark.local_sandbox("git", name="two")]

        def test_order(sandboxes):
            assert list(sandboxes) == ["one", "two"]

        @pytest.mark.local_sandbox("terminal", name="one")
        @pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.local_sandbox("filesystem", name="one")), 2])
        def test_parameter(sandboxes, x):
            assert list(sandboxes["one"].servers) == [{1: "filesystem", 2: "terminal"}[x]]

        @pytest.mark.local_sandbox("terminal", name="one")
        class Base:
            pass

        @pytest.mark.local_sandbox("filesystem", name="one")
        class TestDerived(Base):
            def test_it(self, sandboxes):
                assert list(sandboxes["one"].servers) == ["filesystem"]
        """
    )
    pytester.runpytest().assert_outcomes(passed=4)


def test_marks_of_unittest_methods_are_checked(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import unittest
        import pytest

        class TestIt(unittest.TestCase):
            @pytest.mark.local_sandbox("filesystem", worspace="x")
            def test_it(self):
                pass
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*did you mean 'workspace'*"])


def test_not_klavis_is_offline(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_plain():
            pass

        def test_box(local_sandbox):
            pass

        def test_alias(klavis_local_sandbox):
            pass

        def test_wide(session_klavis_sandbox):
            pass
        """
    )
    result = pytester.runpytest("-m", "not klavis", "--strict-markers")
    result.assert_outcomes(passed=1, deselected=3)


def test_markers_are_listed(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.local_sandbox(servers, workspace=None, *, benchmark=INHERIT, *"])
    result = pytester.runpytest("--fixtures")
    result.stdout.fnmatch_lines_random(["local_sandbox*", "klavis_sandboxes*", "session_klavis_sandbox*"])


def test_unittest_classes_use_sandboxes_by_an_autouse_fixture(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import unittest
        import pytest

        class TestIt(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def _box(self, local_sandbox):
                self.box = local_sandbox("filesystem", workspace={"a.txt": "x"})

            def test_files(self):
                self.assertEqual(self.box.list_files(), ["a.txt"])
        """
    )
    pytester.runpytest().assert_outcomes(passed=1)
