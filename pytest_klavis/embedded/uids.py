"""One uid per sandbox when the server is root, so that the kernel keeps sandboxes apart. None for anyone else."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from pathlib import Path

_HIGH = range(1_500_000_000, 2_000_000_000)  # above every account; below 2**31, which some tools still assume
_LOW = range(40_000, 60_000)  # in a container whose user namespace has the usual 65,536 uids
_TRIES = 1_000


class Uids:
    """Hands out uids that no live sandbox of this server has.

    They are drawn at random from a range so wide that two servers on a machine do not meet in it.
    """

    def __init__(self) -> None:
        self._range = _usable_range()
        self._taken: set[int] = set()

    def take(self) -> int | None:
        if not self._range:
            return None
        for _ in range(_TRIES):
            uid = self._range[secrets.randbelow(len(self._range))]
            if uid not in self._taken:
                self._taken.add(uid)
                return uid
        raise RuntimeError(f"no free uid among {self._range}: too many live sandboxes")

    def give_back(self, uid: int | None) -> None:
        self._taken.discard(uid if uid is not None else -1)


def _usable_range() -> range:
    """The first range that this process may really give files to; an empty one if there is none."""
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        return range(0)
    with tempfile.TemporaryDirectory() as folder:
        for candidate in (_HIGH, _LOW):
            try:
                for uid in (candidate[0], candidate[-1]):
                    os.chown(Path(folder), uid, uid)
            except OSError:  # not mapped in this user namespace, or root without CAP_CHOWN
                continue
            os.chown(Path(folder), 0, 0)
            return candidate
    return range(0)
