"""A suite that fails on purpose, to show what is said and saved: run it and read."""

import pytest


@pytest.mark.local_sandbox(["filesystem"], workspace="data/notes")
def test_agent_ticks_off_the_bank(sandbox):
    write = next(tool.name for tool in sandbox.tools() if tool.name.endswith("write_file"))
    sandbox.call_tool(write, {"path": f"{sandbox.root}/todo.md", "content": "# To do\n\n- water the plants\n"})
    sandbox.call_tool(write, {"path": f"{sandbox.root}/done.txt", "content": "the bank\n"})

    assert "- [x] call the bank" in sandbox.read_text("todo.md")
