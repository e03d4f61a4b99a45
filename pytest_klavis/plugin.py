"""The hooks of the plugin: each one line or a call."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from . import artifacts, hookspecs, logs, markers, redaction, timeouts
from . import settings as settings_room
from .fixtures import (  # noqa: F401  pytest finds fixtures in the plugin's module
    _klavis_declared,
    blackbox_workspace,
    class_klavis_sandbox,
    class_local_sandbox,
    klavis_artifacts,
    klavis_box,
    klavis_client,
    klavis_local_sandbox,
    klavis_sandbox,
    klavis_sandboxes,
    klavis_settings,
    local_sandbox,
    module_klavis_sandbox,
    module_local_sandbox,
    package_klavis_sandbox,
    package_local_sandbox,
    sandbox,
    sandboxes,
    session_klavis_sandbox,
    session_local_sandbox,
)
from .reporting import outcomes, terminal
from .reporting.scrub import refuse_names, scrub, scrub_error, scrub_internal, scrub_junit, scrub_warning
from .session import KEY, KlavisSession
from .state import Run

if TYPE_CHECKING:
    from _pytest._code.code import ExceptionRepr
    from xdist.workermanage import WorkerController

__tracebackhide__ = True  # users read their own frames


def pytest_addoption(parser: pytest.Parser) -> None:
    settings_room.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests() -> Generator[None, Any, Any]:
    redaction.register_environment()
    try:
        return (yield)
    except BaseException as error:
        scrub_error(error)
        raise


def pytest_configure(config: pytest.Config) -> None:
    redaction.register_environment()
    markers.register(config)
    config.stash[KEY] = KlavisSession(config, settings_room.load(config), Run.of(config))
    config.pluginmanager.register(_Run(config.stash[KEY]), "klavis-run")


class _Run:
    """What of a run is seen by hooks that know neither config nor session, or that have to come first."""

    def __init__(self, session: KlavisSession) -> None:
        self._session = session
        self._broken = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if getattr(report, "klavis_holds", False):  # the run holds sandboxes: from now on SIGTERM is for its teardown
            self._session.take_signals()

    def pytest_internalerror(self) -> None:
        self._broken = True

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        # A run that broke inside is no success. xdist ends with 0 when the error was a worker's.
        if self._broken and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
        self._session.tests_are_over()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main() -> Generator[None, Any, Any]:
    try:
        return (yield)
    except BaseException as error:
        scrub_error(error)
        raise


def pytest_sessionstart(session: pytest.Session) -> None:
    if redaction.known():
        logs.redact_logs(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerController) -> None:
    node.workerinput["klavis"] = node.config.stash[KEY].run.for_worker(node)


def pytest_report_header(config: pytest.Config) -> list[str]:
    return terminal.header(config.stash[KEY].settings)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if artifacts.is_ours(collection_path, config.stash[KEY].settings.artifacts_dir) else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    refuse_names(report)
    scrub(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(collector: pytest.Collector) -> Generator[None, Any, Any]:
    found = yield
    for item in found if isinstance(found, list) else [found]:
        if isinstance(item, pytest.Item):
            markers.check_collected(collector, item)
    return found


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[KEY].largest_set = markers.mark_klavis(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    try:
        return (yield)
    finally:
        scrub_junit(session.config)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    item.config.stash[KEY].ahead.next_item = nextitem


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    item.config.stash[KEY].begin(item)
    yield
    markers.check_at_setup(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    with item.config.stash[KEY].body(item):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return outcomes.judge(item.config.stash[KEY], item, call, (yield))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    interrupted = exitstatus == pytest.ExitCode.INTERRUPTED
    outcomes.drain(session.config.stash[KEY], interrupted=interrupted)
    session.config.stash[KEY].finish(interrupted=interrupted)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    scrub(report)


@pytest.hookimpl(tryfirst=True)
def pytest_collectreport(report: pytest.CollectReport) -> None:
    scrub(report)


@pytest.hookimpl(tryfirst=True)
def pytest_warning_recorded(warning_message: warnings.WarningMessage) -> None:
    scrub_warning(warning_message)


@pytest.hookimpl(tryfirst=True)
def pytest_internalerror(excrepr: ExceptionRepr) -> None:
    scrub_internal(excrepr)


@pytest.hookimpl(tryfirst=True)
def pytest_keyboard_interrupt(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    scrub_error(excinfo.value)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: WorkerController) -> None:
    node.config.stash[KEY].merge(getattr(node, "workeroutput", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    terminal.summary(terminalreporter, config.stash[KEY])


def pytest_unconfigure(config: pytest.Config) -> None:
    if KEY in config.stash:
        outcomes.drain(config.stash[KEY], interrupted=True)
        config.stash[KEY].close()


@pytest.hookimpl(optionalhook=True, wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> Generator[None, Any, Any]:
    timeouts.started(item, settings)
    return (yield)


@pytest.hookimpl(optionalhook=True, wrapper=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> Generator[None, Any, Any]:
    timeouts.cancelled(item)
    return (yield)
