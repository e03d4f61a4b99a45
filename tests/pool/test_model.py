"""The ledger and its line against a model: several owners take, give back, lose, die, in any order."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pytest_klavis import clock
from pytest_klavis.errors import BackendError, ClosedError
from pytest_klavis.pool.allocation import Limits
from pytest_klavis.pool.entries import LIVE, Entry, Want
from pytest_klavis.pool.ledger import Ledger
from pytest_klavis.pool.line import Place
from pytest_klavis.spec import Spec

SPECS = [Spec("remote", ("github",)), Spec("remote", ("slack",)), Spec("local", ("filesystem",))]
OWNERS = ["anna", "ben", "carl"]
CAP = 3
BUDGET = 12


class Pool(RuleBasedStateMachine):
    """`real` is what the API has: ids that were acquired and not released."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="klavis-"))
        self.ledgers = {name: Ledger(self.folder) for name in (*OWNERS, "keeper")}
        self.real: set[str] = set()
        self.dirty: set[str] = set()
        self.leased: dict[int, str] = {}
        self.unknown: dict[int, str] = {}
        """What lost acquires made."""
        self.acquired = self.released = self.count = 0

    def teardown(self) -> None:
        for one in self.ledgers.values():
            one.close()
        shutil.rmtree(self.folder)

    @initialize()
    def begin(self) -> None:
        for one in self.ledgers.values():
            one.begin("run", budget=BUDGET)

    @rule(
        owner=st.sampled_from(OWNERS),
        specs=st.lists(st.sampled_from(SPECS), min_size=1, max_size=CAP),
        data=st.data(),
    )
    def take(self, owner: str, specs: list[Spec], data: st.DataObject) -> None:
        before = self._entries()
        wants = [Want(one, 3600, needs=60, test=f"test of {owner}") for one in specs]
        limits = Limits(CAP, per_account=True)
        place = Place(self.ledgers[owner], wants, run="run", owner=owner, limits=limits, tend=lambda: None)
        try:
            with place:
                found = place.take(clock.monotonic() - 1)  # one look
        except (BackendError, ClosedError):
            after = self._entries()
            assert {one.number for one in after} == {one.number for one in before}, "all or nothing"
            assert self.ledgers[owner].tickets() == []
            return
        assert [one.spec for one in found] == specs
        for one in found:
            assert one.number not in self.leased, "leased to two"
            self.leased[one.number] = owner
            if one.state == "held":
                assert one.sandbox_id not in self.dirty
                self.dirty.add(one.sandbox_id or "")
            self._answer(one, data.draw(st.sampled_from(["comes", "comes", "is lost", "refuses"])))

    def _answer(self, one: Entry, what: str) -> None:
        if one.state != "intent":
            return
        ledger = self.ledgers[one.owner or ""]
        if what == "refuses":
            assert ledger.remove(one)
            del self.leased[one.number]
            return
        self.count += 1
        number = f"s-{self.count}"
        self.real.add(number)
        if what == "is lost":
            lost = ledger.change(one, "lost", owner=None)
            assert lost is not None
            self.unknown[lost.number] = number
            del self.leased[one.number]
            return
        assert ledger.change(one, "held", owner=one.owner, sandbox_id=number)
        self.acquired += 1
        self.dirty.add(number)

    @rule(data=st.data(), reusable=st.booleans())
    def check_in(self, data: st.DataObject, reusable: bool) -> None:
        mine = [one for one in self._entries() if one.state == "held"]
        if mine:
            one = data.draw(st.sampled_from(mine))
            ledger = self.ledgers[one.owner or ""]
            assert ledger.change(one, "dirty", owner=None, reusable=reusable)
            assert ledger.change(one, "dirty", owner=None) is None, "given back twice"
            del self.leased[one.number]

    @rule(data=st.data(), works=st.booleans())
    def clean(self, data: st.DataObject, works: bool) -> None:
        found = [one for one in self._entries() if one.state == "dirty"]
        if found:
            one = data.draw(st.sampled_from(found))
            keeper = self.ledgers["keeper"]
            claimed = keeper.change(one, "cleaning", owner="keeper")
            assert claimed is not None
            assert self.ledgers["anna"].change(one, "releasing", owner="anna") is None, "somebody was faster"
            if one.reusable and works:
                self.dirty.discard(one.sandbox_id or "")
                assert keeper.change(claimed, "idle", owner=None, test="")
            else:
                self._release(claimed)

    @rule(data=st.data())
    def release_idle(self, data: st.DataObject) -> None:
        found = [one for one in self._entries() if one.state == "idle"]
        if found:
            self._release(data.draw(st.sampled_from(found)))

    @rule(data=st.data())
    def reconcile(self, data: st.DataObject) -> None:
        found = [one for one in self._entries() if one.state == "lost"]
        if found:
            one = data.draw(st.sampled_from(found))
            number = self.unknown.pop(one.number)
            claimed = self.ledgers["keeper"].change(one, "releasing", owner="keeper", sandbox_id=number)
            assert claimed is not None
            self.acquired += 1
            self._release(claimed)

    @rule(owner=st.sampled_from(OWNERS))
    def die(self, owner: str) -> None:
        self.ledgers["keeper"].forget_owner(owner)
        for one in self._entries():
            if one.owner == owner:
                del self.leased[one.number]
                self._release(one)
        self.ledgers[owner].close()

    def _release(self, one: Entry) -> None:
        claims = [ledger.change(one, "releasing", owner=name) for name, ledger in self.ledgers.items()]
        (claimed,) = filter(None, claims)
        assert one.sandbox_id in self.real, "released twice"
        self.real.remove(one.sandbox_id)
        self.dirty.discard(one.sandbox_id)
        removed = [ledger.remove(claimed) for ledger in self.ledgers.values()]
        assert removed.count(True) == 1
        self.released += 1

    def _entries(self) -> list[Entry]:
        return self.ledgers["keeper"].entries()

    @invariant()
    def all_that_exists_is_on_the_ledger(self) -> None:
        known = {one.sandbox_id for one in self._entries()} - {None}
        assert self.real == known | set(self.unknown.values())

    @invariant()
    def each_lease_is_its_owners(self) -> None:
        leased = {one.number: one.owner for one in self._entries() if one.state in ("held", "intent")}
        assert leased == self.leased

    @invariant()
    def the_cap_and_the_budget_hold(self) -> None:
        entries = self._entries()
        assert sum(one.state in LIVE for one in entries) <= CAP
        assert self.count <= BUDGET

    @invariant()
    def what_is_idle_is_clean(self) -> None:
        assert not {one.sandbox_id for one in self._entries() if one.state == "idle"} & self.dirty

    @invariant()
    def the_counters_are_right(self) -> None:
        record = self.ledgers["keeper"].run("run")
        assert record is None or (record.acquired, record.released) == (self.acquired, self.released)


TestPool = Pool.TestCase
TestPool.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
