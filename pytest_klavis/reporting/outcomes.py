"""What became of an item: infra errors are ERRORs, failures keep their evidence, sandboxes are handed over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_klavis import artifacts
from pytest_klavis.errors import InfraError, SpecError
from pytest_klavis.session import DRAIN_SECONDS, STATE, ItemState, KlavisSession, Use
from pytest_klavis.timeouts import paused

from .scrub import scrub

SWALLOWED = "The test caught or outlived this error of the infrastructure: nothing is known about the agent."


def judge(
    session: KlavisSession, item: pytest.Item, call: pytest.CallInfo[Any], report: pytest.TestReport
) -> pytest.TestReport:
    """Turn infra errors into ERRORs, save the evidence of a failure, hand over what is over.

    Whatever goes wrong in here is told in the report and changes nothing else: a hook that
    raises would end the whole run.
    """
    state = item.stash.get(STATE, None)
    if state is not None:
        try:
            _judge(session, item, call, report, state)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  pytest-timeout's Failed is a BaseException, too
            report.sections.append(("klavis", f"trouble while handling this report: {type(error).__name__}: {error}"))
    scrub(report)
    return report


def _judge(
    session: KlavisSession, item: pytest.Item, call: pytest.CallInfo[Any], report: pytest.TestReport, state: ItemState
) -> None:
    phase = report.when
    _make_error(item, call, report, state)
    # A failing subtest reports through this hook too, before its test does: the flag must stick.
    state.failed = state.failed or report.failed
    if not state.in_body:
        if state.failed or (session.settings.artifacts == "always" and phase != "setup"):
            _save(session, item, report, state)
        if phase == "teardown":
            state.judged = True
            session.forget_files(state)
            with paused(item):
                hand_over(session)


def infra_errors(error: BaseException | None) -> Iterator[InfraError]:
    """The infra errors behind `error`: itself, its causes and contexts, and the members of groups."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, InfraError):
            yield one
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
        waiting += [one.__cause__, None if one.__suppress_context__ else one.__context__]


def _make_error(item: pytest.Item, call: pytest.CallInfo[Any], report: pytest.TestReport, state: ItemState) -> None:
    """Report an infra error as an ERROR, whatever the test made of it: nothing is known about the agent."""
    raised = call.excinfo.value if call.excinfo else None
    behind = list(infra_errors(raised))
    found: list[InfraError | SpecError] = [*behind, *state.infra[state.told :]]
    if isinstance(raised, SpecError):
        found.insert(0, raised)
    if state.in_body:
        # A subtest reports: its test is to be an ERROR as well.
        state.infra += [error for error in behind if error not in state.infra]
    else:
        state.told = len(state.infra)
    if not found:
        return
    if raised is None or report.skipped:
        report.longrepr = item.repr_failure(pytest.ExceptionInfo.from_exception(found[0]))
        report.sections.append(("klavis", SWALLOWED))
    report.outcome = "failed"
    if report.when == "call":
        report.when = "setup"
    if hasattr(report, "wasxfail"):
        del report.wasxfail


def _save(session: KlavisSession, item: pytest.Item, report: pytest.TestReport, state: ItemState) -> None:
    """Save the evidence of each lease that this item has used, once."""
    for use in session.uses:
        if session.settings.artifacts == "never" or state not in use.items or id(use) in state.saved:
            continue
        state.saved.add(id(use))
        about = {"test": item.nodeid, "outcome": report.outcome, "phase": report.when}
        with paused(item):
            report.sections.append((f"klavis {use.title}", _saved(session, item, use, about)))
        report.user_properties = list(item.user_properties)


def _saved(session: KlavisSession, item: pytest.Item, use: Use, about: dict[str, Any]) -> str:
    try:
        folder = session.evidence_folder(item, use)
        text = session.open_desk().save(use.lease, folder, extract=session.settings.artifacts_extract, about=about)
        item.config.hook.pytest_klavis_artifacts(item=item, sandbox=use.lease.sandbox, path=folder)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  missing evidence must not change the test's own outcome
        return f"its evidence could not be saved: {type(error).__name__}: {error}"
    item.user_properties.append(("klavis_artifacts", artifacts.shown(folder)))
    return text


def hand_over(session: KlavisSession) -> None:
    """Hand over every lease whose scope has ended."""
    for use in [use for use in session.uses if use.lease.over]:
        session.uses.remove(use)
        keep = session.settings.keep == "always" or (session.settings.keep == "on-failure" and use.failed)
        session.open_desk().hand_over(use.lease, keep=keep)


def drain(session: KlavisSession) -> None:
    """Save and hand over what no report will come for: after an interrupt, or at the end of the run.

    What does not fit into the time a worker has is left to the embedded server, which
    carries out the will of a dead owner, or to the TTL.
    """
    if session.desk is None:
        return
    deadline = time.monotonic() + DRAIN_SECONDS
    for use in session.uses:
        use.lease.over = True
        wanted = session.settings.artifacts == "always" or (session.settings.artifacts != "never" and use.failed)
        folder = use.lease.order.evidence
        if wanted and folder is not None and not use.lease.saved and time.monotonic() < deadline:
            try:
                session.desk.save(use.lease, folder, extract=False, about={"outcome": "interrupted"})
            except (InfraError, OSError) as error:
                session.tally.unsaved.append(f"{folder}: {error}")
    if time.monotonic() < deadline:
        hand_over(session)
    session.tally.calls = session.desk.calls
