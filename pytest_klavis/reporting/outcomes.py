"""What became of an item: infra errors are ERRORs, failures keep their evidence, sandboxes are handed over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_klavis import artifacts, clock
from pytest_klavis.errors import InfraError, SpecError
from pytest_klavis.interrupts import PATIENCE
from pytest_klavis.session import DRAIN_AT_END, KlavisSession
from pytest_klavis.state import STATE, ItemState, Use
from pytest_klavis.timeouts import paused

from .scrub import scrub

if TYPE_CHECKING:
    from pytest_klavis.evidence import Saved

UNKNOWN = "nothing is known about the agent."
RAISED = f"An error of the infrastructure while the test ran: {UNKNOWN}"
SWALLOWED = f"The test caught or outlived this error of the infrastructure: {UNKNOWN}"
EXPECTED = f"The test is marked xfail, but this error of the infrastructure is not what it expects: {UNKNOWN}"
GONE = f"The sandbox was gone before the test was over, so {UNKNOWN}"


def judge(
    session: KlavisSession, item: pytest.Item, call: pytest.CallInfo[Any], report: pytest.TestReport
) -> pytest.TestReport:
    """Turn infra errors into ERRORs, save the evidence of a failure, hand over what is over.

    Whatever goes wrong in here makes the report an ERROR that tells it: a hook that raises
    would end the whole run.
    """
    with paused(item):  # a test that is over cannot time out any more, in the middle of this hook least of all
        state = item.stash.get(STATE, None)
        if state is not None:
            try:
                _judge(session, item, call, report, state)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001  pytest-timeout's Failed is a BaseException, too
                trouble = f"trouble while handling this report: {type(error).__name__}: {error}"
                report.sections.append(("klavis", trouble))
                _set_error(report)
                state.failed = True
        scrub(report)
    if session.desk is not None:
        vars(report)["klavis_holds"] = True  # for the controller, which never has a desk of its own
    return report


def _judge(
    session: KlavisSession, item: pytest.Item, call: pytest.CallInfo[Any], report: pytest.TestReport, state: ItemState
) -> None:
    phase = report.when
    own = not state.in_body
    _make_error(item, call, report, state)
    state.unfit = state.unfit or bool(state.infra) or not _came_to_a_verdict(call)
    # A failing subtest reports through this hook too, before its test does: the flag must stick.
    state.failed = state.failed or report.failed
    if own and (state.failed or (session.settings.artifacts == "always" and phase != "setup")):
        _save(session, item, report, state)
    if own and phase == "teardown":
        state.judged = True
        session.settle_files(item, state)
        hand_over(session)
    report.user_properties = list(item.user_properties)


def _came_to_a_verdict(call: pytest.CallInfo[Any]) -> bool:
    """Whether this phase passed, or ended in a verdict of the test's own: no crash, no timeout."""
    raised = call.excinfo.value if call.excinfo else None
    verdicts = (AssertionError, pytest.fail.Exception, pytest.skip.Exception, pytest.xfail.Exception)
    return raised is None or (isinstance(raised, verdicts) and "pytest-timeout" not in str(raised))


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
        # doctest carries what was raised like this
        waiting += [(getattr(one, "exc_info", None) or (None, None))[1], *getattr(one, "failures", ())]


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
    expected = hasattr(report, "wasxfail")
    in_body = report.when == "call"
    _set_error(report)
    if raised is None or not (behind or isinstance(raised, SpecError)) or expected:
        report.longrepr = _shown(item, found[0])
        report.sections.append(("klavis", EXPECTED if expected and raised is not None else SWALLOWED))
    elif behind and in_body:
        report.sections.append(("klavis", RAISED))


def _set_error(report: pytest.TestReport) -> None:
    report.outcome = "failed"
    if report.when == "call":
        report.when = "setup"
    if hasattr(report, "wasxfail"):
        del report.wasxfail


def _shown(item: pytest.Item, error: BaseException) -> Any:
    if error.__traceback__ is None:
        return f"{type(error).__name__}: {error}"
    return item.repr_failure(pytest.ExceptionInfo.from_exception(error))


def _save(session: KlavisSession, item: pytest.Item, report: pytest.TestReport, state: ItemState) -> None:
    """Save the evidence of each lease that this item has used, or that ended badly with it, once."""
    if session.settings.artifacts == "never":
        return
    for use in list(session.uses):
        concerns = state in use.items or (report.when == "teardown" and report.failed and use.lease.over)
        if not concerns or id(use) in state.saved:
            continue
        about = {"test": item.nodeid, "outcome": report.outcome, "phase": report.when}
        saved = _saved(session, item, use, about)
        report.sections.append((f"klavis {use.title}", saved.text))
        # What stopped the call may be over with the test, such as a block on sockets: then the failure stands.
        last = report.when == "teardown" or not saved.again
        if saved.gone is not None and last:
            _set_error(report)
            report.sections.append(("klavis", GONE))
        if last:
            state.saved.add(id(use))


def _saved(session: KlavisSession, item: pytest.Item, use: Use, about: dict[str, Any]) -> Saved:
    from pytest_klavis.evidence import Saved  # noqa: PLC0415  loaded with the first sandbox

    try:
        folder = session.evidence_folder(item, use)
        saved = session.open_desk().save(use.lease, folder, extract=session.settings.artifacts_extract, about=about)
        item.config.hook.pytest_klavis_artifacts(item=item, sandbox=use.lease.sandbox, path=folder)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  missing evidence must not change the test's own outcome
        return Saved(f"its evidence could not be saved: {type(error).__name__}: {error}")
    item.user_properties.append(("klavis_artifacts", artifacts.shown(folder)))
    return saved


def hand_over(session: KlavisSession) -> None:
    """Hand over every lease whose scope has ended."""
    for use in [use for use in session.uses if use.lease.over]:
        _give_back(session, use, None)


def _give_back(session: KlavisSession, use: Use, patience: float | None, *, save: bool = False) -> None:
    keep = session.settings.keep == "always" or (session.settings.keep == "on-failure" and use.failed)
    reusable = use.reusable and session.ahead.next_item is not None  # else nobody is left here to use it
    session.open_desk().hand_over(use.lease, keep=keep, reusable=reusable, save=save, patience=patience)
    session.forget(use)


def drain(session: KlavisSession, *, interrupted: bool) -> None:
    """Save and hand over what no report will come for: after an interrupt, or at the end of the run.

    After an interrupt there are four seconds for it. What does not fit in is left to the embedded server, which
    carries out the will of a dead owner, or to the keeper.
    """
    if session.desk is None:
        return
    if session.patience is None:
        session.patience = clock.monotonic() + (PATIENCE if interrupted else DRAIN_AT_END)
    try:
        _drain(session)
        session.settle()
        _drain(session)  # what was on its way
    except KeyboardInterrupt:
        session.patience = clock.monotonic()
        # The run is being interrupted anyway: another Ctrl-C ends the wait, but not the summary.
        if not interrupted:
            raise
    finally:
        session.tally.leaked += [use.lease.sandbox.id for use in session.uses]
        session.tally.calls = session.desk.calls


def _drain(session: KlavisSession) -> None:
    """Each lease in turn, those without evidence to save first; each gets its share of what time is left."""
    waiting = sorted(session.uses, key=lambda use: _unreported(session, use) is not None)
    for use in waiting:
        use.lease.over = True
    for number, use in enumerate(waiting):
        to_come = len(waiting) - number
        leaves = session.settings.keep == "never" and session.has_keeper
        later = leaves and _unreported(session, use) is not None
        if session.time_left() > 0 and not later:
            # Half of its share, so that there is time for the release.
            _save_unreported(session, use, max(session.time_left() / to_come / 2, 0.5))
        _give_back(session, use, session.share(to_come), save=later)


def _unreported(session: KlavisSession, use: Use) -> tuple[pytest.Item, ItemState] | None:
    """The item that was cut short while it used this, unless its report saved what there is."""
    item = session.item
    state = item.stash[STATE] if item is not None else None
    if item is None or state is None or session.settings.artifacts == "never":
        return None
    return (item, state) if state in use.items and id(use) not in state.saved and use.failed else None


def _save_unreported(session: KlavisSession, use: Use, patience: float) -> None:
    concerned = _unreported(session, use)
    if concerned is None:
        return
    item, state = concerned
    folder = session.evidence_folder(item, use)
    about = {"test": item.nodeid, "outcome": "interrupted"}
    try:
        session.open_desk().save(use.lease, folder, about=about, patience=patience)
    except (InfraError, OSError) as error:
        session.tally.unsaved.append(f"{folder}: {error}")
    else:
        state.saved.add(id(use))
