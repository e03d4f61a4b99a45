"""An agent writes a quarterly report into a workbook with `excel`; the test reads it back.

`excel` is an upstream server: `pytest-klavis servers install` brings it, once per machine.
"""

import csv
import json

import pytest
from agent import Agent

REVENUE = "region,revenue\nnorth,1204.5\nsouth,987.25\nwest,2210.0\n"


@pytest.mark.local_sandbox(["excel", "filesystem"], workspace={"revenue.csv": REVENUE})
def test_agent_writes_the_quarterly_report(sandbox):
    agent = Agent(sandbox.mcp_config())
    report = {"filepath": f"{sandbox.root}/report.xlsx", "sheet_name": "Q3"}

    [text] = agent.work(("read_text_file", {"path": f"{sandbox.root}/revenue.csv"}))
    head, *rows = csv.reader(text.splitlines())
    agent.work(
        ("create_workbook", {"filepath": report["filepath"]}),
        ("create_worksheet", report),
        ("write_data_to_excel", report | {"data": [head, *([name, float(amount)] for name, amount in rows)]}),
        ("apply_formula", report | {"cell": "B5", "formula": "=SUM(B2:B4)"}),
    )

    assert sandbox.diff().added == ("report.xlsx",)
    found = json.loads(sandbox.call_tool("read_data_from_excel", report).text)
    cells = {cell["address"]: cell["value"] for cell in found["cells"]}
    assert [(cells[f"A{row}"], cells[f"B{row}"]) for row in (2, 3, 4)] == [
        ("north", 1204.5),
        ("south", 987.25),
        ("west", 2210.0),
    ]
    assert cells["B5"] == "=SUM(B2:B4)"
