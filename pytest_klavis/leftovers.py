"""What the ledgers of this machine hold, and whether anybody who lives answers for it. Changes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_klavis.pool.database import SCHEMA
from pytest_klavis.pool.entries import STAYS, Entry
from pytest_klavis.pool.keeper import OWNER
from pytest_klavis.pool.ledger import Ledger
from pytest_klavis.pool.owners import Owners

LONGEST_LIFE = 24 * 3600.0
"""Seconds after which what was kept goes where the API takes no time to live: no test could have asked for more."""

_ACCOUNT = re.compile(r"(.+)-([0-9a-f]{16})")
_LEDGER = re.compile(r"ledger-([1-9][0-9]*)\.sqlite3")


@dataclass(frozen=True)
class Account:
    """The directory of one account."""

    path: Path

    @property
    def host(self) -> str:
        """The API's host, with its port if that is unusual."""
        return re.sub(r"_(\d+)$", r":\1", self._parts[0])

    @property
    def digest(self) -> str:
        """What tells the keys of one host apart, and is none."""
        return self._parts[1]

    @property
    def _parts(self) -> tuple[str, str]:
        found = _ACCOUNT.fullmatch(self.path.name)
        return (found[1], found[2]) if found else (self.path.name, "")

    def ledgers(self) -> Iterator[Ledger]:
        """Those that there are, closed again behind the caller; older versions of this plugin have others."""
        for schema, path in self._files():
            if schema > SCHEMA:
                continue
            ledger = Ledger(self.path)
            ledger.database.path = path
            try:
                yield ledger
            finally:
                ledger.close()

    def newer(self) -> list[Path]:
        """The ledgers that only a newer version of this plugin can read."""
        return [path for schema, path in self._files() if schema > SCHEMA]

    def holdings(self, ledger: Ledger) -> list[Holding]:
        """All entries of one of its ledgers."""
        entries = ledger.entries()
        living = Owners(self.path / "owners").living()  # after the entries: whoever made them lives, or is dead
        runs = {name.partition("--")[0] for name in living}
        return [
            Holding(
                entry,
                None if entry.owner is None else entry.owner in living,
                keeper_alive=OWNER.format(run=entry.run) in living,
                run_alive=entry.run in runs,
            )
            for entry in entries
        ]

    def _files(self) -> list[tuple[int, Path]]:
        found = ((_LEDGER.fullmatch(path.name), path) for path in self.path.glob("ledger-*.sqlite3"))
        return sorted((int(match[1]), path) for match, path in found if match)


@dataclass(frozen=True)
class Holding:
    """An entry of a ledger, and who answers for it."""

    entry: Entry
    owner_alive: bool | None
    """None where the entry has no owner."""
    keeper_alive: bool
    """Whether its run has a keeper."""
    run_alive: bool
    """Whether a process of its run lives."""

    @property
    def is_unattended(self) -> bool:
        """Whether nobody who lives answers for it."""
        return not self.keeper_alive and not (self.run_alive if self.owner_alive is None else self.owner_alive)

    @property
    def is_over(self) -> bool:
        """Whether it has been on the ledger for as long as it may live."""
        return self.entry.left <= 0 or (self.entry.ttl is None and self.entry.age > LONGEST_LIFE)

    @property
    def is_left(self) -> bool:
        """Whether it is to be released: nobody answers for it, and nobody wants it to stay."""
        return self.is_unattended and (self.entry.state not in STAYS or self.is_over)

    @property
    def is_in_hand(self) -> bool:
        """Whether the keeper of a run that has ended is about to release it."""
        return self.keeper_alive and not self.run_alive and self.entry.state not in STAYS


def accounts(state: Path) -> list[Account]:
    """The accounts in a state directory, by host; none where there is no such directory."""
    try:
        found = [path for path in state.iterdir() if _ACCOUNT.fullmatch(path.name)]
    except FileNotFoundError:
        return []
    return sorted(
        (Account(path) for path in found if path.is_dir() and not path.is_symlink()), key=lambda one: one.path
    )
