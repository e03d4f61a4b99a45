"""A bug-fix eval: the agent gets a buggy project, and hidden tests judge it inside the sandbox."""

import pytest
from agent import Agent

PARSE = '        key, value = line.split("=")\n'
FIXED = '        if "=" not in line:\n            continue\n        key, value = line.split("=", 1)\n'

FIXES = {
    "ledger": (
        "ledger.py",
        [
            {
                "oldText": "def __init__(self, entries=[]):\n        self.entries = entries",
                "newText": "def __init__(self, entries=()):\n        self.entries = list(entries)",
            }
        ],
    ),
    "parser": ("parser.py", [{"oldText": PARSE, "newText": FIXED}]),
}


@pytest.mark.parametrize("bug", ["ledger", "parser"])
@pytest.mark.local_sandbox(["filesystem", "terminal"], workspace="data/bugs/{bug}/project")
def test_fix(sandbox, bug):
    hidden = f"data/bugs/{bug}/hidden"
    before = sandbox.run(["python", "-m", "unittest", "-v"], files=hidden)
    assert before.exit_code != 0, "the project has no bug to fix"

    path, edits = FIXES[bug]
    Agent(sandbox.mcp_config()).work(("edit_file", {"path": f"{sandbox.root}/{path}", "edits": edits}))

    after = sandbox.run(["python", "-m", "unittest", "-v"], files=hidden)
    assert after.exit_code == 0, after.stderr
    assert sandbox.list_files() == [path]  # the agent never sees the hidden tests
