"""The mail process that hangs: while it starts, and while it is told something."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

from pytest_klavis.embedded.mail import office
from pytest_klavis.embedded.mail.office import MailError, Office
from pytest_klavis.embedded.side import Missing, locate
from pytest_klavis.embedded.side.environment import RECORD, folder, read_lock
from pytest_klavis.embedded.side.first_use import FirstUse
from pytest_klavis.embedded.uids import Uids
from tests.embedded.conftest import alive, wait_until

if TYPE_CHECKING:
    from pathlib import Path


def test_one_whose_start_nobody_waits_for_any_more_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KLAVIS_SERVERS_DIR", str(tmp_path))
    prefix, told = folder() / read_lock().key, tmp_path / "pid"
    (prefix / "bin").mkdir(parents=True)
    (prefix / RECORD).write_text("{}")
    python = prefix / "bin" / "python"
    python.write_text(f"#!/bin/sh\necho $$ > {told}.new\nmv {told}.new {told}\nexec sleep 60\n")
    python.chmod(0o755)

    async def begin_and_leave() -> None:
        mails = Office(Uids(), FirstUse())
        opening = asyncio.create_task(mails.open("a"))
        await asyncio.to_thread(wait_until, told.exists)
        opening.cancel()
        await asyncio.wait([opening])
        assert opening.cancelled()
        await asyncio.to_thread(wait_until, lambda: not alive(int(told.read_text())))
        await mails.end()

    asyncio.run(begin_and_leave())


def test_one_that_does_not_answer_is_ended_and_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(found := locate(), Missing):
        pytest.skip(f"mail needs the servers' environment: {found.reason}")
    monkeypatch.setattr(office, "OBEY", 0.5)

    async def hang() -> None:
        mails = Office(Uids(), FirstUse())
        try:
            first = await mails.open("a")
            hanging = mails.pid
            assert hanging is not None
            os.kill(hanging, signal.SIGSTOP)
            with pytest.raises(MailError, match="ended while it was told something"):
                await first.add({"ann@mcp.com": ("Ann", None)})
            assert not alive(hanging)
            with pytest.raises(MailError, match="the mail of sandbox a is lost"):
                first.check()
            await mails.open("b")
            assert mails.pid != hanging
            await first.renew()
            first.check()
        finally:
            await mails.end()

    asyncio.run(hang())
