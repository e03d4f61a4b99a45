"""Tiny packages in place of the upstream servers: wheels made by hand, and a lock of their own."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SERVER = """
import json, sys

TOOL = {"name": "tiny", "description": "Nothing.", "inputSchema": {"type": "object", "properties": {}}}
ANSWERS = {
    "initialize": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                   "serverInfo": {"name": "tiny", "version": "1"}},
    "tools/list": {"tools": [TOOL]},
}

class mcp:
    def run(transport):
        for line in sys.stdin:
            asked = json.loads(line)
            if "id" in asked:
                answer = {"jsonrpc": "2.0", "id": asked["id"], "result": ANSWERS.get(asked["method"], {})}
                print(json.dumps(answer), flush=True)

def main():
    print("tiny")
"""
PACKAGES = {
    "excel-mcp-server": {"excel_mcp/__init__.py": "", "excel_mcp/server.py": SERVER},
    "tiny-helper": {"tiny_helper.py": "for_another_python = 1\n", "tiny_for_python2.py": "print 'two'\n"},
}


def make_wheel(folder: Path, name: str, version: str = "0.1.8") -> Path:
    """A wheel of one of the packages, with a script where there is a server."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    files = {
        **PACKAGES[name],
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if "excel_mcp/server.py" in files:
        files[f"{info}/entry_points.txt"] = "[console_scripts]\nexcel-mcp-server = excel_mcp.server:main\n"
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in (*files, f"{info}/RECORD"))
    wheel = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, text in files.items():
            archive.writestr(zipfile.ZipInfo(file), text)
    return wheel


class Tiny:
    """A folder of wheels, a lock that names them, and the environment in which commands use both."""

    def __init__(self, top: Path) -> None:
        self.wheels, self.servers, self.lock = top / "wheels", top / "servers", top / "servers.lock"
        self.wheels.mkdir()
        pins = []
        for name in PACKAGES:
            digest = hashlib.sha256(make_wheel(self.wheels, name).read_bytes()).hexdigest()
            pins.append(f"{name}==0.1.8 \\\n    --hash=sha256:{digest}\n")
        pins.append(f"elsewhere==1.0 ; sys_platform == 'win32' \\\n    --hash=sha256:{'0' * 64}\n")
        self.lock.write_text("".join(pins))
        self.said = ""
        """What its installation said."""
        self.variables = {"KLAVIS_SERVERS_DIR": str(self.servers), "KLAVIS_SERVERS_LOCK": str(self.lock)}

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """`pytest-klavis` with these arguments."""
        return subprocess.Popen(
            [sys.executable, "-m", "pytest_klavis.cli", *arguments],
            env={**os.environ, **self.variables, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, **variables: str) -> tuple[int, str]:
        """Its exit status and all that it wrote."""
        with self.start(*arguments, **variables) as process:
            assert process.stdout is not None
            said = process.stdout.read()
        return process.returncode, said

    def install(self, *arguments: str) -> tuple[int, str]:
        return self.run("servers", "install", "--offline", str(self.wheels), *arguments)

    def environments(self) -> list[str]:
        """What there is besides the lock of installations."""
        return sorted(path.name for path in self.servers.iterdir() if path.name != ".lock")


class Index:
    """A package index that holds every request until it is told to refuse."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked = threading.Event()
        self.refuse = threading.Event()

    @property
    def variables(self) -> dict[str, str]:
        """pip's own configuration that leads to it."""
        return {"PIP_INDEX_URL": f"{self.url}/simple", "PIP_RETRIES": "0", "PIP_NO_PROXY": "*", "NO_PROXY": "*"}


@contextmanager
def held_index() -> Iterator[Index]:
    index = Index("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            index.asked.set()
            index.refuse.wait(60)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    index.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield index
    finally:
        index.refuse.set()
        server.shutdown()
        server.server_close()
