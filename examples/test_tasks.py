"""Tasks as folders: the mark's path is filled from the test's parameter, so a new folder is a new test."""

import json
from pathlib import Path

import pytest
from agent import Agent

TASKS = Path(__file__).parent / "data" / "tasks"


@pytest.mark.parametrize("task", sorted(path.name for path in TASKS.iterdir()))
@pytest.mark.local_sandbox(["filesystem", "terminal"], workspace="data/tasks/{task}/workspace")
def test_task(sandbox, task):
    told = json.loads((TASKS / task / "task.json").read_text())
    steps = json.loads(json.dumps(told["steps"]).replace("{root}", sandbox.root))

    Agent(sandbox.mcp_config()).work(*[(tool, arguments) for tool, arguments in steps])

    with sandbox.snapshot() as workspace:
        for path, text in told["expect"].items():
            assert workspace.read_text(path) == text
        for path in told["gone"]:
            assert path not in workspace.files
