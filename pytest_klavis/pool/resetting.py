"""A reset that can be believed, what is put in after it, and whether nothing is left in there."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_klavis import clock
from pytest_klavis.errors import InfraError
from pytest_klavis.handles import LocalSandbox
from pytest_klavis.handles.data import state_of
from pytest_klavis.handles.signed import upload
from pytest_klavis.kinds import KINDS, Held
from pytest_klavis.workspace.archive import Limits, members

from .rescue import SCRATCH, handle

if TYPE_CHECKING:
    from pytest_klavis.api.client import KlavisClient
    from pytest_klavis.kinds import Acquired

    from .entries import Entry

__tracebackhide__ = True  # users read their own frames


def reset(api: KlavisClient, entry: Entry, until: float, *, confirmed_later: bool) -> None:
    """Reset a sandbox, until then by the monotonic clock. Raises an InfraError unless the API confirms it.

    The answer about a local one says nothing, so its status is asked for, unless a seeding confirms it anyway.
    """
    kind, one = KINDS[entry.spec.kind], Held(entry.spec, _id(entry), entry.instance)
    status = kind.reset(api, one, clock.left(until))
    if not status and not confirmed_later:
        status = kind.status(api, one, clock.left(until))
    _check(entry, status)


def seed(api: KlavisClient, entry: Entry, archive: Path, until: float) -> None:
    """Put an archive into a workspace, until then by the monotonic clock. Raises an InfraError where it is not in."""

    def ask(seconds: float) -> str:
        return api.create_upload_url(_id(entry), deadline=seconds).upload_url

    upload(api, ask, archive, until)
    _check(entry, api.initialize_local_sandbox(_id(entry), deadline=clock.left(until)).status)


def verify(api: KlavisClient, entry: Entry, answer: Acquired | None, until: float) -> None:
    """Raise an InfraError where a dump shows that something is left in it, or where it cannot be dumped."""
    with tempfile.TemporaryDirectory(prefix=SCRATCH) as folder:
        sandbox = handle(api, entry, answer, Path(folder))
        if isinstance(sandbox, LocalSandbox):
            archive = Path(folder, "workspace.tar.gz")
            empty = sandbox._download(archive, _has_no_members, clock.left(until))  # noqa: SLF001
            holders = sandbox._holders.values()  # noqa: SLF001
            empty = empty and all(is_nothing(one.dump(deadline=clock.left(until))) for one in holders)
        else:
            answered = api.dump_sandbox(entry.spec.servers[0], _id(entry), deadline=clock.left(until))
            empty = is_nothing(state_of(answered, repr(sandbox)))
    if not empty:
        raise InfraError(f"the reset of {entry.name} was confirmed, but there is data in it")


def is_nothing(value: Any) -> bool:
    """Whether a value of JSON holds no object and no text, however deep its empty collections."""
    return all(map(is_nothing, value.values())) if isinstance(value, dict) else not value


def _has_no_members(archive: Path) -> bool:
    return next(members(archive, limits=Limits(portable=False)), None) is None


def _id(entry: Entry) -> str:
    assert entry.sandbox_id is not None  # noqa: S101  (for mypy)
    return entry.sandbox_id


def _check(entry: Entry, status: str) -> None:
    """Whether a status says that the sandbox is there and usable; one that nobody has heard of is."""
    if status in ("error", "idle"):
        raise InfraError(f"{entry.name} is in the state {status!r} now")
