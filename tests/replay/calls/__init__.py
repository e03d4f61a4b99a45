"""The tables of calls, one module for each server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import code_runner, excel, filesystem, git, localmemory, mail, pdf_tools, powerpoint, terminal, word

if TYPE_CHECKING:
    from ..playing import Table

TABLES: tuple[Table, ...] = (
    filesystem.TABLE,
    git.TABLE,
    terminal.TABLE,
    localmemory.ATLAS,
    localmemory.KLAVIS,
    code_runner.TABLE,
    pdf_tools.TABLE,
    mail.TABLE,
    excel.TABLE,
    word.TABLE,
    powerpoint.TABLE,
)
