"""The real servers that ours are compared with: exact versions, how they are installed, and how they are started.

As a script: `python tests/replay/upstreams.py FOLDER` installs them below FOLDER, each where it disturbs no other;
excel, word and powerpoint are those of `pytest-klavis servers install`. What
is there already stays. Packages come from wherever pip and npm are set to look.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass, field
from pathlib import Path

from pytest_klavis.embedded.side import SideEnvironment, locate

# Not here: code-executor. Its package @geobio/code_execution_server is no longer on npm.
_PYTHONS = {
    "git": ["mcp-server-git==2026.10.19", "mcp>=2.3,<3"],
    "terminal": ["cli-mcp-server==0.2.5", "mcp<2"],
    "pdf-tools": ["pdf-tools-mcp==0.1.4", "mcp<2"],
    "mail": ["emails-mcp==0.1.12", "mcp<2"],
}
_NODES = {
    "filesystem": "@modelcontextprotocol/server-filesystem@2026.8.31",
    "memory-2025.11.25": "@modelcontextprotocol/server-memory@2025.11.25",
    "memory-2025.8.4": "@modelcontextprotocol/server-memory@2025.8.4",
    "code-runner": "mcp-server-code-runner@0.1.8",
}


@dataclass(frozen=True)
class Upstream:
    """How one real server is started: `{env}` in its command is the folder that it is installed in, `{root}` the
    workspace."""

    folder: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    def place(self, installed: Path) -> Path:
        """Where it is, if it is."""
        if self.folder != "servers":
            return installed / self.folder
        side = locate()
        return side.prefix if isinstance(side, SideEnvironment) else installed / self.folder


UPSTREAMS = {
    "filesystem": Upstream("filesystem", ("{env}/node_modules/.bin/mcp-server-filesystem", "{root}")),
    "git": Upstream("git", ("{env}/bin/mcp-server-git",)),
    "terminal": Upstream(
        "terminal",
        ("{env}/bin/cli-mcp-server",),
        {
            "ALLOWED_DIR": "{root}",
            "ALLOWED_COMMANDS": "all",
            "ALLOWED_FLAGS": "all",
            "ALLOW_SHELL_OPERATORS": "true",
            "COMMAND_TIMEOUT": "3",
        },
    ),
    "localmemory-2025.8.4": Upstream(
        "memory-2025.8.4",
        ("{env}/node_modules/.bin/mcp-server-memory",),
        {"MEMORY_FILE_PATH": "{root}/repos/memory_mcp_server/memories-for-mcp.json"},
    ),
    "localmemory-2025.11.25": Upstream(
        "memory-2025.11.25",
        ("{env}/node_modules/.bin/mcp-server-memory",),
        {"MEMORY_FILE_PATH": "{root}/memory/memory.json"},
    ),
    "code-runner": Upstream("code-runner", ("{env}/node_modules/.bin/mcp-server-code-runner",)),
    "pdf-tools": Upstream("pdf-tools", ("{env}/bin/pdf-tools-mcp", "--workspace_path", "{root}")),
    "mail": Upstream(
        "mail",
        (
            "{env}/bin/emails-mcp",
            "--config_file",
            "{home}/mail.json",
            "--attachment_upload_path",
            "{root}",
            "--attachment_download_path",
            "{root}",
            "--email_export_path",
            "{root}",
        ),
    ),
    "excel": Upstream("servers", ("{env}/bin/excel-mcp-server", "stdio")),
    "word": Upstream("servers", ("{env}/bin/word_mcp_server",)),
    "powerpoint": Upstream("servers", ("{env}/bin/ppt_mcp_server",)),
}


def install(place: Path) -> None:
    """Make every environment that is missing."""
    for name, packages in _PYTHONS.items():
        folder = place / name
        if (folder / "done").exists():
            continue
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        # Some declare a newer Python than they need.
        subprocess.run([folder / "bin/pip", "install", "-qqq", "--ignore-requires-python", *packages], check=True)
        (folder / "done").touch()
    for name, package in _NODES.items():
        folder = place / name
        if (folder / "done").exists():
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "package.json").write_text("{}")
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", package], cwd=folder, check=True)
        (folder / "done").touch()


def environment(upstream: Upstream, env: Path, root: Path, home: Path) -> dict[str, str]:
    """What an upstream process sees of this machine: programs, and a home and a temporary directory of its own."""
    own = {name: value.format(env=env, root=root) for name, value in upstream.environment.items()}
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "TMPDIR": str(home),
        "LANG": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        **own,
    }


if __name__ == "__main__":
    install(Path(sys.argv[1]).absolute())
