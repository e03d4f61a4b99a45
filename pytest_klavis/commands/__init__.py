"""What `pytest-klavis` does outside a test run, a module per command; cli.py reads their arguments."""
