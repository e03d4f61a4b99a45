"""`pytest-klavis leases`: what this machine holds in the cloud, by whom, since when, and for how long still."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from pytest_klavis.errors import InfraError
from pytest_klavis.leftovers import Account, Holding, accounts
from pytest_klavis.pool.statedir import state_directory

from .words import cut, servers, span

Say = Callable[[str], None]

_HEAD = f"  {'STATE':<10}{'HELD FOR':<10}{'EXPIRES IN':<12}SANDBOX"


def leases(say: Say, complain: Say, *, as_json: bool, width: int) -> int:
    """Say what is held, in lines of at most `width` characters; the exit status: 1 where a ledger cannot be read.

    No key is needed and nothing is made. Raises BackendError where the state directory cannot be used.
    """
    state = state_directory()
    if state.note:
        complain(state.note)
    status = 0
    found: list[tuple[Account, list[Holding]]] = []
    for account in accounts(state.path):
        for path in account.newer():
            complain(f"{path} is a newer pytest-klavis's: only that can list it")
        try:
            holdings = [one for ledger in account.ledgers() for one in account.holdings(ledger)]
        except InfraError as error:
            complain(str(error))
            status = 1
        else:
            found.append((account, holdings))
    if as_json:
        say(json.dumps([_record(account, one) for account, held in found for one in held], indent=2))
        return status
    for account, held in found:
        for line in _table(account, held) if held else ():
            say(cut(line, width))
    if not status and not any(held for _, held in found):
        say("nothing is held")
    return status


def _table(account: Account, held: list[Holding]) -> Iterator[str]:
    yield f"{account.host} (account {account.digest})"
    yield _HEAD
    for one in held:
        entry = one.entry
        left = span(entry.left) if entry.left > 0 else "over"
        yield f"  {entry.state:<10}{span(entry.age):<10}{left:<12}{entry.sandbox_id or '(id unknown)'}"
        yield f"      {servers(entry.spec)}"
        yield f"      {entry.whose}"
        yield f"      {_answering(one)}"


def _answering(one: Holding) -> str:
    owner = "" if one.owner_alive is None else f"owner {_life(one.owner_alive)}; "
    return f"{owner}run {one.entry.run}, its keeper {_life(one.keeper_alive)}"


def _life(alive: bool) -> str:
    return "alive" if alive else "dead"


def _record(account: Account, one: Holding) -> dict[str, Any]:
    entry = one.entry
    return {
        "host": account.host,
        "account": account.digest,
        "id": entry.sandbox_id,
        "kind": entry.spec.kind,
        "servers": list(entry.spec.servers),
        "benchmark": entry.spec.benchmark,
        "state": entry.state,
        "test": entry.test or None,
        "run": entry.run,
        "owner": entry.owner,
        "owner_alive": one.owner_alive,
        "keeper_alive": one.keeper_alive,
        "held_since": datetime.fromtimestamp(entry.born_at, UTC).isoformat(timespec="seconds"),
        "held_seconds": round(entry.age, 1),
        "expires_in_seconds": round(entry.left, 1) if math.isfinite(entry.left) else None,
    }
