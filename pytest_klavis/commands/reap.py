"""`pytest-klavis reap`: releases what dead processes of this machine have left on the ledger of one account.

What a living process or a living keeper's run holds is never touched, and every change is guarded: a run that begins
meanwhile, its keeper and this command can do the same work side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_klavis import clock, redaction
from pytest_klavis.errors import InfraError
from pytest_klavis.leftovers import Account, Holding, accounts
from pytest_klavis.pool.answers import Answers
from pytest_klavis.pool.chores import Chores
from pytest_klavis.pool.rescue import FACTS

from .side_by_side import side_by_side
from .words import count, servers, span

if TYPE_CHECKING:
    from pytest_klavis.api.client import KlavisClient
    from pytest_klavis.pool.entries import Entry
    from pytest_klavis.pool.ledger import Ledger
    from pytest_klavis.pool.owners import Owner

Say = Callable[[str], None]

PATIENCE: Final = 90.0
"""Seconds that lost acquires are looked for: what has not appeared in a minute was never made."""
LONGEST_PAUSE: Final = 15.0
POLL: Final = 0.2

RELEASED, HELD, GONE = "released", "STILL HELD", "not ours any more"
NEVER, SUSPECT, FORGOTTEN, OTHERS = "never made", "suspect", "its time is over", "another process's now"
AGAIN = "again"
"""What becomes of an entry; `again` is to be looked for later."""


@dataclass(frozen=True)
class Wanted:
    """What is to be reaped."""

    older_than: float = 0.0
    """Seconds since the acquire."""
    suspects: bool = False
    """Also what the account holds that may come from an acquire whose answer was lost."""

    def has(self, one: Holding) -> bool:
        """Whether an entry is to be released."""
        suspect = self.suspects and one.entry.state == "suspect" and one.is_unattended
        return (one.is_left or suspect) and one.entry.age >= self.older_than


@dataclass
class Reaper:
    """Reaps one ledger, as `owner`."""

    account: Account
    ledger: Ledger
    api: KlavisClient
    owner: Owner
    wanted: Wanted
    exclusive: bool
    """Nobody else uses the account: what is found there after a lost answer is no mere suspect."""
    say: Say
    complain: Say
    outcomes: list[str] = field(default_factory=list)
    """What became of each entry."""
    planned: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        answers = Answers(self.account.path / "answers")
        self._chores = Chores(self.ledger, answers, self.api, self.owner.id, exclusive=self.exclusive)

    def reap(self) -> None:
        """Release what is left, and say of each what became of it. Ctrl-C ends it at once."""
        self._reap(plan(self.account, self.ledger, self.wanted))
        if self.wanted.suspects and SUSPECT in self.outcomes:
            again = plan(self.account, self.ledger, self.wanted)
            self._reap([one for one in again if one.state == "suspect"])

    def left(self) -> list[Entry]:
        """What was to be released and is on the ledger still."""
        found = {one.number: one for one in self.ledger.entries()}
        return [found[one.number] for one in self.planned if one.number in found]

    def _reap(self, entries: list[Entry]) -> None:
        known = {one.number for one in self.planned}
        self.planned += [one for one in entries if one.number not in known]
        lost = [one for one in entries if one.state in ("intent", "lost")]
        self._tell(side_by_side(self._release, [one for one in entries if one not in lost]))
        self._look_for(lost)  # last: what is not on the ledger and not released by now may be theirs

    def _look_for(self, lost: list[Entry]) -> None:
        until, pause = clock.monotonic() + PATIENCE, 1.0
        while lost:
            looked = list(side_by_side(self._look, lost))
            self._tell([(entry, outcome) for entry, outcome in looked if outcome != AGAIN])
            lost = [entry for entry, outcome in looked if outcome == AGAIN]
            if not lost:
                return
            if clock.monotonic() + pause > until:
                self._tell([(entry, HELD) for entry in lost])
                return
            if pause == 1.0:
                self.say(f"looking for what {count(len(lost), 'lost acquire')} may have made: a minute at most")
            clock.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _tell(self, ended: Iterator[tuple[Entry, str]] | Sequence[tuple[Entry, str]]) -> None:
        for entry, outcome in ended:
            self.outcomes.append(outcome)
            self.say(f"{outcome}: {line(entry)}")
            if entry.state == "held" or entry.save:
                evidence = Path(entry.will.get("evidence", ""), FACTS)
                if entry.will.get("evidence") and evidence.exists():
                    self.say(f"  what it held is saved in {evidence.parent}")

    # -- one entry, in any thread ----------------------------------------------------------------

    def _release(self, entry: Entry) -> str:
        def release() -> str | None:
            if entry.state == "suspect" and not self.wanted.suspects:
                return FORGOTTEN if self.ledger.remove(entry) else OTHERS
            self._chores.settle(entry)
            return None

        return self._became(entry, release)

    def _look(self, entry: Entry) -> str:
        def look() -> str | None:
            now = self.ledger.entry(entry.number)
            looked = "taken" if now is None else self._chores.reconcile(now)
            return {"dropped": NEVER, "suspect": SUSPECT, "again": AGAIN}.get(looked)

        return self._became(entry, look)

    def _became(self, entry: Entry, work: Callable[[], str | None]) -> str:
        """What became of an entry by `work`, which says so or leaves it to the ledger."""
        try:
            outcome = work()
            now = self.ledger.entry(entry.number)
        except Exception as error:  # noqa: BLE001  whatever it is, the others have to be released
            told = str(error) if isinstance(error, InfraError | OSError) else repr(error)
            self.complain(redaction.redact(f"{entry.name}: {told}"))
            return HELD
        if outcome is not None:
            return outcome
        if now is not None:
            return HELD if now.owner in (None, self.owner.id) else OTHERS
        return GONE if entry.number in self._chores.spared else RELEASED


def plan(account: Account, ledger: Ledger, wanted: Wanted) -> list[Entry]:
    """What of a ledger is to be released now."""
    return [one.entry for one in account.holdings(ledger) if wanted.has(one)]


def line(entry: Entry) -> str:
    """An entry on one line."""
    name = entry.sandbox_id or "(id unknown)"
    return f"{name} ({servers(entry.spec)}), {span(entry.age)} old, of {entry.whose}"


def would(entry: Entry, *, suspects: bool) -> str:
    """What would be done with an entry."""
    if entry.state in ("intent", "lost"):
        return f"would look for what this may have made: {line(entry)}"
    if entry.state == "suspect" and not suspects:
        return f"would forget, as its time is over: {line(entry)}"
    saves = (entry.state == "held" or entry.save) and entry.will.get("evidence")
    return f"would {'save and release' if saves else 'release'}: {line(entry)}"


def await_keepers(account: Account, seconds: float) -> list[Holding]:
    """Let living keepers of runs that have ended do their work for so long; what they have not done by then."""
    until = clock.monotonic() + seconds
    while (left := in_hand(account)) and clock.monotonic() < until:
        clock.sleep(min(POLL, max(until - clock.monotonic(), 0.0)))
    return left


def in_hand(account: Account) -> list[Holding]:
    """What living keepers of runs that have ended are about to release."""
    return [one for ledger in account.ledgers() for one in account.holdings(ledger) if one.is_in_hand]


def elsewhere(state: Path, here: Path | None) -> Iterator[str]:
    """What is left on the ledgers of other keys and hosts, and how it can be released."""
    for account in accounts(state):
        if account.path == here:
            continue
        try:
            left = sum(one.is_left for ledger in account.ledgers() for one in account.holdings(ledger))
        except InfraError as error:
            yield str(error)
            continue
        if left:
            yield (
                f"{count(left)} at {account.host} of another key (account {account.digest}): "
                "set KLAVIS_API_KEY to that key, and reap with the --base-url of that host"
            )
