"""`pytest-klavis reap` from its options to its exit status; what is done with each sandbox is in reap.py."""

from __future__ import annotations

import logging
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pytest_klavis import redaction
from pytest_klavis.api.client import KlavisClient
from pytest_klavis.errors import BackendError, InfraError
from pytest_klavis.leftovers import Account
from pytest_klavis.pool.limiter import Limiter
from pytest_klavis.pool.owners import Owner
from pytest_klavis.pool.statedir import account_directory, existing_account, state_directory
from pytest_klavis.settings import OPTIONS

from .reap import HELD, RELEASED, Reaper, Wanted, await_keepers, elsewhere, in_hand, plan, would
from .unlisted import Unlisted
from .words import count

if TYPE_CHECKING:
    from pathlib import Path

Say = Callable[[str], None]

KEY = "KLAVIS_API_KEY"
INTERRUPTED = 130


@dataclass(frozen=True)
class Asked:
    """The options of one call."""

    wanted: Wanted
    base_url: str | None = None
    dry_run: bool = False
    wait: float = 0.0
    """Seconds for living keepers of runs that have ended."""


def reap(asked: Asked, say: Say, complain: Say) -> int:
    """Release what is left on the ledger of the account that the environment names; the exit status.

    0 where nothing is left that it should have released, 1 where something could not be, 130 after Ctrl-C. Raises a
    KlavisError where key, address or state directory cannot be used.
    """
    state = state_directory()
    if state.note:
        complain(state.note)
    key, base_url = _key(state.path), _base_url(asked.base_url)
    KlavisClient(base_url, key)  # says what is wrong with them
    here = existing_account(base_url, key)
    try:
        with _logged(complain):
            status = 0 if here is None else _Reap(asked, Account(here), base_url, key, say, complain).run()
        if here is None:
            say(f"nothing to reap: this machine has no records of this key at {urlsplit(base_url).netloc}")
        for told in elsewhere(state.path, here):
            say(told)
    except InfraError as error:
        complain(redaction.redact(str(error)))
        return 1
    return status


def reap_account(asked: Asked, say: Say, complain: Say, *, yes: bool) -> int:
    """List what the account holds beyond the ledger; with `yes` release it. Status and errors as of `reap`."""
    key, base_url = _key(state_directory().path), _base_url(asked.base_url)
    directory = account_directory(base_url, key)
    client = _client(base_url, key, directory.path)
    try:
        with _logged(complain):
            found = Unlisted(Account(directory.path), client, asked.wanted.older_than, say, complain)
            return found.run(yes=yes)
    except InfraError as error:
        complain(redaction.redact(str(error)))
        return 1
    except KeyboardInterrupt:
        complain("interrupted: what was not said to be released may be held still")
        return INTERRUPTED


@dataclass(frozen=True)
class _Reap:
    asked: Asked
    account: Account
    base_url: str
    key: str
    say: Say
    complain: Say

    def run(self) -> int:
        for path in self.account.newer():
            self.complain(f"{path} is a newer pytest-klavis's: only that can release what is on it")
        late = await_keepers(self.account, self.asked.wait) if self.asked.wait else in_hand(self.account)
        status = self._dry_run() if self.asked.dry_run else self._reap()
        if late:
            self.say(
                f"{count(len(late))} left to a keeper that lives{'' if self.asked.wait else '; --wait lets it finish'}"
            )
        self._tell_suspects()
        return 1 if late and self.asked.wait and not status else status

    def _dry_run(self) -> int:
        total = 0
        for ledger in self.account.ledgers():
            for entry in plan(self.account, ledger, self.asked.wanted):
                total += 1
                self.say(would(entry, suspects=self.asked.wanted.suspects))
        self.say(f"{count(total)} would be reaped" if total else "nothing to reap")
        return 0

    def _reap(self) -> int:
        outcomes: Counter[str] = Counter()
        for ledger in self.account.ledgers():
            if not plan(self.account, ledger, self.asked.wanted):
                continue
            owner = Owner(self.account.path / "owners", f"reap--{os.getpid()}-{secrets.token_hex(6)}")
            api = _client(self.base_url, self.key, self.account.path)
            exclusive = _setting("exclusive-account")
            reaper = Reaper(self.account, ledger, api, owner, self.asked.wanted, exclusive, self.say, self.complain)
            try:
                reaper.reap()
            except KeyboardInterrupt:  # the threads may be about to release: their owner lives until this process ends
                self._tell_left(reaper)
                return INTERRUPTED
            outcomes.update(reaper.outcomes)
            owner.close()
        self.say(_summary(outcomes))
        return 1 if outcomes[HELD] else 0

    def _tell_left(self, reaper: Reaper) -> None:
        left = reaper.left()
        self.complain(f"interrupted: {count(len(left))} left, which the next run or another reap releases")
        for entry in left:
            self.complain(f"  {entry.name}")

    def _tell_suspects(self) -> None:
        if self.asked.wanted.suspects:
            return
        suspects = [
            one.entry
            for ledger in self.account.ledgers()
            for one in self.account.holdings(ledger)
            if one.entry.state == "suspect" and one.is_unattended and not one.is_over
        ]
        for entry in suspects:
            self.say(f"suspect: {entry.name} may come from a lost acquire of {entry.whose}")
        if suspects:
            self.say("--suspects releases what is suspect; anybody who uses the account may hold it")


def _summary(outcomes: Counter[str]) -> str:
    if not outcomes:
        return "nothing to reap"
    shown = {RELEASED: outcomes[RELEASED], "still held": outcomes[HELD]}
    others = {name: number for name, number in outcomes.items() if name not in (RELEASED, HELD)}
    return ", ".join(f"{number} {name}" for name, number in (shown | others).items())


def _client(base_url: str, key: str, account: Path) -> KlavisClient:
    pace = Limiter(account / "limiter", _setting("rate"))
    return KlavisClient(base_url, key, region=_setting("region"), pace=pace)


def _key(state: Path) -> str:
    key = os.environ.get(KEY)
    if key:
        return key
    told = "".join(f"\n{one}" for one in elsewhere(state, None))
    raise BackendError(f"reap needs the key of the account: set {KEY}{told}")


def _base_url(given: str | None) -> str:
    url: str = _setting("base-url", given)
    if _has_user(url):  # told without the URL
        raise BackendError("the base URL holds a user or password: it must be without them")
    return url


def _has_user(url: str) -> bool:
    try:
        return "@" in urlsplit(url).netloc
    except ValueError:  # the client says what is wrong with it
        return "@" in url


def _setting(stem: str, given: str | None = None) -> Any:
    """A setting as runs have it, but for ini files: there is no project here."""
    option = next(one for one in OPTIONS if one.stem == stem)
    text = given or os.environ.get(option.env) or option.default
    try:
        return option.parse(text)
    except ValueError as error:
        raise BackendError(f"{stem}: {text!r} (from {'--' + stem if given else option.env}): {error}") from None


@contextmanager
def _logged(complain: Say) -> Iterator[None]:
    """What went wrong with a sandbox is told as it happens."""
    logger = logging.getLogger("pytest_klavis")
    handler = _Complaints(complain)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Complaints(logging.Handler):
    def __init__(self, complain: Say) -> None:
        super().__init__(logging.WARNING)
        self._complain = complain

    def emit(self, record: logging.LogRecord) -> None:
        self._complain(redaction.redact(record.getMessage()))
