"""A light cloud, an account's directory, and a worker's part in the pool, for the tests of chores and keeper."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_klavis.api.client import KlavisClient
from pytest_klavis.kinds import KINDS, Acquire, id_of, instance_of
from pytest_klavis.pool.acquiring import LABEL
from pytest_klavis.pool.answers import Answers
from pytest_klavis.pool.chores import Chores
from pytest_klavis.pool.entries import Entry, State, Want
from pytest_klavis.pool.keeper import KeeperConfig, keeper_alive
from pytest_klavis.pool.ledger import Ledger
from pytest_klavis.spec import Spec
from pytest_klavis.workspace.archive import pack_mapping

from ..cloud import KEY, NEWER, Cloud, Dialect, light_cloud

RUN = "run"
LOCAL = Spec("local", ("filesystem",))
REMOTE = Spec("remote", ("github",))

_HOLDER = """
import sys
from pathlib import Path
from pytest_klavis.pool.owners import Owner
owner = Owner(Path(sys.argv[1]), sys.argv[2])
print(owner.id, flush=True)
sys.stdin.read()
"""


@dataclass
class Bench:
    """What a test works with; `owner` is who its own entries belong to."""

    cloud: Cloud
    account: Path
    owner: str = f"{RUN}--1-test"
    verify_reset: bool = False
    exclusive: bool = False
    api: KlavisClient = field(init=False)

    def __post_init__(self) -> None:
        for folder in ("owners", "answers"):
            (self.account / folder).mkdir(parents=True)
        self.ledger = Ledger(self.account)
        self.answers = Answers(self.account / "answers")
        self.api = KlavisClient(self.cloud.url, KEY)
        self.ledger.begin(RUN)

    @property
    def chores(self) -> Chores:
        return Chores(
            self.ledger,
            self.answers,
            self.api,
            self.owner,
            verify_reset=self.verify_reset,
            exclusive=self.exclusive,
        )

    def config(self, **more: Any) -> KeeperConfig:
        return replace(KeeperConfig(RUN, self.account, self.cloud.url, KEY, cap=8, **more))

    def acquired(self, spec: Spec = LOCAL, state: State = "held", *, owner: str | None = "", **values: Any) -> Entry:
        """A sandbox that is on the ledger in some state."""
        want = Want(spec, ttl=values.pop("ttl", 1800), test="test_it.py::test_it", will=values.pop("will", {}))
        entry = self.ledger.intend(RUN, self.owner, want)
        labels = {LABEL: entry.nonce} if spec.kind == "remote" else {}
        answer = KINDS[spec.kind].acquire(self.api, spec, Acquire(entry.ttl, 10, labels))
        urls = getattr(answer, "urls", {}).values()
        found = self.ledger.change(
            entry,
            state,
            owner=self.owner if owner == "" else owner,
            sandbox_id=id_of(answer),
            instance=instance_of(urls),
            **values,
        )
        assert found is not None
        self.answers.store(found.number, spec, answer)
        return found

    def intent(self, spec: Spec = LOCAL, **values: Any) -> Entry:
        """An acquire that was carried out, though nobody got to know."""
        entry = self.ledger.intend(RUN, values.pop("owner", self.owner), Want(spec, ttl=1800, test="test_it"))
        labels = {LABEL: entry.nonce} if spec.kind == "remote" else {}
        KINDS[spec.kind].acquire(self.api, spec, Acquire(entry.ttl, 10, labels))
        return entry

    def put(self, entry: Entry, files: dict[str, str], folder: Path) -> None:
        """Put files into a workspace."""
        assert entry.sandbox_id is not None
        archive = folder / "put.tar.gz"
        pack_mapping(files, archive)
        self.api.upload_archive(self.api.create_upload_url(entry.sandbox_id).upload_url, archive)
        self.api.initialize_local_sandbox(entry.sandbox_id)

    def states(self) -> list[str]:
        return [one.state for one in self.ledger.entries()]

    def notes(self) -> tuple[str, ...]:
        record = self.ledger.run(RUN)
        assert record is not None
        return tuple(record.notes)

    def is_clean(self) -> bool:
        """Whether nothing is held, and nothing went wrong in the cloud's books."""
        return not self.cloud.books.open() and not self.cloud.books.troubles()

    def keeper_lives(self) -> bool:
        return keeper_alive(self.account, RUN)

    def keeper_pid(self) -> int:
        """The process of the keeper, found by its owner file's lock."""
        inode = (self.account / "owners" / f"keeper-{RUN}").stat().st_ino
        locks = Path("/proc/locks").read_text().splitlines()
        return next(int(line.split()[4]) for line in locks if line.split()[5].endswith(f":{inode}"))


@contextmanager
def bench(folder: Path, dialect: Dialect = NEWER, **knobs: Any) -> Iterator[Bench]:
    """A bench whose keeper, if there is one, is gone at the end."""
    with light_cloud(dialect, **knobs) as cloud:
        made = Bench(cloud, folder / "account")
        try:
            yield made
        finally:
            made.cloud.faults.clear()
            made.ledger.close_run(RUN)
            for entry in made.ledger.entries():
                made.ledger.remove(entry)
            wait(lambda: not made.keeper_lives())
            made.ledger.close()


@contextmanager
def holder(place: Bench, name: str = f"{RUN}--2-holder") -> Iterator[subprocess.Popen[str]]:
    """A process that is the owner `name` until it dies."""
    command = [sys.executable, "-c", _HOLDER, str(place.account / "owners"), name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == name
        try:
            yield process
        finally:
            process.kill()


def wait(until: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.02)
