"""The process between the server and a command: it outlives the command, ends what that left behind, then tells.

It is forked inside `preexec_fn`, so it costs no exec. The server holds the write end of its control pipe: when that
closes (a limit was met, the run was cancelled, the server died) everything is ended at once.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pytest_klavis.embedded.isolation import syscalls
from pytest_klavis.embedded.isolation.model import IsolationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_klavis.embedded.isolation.runner import Streams

_PATIENCE = 10  # seconds that ending killed processes may take
_supervisors: set[int] = set()  # of the runs that are under way
_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)


def spare(pid: int, *, no_more: bool = False) -> None:
    """Whoever looks for what a command has left behind leaves this child of ours alone."""
    (_supervisors.discard if no_more else _supervisors.add)(pid)


class Supervised:
    """A command with its supervisor. A `runner.Started`."""

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        streams: Streams,
        *,
        confine: Callable[[], None],
        enter: Callable[[], None] | None = None,
    ) -> None:
        """Start it.

        confine: applied to the command alone, in the forked child.
        enter: applied before the supervisor and the command part, so to both (a Landlock domain that makes kill(-1)
        mean "this run").
        Raises OSError with a filename when execve refuses, SubprocessError when `enter` or `confine` fails.
        """
        if syscalls.LINUX:
            syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)  # who loses the supervisor comes to us
        self._began = _ticks()
        control, self._control = os.pipe()
        self.ended: int | None = None
        try:
            self._process = subprocess.Popen(
                argv,
                env=dict(env),
                stdin=streams.stdin,
                stdout=streams.stdout,
                stderr=streams.stderr,
                start_new_session=True,
                preexec_fn=parting(control, enter, confine),  # noqa: PLW1509 - system calls only, see there
            )
            self.pid = self._process.pid
            _supervisors.add(self.pid)
            if hasattr(os, "pidfd_open"):
                self.ended = os.pidfd_open(self._process.pid)
        except BaseException:
            self.kill()
            raise
        finally:
            os.close(control)

    def over(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        """Close the control pipe: the supervisor ends everything."""
        if self._control >= 0:
            os.close(self._control)
            self._control = -1

    def finish(self) -> int:
        try:
            code = self._process.wait(timeout=_PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise IsolationError(f"processes of the command could not be ended within {_PATIENCE} s") from error
        finally:
            _supervisors.discard(self.pid)
            self.kill()
            if self.ended is not None:
                os.close(self.ended)
                self.ended = None
        if code < 0:
            _end_orphans(self._began)
            raise IsolationError(f"the supervisor of the command ended by signal {-code}")
        return code


def parting(control: int, enter: Callable[[], None] | None, confine: Callable[[], None]) -> Callable[[], None]:
    """A `preexec_fn` that forks: one side supervises and never returns, the other goes on to be the command."""

    def preexec() -> None:  # forked child
        signal.set_wakeup_fd(-1)  # it belongs to the server's event loop
        if syscalls.LINUX:
            syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        domain = False
        if enter is not None:
            enter()
            domain = _signals_stay_inside()
        child = os.fork()
        if child:
            _supervise(child, control, domain=domain)
        os.setsid()
        default_signals()
        confine()

    return preexec


def _signals_stay_inside() -> bool:  # forked child
    """Does the kernel really keep our signals inside of the domain? Only then is kill(-1) ours to use."""
    try:
        os.kill(os.getppid(), 0)  # the server, which waits for us: allowed, unless the domain forbids it
    except PermissionError:
        return True
    return False


def default_signals() -> None:  # forked child
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP) and signal.getsignal(number) != signal.SIG_DFL:
            with suppress(OSError, ValueError):  # the C library keeps a few for itself
                signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _supervise(child: int, control: int, *, domain: bool) -> NoReturn:  # forked child
    try:
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(control, 0)
        _close_from(1)  # Popen's error pipe and the command's output are not ours to keep open
        code = _wait(child)
        end_descendants(child, domain=domain)
        os._exit(code)
    except BaseException:  # noqa: BLE001 - a forked child must not return into the server's code
        with suppress(OSError):
            end_descendants(child, domain=domain)
        os.kill(os.getpid(), signal.SIGKILL)  # no exit code: the server sees that we failed
    os._exit(255)


def _close_from(first: int) -> None:  # forked child
    if syscalls.close_range(first):
        return
    for name in os.listdir("/dev/fd"):  # noqa: PTH208
        if int(name) >= first:
            with suppress(OSError):  # the listing's own
                os.close(int(name))


def _wait(child: int) -> int:  # forked child
    """Wait for the end of the command (left unreaped, so that its group id stays taken) or of the control pipe.

    Returns the exit code as a shell shows it.
    """
    stopped = 128 + signal.SIGKILL
    if not hasattr(os, "pidfd_open"):  # macOS
        while True:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            if select.select([0], [], [], 0.01)[0]:
                return stopped
    ended = os.pidfd_open(child)
    poller = select.poll()
    poller.register(0, select.POLLIN)
    poller.register(ended, select.POLLIN)
    if ended not in {fd for fd, _ in poller.poll()}:
        return stopped
    result = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    if result is None:
        return stopped
    return result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status


def end_descendants(group: int, *, domain: bool) -> None:  # forked child
    """Kill every process that this one is an ancestor of, and reap it. Returns when none is left.

    group: a process group that is ended first, at once.
    domain: this process is in a Landlock domain of its own, with signals scoped to it. kill(-1) then reaches exactly
    the run's processes and is atomic: no process can fork its way around it.
    """
    pause = 0.0002
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    while True:
        if domain:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(-1, signal.SIGKILL)
        if _reap():
            return
        if not domain:
            for pid in descendants(os.getpid()):
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if _reap():
                return
        time.sleep(pause)
        pause = min(pause * 2, 0.01)


def _end_orphans(since: int) -> None:
    """End what a supervisor has left to this process by dying before its time. Raises IsolationError.

    since: when it was started, in clock ticks of the machine. Orphans are children of ours, younger than that and in a
    session of their own, that do not supervise another run.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        table = _processes()
        session = os.getsid(0)
        orphans = [
            pid
            for pid, (parent, its_session, began) in table.items()
            if parent == os.getpid() and its_session != session and began >= since and pid not in _supervisors
        ]
        if not orphans:
            return
        for pid in (below for orphan in orphans for below in (orphan, *descendants(orphan, table))):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for pid in orphans:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:
            raise IsolationError(f"processes of the command could not be ended within {_PATIENCE} s")
        time.sleep(0.001)


def _ticks() -> int:
    """Now, as /proc/<pid>/stat says when a process was started."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")) if syscalls.LINUX else 0


def _reap() -> bool:  # forked child
    """Collect the dead children; True when there are no children left."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == 0:
            return False


def descendants(ancestor: int, table: Mapping[int, tuple[int, int, int]] | None = None) -> list[int]:
    """Process ids below `ancestor`, from /proc (or from what was read there). Empty where there is no /proc."""
    children: dict[int, list[int]] = {}
    for pid, (parent, _, _) in (_processes() if table is None else table).items():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    queue = [ancestor]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def _processes() -> dict[int, tuple[int, int, int]]:
    """Parent, session and start (in clock ticks of the machine) of each process."""
    table = {}
    for entry in os.scandir("/proc") if Path("/proc/self").exists() else ():
        if not entry.name.isdigit():
            continue
        try:
            with open(f"/proc/{entry.name}/stat", "rb") as file:  # noqa: PTH123 - a forked child: as little as possible
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        table[int(entry.name)] = (int(fields[1]), int(fields[3]), int(fields[19]))
    return table
