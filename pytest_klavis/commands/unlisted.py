"""`pytest-klavis reap --account`: what an account holds in the cloud that no ledger of this machine knows of.

The API does not say who holds it. It may be another machine's, or a colleague's: releasing it is a decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_klavis import clock, redaction
from pytest_klavis.errors import InfraError, NotFoundError
from pytest_klavis.kinds import KINDS, Held, instance_of
from pytest_klavis.leftovers import Account
from pytest_klavis.pool.acquiring import LABEL
from pytest_klavis.pool.chores import RELEASE
from pytest_klavis.pool.still_ours import moment
from pytest_klavis.spec import Spec

from .side_by_side import side_by_side
from .words import count, servers, span

if TYPE_CHECKING:
    from pytest_klavis.api.client import KlavisClient

Say = Callable[[str], None]


@dataclass(frozen=True)
class Found:
    """One sandbox of the account."""

    spec: Spec
    id: str
    told: str | None
    """When it was made or last changed, as the API writes it."""
    label: bool = False
    """Whether a run of this plugin acquired it, on some machine."""

    @property
    def age(self) -> float | None:
        """Seconds since then; None where the API does not tell."""
        at = moment(self.told)
        return None if at is None else max(clock.now() - at, 0.0)

    def __str__(self) -> str:
        old = "of unknown age" if self.age is None else f"{span(self.age)} old"
        return f"{self.id} ({servers(self.spec)}), {old}{', of pytest-klavis' if self.label else ''}"


@dataclass(frozen=True)
class Unlisted:
    """The way to what the ledgers of one account do not know."""

    account: Account
    api: KlavisClient
    older_than: float
    """Seconds; with any, those of unknown age are left out."""
    say: Say
    complain: Say

    def run(self, *, yes: bool) -> int:
        """Say what there is, and release it if that was confirmed; the exit status: 1 where something is left.

        Raises an InfraError where the API does not list it.
        """
        found = [one for one in self._listed() if self._is_strange(one) and self._is_old(one)]
        if not yes:
            for one in found:
                self.say(f"not on this machine's ledger: {one}")
            self.say(f"{count(len(found))} beyond the ledger" + ("; --yes releases all of it" if found else ""))
            if found:
                self.say("(what other machines' runs hold is among it: this machine cannot know)")
            return 0
        released = left = 0
        for one, outcome in side_by_side(self._release, found):
            released += outcome == "released"
            left += outcome == "STILL HELD"
            self.say(f"{outcome}: {one}")
        self.say(f"{released} released, {left} still held")
        return 1 if left else 0

    def _listed(self) -> Iterable[Found]:
        for one in self.api.list_sandboxes().sandboxes:
            if one.status != "idle":
                yield Found(
                    Spec("remote", (one.server_name,), one.benchmark), one.sandbox_id, one.updated_at, _label(one)
                )
        for local in self.api.list_local_sandboxes().local_sandboxes:
            names = tuple(server.server_name for server in local.servers if server.server_name)
            yield Found(Spec("local", names, local.benchmark), local.local_sandbox_id, local.created_at)

    def _is_old(self, one: Found) -> bool:
        return not self.older_than or (one.age is not None and one.age >= self.older_than)

    def _is_strange(self, one: Found) -> bool:
        """Whether no ledger has it. It may also be what a living process acquires at this moment, whatever its id."""
        for ledger in self.account.ledgers():
            for holding in self.account.holdings(ledger):
                entry = holding.entry
                coming = entry.state in ("intent", "lost") and not holding.is_unattended
                if entry.spec.kind == one.spec.kind and (coming or entry.sandbox_id == one.id):
                    return False
        return True

    def _release(self, one: Found) -> str:
        try:
            instance = None
            if one.spec.kind == "remote":
                if not one.spec.servers[0]:
                    raise InfraError("the API does not tell of which server it is")  # noqa: TRY301
                details = self.api.get_sandbox(one.spec.servers[0], one.id, deadline=RELEASE)
                if details.status == "idle":
                    return "gone by itself"
                instance = instance_of(details.urls.values())
            if not self._is_strange(one):
                return "left, as a run of this machine has it now"
            KINDS[one.spec.kind].release(self.api, Held(one.spec, one.id, instance), RELEASE)
        except NotFoundError:
            return "gone by itself"
        except InfraError as error:
            self.complain(redaction.redact(f"{one.id} could not be released: {error}"))
            return "STILL HELD"
        return "released"


def _label(item: Any) -> bool:
    return isinstance(item.tags, dict) and LABEL in item.tags
