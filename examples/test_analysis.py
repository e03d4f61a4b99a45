"""An agent computes over a seeded CSV with `code-executor` and `terminal`; the test checks the result."""

import csv
import json
from pathlib import Path

from agent import Agent

DATA = Path(__file__).parent / "data" / "sales"

SCRIPT = """
import collections, csv, json
revenue = collections.Counter()
with open("sales.csv", newline="") as file:
    for row in csv.DictReader(file):
        revenue[row["region"]] += int(row["units"]) * round(float(row["unit_price"]) * 100)
with open("revenue.json", "w") as file:
    json.dump(revenue, file)
"""


def expected_revenue():
    totals = {}
    with (DATA / "sales.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            cents = int(row["units"]) * round(float(row["unit_price"]) * 100)
            totals[row["region"]] = totals.get(row["region"], 0) + cents
    return totals


def test_agent_sums_the_revenue_with_code(local_sandbox):
    box = local_sandbox(["code-executor", "filesystem"], workspace=DATA)
    agent = Agent(box.mcp_config())

    agent.work(("execute_code", {"code": f"import os; os.chdir({box.root!r})\n{SCRIPT}"}))

    assert json.loads(box.read_text("revenue.json")) == expected_revenue()


def test_agent_counts_lines_in_the_terminal(local_sandbox):
    box = local_sandbox(["terminal"], workspace=DATA)
    agent = Agent(box.mcp_config())

    [answer] = agent.work(("run_command", {"command": "wc -l sales.csv"}))

    assert "49 sales.csv" in answer
