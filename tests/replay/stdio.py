"""An upstream server as a child process, spoken to over stdin and stdout: a JSON-RPC message a line."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PATIENCE = 60.0  # seconds for one answer
PROTOCOL = "2025-06-18"


@dataclass(frozen=True)
class Answer:
    """The answer to one `tools/call`; what came as a JSON-RPC error is an error whose text is its message."""

    is_error: bool
    content: tuple[dict[str, Any], ...]
    structured: Any = None

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> Answer:
        if "error" in message:
            return cls(True, ({"type": "text", "text": str(message["error"].get("message"))},))
        result = message["result"]
        return cls(bool(result.get("isError")), tuple(result.get("content", ())), result.get("structuredContent"))

    @property
    def text(self) -> str:
        return "\n".join(part["text"] for part in self.content if part.get("type") == "text")


class StdioServer:
    """One server process, from its first message to `close`. Raises AssertionError with its stderr when it is gone."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], cwd: Path, log: Path) -> None:
        self._log = log
        self._id = 0
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [*command], env=dict(environment), cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
            )
        threading.Thread(target=self._read, daemon=True).start()
        info = {"name": "replay", "version": "1"}
        self._request("initialize", {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": info})
        self._send({"method": "notifications/initialized"})

    def tools(self) -> list[str]:
        return [tool["name"] for tool in self._request("tools/list", {})["result"]["tools"]]

    def call(self, tool: str, arguments: Mapping[str, Any]) -> Answer:
        return Answer.of(self._request("tools/call", {"name": tool, "arguments": dict(arguments)}))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _request(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        self._id += 1
        self._send({"id": self._id, "method": method, "params": params})
        while True:
            try:
                message = self._lines.get(timeout=PATIENCE)
            except queue.Empty:
                raise AssertionError(f"no answer to {method} within {PATIENCE:g} s") from None
            if message is None:
                raise AssertionError(f"the upstream server is gone: {self._log.read_text(errors='replace')[-2000:]}")
            if message.get("id") == self._id and ("result" in message or "error" in message):
                return message

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        line = json.dumps({"jsonrpc": "2.0", **message}) + "\n"
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise AssertionError(
                f"the upstream server is gone: {self._log.read_text(errors='replace')[-2000:]}"
            ) from None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                continue  # some print what they do
            if isinstance(message, dict):
                self._lines.put(message)
        self._lines.put(None)
