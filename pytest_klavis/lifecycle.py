"""A sandbox's life: acquire, seed, use, dump, hand over. Knows nothing of pytest."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import catalog, clock
from .api import operations
from .artifacts import begin_run, run_of
from .errors import (
    AuthError,
    BackendError,
    InfraError,
    KlavisError,
    NoneLeftError,
    NotFoundError,
    RequestRefusedError,
    SeedError,
    UnavailableError,
)
from .evidence import Saved, save
from .handles import Context
from .interrupts import PATIENCE, held
from .kinds import KINDS, Acquire, Held, id_of, trouble_of
from .lease import Lease, Order, Prepared

if TYPE_CHECKING:
    from .api.client import KlavisClient
    from .backend import Endpoint, Owner
    from .kinds import Acquired
    from .pool.checkout import Checkout
    from .pool.entries import Entry
    from .pool.pool import Pool
    from .spec import Spec
    from .tally import Tally

__tracebackhide__ = True  # users read their own frames


_OPERATIONS = frozenset(one.name for one in vars(operations).values() if isinstance(one, operations.Operation))
"""Calls that the API's key opens; a server of a sandbox may refuse on its own account."""


_ACQUIRES = (operations.ACQUIRE_SANDBOX.name, operations.ACQUIRE_LOCAL_SANDBOX.name)


Source = Callable[[Prepared], Lease]


class Desk:
    """Where leases are made and handed over: this process's way to one backend."""

    def __init__(
        self,
        endpoint: Endpoint,
        api: KlavisClient,
        scratch: Path,
        tally: Tally,
        *,
        owner: Owner | None = None,
        pool: Pool | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.owner = owner
        """This process's hold on the embedded server."""
        self.pool = pool
        """Where the sandboxes of the cloud are between leases."""
        self.api = api
        self.pace = pool.pace if pool is not None else None
        """Whose turn it is to send a request."""
        self.scratch = scratch
        self.pid = os.getpid()
        self.tally = tally
        self.other_calls = 0
        """API calls that other clients to this backend have made."""
        self._leases: list[Lease] = []
        """Those that are not handed over."""
        self._left: set[Path] = set()
        """Folders of leases that somebody else has to save."""
        self._locked_out: AuthError | None = None
        """What the API said about the key; nothing more is acquired then."""
        self.hurry: Callable[[int], float | None] = lambda _count: None
        """Seconds for the first of so many releases; None where there is no hurry."""
        tally.isolation = endpoint.isolation

    @property
    def calls(self) -> int:
        """API calls made so far."""
        return self.api.calls + self.other_calls

    def acquire(self, orders: Sequence[Order]) -> list[Lease]:
        """Acquire and seed one sandbox per order: all of them, or none.

        Raises UnavailableError when the backend lacks a server, AuthError without a request once the API has
        refused the key, another InfraError when the API or the seeding fails; what had been acquired by then is
        saved, if it can be, and given back.
        """
        if self._locked_out is None and self.pool is not None:
            self._locked_out = self.pool.refusal()
        if self._locked_out is not None:
            raise copy.copy(self._locked_out)
        began = clock.monotonic()
        until = began + max(order.patience for order in orders)
        try:
            short: NoneLeftError | None = None
            while True:
                try:
                    return self._all(orders, until, short)
                except NoneLeftError as error:
                    short = error
        except BaseException as error:
            if isinstance(error, InfraError):
                self.notice(error, orders[0].test)
            if isinstance(error, KlavisError):
                raise error.with_traceback(None)  # noqa: B904  its way through our contexts tells nobody anything
            raise
        finally:
            self.tally.seconds_waited += clock.monotonic() - began
            self._tell_refused(orders)

    def save(
        self, lease: Lease, directory: Path, *, about: Mapping[str, Any], extract: bool = False, patience: float = 120.0
    ) -> Saved:
        """Save workspace and facts of a lease in `directory`.

        `patience` is how many seconds the download may take.
        """
        facts = {
            "test": lease.order.test,
            "sandbox_id": lease.sandbox.id,
            "kind": lease.order.spec.kind,
            "servers": list(lease.order.spec.servers),
            "benchmark": lease.order.spec.benchmark,
            "backend": self.endpoint.name,
            "seconds_held": round(clock.monotonic() - lease.began, 3),
            **about,
        }
        begin_run(run_of(directory))
        return save(
            lease.sandbox,
            directory,
            seed=lease.context.seed,
            facts=facts,
            extract=extract,
            patience=patience,
            unreachable_is_gone=self.endpoint.name == "embedded",
        )

    def hand_over(
        self,
        lease: Lease,
        *,
        keep: bool = False,
        why: str = "its test is over",
        reusable: bool = False,
        save: bool = False,
        patience: float | None = None,
    ) -> None:
        """Give the sandbox back, or leave it alive until its TTL. Idempotent; a forked child does nothing.

        `reusable` says that nothing speaks against a reset, `save` that its evidence could not be saved yet,
        `patience` is how many seconds it may take.
        """
        if lease.pid != os.getpid() or not lease.lock.acquire(timeout=-1 if patience is None else patience):
            return
        later = False
        try:
            if lease.handed_over:
                return
            lease.sandbox._close(why)  # noqa: SLF001  the lease ends the handle, nobody else may
            if lease.entry is not None:
                later = self._check_in(lease, keep=keep, reusable=reusable, save=save, patience=patience) and save
            elif keep:
                self._keep(lease)
            else:
                self._release(lease, patience)
            # Only now: what Ctrl-C cut short is tried again by the drain.
            lease.handed_over = True
            self._leases.remove(lease)
            self.tally.seconds_held += clock.monotonic() - lease.began
        finally:
            lease.lock.release()
            if later:  # whoever saves it compares with the seed
                self._left.add(lease.context.scratch)
            else:
                shutil.rmtree(lease.context.scratch, ignore_errors=True)

    def close(self) -> None:
        """Let go of the backend; the embedded server ends with its last user."""
        if self.pid != os.getpid():
            return
        for lease in [one for one in self._leases if not one.over]:  # an interrupt came before anyone knew of it
            self.hand_over(lease, patience=PATIENCE)
        if self.pool is not None:
            self.tally.leaked += self.pool.unwritten
            self.pool.close()
        self.api.close()
        for folder in [] if not self.scratch.is_dir() else self.scratch.iterdir():
            if folder not in self._left:
                shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # the keeper removes the last one
            self.scratch.rmdir()
        if self.owner is not None:
            self.owner.close()

    # -- acquiring -----------------------------------------------------------------------------

    def _all(self, orders: Sequence[Order], until: float, short: NoneLeftError | None) -> list[Lease]:
        """One lease per order, or an error and none; `short` is why it is begun again."""
        made: list[Lease] = []
        try:
            with self._prepared(orders) as prepared, self._sources(prepared, until, short) as sources:
                for one, source in zip(prepared, sources, strict=True):
                    made.append(self._usable(one, source, until))
        except BaseException as error:
            patience = None if isinstance(error, Exception) else PATIENCE
            for lease in made:
                self.hand_over(lease, why="another one of its set could not be had", reusable=True, patience=patience)
            raise
        return made

    @contextmanager
    def _prepared(self, orders: Sequence[Order]) -> Iterator[list[Prepared]]:
        """The seeds packed, each in a folder of its own, which goes unless it has become a lease's."""
        prepared: list[Prepared] = []
        try:
            for order in orders:
                folder = Path(tempfile.mkdtemp(prefix="lease-", dir=self.scratch))
                prepared.append(Prepared(order, Context(self.api, folder, self._reporter(order), order.find)))
                if order.seed is not None:
                    archive = folder / "seed.tar.gz"
                    order.seed.pack_to(archive)
                    prepared[-1].context.seed = archive
            yield prepared
        finally:
            used = {lease.context.scratch for lease in self._leases}
            for one in prepared:
                if one.context.scratch not in used:
                    shutil.rmtree(one.context.scratch, ignore_errors=True)

    @contextmanager
    def _sources(
        self, prepared: Sequence[Prepared], until: float, short: NoneLeftError | None
    ) -> Iterator[list[Source]]:
        """For each order what makes a lease of it; called again, of another sandbox."""
        if self.pool is None:
            yield [partial(self._acquire, until=until) for _ in prepared]
            return
        from .pool.checkout import checkout  # noqa: PLC0415  sqlite loads with the first sandbox of the cloud

        with checkout(self.pool, [one.want() for one in prepared], until, short) as found:
            yield [partial(self._check_out, found=found, index=index) for index in range(len(prepared))]

    def _usable(self, prepared: Prepared, source: Source, until: float) -> Lease:
        """A lease of a sandbox that works. The cloud is asked a second time when the first one is broken."""
        try:
            return self._filled(prepared, source, until)
        except _BrokenSandboxError as error:
            if self.endpoint.name == "embedded":
                raise
            first = str(error)
        try:
            with self._prepared([prepared.order]) as again:
                return self._filled(again[0], source, until)
        except _BrokenSandboxError as error:
            raise BackendError(
                f"two sandboxes in a row could not be used, and were given back:\n{first}\n{error}"
            ) from None

    def _filled(self, prepared: Prepared, source: Source, until: float) -> Lease:
        lease = source(prepared)
        try:
            self._check(lease)
            self._fill(lease, until)
        except BaseException as error:
            self._give_up(lease, error)
            raise
        return lease

    def _acquire(self, prepared: Prepared, until: float) -> Lease:
        """From the embedded server."""
        order, spec = prepared.order, prepared.order.spec
        kind = KINDS[spec.kind]
        with held():
            try:
                answer = kind.acquire(self.api, spec, Acquire(order.ttl, clock.left(until)))
            except RequestRefusedError as error:
                if _exists_elsewhere(spec):
                    raise UnavailableError(f"the embedded backend has no {spec}:\n{error}") from None
                raise
            lease = self._lease(prepared, id_of(answer), answer)
            self.tally.acquired += 1
            self._note(lease.sandbox.id, order)
        return lease

    def _check_out(self, prepared: Prepared, found: Checkout, index: int) -> Lease:
        """From the pool."""
        taken = found.take(index)
        return self._lease(prepared, taken.number, taken.answer, taken.entry, used=taken.used)

    def _lease(
        self,
        prepared: Prepared,
        number: str,
        answer: Acquired | None,
        entry: Entry | None = None,
        *,
        used: bool = False,
    ) -> Lease:
        sandbox = KINDS[prepared.order.spec.kind].handle(prepared.order, prepared.context, number, answer)
        lease = Lease(prepared.order, sandbox, prepared.context, os.getpid(), clock.monotonic(), entry, used)
        self._leases.append(lease)
        return lease

    def _note(self, sandbox_id: str, order: Order) -> None:
        if self.owner is not None:
            will = {"sandbox": sandbox_id, "artifacts": None, "run": None}
            if order.evidence is not None:
                will |= {"artifacts": str(order.evidence), "run": str(run_of(order.evidence))}
            self.owner.note(will)

    def _check_in(self, lease: Lease, *, keep: bool, reusable: bool, save: bool, patience: float | None) -> bool:
        """Give it back to the pool; where the ledger cannot be written it is released, and that is False."""
        assert self.pool is not None  # noqa: S101  it gave the entry
        assert lease.entry is not None  # noqa: S101
        try:
            self.pool.check_in(lease.entry, keep=keep, reusable=reusable, save=save, patience=patience)
        except InfraError as error:
            self.tally.notes.append(str(error).splitlines()[0])
            self._release(lease, patience)
            return False
        return True

    def _keep(self, lease: Lease) -> None:
        self.tally.kept.append(f"{lease.sandbox.id} of {lease.order.test}")
        if self.owner is not None:
            self.owner.note({"sandbox": lease.sandbox.id, "keep": True})

    def _tell_refused(self, orders: Sequence[Order]) -> None:
        """Fields that the API does not take, for the summary: our own labels are nobody's loss."""
        ours = set() if any(order.spec.tags for order in orders) else {"tags"}
        self.tally.refused = sorted({*self.tally.refused, *(self.api.refused_fields - ours)})
        if self.pool is not None:
            with suppress(InfraError):  # what was acquired is worth more than what others could learn
                self.pool.learn()

    def _check(self, lease: Lease) -> None:
        trouble = trouble_of(lease)
        if trouble and self.endpoint.name == "cloud" and lease.sandbox._details.get("status") != "error":  # noqa: SLF001
            KINDS[lease.order.spec.kind].ask_again(self.api, lease)
            if self.pool is not None and lease.entry is not None:
                lease.entry = self.pool.knows_instance(lease.entry, lease.sandbox.urls.values())
            trouble = trouble_of(lease)
        if trouble:
            raise _BrokenSandboxError(trouble)
        missing = lease.sandbox._details.get("missing")  # noqa: SLF001
        if missing and lease.order.whole:
            told = "".join(f"\n  {name}: {why}" for name, why in missing.items())
            raise UnavailableError(f"the {self.endpoint.name} backend lacks some of all servers:{told}")
        level = lease.sandbox._details.get("isolation")  # noqa: SLF001
        self.tally.isolation = level or self.tally.isolation

    def _fill(self, lease: Lease, until: float) -> None:
        try:
            KINDS[lease.order.spec.kind].fill(self.api, lease, until)
        except KlavisError as error:
            if lease.used and isinstance(error, NotFoundError):
                raise _BrokenSandboxError(f"{lease.sandbox!r} was there before, and is gone: {error}") from error
            seed = lease.order.seed.source if lease.order.seed else ""
            what = " and ".join(filter(None, (seed, "data" if lease.order.data else "")))
            raise SeedError(f"{lease.sandbox!r} was acquired, but {what} could not be put into it: {error}") from error

    def _give_up(self, lease: Lease, error: BaseException) -> None:
        """The way out of a failed acquire: keep what there is, release, and let the error go on."""
        wanted = isinstance(error, Exception) and not isinstance(error, _BrokenSandboxError | UnavailableError)
        try:
            if lease.order.evidence is not None and wanted:
                error.add_note(self.save(lease, lease.order.evidence, about={"error": str(error)}).text)
        except Exception as trouble:  # noqa: BLE001  the first error is the one to tell
            error.add_note(f"the workspace could not be saved either: {trouble}")
        finally:
            patience = None if isinstance(error, Exception) else PATIENCE
            self.hand_over(lease, why="it could not be made ready", patience=patience)

    # -- what the API says -----------------------------------------------------------------------

    def _reporter(self, order: Order) -> Callable[[InfraError], None]:
        def report(error: InfraError) -> None:
            self.notice(error, order.test)
            order.report(error)

        return report

    def notice(self, error: BaseException | None, test: str) -> None:
        """Remember that the API has refused the key: every further acquire would only wait for the same answer."""
        while error is not None and self._locked_out is None:
            if isinstance(error, AuthError) and _is_about_the_key(error):
                self._locked_out = copy.copy(error)
                who = test or "an acquire"
                self._locked_out.add_note(f"{who} was told so first; since then nothing more is asked for.")
                if self.pool is not None:
                    with suppress(InfraError):  # this process knows, at least
                        self.pool.refuse(self._locked_out)
            error = error.__cause__

    def _release(self, lease: Lease, patience: float | None) -> None:
        try:
            instance = lease.entry.instance if lease.entry is not None else None
            one = Held(lease.order.spec, lease.sandbox.id, instance)
            KINDS[lease.order.spec.kind].release(self.api, one, patience)
        except (InfraError, OSError) as error:
            self.notice(error, lease.order.test)
            # The embedded server does it when this process ends.
            self.tally.leaked.append(f"{lease.sandbox.id} ({str(error).splitlines()[0]})")
            return
        self.tally.released += 1


class _BrokenSandboxError(BackendError):
    """A sandbox was acquired that cannot be used: another one may be better."""


def _is_about_the_key(error: AuthError) -> bool:
    """A 403 of another route than an acquire may be about a plan, or the account behind one sandbox."""
    return error.operation in (_OPERATIONS if error.status == 401 else _ACQUIRES)


def _exists_elsewhere(spec: Spec) -> bool:
    """Whether all names are Klavis's own, so that a refusal means this backend and not a typing error."""
    benchmarks = (None, *catalog.BENCHMARKS, *catalog.NEWER_BENCHMARKS)
    return all(catalog.kind_of(name) for name in spec.servers) and spec.benchmark in benchmarks
