"""An agent works in a seeded repository through `filesystem` and `git`; the test checks the commit."""

from agent import Agent


def test_agent_changes_the_vat_and_commits(local_sandbox):
    box = local_sandbox(["filesystem", "git"], workspace="data/shop", git=True)
    agent = Agent(box.mcp_config())

    agent.work(
        (
            "edit_file",
            {
                "path": f"{box.root}/pricing.py",
                "edits": [{"oldText": "VAT_PERCENT = 19", "newText": "VAT_PERCENT = 21"}],
            },
        ),
        ("git_add", {"repo_path": box.root, "files": ["pricing.py"]}),
        ("git_commit", {"repo_path": box.root, "message": "Raise the VAT to 21 percent"}),
    )

    assert "VAT_PERCENT = 21" in box.read_text("pricing.py")
    log = box.run(["git", "log", "--format=%s"]).stdout.splitlines()
    assert log[0] == "Raise the VAT to 21 percent"
    assert len(log) == 2
    assert box.diff().modified == ("pricing.py",)


def test_agent_leaves_the_repository_clean(local_sandbox):
    box = local_sandbox(["filesystem", "git"], workspace="data/shop", git=True)
    agent = Agent(box.mcp_config())

    [status] = agent.work(("git_status", {"repo_path": box.root}))

    assert "nothing to commit" in status
