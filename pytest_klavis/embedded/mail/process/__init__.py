"""The mail process: SMTP and IMAP for all sandboxes of one server. It runs in the side environment.

It imports nothing of the package but itself, relatively: `pytest_klavis` and its dependencies are not there.
"""
