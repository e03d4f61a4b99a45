"""Where pytest's configuration comes from, how it is started, and how strict it is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from .leaks import acquired, assert_untouched

NATIVE = pytest.mark.skipif(pytest.version_tuple < (9, 0), reason="native TOML and strict came with pytest 9.0")
ANY_TYPE = pytest.mark.skipif(pytest.version_tuple < (9, 2), reason="ini values of several types came with pytest 9.2")


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.local_sandbox("filesystem", workspace={"a.txt": "x"})
        def test_declared(sandbox, klavis_settings):
            assert sandbox.read_text("a.txt") == "x"
            print("told", klavis_settings.ttl, klavis_settings.require, klavis_settings.source("ttl"))
        """
    )
    return pytester


TEXTS = 'klavis_ttl = "1h"\nklavis_require = "on"\n'
TYPED = "klavis_ttl = 3600\nklavis_acquire_timeout = 90.5\nklavis_require = true\nklavis_artifacts_extract = false\n"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        pytest.param("pytest.ini", "[pytest]\n" + TEXTS.replace('"', ""), id="ini"),
        pytest.param("tox.ini", "[pytest]\n" + TEXTS.replace('"', ""), id="tox"),
        pytest.param("setup.cfg", "[tool:pytest]\n" + TEXTS.replace('"', ""), id="setup.cfg"),
        pytest.param("pyproject.toml", "[tool.pytest.ini_options]\n" + TEXTS, id="pyproject"),
        pytest.param("pyproject.toml", "[tool.pytest]\n" + TEXTS, id="native", marks=NATIVE),
        pytest.param("pyproject.toml", "[tool.pytest]\nstrict = true\n" + TYPED, id="native-typed", marks=ANY_TYPE),
        pytest.param("pytest.toml", "[pytest]\nstrict = true\n" + TYPED, id="pytest.toml", marks=ANY_TYPE),
    ],
)
def test_files(pytester: pytest.Pytester, file: str, text: str) -> None:
    (pytester.path / file).write_text(text)
    pytester.makepyfile(
        "def test_it(klavis_settings):\n"
        "    print('told', klavis_settings.ttl, klavis_settings.require, klavis_settings.source('ttl'))\n"
    )
    result = pytester.runpytest("-s")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"*told 3600 True {file}*"])


@NATIVE
@pytest.mark.parametrize("text", ["klavis_ttl = [1]", 'klavis_require = "perhaps"', "klavis_backend = 3"])
def test_a_wrong_value_in_native_toml_is_a_usage_error(suite: pytest.Pytester, text: str) -> None:
    (suite.path / "pyproject.toml").write_text(f"[tool.pytest]\n{text}\n")
    result = suite.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: *klavis*{text.removeprefix('klavis_').partition(' ')[0]}*"])
    result.stderr.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize(
    "flags",
    [
        ["--strict-markers", "--strict-config", "-W", "error", "--basetemp=base", "--cache-clear"],
        ["-p", "klavis", "-p", "klavis", "--import-mode=importlib", "-o", "klavis_ttl=1h"],
        ["--assert=plain", "-p", "no:cacheprovider", "-p", "no:terminal"],
        ["-x", "--ff", "--nf", "--sw", "-vv", "--no-header", "--durations=3"],
        pytest.param(["-o", "strict=true"], marks=NATIVE),
    ],
    ids=" ".join,
)
def test_flags(suite: pytest.Pytester, flags: list[str]) -> None:
    result = suite.runpytest_subprocess(*flags)
    if "no:terminal" in flags:
        assert (result.ret, result.outlines) == (0, [])
        return
    result.assert_outcomes(passed=1)
    assert acquired(result) == 1


def test_without_the_plugin_its_fixtures_are_unknown(suite: pytest.Pytester) -> None:
    result = suite.runpytest_subprocess("-p", "no:klavis")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'sandbox' not found*"])
    assert_untouched(suite, result)


@pytest.mark.parametrize("name", ["klavis", "pytest_klavis.plugin"])
def test_named_when_nothing_loads_by_itself(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_ADDOPTS", "")
    result = suite.runpytest_subprocess("-p", name, "-p", "xdist", "-n1")
    result.assert_outcomes(passed=1)
    assert acquired(result) == 1


def test_another_ini_file_and_another_folder(suite: pytest.Pytester) -> None:
    (suite.mkdir("settings") / "other.ini").write_text("[pytest]\nklavis_ttl = 1h\nklavis_artifacts_dir = evidence\n")
    elsewhere = suite.mkdir("elsewhere")
    os.chdir(elsewhere)
    result = suite.runpytest(
        "-s", "-c", "../settings/other.ini", "--klavis-artifacts=always", suite.path / "test_it.py"
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*told 3600 False other.ini*"])
    assert acquired(result) == 1
    # An ini value is relative to the rootdir, which is the ini file's folder.
    assert len(list(suite.path.glob("settings/evidence/latest/*/attempt-1/local/workspace.tar.gz"))) == 1
    assert not any(elsewhere.iterdir())


def test_a_suite_that_is_installed(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytester.path / "lib" / "agent_suite"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "data" / "a.txt").write_text("x")
    (package / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.local_sandbox('filesystem', workspace='data')\n"
        "def test_it(sandbox):\n"
        "    assert sandbox.list_files() == ['a.txt']\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    work = pytester.mkdir("work")
    os.chdir(work)
    result = pytester.runpytest_subprocess("--pyargs", "agent_suite")
    result.assert_outcomes(passed=1)
    assert acquired(result) == 1


def test_as_a_module_and_by_pytest_main(suite: pytest.Pytester) -> None:
    code = "import sys, pytest; sys.exit(pytest.main(['-q']) or pytest.main(['-q']))"  # twice in one process
    for command in ([sys.executable, "-m", "pytest"], [sys.executable, "-c", code]):
        result = suite.run(*command)
        assert result.ret == 0
        result.stdout.fnmatch_lines(["1 acquired, 1 released, 0 leaked*"])


def test_a_rootdir_that_cannot_be_written(suite: pytest.Pytester) -> None:
    """The evidence cannot be saved there; the run says so and goes on."""
    (suite.path / "test_it.py").write_text(
        "def test_fails(local_sandbox):\n    local_sandbox('filesystem')\n    assert 0\n"
    )
    (suite.path / "klavis-artifacts").symlink_to("/proc/self")
    result = suite.runpytest("-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*could not be saved*"])
    assert acquired(result) == 1
    assert Path("/proc/self").exists()
