"""A sandbox's life: acquire, seed, use, dump, hand over. Knows nothing of pytest."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import catalog, redaction
from .artifacts import begin_run, run_of
from .errors import BackendError, InfraError, KlavisError, RequestRefusedError, SeedError, UnavailableError
from .evidence import Saved, save
from .handles import Context, LocalSandbox, RemoteSandbox, Server

if TYPE_CHECKING:
    from .api.client import KlavisClient
    from .backend import Endpoint, Owner
    from .spec import Spec
    from .tally import Tally
    from .workspace.seed import Seed

__tracebackhide__ = True  # users read their own frames


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
        tally.isolation = endpoint.isolation

    @property
    def calls(self) -> int:
        """API calls made so far."""
        return self.api.calls + self.other_calls

    def acquire(self, order: Order) -> Lease:
        """Acquire and seed one sandbox.

        Raises UnavailableError when the backend lacks a server, another InfraError when the
        API or the seeding fails; what had been acquired by then is saved, if it can be, and released.
        """
        began = time.monotonic()
        folder = Path(tempfile.mkdtemp(prefix="lease-", dir=self.scratch))
        try:
            archive = None
            if order.seed is not None:
                archive = folder / "seed.tar.gz"
                order.seed.pack_to(archive)
            lease = self._acquire(order, Context(self.api, folder, order.report, order.find, archive))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self.tally.acquired += 1
        try:
            self._check(lease)
            self._fill(lease, began + order.patience)
        except BaseException as error:
            self._give_up(lease, error)
            raise
        finally:
            self.tally.seconds_waited += time.monotonic() - began
        return lease

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
            "seconds_held": round(time.monotonic() - lease.began, 3),
            **about,
        }
        begin_run(run_of(directory))
        return save(lease.sandbox, directory, seed=lease.context.seed, facts=facts, extract=extract, patience=patience)

    def hand_over(
        self, lease: Lease, *, keep: bool = False, why: str = "its test is over", patience: float | None = None
    ) -> None:
        """Release the sandbox, or leave it alive until its TTL. Idempotent; a forked child does nothing.

        `patience` is how many seconds the release may take.
        """
        if lease.handed_over or lease.pid != os.getpid():
            return
        lease.sandbox._close(why)  # noqa: SLF001  the lease ends the handle, nobody else may
        try:
            if keep:
                self.tally.kept.append(f"{lease.sandbox.id} of {lease.order.test}")
                if self.owner is not None:
                    self.owner.note({"sandbox": lease.sandbox.id, "keep": True})
            else:
                self._release(lease, patience)
            # Only now: a release that Ctrl-C cut short is tried again by the drain.
            lease.handed_over = True
            self.tally.seconds_held += time.monotonic() - lease.began
        finally:
            shutil.rmtree(lease.context.scratch, ignore_errors=True)

    def close(self) -> None:
        """Let go of the backend; the embedded server ends with its last user."""
        if self.pid != os.getpid():
            return
        self.api.close()
        shutil.rmtree(self.scratch, ignore_errors=True)
        if self.owner is not None:
            self.owner.close()

    def _acquire(self, order: Order, context: Context) -> Lease:
        spec = order.spec
        try:
            sandbox = self._local(order, context) if spec.kind == "local" else self._remote(order, context)
        except RequestRefusedError as error:
            if self.endpoint.name == "embedded" and _exists_elsewhere(spec):
                raise UnavailableError(f"the embedded backend has no {spec}:\n{error}") from None
            raise
        return Lease(order, sandbox, context, os.getpid(), time.monotonic())

    def _local(self, order: Order, context: Context) -> LocalSandbox:
        spec = order.spec
        names = "ALL" if spec.servers == ("ALL",) else list(spec.servers)
        answer = self.api.acquire_local_sandbox(
            names,
            benchmark=spec.benchmark,
            test_account_email=spec.account,
            ttl_seconds=order.ttl,
            deadline=order.patience,
        )
        self._note(answer.local_sandbox_id, order)
        servers, auth_data, metadata = {}, {}, {}
        details: dict[str, Any] = {"status": answer.status, "missing": {}}
        for item in answer.servers:
            name = str(item.server_name)
            extra = item.metadata or {}
            metadata[name] = extra
            auth_data[name] = item.auth_data or {}
            details["root"] = extra.get("root", details.get("root"))
            self.tally.isolation = extra.get("isolation", self.tally.isolation)
            if item.mcp_server_url and item.status != "error":
                redaction.register_url(item.mcp_server_url)
                servers[order.given.get(name, name)] = Server(order.given.get(name, name), item.mcp_server_url)
            else:
                details["missing"][name] = extra.get("reason") or item.status
        details |= {"auth_data": auth_data, "metadata": metadata}
        return LocalSandbox(context, spec, answer.local_sandbox_id, servers, details)

    def _remote(self, order: Order, context: Context) -> RemoteSandbox:
        spec = order.spec
        name = spec.servers[0]
        answer = self.api.acquire_sandbox(
            name,
            benchmark=spec.benchmark,
            test_account_email=spec.account,
            tags=dict(spec.tags) or None,
            ttl_seconds=order.ttl,
            deadline=order.patience,
        )
        self._note(answer.sandbox_id, order)
        servers = {}
        for key, url in (answer.server_urls or {}).items():
            redaction.register_url(url)
            shown = order.given.get(name, name) if key == name or len(answer.server_urls or {}) == 1 else key
            servers[shown] = Server(shown, url)
        return RemoteSandbox(context, spec, answer.sandbox_id, servers, {"status": answer.status})

    def _note(self, sandbox_id: str, order: Order) -> None:
        if self.owner is not None:
            will = {"sandbox": sandbox_id, "artifacts": None, "run": None}
            if order.evidence is not None:
                will |= {"artifacts": str(order.evidence), "run": str(run_of(order.evidence))}
            self.owner.note(will)

    def _check(self, lease: Lease) -> None:
        details = lease.sandbox._details  # noqa: SLF001  written a few lines above
        if details.get("status") == "error":
            raise BackendError(f"{lease.sandbox!r} was acquired in the state 'error'")
        missing = details.get("missing") or {}
        if missing and lease.order.spec.servers != ("ALL",):
            told = "; ".join(f"{name}: {why}" for name, why in missing.items())
            raise BackendError(f"{lease.sandbox!r} came without some of its servers: {told}")
        if not lease.sandbox.servers:
            raise BackendError(f"{lease.sandbox!r} was acquired, but the answer holds no server URL")

    def _fill(self, lease: Lease, until: float) -> None:
        sandbox, order = lease.sandbox, lease.order
        patience = max(until - time.monotonic(), 1.0)
        try:
            if isinstance(sandbox, LocalSandbox) and lease.context.seed is not None:
                sandbox._upload(lease.context.seed, patience)  # noqa: SLF001
            if isinstance(sandbox, RemoteSandbox) and order.data is not None:
                self.api.initialize_sandbox(order.spec.servers[0], sandbox.id, order.data, deadline=patience)
        except KlavisError as error:
            what = order.seed.source if order.seed else "data"
            raise SeedError(f"{sandbox!r} was acquired, but {what} could not be put into it: {error}") from error

    def _give_up(self, lease: Lease, error: BaseException) -> None:
        """The way out of a failed seeding: keep what there is, release, and let the error go on."""
        try:
            if lease.order.evidence is not None and isinstance(error, Exception):
                error.add_note(self.save(lease, lease.order.evidence, about={"error": str(error)}).text)
        except Exception as trouble:  # noqa: BLE001  the first error is the one to tell
            error.add_note(f"the workspace could not be saved either: {trouble}")
        finally:
            self.hand_over(lease, why="seeding it failed")

    def _release(self, lease: Lease, patience: float | None) -> None:
        sandbox = lease.sandbox
        try:
            if lease.order.spec.kind == "local":
                self.api.release_local_sandbox(sandbox.id, deadline=patience)
            else:
                self.api.release_sandbox(lease.order.spec.servers[0], sandbox.id, deadline=patience)
        except (InfraError, OSError):
            # An embedded server releases what a dead owner held; on the cloud the TTL does.
            self.tally.leaked.append(sandbox.id)
            return
        self.tally.released += 1


def _exists_elsewhere(spec: Spec) -> bool:
    """Whether all names are Klavis's own, so that a refusal means this backend and not a typing error."""
    benchmarks = (None, *catalog.BENCHMARKS, *catalog.NEWER_BENCHMARKS)
    return all(catalog.kind_of(name) for name in spec.servers) and spec.benchmark in benchmarks
