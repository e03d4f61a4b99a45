"""A sandbox's life: acquire, seed, use, dump, hand over. Knows nothing of pytest."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
    RequestRefusedError,
    SeedError,
    ServerError,
    TransportError,
    UnavailableError,
)
from .evidence import Saved, save
from .handles import Context, LocalSandbox, RemoteSandbox
from .interrupts import PATIENCE, held
from .kinds import KINDS, trouble_of

if TYPE_CHECKING:
    from .api.client import KlavisClient
    from .backend import Endpoint, Owner
    from .spec import Spec
    from .tally import Tally
    from .workspace.seed import Seed

__tracebackhide__ = True  # users read their own frames


_OPERATIONS = frozenset(one.name for one in vars(operations).values() if isinstance(one, operations.Operation))
"""Calls that the API's key opens; a server of a sandbox may refuse on its own account."""


_ACQUIRES = (operations.ACQUIRE_SANDBOX.name, operations.ACQUIRE_LOCAL_SANDBOX.name)


@dataclass(frozen=True)
class Order:
    """One acquire, with everything resolved: what, with which content, for how long."""

    spec: Spec
    given: Mapping[str, str]
    """Canonical server name -> the name that the test used."""
    ttl: int
    patience: float = 600.0
    """Seconds that the acquire with its seeding may take."""
    seed: Seed | None = None
    data: Mapping[str, Any] | None = None
    """Of a remote sandbox, in its server's shape; of a local one, by the servers' canonical names."""
    evidence: Path | None = None
    """Where the workspace is saved when things go wrong; None when nothing is to be saved."""
    test: str = ""
    """Who asked: the node id, for the evidence and the summary."""
    find: Callable[[str | Path], Path] = Path
    report: Callable[[InfraError], None] = field(default=lambda _error: None)


@dataclass
class Lease:
    """One fixture scope's exclusive hold of one sandbox, from checkout to hand-over."""

    order: Order
    sandbox: LocalSandbox | RemoteSandbox
    context: Context
    pid: int
    began: float
    over: bool = False
    """The scope has ended; the hand-over may follow as soon as the verdict is known."""
    handed_over: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    """Held while it is handed over: a thread that came too late and the drain may both want to."""


class Desk:
    """Where leases are made and handed over: this process's way to one backend."""

    def __init__(self, endpoint: Endpoint, owner: Owner | None, api: KlavisClient, scratch: Path, tally: Tally) -> None:
        self.endpoint = endpoint
        self.owner = owner
        self.api = api
        self.scratch = scratch
        self.pid = os.getpid()
        self.tally = tally
        self.other_calls = 0
        """API calls that other clients to this backend have made."""
        self._leases: list[Lease] = []
        """Those that are not handed over."""
        self._locked_out: AuthError | None = None
        """What the API said about the key; nothing more is acquired then."""
        self.hurry: Callable[[int], float | None] = lambda _count: None
        """Seconds for the first of so many releases; None where there is no hurry."""
        tally.isolation = endpoint.isolation

    @property
    def calls(self) -> int:
        """API calls made so far."""
        return self.api.calls + self.other_calls

    def acquire(self, order: Order) -> Lease:
        """Acquire and seed one sandbox.

        Raises UnavailableError when the backend lacks a server, AuthError without a request once the API has
        refused the key, another InfraError when the API or the seeding fails; what had been acquired by then is
        saved, if it can be, and released.
        """
        if self._locked_out is not None:
            raise copy.copy(self._locked_out)
        began = clock.monotonic()
        try:
            return self._usable(order, began + order.patience)
        except InfraError as error:
            self.notice(error, order.test)
            raise
        finally:
            self.tally.seconds_waited += clock.monotonic() - began
            self.tally.refused = sorted(self.api.refused_fields)

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
        self, lease: Lease, *, keep: bool = False, why: str = "its test is over", patience: float | None = None
    ) -> None:
        """Release the sandbox, or leave it alive until its TTL. Idempotent; a forked child does nothing.

        `patience` is how many seconds the release may take.
        """
        if lease.pid != os.getpid() or not lease.lock.acquire(timeout=-1 if patience is None else patience):
            return
        try:
            if lease.handed_over:
                return
            lease.sandbox._close(why)  # noqa: SLF001  the lease ends the handle, nobody else may
            if keep:
                self.tally.kept.append(f"{lease.sandbox.id} of {lease.order.test}")
                if self.owner is not None:
                    self.owner.note({"sandbox": lease.sandbox.id, "keep": True})
            else:
                self._release(lease, patience)
            # Only now: a release that Ctrl-C cut short is tried again by the drain.
            lease.handed_over = True
            self._leases.remove(lease)
            self.tally.seconds_held += clock.monotonic() - lease.began
        finally:
            lease.lock.release()
            shutil.rmtree(lease.context.scratch, ignore_errors=True)

    def close(self) -> None:
        """Let go of the backend; the embedded server ends with its last user."""
        if self.pid != os.getpid():
            return
        for lease in [one for one in self._leases if not one.over]:  # an interrupt came before anyone knew of it
            self.hand_over(lease, patience=PATIENCE)
        self.api.close()
        shutil.rmtree(self.scratch, ignore_errors=True)
        if self.owner is not None:
            self.owner.close()

    # -- acquiring -----------------------------------------------------------------------------

    def _usable(self, order: Order, until: float) -> Lease:
        """A lease of a sandbox that works. The cloud is asked a second time when the first one is broken."""
        try:
            return self._filled(order, until)
        except _BrokenSandboxError as error:
            if self.endpoint.name == "embedded":
                raise
            first = str(error)
        try:
            return self._filled(order, until)
        except _BrokenSandboxError as error:
            raise BackendError(
                f"two sandboxes in a row could not be used, and were given back:\n{first}\n{error}"
            ) from None

    def _filled(self, order: Order, until: float) -> Lease:
        folder = Path(tempfile.mkdtemp(prefix="lease-", dir=self.scratch))
        try:
            archive = None
            if order.seed is not None:
                archive = folder / "seed.tar.gz"
                order.seed.pack_to(archive)
            with held():
                context = Context(self.api, folder, self._reporter(order), order.find, archive)
                lease = self._acquire(order, context, until)
            self._check(lease)
            self._fill(lease, until)
        except BaseException as error:
            for one in [one for one in self._leases if one.context.scratch == folder]:
                self._give_up(one, error)
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return lease

    def _acquire(self, order: Order, context: Context, until: float) -> Lease:
        spec = order.spec
        try:
            sandbox = KINDS[spec.kind].acquire(self.api, order, context, until)
        except RequestRefusedError as error:
            if self.endpoint.name == "embedded" and _exists_elsewhere(spec):
                raise UnavailableError(f"the embedded backend has no {spec}:\n{error}") from None
            raise
        except (InfraError, KeyboardInterrupt) as error:
            self.doubt(error, f"a {spec} for {order.test}")
            raise
        lease = Lease(order, sandbox, context, os.getpid(), clock.monotonic())
        self._leases.append(lease)
        self.tally.acquired += 1
        self._note(sandbox.id, order)
        return lease

    def doubt(self, error: BaseException, what: str) -> None:
        """An acquire ended in `error`: name what it may have made all the same. An embedded server knows it itself."""
        if self.owner is not None or not _may_have_been_made(error):
            return
        self.tally.unknown.append(what)
        if isinstance(error, ServerError):
            error.add_note("A gateway may have said so while the sandbox was made: it is named in the summary.")

    def _note(self, sandbox_id: str, order: Order) -> None:
        if self.owner is not None:
            will = {"sandbox": sandbox_id, "artifacts": None, "run": None}
            if order.evidence is not None:
                will |= {"artifacts": str(order.evidence), "run": str(run_of(order.evidence))}
            self.owner.note(will)

    def _check(self, lease: Lease) -> None:
        trouble = trouble_of(lease)
        if trouble and self.endpoint.name == "cloud" and lease.sandbox._details.get("status") != "error":  # noqa: SLF001
            KINDS[lease.order.spec.kind].ask_again(self.api, lease)
            trouble = trouble_of(lease)
        if trouble:
            raise _BrokenSandboxError(trouble)
        level = lease.sandbox._details.get("isolation")  # noqa: SLF001
        self.tally.isolation = level or self.tally.isolation

    def _fill(self, lease: Lease, until: float) -> None:
        try:
            KINDS[lease.order.spec.kind].fill(self.api, lease, until)
        except KlavisError as error:
            seed = lease.order.seed.source if lease.order.seed else ""
            what = " and ".join(filter(None, (seed, "data" if lease.order.data else "")))
            raise SeedError(f"{lease.sandbox!r} was acquired, but {what} could not be put into it: {error}") from error

    def _give_up(self, lease: Lease, error: BaseException) -> None:
        """The way out of a failed acquire: keep what there is, release, and let the error go on."""
        wanted = isinstance(error, Exception) and not isinstance(error, _BrokenSandboxError)
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
            error = error.__cause__

    def _release(self, lease: Lease, patience: float | None) -> None:
        try:
            KINDS[lease.order.spec.kind].release(self.api, lease, patience)
        except (InfraError, OSError) as error:
            self.notice(error, lease.order.test)
            # An embedded server releases what a dead owner held; on the cloud the TTL does.
            self.tally.leaked.append(f"{lease.sandbox.id} ({str(error).splitlines()[0]})")
            return
        self.tally.released += 1


class _BrokenSandboxError(BackendError):
    """A sandbox was acquired that cannot be used: another one may be better."""


def _is_about_the_key(error: AuthError) -> bool:
    """A 403 of another route than an acquire may be about a plan, or the account behind one sandbox."""
    return error.operation in (_OPERATIONS if error.status == 401 else _ACQUIRES)


def _may_have_been_made(error: BaseException) -> bool:
    """Whether an acquire that ended in `error` may have been carried out: its answer was lost, maybe on the way."""
    if isinstance(error, ServerError):
        return error.status in (500, 502, 504)  # 503 turns it away unread
    lost = isinstance(error, TransportError) and error.sent is not False
    return lost or isinstance(error, KeyboardInterrupt)


def _exists_elsewhere(spec: Spec) -> bool:
    """Whether all names are Klavis's own, so that a refusal means this backend and not a typing error."""
    benchmarks = (None, *catalog.BENCHMARKS, *catalog.NEWER_BENCHMARKS)
    return all(catalog.kind_of(name) for name in spec.servers) and spec.benchmark in benchmarks
