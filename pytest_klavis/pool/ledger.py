"""The ledger: the durable record of all cloud sandboxes that this machine has acquired and not yet released.

Every change of an entry is one guarded UPDATE: it happens only where the entry is still as the caller saw it, so two
that want to release the same sandbox cannot both win.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_klavis import clock
from pytest_klavis.errors import BackendError, ClosedError
from pytest_klavis.spec import Spec

from .database import Database, LedgerError
from .entries import STATES, Entry, State, Ticket, Want, spec_of, spec_text, want_of, want_text
from .rows import ALL, COLUMNS, RunRecord, entry_of, place_of, row_of, run_of, ticket_of, wants_text
from .statedir import marker_of

__tracebackhide__ = True  # users read their own frames

RELEASING = 5.0
"""Seconds that an entry which is being released may keep its place when the API gave that sandbox out again."""


LONGEST_DRY = 8.0
"""Seconds that nobody asks the API for a spec of which it had none, at most."""
DRY_MEMORY = 60.0
"""Seconds after which it is as if it had never had none."""


class TakenError(BackendError):
    """The API gave out a sandbox that somebody on this ledger holds."""


class Ledger:
    """The entries, runs and tickets of one account on this machine; `directory` is the account's.

    Shared by all processes of the machine, and usable from several threads and after a fork. Whoever got an entry from
    it may rely on this: no two win the same change, what a method wrote is on the disk when it returns, and nothing
    of it is when it raises. An entry is what was true when it was read; who acts on it changes it first, and leaves it
    alone when that gives None. It knows neither who lives nor what the API has: see `owners` and `chores`. Everything
    raises LedgerError where the file cannot be used, and then nothing may be acquired.
    """

    def __init__(self, directory: Path) -> None:
        self.database = Database(directory)

    def exists(self) -> bool:
        """Whether anything was ever written down."""
        return self.database.path.exists()

    def close(self) -> None:
        """Close this process's connection."""
        self.database.close()

    # -- runs ----------------------------------------------------------------------------------

    def begin(self, run: str, *, budget: int | None = None) -> None:
        """Put a run on the ledger, if it is not there. A ledger that was set aside for it is noted."""
        with self.database.changing() as sql:
            sql.execute("INSERT OR IGNORE INTO runs (id, begun, budget) VALUES (?, ?, ?)", (run, clock.now(), budget))
            if self.database.damage:
                self.note(run, self.database.damage)
        self.database.damage = ""
        marker = marker_of(self.database.path.parent, run)
        try:
            marker.parent.mkdir(mode=0o700, exist_ok=True)
            marker.touch(mode=0o600)
        except OSError as error:
            raise LedgerError(f"{marker} cannot be made: {error}") from error

    def run(self, run: str) -> RunRecord | None:
        """What is known of a run."""
        found = self.database.read("SELECT * FROM runs WHERE id = ?", run)
        return run_of(found[0]) if found else None

    def room(self, run: str) -> int | None:
        """How many more a run may acquire; None where nobody set a limit."""
        record = self.run(run)
        if record is None or record.budget is None:
            return None
        query = "SELECT count(*) AS number FROM entries WHERE run = ? AND state IN ('intent', 'lost')"
        return max(record.budget - record.acquired - int(self.database.read(query, run)[0]["number"]), 0)

    def _check_open(self, run: str) -> None:
        record = self.run(run)
        if record is None or record.closed:
            raise ClosedError(f"the run {run} is over: nothing more is acquired for it")
        if self.room(run) == 0:
            raise ClosedError(
                f"this run has acquired as many sandboxes as --klavis-max-acquires={record.budget} allows"
            )

    def close_run(self, run: str) -> None:
        """From now on nothing is acquired for it."""
        self._set_run(run, "closed = 1")

    def count(self, run: str, *, calls: int = 0, waited: float = 0.0, resets: int = 0) -> None:
        """Add to what a run has done."""
        self._set_run(run, "calls = calls + ?, waited = waited + ?, resets = resets + ?", calls, waited, resets)

    def refuse(self, run: str, refusal: str) -> None:
        """The API has refused the key: no process of the run acquires any more. The first one's words stay."""
        self._set_run(run, "refusal = coalesce(refusal, ?)", refusal)

    def learn(self, run: str, refused: Iterable[str]) -> None:
        """Fields that the API does not take, for all processes of the run."""
        with self.database.changing() as sql:
            found = sql.execute("SELECT refused FROM runs WHERE id = ?", (run,)).fetchone()
            if found:
                known = sorted({*json.loads(found["refused"]), *refused})
                sql.execute("UPDATE runs SET refused = ? WHERE id = ?", (json.dumps(known), run))

    def note(self, run: str, text: str) -> None:
        """Something for the summary of a run."""
        self._set_run(run, "notes = json_insert(notes, '$[#]', ?)", text)

    def forget_run(self, run: str) -> None:
        """Remove a run of which nothing is left."""
        with self.database.changing() as sql:
            sql.execute(
                "DELETE FROM runs WHERE id = ? AND NOT EXISTS (SELECT 1 FROM entries WHERE run = runs.id)", (run,)
            )
        with suppress(OSError):
            marker_of(self.database.path.parent, run).unlink(missing_ok=True)

    def runs(self) -> list[RunRecord]:
        """All runs on the ledger."""
        return [run_of(row) for row in self.database.read("SELECT * FROM runs")]

    def _set_run(self, run: str, what: str, *values: Any) -> None:
        with self.database.changing() as sql:
            sql.execute(f"UPDATE runs SET {what} WHERE id = ?", (*values, run))  # noqa: S608  our own text

    # -- entries -------------------------------------------------------------------------------

    def entries(self, *, run: str | None = None, states: Iterable[State] | None = None) -> list[Entry]:
        """The entries, oldest first: of one run, in some states, or all of them."""
        wanted = STATES if states is None else sorted(states)
        among = ", ".join("?" * len(wanted))
        found = self.database.read(
            f"SELECT {ALL} FROM entries WHERE run = coalesce(?, run) AND state IN ({among}) ORDER BY number",  # noqa: S608
            run,
            *wanted,
        )
        return [entry_of(row) for row in found]

    def entry(self, number: int) -> Entry | None:
        """One entry, as it is now."""
        found = self.database.read(f"SELECT {ALL} FROM entries WHERE number = ?", number)  # noqa: S608
        return entry_of(found[0]) if found else None

    def intend(self, run: str, owner: str, want: Want) -> Entry:
        """Write down that a sandbox is about to be acquired. Raises ClosedError where the run may not any more."""
        entry = Entry(
            number=0,
            run=run,
            owner=owner,
            state="intent",
            spec=want.spec,
            nonce=secrets.token_hex(12),
            ttl=want.ttl,
            born=clock.since_boot(),
            boot=clock.boot_id(),
            born_at=clock.now(),
            since=clock.now(),
            test=want.test,
            will=want.will,
        )
        names = COLUMNS[1:]
        marks = ", ".join("?" * len(names))
        with self.database.changing() as sql:
            self._check_open(run)
            query = f"INSERT INTO entries ({', '.join(names)}) VALUES ({marks})"  # noqa: S608  our own text
            added = sql.execute(query, row_of(entry)[1:])
        return replace(entry, number=int(added.lastrowid or 0))

    def change(self, entry: Entry, to: State, *, owner: str | None, **values: Any) -> Entry | None:
        """Bring an entry into another state, with other values; None when somebody changed it since it was read.

        Raises TakenError for a `sandbox_id` that another entry holds. One that is just being released may be given out
        by the API before its entry is gone: that is waited for.
        """
        changed = replace(entry, state=to, owner=owner, since=clock.now(), **values)
        if changed.sandbox_id != entry.sandbox_id:
            self._await_release(changed)
        columns = ", ".join(f"{name} = ?" for name in (*COLUMNS, "place"))
        with self.database.changing() as sql:
            stale = _in_its_place(sql, changed) if changed.sandbox_id != entry.sandbox_id else None
            if stale is not None and not _is_gone(stale, changed):
                raise TakenError(f"the API gave out {changed.sandbox_id}, but {stale.test or stale.run} holds it")
            if stale is not None:
                sql.execute("DELETE FROM entries WHERE number = ?", (stale.number,))
                if stale.state == "releasing":
                    _count_released(sql, stale)
            done = sql.execute(
                f"UPDATE entries SET {columns} WHERE number = ? AND state = ? AND owner IS ?",  # noqa: S608  our own
                (*row_of(changed), place_of(changed), entry.number, entry.state, entry.owner),
            ).rowcount
            if done and entry.sandbox_id is None and changed.sandbox_id is not None and to != "suspect":
                sql.execute("UPDATE runs SET acquired = acquired + 1 WHERE id = ?", (entry.run,))
                sql.execute("DELETE FROM dry WHERE spec = ?", (spec_text(entry.spec),))
        return changed if done else None

    def _await_release(self, entry: Entry) -> None:
        end = clock.monotonic() + RELEASING
        query = "SELECT 1 FROM entries WHERE place = ? AND state = 'releasing' AND number != ?"
        while self.database.read(query, place_of(entry), entry.number) and clock.monotonic() < end:
            clock.sleep(0.02)

    def remove(self, entry: Entry) -> bool:
        """Take an entry off the ledger: it is released, or was never made. False when somebody changed it."""
        released = entry.sandbox_id is not None and entry.state == "releasing"
        with self.database.changing() as sql:
            done = sql.execute(
                "DELETE FROM entries WHERE number = ? AND state = ? AND owner IS ?",
                (entry.number, entry.state, entry.owner),
            ).rowcount
            if done and released:
                _count_released(sql, entry)
                now = clock.since_boot()  # that one is gone is a reason to ask again
                sql.execute("UPDATE dry SET until = ? WHERE until BETWEEN ? AND ?", (now, now, now + LONGEST_DRY))
        return bool(done)

    # -- the line ------------------------------------------------------------------------------

    def queue(
        self, run: str, owner: str, wants: Sequence[Want], *, seq: int | None = None, cap: int | None = None
    ) -> int:
        """Stand in line; the place in it: the last one, or `seq`, which one had before. See Ticket for `cap`."""
        with self.database.changing() as sql:
            query = "INSERT OR REPLACE INTO tickets (seq, run, owner, wants, cap) VALUES (?, ?, ?, ?, ?)"
            added = sql.execute(query, (seq, run, owner, wants_text(wants), cap))
            return int(added.lastrowid or 0)

    def leave(self, seq: int) -> None:
        """Leave the line."""
        with self.database.changing() as sql:
            sql.execute("DELETE FROM tickets WHERE seq = ?", (seq,))

    def tickets(self) -> list[Ticket]:
        """Those who wait, the first one first."""
        return [ticket_of(row) for row in self.database.read("SELECT * FROM tickets ORDER BY seq")]

    def dry(self) -> set[Spec]:
        """The specs of which the API had none a moment ago."""
        now = clock.since_boot()  # what is further away is of another start of the machine
        found = self.database.read("SELECT spec FROM dry WHERE until > ? AND until <= ?", now, now + LONGEST_DRY)
        return {spec_of(row["spec"]) for row in found}

    def scarce(self) -> set[Spec]:
        """The specs of which the API had none lately, and has given none since."""
        now = clock.since_boot()
        query = "SELECT spec FROM dry WHERE until > ? AND until <= ?"
        return {spec_of(row["spec"]) for row in self.database.read(query, now - LONGEST_DRY, now + LONGEST_DRY)}

    def run_dry(self, want: Want) -> None:
        """The API had none: wait before it is asked for that spec again, longer each time, eight seconds at most."""
        with self.database.changing() as sql:
            spec = spec_text(want.spec)
            now = clock.since_boot()
            found = sql.execute("SELECT tries, until FROM dry WHERE spec = ?", (spec,)).fetchone()
            lately = found is not None and now - DRY_MEMORY < found["until"] <= now + LONGEST_DRY
            tries = found["tries"] + 1 if lately else 1
            until = now + min(2.0 ** (tries - 2), LONGEST_DRY)
            sql.execute("INSERT OR REPLACE INTO dry (spec, tries, until) VALUES (?, ?, ?)", (spec, tries, until))

    def forget_owner(self, owner: str) -> None:
        """A dead owner waits for nothing and wishes nothing."""
        with self.database.changing() as sql:
            sql.execute("DELETE FROM tickets WHERE owner = ?", (owner,))
            sql.execute("DELETE FROM wishes WHERE owner = ?", (owner,))

    # -- what is to come -----------------------------------------------------------------------

    def wish(self, run: str, owner: str, wants: Sequence[tuple[Want, str | None]]) -> None:
        """What an owner will ask for next, in place of what it wished before; each with its workspace, if one is known.

        A workspace is JSON that the keeper can pack.
        """
        with self.database.changing() as sql:
            sql.execute("DELETE FROM wishes WHERE owner = ?", (owner,))
            sql.executemany(
                "INSERT INTO wishes (run, owner, want, workspace) VALUES (?, ?, ?, ?)",
                [(run, owner, want_text(want), workspace) for want, workspace in wants],
            )

    def wishes(self, run: str) -> list[tuple[Want, str | None]]:
        """What a run's owners will ask for next, oldest first."""
        found = self.database.read("SELECT * FROM wishes WHERE run = ? ORDER BY number", run)
        return [(want_of(row["want"]), row["workspace"]) for row in found]


def _is_gone(stale: Entry, given: Entry) -> bool:
    """Whether the API may give out again what is ours by an entry: its time is over, or its release was carried out."""
    if stale.left <= 0 or stale.state == "suspect":
        return True
    answered = given.state in ("held", "cleaning")  # else it was only found in a list, where it is until it is gone
    return answered and stale.state == "releasing" and (stale.instance is None or stale.instance != given.instance)


def _count_released(sql: sqlite3.Connection, entry: Entry) -> None:
    query = "UPDATE runs SET released = released + 1, seconds = seconds + ? WHERE id = ?"
    sql.execute(query, (entry.age, entry.run))


def _in_its_place(sql: sqlite3.Connection, entry: Entry) -> Entry | None:
    found = sql.execute(f"SELECT {ALL} FROM entries WHERE place = ?", (place_of(entry),)).fetchone()  # noqa: S608
    return entry_of(found) if found else None
