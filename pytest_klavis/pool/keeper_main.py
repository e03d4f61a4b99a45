"""The keeper's process: `python -m pytest_klavis.pool.keeper_main --ready-fd N`, with its config on standard input."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from pytest_klavis import redaction

if TYPE_CHECKING:
    from types import TracebackType

log = logging.getLogger(__name__)


class Log(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes redacted lines, and remembers whether there is anything in them that somebody should read."""

    troubled = False

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def format(self, record: logging.LogRecord) -> str:
        self.troubled = self.troubled or record.levelno >= logging.WARNING
        return redaction.redact(super().format(record))


def main() -> int:
    """Keep until there is nothing left to do."""
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # before the imports, which take their time
        signal.signal(one, signal.SIG_IGN)
    from .keeper import KeeperConfig  # noqa: PLC0415
    from .keeping import Keeping  # noqa: PLC0415
    from .owners import Owner, OwnerTaken  # noqa: PLC0415

    parser = argparse.ArgumentParser(prog="keeper", description=__doc__)
    parser.add_argument("--ready-fd", type=int, required=True)
    ready: int = parser.parse_args().ready_fd
    config = KeeperConfig.from_json(sys.stdin.buffer.read())
    redaction.register(config.api_key, "<KLAVIS_API_KEY>")
    handler = Log()
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpcore").setLevel(logging.WARNING)
    sys.excepthook = _told
    threading.excepthook = lambda args: _told(args.exc_type, args.exc_value, args.exc_traceback)
    try:
        owner = Owner(config.owners, config.owner)
    except OwnerTaken:
        log.info("another keeper lives")
        _tell(ready)
        return 0
    keeping = Keeping(config, owner)
    _tell(ready)
    try:
        keeping.run()
    finally:
        if not handler.troubled:
            config.log.unlink(missing_ok=True)
        owner.close()
    return 0


def _tell(ready: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # who started it is dead: all the more is there to do
        os.write(ready, b"1")
    os.close(ready)


def _told(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    log.error("unexpected", exc_info=(kind, error or kind(), trace))


if __name__ == "__main__":
    sys.exit(main())
