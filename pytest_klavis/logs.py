"""Takes registered secrets out of log records as they are made, before any handler writes them."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from .redaction import redact


def redact_logs(config: pytest.Config) -> None:
    """From now to the end of the run, no log message holds a registered secret."""
    make = logging.getLogRecordFactory()

    def redacted(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001  a broken format string is the handlers' to report
            return record
        clean = redact(text)
        if clean != text:
            record.msg, record.args = clean, ()
        return record

    logging.setLogRecordFactory(redacted)
    config.add_cleanup(lambda: logging.setLogRecordFactory(make))
