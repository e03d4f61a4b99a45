"""The level "strict": bubblewrap, with namespaces of its own and the workspace at /data."""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_klavis.embedded.isolation import disk, runner, seccomp
from pytest_klavis.embedded.isolation.bubblewrap import Bubble
from pytest_klavis.embedded.isolation.model import Completed, IsolationError, Jail
from pytest_klavis.embedded.isolation.places import DATA, environment, open_directory, prepare_scratch
from pytest_klavis.embedded.isolation.running import Running, on_pipes
from pytest_klavis.embedded.isolation.spaces import Entry, namespaces_of
from pytest_klavis.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_klavis.embedded.isolation.interpreter import Interpreter
    from pytest_klavis.embedded.isolation.warm import Zygote

_HOME = "/home/sandbox"
_PYTHON = "/opt/python"  # where the folder of links to the interpreter is shown
_UID = 1000  # what a plain user is inside
_SHM, _TMP = 64 << 20, 256 << 20  # bytes of memory that these may take
_TOP_LEVEL = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives")
_HOSTS = b"127.0.0.1 localhost\n::1 localhost\n"
_HOLD = ("/bin/sh", "-c", "echo && exec cat")  # says when it is there, and ends with its stdin
_EXEC = 'exec "$0" "$@"'


@functools.cache
def _tool(name: str) -> str:
    found = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
    if found is None:
        raise IsolationError(f"the program {name!r} (util-linux or coreutils) is not installed")
    return found


@dataclass(frozen=True)
class Strict:
    """Runs commands in bubblewrap.

    A plain user gets a user namespace, in which no further one can be made. Root gets none (bubblewrap sets up the
    mounts as root) and hands the command to the sandbox's uid by setpriv, with no capability left.
    The agent's environment is set by `env` as the last step, so that it does not reach bubblewrap or setpriv.
    """

    bwrap: str
    interpreter: Interpreter
    place: Path
    level: str = "strict"
    reason: str = ""

    @property
    def python(self) -> str:
        return str(self._seen(self.interpreter.executable))

    def root(self, jail: Jail) -> str:  # noqa: ARG002 - the same for all
        return DATA

    async def run(
        self,
        argv: Sequence[str],
        jail: Jail,
        *,
        cwd: str = ".",
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        limits: Limits = Limits(),  # noqa: B008
        stdin: bytes = b"",
        readable: Sequence[Path] = (),
    ) -> Completed:
        """See `Isolation.run`."""
        limits = await disk.within_room(jail, limits)
        prepared = self._prepare(argv, jail, limits, cwd=cwd, env=env, readable=readable)
        started: list[Bubble] = []

        def start(streams: runner.Streams) -> Bubble:
            started.append(prepared(streams))
            return started[0]

        done = await runner.run(start, jail, timeout=timeout, limits=limits, stdin=stdin)
        if done.stopped is None and not started[0].completed:
            said = done.stderr.decode(errors="replace").strip()[-2000:]
            raise IsolationError(f"bubblewrap could not set up the sandbox (exit code {done.exit_code}): {said}")
        return done

    async def start(
        self,
        argv: Sequence[str],
        jail: Jail,
        *,
        cwd: str = ".",
        env: Mapping[str, str] | None = None,
        limits: Limits = Limits(),  # noqa: B008
        readable: Sequence[Path] = (),
    ) -> Running:
        """See `Isolation.start`."""
        return Running.launch(self._prepare(argv, jail, limits, cwd=cwd, env=env, readable=readable), argv[0])

    async def fork(
        self,
        zygote: Zygote,
        jail: Jail,
        *,
        env: Mapping[str, str] | None = None,
        limits: Limits = Limits(),  # noqa: B008
        readable: Sequence[Path] = (),
    ) -> Running:
        """See `Forking.fork`. Process 1 of the namespaces is bubblewrap's, with a command that only waits.

        There is no /proc: what was not executed inside has, as /proc/self/exe, a file of the machine that is not on a
        read-only mount.
        """
        with on_pipes(_HOLD[0]) as (streams, hold):
            bubble = self._prepare(_HOLD, jail, limits, cwd=".", env=None, readable=readable, proc=False)(streams)
            holder = hold(bubble)
        try:
            await holder.first_byte()
            values = environment(self._seen(self.interpreter.folder), Path(_HOME), Path("/tmp"), env)
            rlimits = runner.resource_limits(limits, limits.processes)
            with namespaces_of(bubble.init) as spaces:
                entry = Entry(spaces, DATA, tuple(rlimits), jail.uid if os.geteuid() == 0 else None)
                return await zygote.fork(values, entry, holder)
        except BaseException:
            holder.kill()
            with suppress(asyncio.CancelledError):
                await holder.finish()
            raise

    def _prepare(
        self,
        argv: Sequence[str],
        jail: Jail,
        limits: Limits,
        *,
        cwd: str,
        env: Mapping[str, str] | None,
        readable: Sequence[Path],
        proc: bool = True,
    ) -> Callable[[runner.Streams], Bubble]:
        """What starts the command on given streams. Without `proc` there is no /proc inside."""
        runner.check_command(argv, env)
        fd, inside = open_directory(jail.workspace, cwd, (DATA,))
        os.close(fd)  # the path is walked again inside, where everything is the agent's to see
        home, tmp = prepare_scratch(jail)
        as_root = os.geteuid() == 0
        if as_root and not jail.uid:
            raise IsolationError("a server that runs as root needs a uid of its own for each sandbox")
        uid = jail.uid if as_root and jail.uid else _UID
        options = [
            *self._namespaces(as_root=as_root),
            *self._system,
            *(("--proc", "/proc") if proc else ()),
            *self._temporary(tmp, readable),
            *self._installation(tuple(readable)),
            *("--bind", str(jail.workspace), DATA, "--bind", str(home), _HOME),
            *("--chdir", "/"),
        ]
        files = [
            (
                ("--perms", "0644", "--ro-bind-data", "{}", "/etc/passwd"),
                f"sandbox:x:{uid}:{uid}:sandbox:{_HOME}:/bin/sh\n".encode(),
            ),
            (("--perms", "0644", "--ro-bind-data", "{}", "/etc/group"), f"sandbox:x:{uid}:\n".encode()),
            (("--perms", "0644", "--ro-bind-data", "{}", "/etc/hosts", "--remount-ro", "/"), _HOSTS),
            (("--seccomp", "{}"), seccomp.program(sockets=True)),
        ]
        cwd = f"{DATA}/{inside}" if inside != "." else DATA
        command = self._command(argv, cwd, env, uid if as_root else None)
        rlimits = runner.resource_limits(limits, limits.processes)

        def start(streams: runner.Streams) -> Bubble:
            return Bubble.start(self.bwrap, options, command, streams, files=files, limits=rlimits)

        return start

    def _seen(self, path: Path) -> Path:
        """A path of the folder of links, as it is named inside."""
        return Path(_PYTHON) / path.relative_to(self.place) if path.is_relative_to(self.place) else path

    @staticmethod
    def _namespaces(*, as_root: bool) -> list[str]:
        options = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        options += ["--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
        if as_root:
            options += ["--cap-drop", "ALL"]
            for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):  # what setpriv needs
                options += ["--cap-add", capability]
        else:
            options += ["--unshare-user", "--disable-userns", "--uid", str(_UID), "--gid", str(_UID)]
        return options

    @functools.cached_property
    def _system(self) -> list[str]:
        """What is shown of the machine, read-only."""
        options = ["--ro-bind", "/usr", "/usr"]
        for name in _TOP_LEVEL:
            path = Path("/", name)
            if path.is_symlink():
                options += ["--symlink", os.readlink(path), str(path)]  # noqa: PTH115 - as it is written
            elif path.is_dir():
                options += ["--ro-bind", str(path), str(path)]
        options += _parents([Path("/etc/x"), Path(_HOME), Path(_PYTHON)])
        for name in _ETC:
            options += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
        options += ["--dev", "/dev", "--size", str(_SHM), "--perms", "1777", "--tmpfs", "/dev/shm"]
        return [*options, "--remount-ro", "/dev", "--ro-bind", str(self.place), _PYTHON]

    def _temporary(self, tmp: Path, readable: Sequence[Path]) -> list[str]:
        """/tmp: kept for the next command, unless the interpreter (or what else is readable) has to be shown in there.

        Nothing may be mounted inside of a directory that an agent can write to: bubblewrap, as root, would follow
        the links that it finds.
        """
        needed = (*self.interpreter.readable, *(link for link, _ in self.interpreter.links), *readable)
        if any(path.is_relative_to("/tmp") for path in needed if path != self.place):
            return ["--size", str(_TMP), "--perms", "1777", "--tmpfs", "/tmp"]
        return ["--bind", str(tmp), "/tmp"]

    @functools.lru_cache(maxsize=32)  # noqa: B019 - there are few levels, and as many as there are live on
    def _installation(self, readable: tuple[Path, ...]) -> list[str]:
        """The interpreter and what else is readable, at the paths that these have on the machine."""
        there = [Path("/usr"), self.place, *(Path("/", name) for name in _TOP_LEVEL)]
        options: list[str] = []
        more = [path for path in readable if not path.is_symlink()]
        unmasked = [path for path in more if any(path.is_relative_to(mask) for mask in self.interpreter.masked)]
        for path in (*self.interpreter.readable, *(path for path in more if path not in unmasked)):
            if not any(path.is_relative_to(other) for other in there):
                options += [*_parents([path]), "--ro-bind", str(path), str(path)]
                there.append(path)
        links = dict(self.interpreter.links)
        links |= {path: os.readlink(path) for path in readable if path.is_symlink()}  # noqa: PTH115 - as it is written
        for link, target in links.items():
            if not any(link.is_relative_to(other) for other in there):
                options += [*_parents([link]), "--symlink", target, str(link)]
        for path in self.interpreter.masked:
            options += ["--perms", "0755", "--tmpfs", str(path)]
        for path in unmasked:
            options += ["--ro-bind", str(path), str(path)]
        for path in self.interpreter.masked:
            options += ["--remount-ro", str(path)]
        return options

    def _command(self, argv: Sequence[str], cwd: str, env: Mapping[str, str] | None, become: int | None) -> list[str]:
        """What bubblewrap executes. `become`: the uid to be taken on first.

        The working directory is entered by that uid: an agent may have closed it to everybody else.
        """
        values = environment(self._seen(self.interpreter.folder), Path(_HOME), Path("/tmp"), env)
        words: list[str] = []
        if become is not None:
            uid = str(become)
            words = [_tool("setpriv"), "--reuid", uid, "--regid", uid, "--clear-groups", "--no-new-privs"]
            words += ["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--"]
        words += [_tool("env"), "-i", "-C", cwd, *(f"{name}={value}" for name, value in values.items())]
        if "=" in argv[0]:  # env would take it for a variable
            words += ["/bin/sh", "-c", _EXEC]
        return [*words, *argv]


def _parents(paths: Sequence[Path]) -> list[str]:
    """Options that make the directories above the paths; bubblewrap itself would close them to other users."""
    above = dict.fromkeys(str(parent) for path in paths for parent in reversed(path.parents[:-1]))
    return [word for parent in above for word in ("--dir", parent)]
