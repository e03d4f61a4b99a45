"""Takes registered secrets out of what is written while the run goes on: log records, log files, the terminal."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from .redaction import redact

_DONE = pytest.StashKey[bool]()


def redact_logs(config: pytest.Config) -> None:
    """From now to the end of the run, no log record and no line of pytest's holds a registered secret. Idempotent.

    What a test writes to the terminal itself, under `-s` or with capturing disabled, never passes by here.
    """
    if config.stash.get(_DONE, False):
        return
    config.stash[_DONE] = True
    _redact_records(config)
    _redact_terminal(config)
    plugin = config.pluginmanager.get_plugin("logging-plugin")
    for name in ("log_file_handler", "log_cli_handler"):
        handler = getattr(plugin, name, None)
        if isinstance(handler, logging.Handler):
            handler.setFormatter(_Redacting(handler.formatter or logging.Formatter()))


class _Redacting(logging.Formatter):
    """Another formatter's text without secrets: fields that came by `extra=` and tracebacks are in it, too."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        return redact(self._formatter.format(record))


def _redact_records(config: pytest.Config) -> None:
    """Every handler gets redacted records: also those that write to a terminal or file of their own."""
    make = logging.getLogRecordFactory()
    plain = logging.Formatter()

    def redacted(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001  a broken format string is the handlers' to report
            if isinstance(record.args, tuple):
                record.args = tuple(redact(one) if isinstance(one, str) else one for one in record.args)
            return record
        clean = redact(text)
        if clean != text:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_info[0] is not None:
            trace = plain.formatException(record.exc_info)
            clean = redact(trace)
            if clean != trace:
                record.exc_text = clean  # formatters take it where it is there
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        return record

    logging.setLogRecordFactory(redacted)
    config.add_cleanup(lambda: logging.setLogRecordFactory(make))


def _redact_terminal(config: pytest.Config) -> None:
    """What pytest and its plugins write by the terminal writer: parameters of `--setup-show`, dumps of timeouts."""
    if not config.pluginmanager.has_plugin("terminalreporter"):
        return
    writer = config.get_terminal_writer()
    write = writer.write

    def redacted(msg: str, **how: Any) -> None:
        write(redact(msg), **how)

    # As pytest's own --pastebin does.
    writer.write = redacted  # type: ignore[method-assign]
