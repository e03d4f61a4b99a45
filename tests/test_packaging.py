"""What is installed: entry point, public names, types, licence."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import pytest_klavis

ROOT = Path(__file__).parent.parent


def test_the_entry_point_and_metadata() -> None:
    distribution = importlib.metadata.distribution("pytest-klavis")
    points = {(point.group, point.name): point.value for point in distribution.entry_points}
    assert points[("pytest11", "klavis")] == "pytest_klavis.plugin"
    assert points[("console_scripts", "pytest-klavis")] == "pytest_klavis.cli:main"
    assert "Framework :: Pytest" in distribution.metadata.get_all("Classifier", [])
    assert set(distribution.metadata.get_all("Provides-Extra", [])) == {"fast", "isolation", "mcp"}
    assert distribution.metadata["License-Expression"] == "MIT"


def test_the_lower_bounds_are_those_that_are_tested() -> None:
    """By `tox -e matrix-lowest`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["isolation"]]
    bounds = {f"{one.name}=={_lowest(one)}" for one in map(Requirement, named)}
    pins = (ROOT / "tests" / "lowest.txt").read_text().splitlines()
    assert set(pins[1:]) == bounds


def _lowest(requirement: Requirement) -> str:
    [version] = [one.version for one in requirement.specifier if one.operator == ">="]
    return version


def test_the_package_is_typed() -> None:
    assert (Path(pytest_klavis.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("name", pytest_klavis.__all__)
def test_public_names(name: str) -> None:
    assert getattr(pytest_klavis, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        pytest_klavis.nope  # noqa: B018


def test_importing_the_plugin_loads_nothing_heavy() -> None:
    code = "import pytest_klavis.plugin, sys; print({'httpx', 'pydantic', 'starlette', 'mcp'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_server_is_never_imported_by_the_plugins_process() -> None:
    code = "import pytest_klavis.desk, pytest_klavis.lifecycle, sys; print([m for m in sys.modules if 'embedded' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
