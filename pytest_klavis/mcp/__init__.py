"""Talking to the MCP servers of a sandbox: our own small client, the official session, frameworks' configurations."""
