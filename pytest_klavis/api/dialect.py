"""What a run has learned of the dialect that its API speaks; one for all clients of the run.

The API has several dated dialects and tells of none. What one supports is what its answers echo, and a field that it
refuses by name is left out from then on. Sources: the sandbox API reference (`tags`), the OpenAPI document of 2026
(`tag`, `ttl_seconds`, `region`, `instance_id`, `init_default_data`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from pytest_klavis.api.answers import validation

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pytest_klavis.api import models
    from pytest_klavis.api.answers import Answer

__tracebackhide__ = True  # users read their own frames

Place = Literal["body", "query"]
# What a dialect may not know yet, or no more.
_OPTIONAL: dict[Place, frozenset[str]] = {
    "body": frozenset(("tags", "tag", "ttl_seconds")),
    "query": frozenset(("tags", "tag", "server_name", "region", "instance_id", "init_default_data")),
}
# Without these a call means another sandbox; their value may be what is unknown, so they have to be called a field.
_SELECTORS = frozenset(("tag", "instance_id"))
_FIELD = re.compile(r"extra|field|param|propert|argument|input|key", re.IGNORECASE)
_UNKNOWN = re.compile(
    r"extra|unknown|unexpected|unrecogni[sz]ed|unsupported|additional|not (?:a )?(?:known|allowed|permitted|supported)",
    re.IGNORECASE,
)


class Dialect:
    """Filled by the clients that share it, from any thread.

    `echoes_tags` is whether answers about a sandbox that was labelled at its acquire bring the label back; None
    while none of them was seen.
    """

    def __init__(self) -> None:
        self.echoes_tags: bool | None = None
        self._refused: set[tuple[Place, str]] = set()
        self._labels: dict[str, dict[str, str]] = {}

    @property
    def refused(self) -> frozenset[str]:
        """The names of fields and query parameters that are left out."""
        return frozenset(name for _, name in self._refused.copy())

    def known(self, place: Place, fields: Mapping[str, Any]) -> dict[str, Any]:
        """`fields` without those that were refused before."""
        return {name: value for name, value in fields.items() if (place, name) not in self._refused}

    def learn(self, place: Place, names: Collection[str]) -> None:
        """Leave these out from now on."""
        self._refused.update((place, name) for name in names)

    @property
    def told(self) -> list[str]:
        """What was learned, for a process that has not: `PLACE NAME` each."""
        return sorted(f"{place} {name}" for place, name in self._refused.copy())

    def hear(self, told: Collection[str]) -> None:
        """Learn what another process was `told`."""
        for one in told:
            place, _, name = one.partition(" ")
            self.learn("query" if place == "query" else "body", (name,))

    def label(self, sandbox_id: str, tags: Mapping[str, str]) -> None:
        """Remember what a sandbox was labelled with; nothing where the API refuses labels."""
        if ("body", "tags") in self._refused:
            self.echoes_tags = False
        else:
            self._labels[sandbox_id] = dict(tags)

    def notice(self, sandbox_id: str, tags: Any) -> None:
        """Compare the tags in an answer with what the sandbox was labelled with."""
        label = self._labels.get(sandbox_id)
        if label is not None:
            self.echoes_tags = bool(self.echoes_tags) or (isinstance(tags, dict) and label.items() <= tags.items())


def unknown_fields(answer: Answer, place: Place, sent: Collection[str]) -> frozenset[str]:
    """Return which of the fields that were `sent` a 422 seems to refuse for being there at all.

    A wrong guess costs one more request: a field counts as refused only when the call passes without it.
    """
    if answer.status != 422:
        return frozenset()
    candidates = _OPTIONAL[place].intersection(sent)
    complaints = [([str(step) for step in one.loc], f"{one.type} {one.msg}") for one in validation(answer.json())]
    named: set[str] = set()
    for where, words in complaints or [([], answer.content[:2000].decode("utf-8", "replace"))]:
        possible = candidates if _FIELD.search(words) else candidates - _SELECTORS
        if not _UNKNOWN.search(words) or (where and where[0] in ("body", "query") and where[0] != place):
            continue
        inside = [step for step in where if step in sent]
        if inside:
            named |= possible.intersection(where[-1:]) if inside == where[-1:] else set()
        else:  # it is about the whole, so its words may name a part; one at a time, as they may list what is known, too
            named |= set([word for word in re.findall(r"\w+", words) if word in possible][:1])
    return frozenset(named)


def shows(item: models.SandboxListItem, tags: Mapping[str, str] | None, tag: str | None, server: str | None) -> bool:
    """Whether a listed sandbox shows what was filtered by: an API that does not know a filter lists everything."""
    if tags is not None and not (isinstance(item.tags, dict) and tags.items() <= item.tags.items()):
        return False
    if tag is not None and not (isinstance(item.tags, list) and tag in item.tags):
        return False
    return server is None or item.server_name.lower() == server.lower()
