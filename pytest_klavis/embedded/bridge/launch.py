"""Serves one upstream server on stdin and stdout. Run as a script by the Python of the servers' environment.

Only the standard library and that server's own packages are there; nothing of pytest_klavis is.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def load(server: str) -> Callable[[], None]:
    """Import a server and register its tools. What is returned serves until stdin ends."""
    return _LOADERS[server]()


class _NoFile(logging.FileHandler):
    """Writes to stderr, whatever file it is made for."""

    def __init__(self, *_: Any, **__: Any) -> None:
        logging.StreamHandler.__init__(self)  # type: ignore[arg-type]


def _excel() -> Callable[[], None]:
    file_handler = logging.FileHandler
    logging.FileHandler = _NoFile  # type: ignore[misc]  # it would log into its own installation
    try:
        from excel_mcp.server import mcp  # type: ignore[import-not-found]  # noqa: PLC0415
    finally:
        logging.FileHandler = file_handler  # type: ignore[misc]
    return lambda: mcp.run(transport="stdio")


def _word() -> Callable[[], None]:
    from word_document_server import main  # type: ignore[import-not-found]  # noqa: PLC0415

    main.register_tools()
    return lambda: main.mcp.run(transport="stdio", show_banner=False)


def _powerpoint() -> Callable[[], None]:
    from ppt_mcp_server import app  # type: ignore[import-not-found]  # noqa: PLC0415

    return lambda: app.run(transport="stdio")


_LOADERS: dict[str, Callable[[], Callable[[], None]]] = {"excel": _excel, "word": _word, "powerpoint": _powerpoint}

if __name__ == "__main__":
    workspace = os.open(".", os.O_RDONLY)
    os.chdir("/")  # settings are read from .env of the working directory, and that is the agent's
    serve = load(sys.argv[1])
    os.fchdir(workspace)
    os.close(workspace)
    serve()
