"""xdist in all its modes, and its absence, with the factories of all scopes: nothing shared, nothing leaked."""

from __future__ import annotations

from collections import defaultdict

import pytest

from .leaks import acquired

FIXTURES = """
    import os
    import pytest

    WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")

    @pytest.fixture(scope="class")
    def of_class(class_local_sandbox):
        return class_local_sandbox("filesystem")

    @pytest.fixture(scope="module")
    def of_module(module_local_sandbox):
        return module_local_sandbox("filesystem")

    @pytest.fixture(scope="package")
    def of_package(package_local_sandbox):
        return package_local_sandbox("filesystem")

    @pytest.fixture(scope="session")
    def of_session(session_local_sandbox):
        return session_local_sandbox("filesystem")

    @pytest.fixture
    def note(request):
        def note(**boxes):
            with open(request.config.rootpath / "used.txt", "a") as used:
                used.writelines(f"{scope} {box.id} {WORKER}\\n" for scope, box in boxes.items())
        return note
"""
SUITE = """
    import pytest

    @pytest.mark.parametrize("number", range(2))
    @pytest.mark.local_sandbox("filesystem", workspace={"a.txt": "x"})
    def test_declared(sandbox, note, number):
        assert sandbox.read_text("a.txt") == "x"
        note(function=sandbox)

    @pytest.mark.xdist_group("one")
    @pytest.mark.parametrize("number", range(2))
    def test_wide(of_module, of_package, of_session, note, number):
        note(module=of_module, package=of_package, session=of_session)
        of_module.upload({f"{number}.txt": "x"})
        assert f"{number}.txt" in of_module.list_files()
        assert of_package.list_files() == of_session.list_files() == []

    class TestClass:
        def test_first(self, of_class, note):
            note(**{"class": of_class})
            of_class.upload({"first.txt": "x"})

        def test_second(self, of_class, note):
            note(**{"class": of_class})
            assert of_class.list_files() in ([], ["first.txt"])
"""
TESTS = 12  # two modules of six
AT_ONCE = 4 + 2 * 1 + 2 * 1 + 1 + 1  # for functions, classes, modules, the package, the session, in one process


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(FIXTURES)
    package = pytester.mkpydir("suite")
    for name in ("test_one.py", "test_two.py"):
        pytester.makepyfile(**{name.removesuffix(".py"): SUITE})
        (pytester.path / name).rename(package / name)
    pytester.makeini("[pytest]\nmarkers = xdist_group\n")
    return pytester


def used(pytester: pytest.Pytester) -> dict[str, dict[str, set[str]]]:
    """Scope -> sandbox -> the processes that used it."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for line in (pytester.path / "used.txt").read_text().splitlines():
        scope, sandbox, worker = line.split()
        found[scope][sandbox].add(worker)
    return found


@pytest.mark.parametrize("mode", ["load", "loadscope", "loadgroup", "each", "no"])
def test_modes(suite: pytest.Pytester, mode: str) -> None:
    """`worksteal` and `loadfile` only choose the worker otherwise: tests/faults has all of them, on the cloud."""
    workers = [] if mode == "no" else ["--tx=2*popen"]
    result = suite.runpytest_subprocess(f"--dist={mode}", *workers)

    times = 2 if mode == "each" else 1
    result.assert_outcomes(passed=TESTS * times)
    sandboxes = used(suite)
    assert all(len(processes) == 1 for scope in sandboxes.values() for processes in scope.values())
    assert len(sandboxes["function"]) == 4 * times
    assert acquired(result) == sum(map(len, sandboxes.values()))
    if mode in ("each", "no"):
        assert acquired(result) == AT_ONCE * times
    if mode == "loadscope":  # what belongs together stays on one worker
        assert len(sandboxes["class"]) == len(sandboxes["module"]) == 2


def test_without_xdist(suite: pytest.Pytester) -> None:
    result = suite.runpytest_subprocess("-p", "no:xdist")
    result.assert_outcomes(passed=TESTS)
    assert acquired(result) == AT_ONCE
