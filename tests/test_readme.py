"""Each code block of the README is run, and what it shows is what comes out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .blackbox import KEY, Run, blackbox_api

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.Pytester]:
    """A folder with the files that the README's tests are written for, and the run that they download."""
    bug = pytester.path / "data" / "calc" / "project"
    hidden = pytester.path / "data" / "calc" / "hidden"
    for folder in (bug, hidden):
        folder.mkdir(parents=True)
    (bug / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    (hidden / "test_calc.py").write_text(
        "import unittest, calc\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(calc.add(1, 2), 3)\n"
    )
    pytester.makeini("[pytest]\nnorecursedirs = data\n")
    with blackbox_api() as api:
        api.runs["a1b2c3d4-e5f6-7890-abcd-ef1234567890"] = Run()
        monkeypatch.setenv("KLAVIS_BLACKBOX_URL", api.url)
        monkeypatch.setenv("BLACKBOX_API_KEY", KEY)
        yield pytester


@pytest.mark.parametrize("block", blocks("python"), ids=lambda text: text.split("\n")[0].strip("# "))
def test_python(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, block: str) -> None:
    name = block.split("\n", maxsplit=1)[0].strip("# ")
    (project.path / name).write_text(block)
    result = project.runpytest()
    outcomes = result.parseoutcomes()
    assert set(outcomes) <= {"passed", "warnings"}, outcomes
    assert outcomes["passed"] >= 1


@pytest.mark.parametrize("block", blocks("toml"))
def test_toml(pytester: pytest.Pytester, block: str) -> None:
    pytester.makepyprojecttoml(block)
    pytester.makepyfile("def test_it(klavis_settings):\n    assert klavis_settings.benchmark == 'Toolathlon'")
    result = pytester.runpytest("--strict-config")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["klavis: benchmark Toolathlon (from pyproject.toml)"])


def test_console_commands(project: pytest.Pytester) -> None:
    commands = [line[2:].split() for text in blocks("console") for line in text.splitlines() if line.startswith("$ ")]
    flags = [words[1:] for words in commands if words[0] == "pytest"]
    assert len(flags) == 3
    (project.path / "test_notes.py").write_text(blocks("python")[0])
    for arguments in flags:
        if arguments[0].startswith("examples"):
            continue
        project.runpytest(*arguments).assert_outcomes(passed=1)


def test_the_workflow_as_a_fork_runs_it(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    [workflow] = blocks("yaml")
    [command] = re.findall(r"run: exec pytest (.*)", workflow)
    (project.path / "test_notes.py").write_text(blocks("python")[0])
    (project.path / "test_shop.py").write_text("def test_shop(klavis_sandbox):\n    klavis_sandbox('github')\n")
    for name in re.findall(r"(KLAVIS_\w+): ", workflow):  # what GitHub makes of a secret that it does not give
        monkeypatch.setenv(name, {"KLAVIS_API_KEY": "", "KLAVIS_REQUIRE": "false"}[name])
    monkeypatch.setenv("CI", "true")
    result = project.runpytest_subprocess(*command.split())
    result.assert_outcomes(passed=1, skipped=1)
    for kept in re.findall(r"^ {12}(\S+)$", workflow, re.MULTILINE):
        assert kept.startswith("klavis-artifacts") or (project.path / kept).exists()


def test_the_failure_shown_is_the_failure_that_comes(pytester: pytest.Pytester) -> None:
    pytester.copy_example("on_failure")
    result = pytester.runpytest()
    [shown] = blocks("text")
    assert normalised(result.stdout.str()).endswith(normalised(shown))


def normalised(text: str) -> str:
    """Without what differs from run to run: ids, times, paths' prefixes, rulers."""
    start = text.index("= FAILURES =")
    lines = text[start:].strip().splitlines()[1:]
    text = "\n".join(line.rstrip() for line in lines)
    for pattern, replacement in (
        (r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID"),
        (r"\d{8}-\d{6}-[0-9a-f]{6}", "RUN"),
        (r"-[0-9a-f]{8}/", "-HASH/"),
        (r"examples/on_failure/", ""),
        (r"\d+\.\d+ s", "N s"),
        (r"\d+\.\d+s", "N s"),
        (r"isolation \w+", "isolation LEVEL"),
        (r"([=_-])\1{3,}", r"\1"),
        (r" - Ass.*", " - Ass"),
    ):
        text = re.sub(pattern, replacement, text)
    return text


def test_the_settings_table_is_complete() -> None:
    from pytest_klavis.settings import OPTIONS

    table = README[README.index("| stem | default |") :].split("\n\n")[0]
    for option in OPTIONS:
        assert re.search(rf"\b{option.stem}\b", table), option.stem


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            heading = target[1:].replace("-", " ")
            assert re.search(rf"^#+ {heading}$", README, re.MULTILINE | re.IGNORECASE), target
        elif not target.startswith("https://"):
            assert (ROOT / target).exists(), target
