"""Users' own fixtures and modules that are called as ours are: theirs win, and ours stay reachable."""

from __future__ import annotations

import pytest

from .leaks import acquired, assert_untouched


@pytest.mark.parametrize("name", ["sandbox", "sandboxes", "local_sandbox", "klavis_sandbox", "klavis_client"])
@pytest.mark.parametrize("level", ["conftest", "module", "class"])
def test_a_fixture_of_the_users_wins(pytester: pytest.Pytester, name: str, level: str) -> None:
    own = f"@pytest.fixture\ndef {name}():\n    return 'mine'\n"
    in_class = own.replace("()", "(self)").replace("\n", "\n    ") if level == "class" else "pass"
    pytester.makeconftest("import pytest\n" + (own if level == "conftest" else ""))
    module = own if level == "module" else ""
    pytester.makepyfile(
        f"import pytest\n{module}\nclass TestIt:\n    {in_class}\n"
        f"    def test_it(self, {name}):\n        assert {name} == 'mine'\n"
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=1)
    assert_untouched(pytester, result)


def test_one_that_extends_ours(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture
        def local_sandbox(local_sandbox):
            def acquire(*servers, **arguments):
                return local_sandbox(list(servers), workspace={"house.md": "rules"}, **arguments)
            return acquire

        @pytest.fixture
        def sandbox(klavis_box):
            klavis_box.upload({"extra.txt": "x"})
            return klavis_box
        """
    )
    pytester.makepyfile(
        """
        import pytest

        def test_factory(local_sandbox):
            assert local_sandbox("filesystem").list_files() == ["house.md"]

        def test_the_name_that_nobody_else_has(klavis_local_sandbox):
            assert klavis_local_sandbox("filesystem").list_files() == []

        @pytest.mark.local_sandbox("filesystem")
        def test_declared(sandbox):
            assert sandbox.list_files() == ["extra.txt"]
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=3)
    assert acquired(result) == 3


@pytest.mark.parametrize("mode", ["prepend", "importlib"])
def test_a_project_with_our_name(pytester: pytest.Pytester, mode: str) -> None:
    folder = pytester.mkpydir("klavis")
    (folder / "agent.py").write_text("NAME = 'mine'\n")
    (pytester.mkpydir("pytest_klavis_x") / "plugin.py").write_text("def pytest_report_header():\n    return 'of x'\n")
    for name in (
        "httpx",
        "mcp",
        "filelock",
        "plugin",
        "embedded",
        "spec",
        "settings",
    ):  # as folders of tests are called
        (pytester.mkpydir(f"tests_{name}") / "test_more.py").write_text("def test_more(): pass\n")
    tests = pytester.mkdir("tests")
    (tests / "klavis").mkdir()
    (tests / "klavis" / "data.txt").write_text("x")
    (tests / "test_it.py").write_text(
        "import klavis.agent\n"
        "def test_it(local_sandbox):\n"
        "    assert klavis.agent.NAME == 'mine'\n"
        "    assert local_sandbox('filesystem', workspace='klavis').list_files() == ['data.txt']\n"
    )
    pytester.makeini("[pytest]\npythonpath = .\n")
    result = pytester.runpytest_subprocess(f"--import-mode={mode}", "-p", "pytest_klavis_x.plugin")
    result.assert_outcomes(passed=8)
    result.stdout.fnmatch_lines(["*of x*"])
    assert acquired(result) == 1


def test_modules_with_our_names(pytester: pytest.Pytester) -> None:
    """Neither the plugin nor the server, which is started from the user's folder, takes them for its own."""
    for name in ("klavis", "settings", "redaction", "embedded", "starlette", "uvicorn"):
        pytester.makepyfile(**{name: "raise RuntimeError('a module of the user was imported')"})
    pytester.makepyfile(test_it="def test_it(local_sandbox): assert local_sandbox(['filesystem', 'terminal']).tools()")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    assert acquired(result) == 1
