"""Running commands at each level: what comes back, how runs end, and what is left behind (nothing)."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_klavis.embedded.isolation import BadCommandError, IsolationError, Limits, choose
from pytest_klavis.embedded.isolation.bubblewrap import find_bwrap
from pytest_klavis.embedded.isolation.supervisor import descendants
from tests.embedded.isolation_support import AS_ROOT, LEVELS, Box, level, level_or_skip, make_box, open_folder

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def place() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


# A daemon: double fork, sessions of its own, writes to a file for ever and keeps the output pipes open.
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        with open("pid", "w") as file:
            file.write(str(os.getpid()))
        while True:
            with open("beat", "a") as file:
                file.write("x")
            time.sleep(0.01)
    os._exit(0)
while not os.path.exists("beat"):
    time.sleep(0.005)
print("started", flush=True)
if len(sys.argv) > 1:
    time.sleep(60)
"""

# Never the same process for long: whoever kills what a list of processes shows is always late.
RUNNER_AWAY = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        while True:
            if os.fork():
                os._exit(0)
            os.setsid()
            with open("beat", "a") as file:
                file.write("x")
while not os.path.exists("beat"):
    time.sleep(0.005)
"""


@pytest.fixture(params=[*LEVELS, "none"])
def box(request: pytest.FixtureRequest, place: Path) -> Box:
    return make_box(level_or_skip(request.param), place)


# -- what comes back


def test_output_exit_code_and_time(box: Box) -> None:
    done = box.sh("echo out; echo err >&2; sleep 0.05; exit 3")
    assert (done.exit_code, done.stdout, done.stderr, done.stopped) == (3, b"out\n", b"err\n", None)
    assert 0.05 <= done.seconds < 10


def test_the_workspace_is_the_working_directory_and_can_be_written(box: Box) -> None:
    box.put("in.txt", "hello")
    done = box.sh("pwd; cat in.txt; mkdir -p a/b && mv in.txt a/b && ln -s a/b link && cp link/in.txt out.txt")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.decode().splitlines() == [box.isolation.root(box.jail), "hello"]
    assert (box.workspace / "out.txt").read_text() == "hello"


def test_what_it_makes_belongs_to_the_owner_of_the_workspace(box: Box) -> None:
    box.sh("echo x > made")
    assert (box.workspace / "made").stat().st_uid == (box.jail.uid or os.getuid())


def test_codes_are_those_of_a_shell(box: Box) -> None:
    box.put("plain", "no program")
    assert box.run(["sh", "-c", "kill -TERM $$"]).exit_code == 128 + signal.SIGTERM
    assert box.run(["no-such-program"]).exit_code == 127
    assert box.run(["./plain"]).exit_code == 126
    assert b"no-such-program" in box.run(["no-such-program"]).stderr


def test_stdin_is_what_was_given_or_nothing(box: Box) -> None:
    assert box.run(["cat"], stdin=b"\0" * 300_000).stdout == b"\0" * 300_000
    assert box.run(["cat"]).stdout == b""


def test_the_environment_is_clean(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLAVIS_API_KEY", "very-secret")
    done = box.run(["env"], env={"GREETING": "hi there", "HOME": "/elsewhere"})
    variables = dict(line.split("=", 1) for line in done.stdout.decode().splitlines())
    assert variables.pop("GREETING") == "hi there"
    assert variables.pop("HOME") == "/elsewhere"
    variables.pop("PWD", None)
    assert set(variables) == {"PATH", "TMPDIR", "LANG", "USER", "LOGNAME", "GIT_CONFIG_NOSYSTEM"}


def test_a_program_with_an_equals_sign_in_its_name(box: Box) -> None:
    box.put("a=b", "#!/bin/sh\necho ran\n").chmod(0o755)
    assert box.run(["./a=b"]).stdout == b"ran\n"


def test_home_and_temporary_files_are_private_and_stay_for_the_next_command(box: Box) -> None:
    box.sh('echo 1 > "$HOME/kept"; echo 2 > "$TMPDIR/kept"')
    assert box.sh('cat "$HOME/kept" "$TMPDIR/kept"').stdout == b"1\n2\n"
    assert list(box.workspace.iterdir()) == []
    assert (box.jail.scratch / "home" / "kept").exists()


def test_descriptors_of_the_server_are_not_inherited(box: Box) -> None:
    secret = os.memfd_create("secret", 0)
    os.set_inheritable(secret, True)
    try:
        done = box.python(
            "import os\nfor fd in range(512):\n    try: os.fstat(fd)\n    except OSError: continue\n    print(fd)\n"
        )
    finally:
        os.close(secret)
    assert done.stdout.split() == [b"0", b"1", b"2"]


def test_signals_are_not_ignored_inside(box: Box) -> None:
    """The server ignores INT and HUP; its children must not."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert box.sh("kill -HUP $$; echo survived").exit_code == 128 + signal.SIGHUP
    finally:
        signal.signal(signal.SIGHUP, before)


# -- limits


def test_too_much_output_keeps_the_head_and_says_so(box: Box) -> None:
    done = box.sh("echo first; head -c 3000000 /dev/zero", limits=Limits(output=1000))
    assert done.exit_code == 137 or done.stopped is None
    assert done.stdout.startswith(b"first\n\0")
    assert done.stdout.endswith(b"\n[... truncated ...]\n")
    assert len(done.stdout) < 1100


def test_moderately_too_much_output_does_not_stop_the_command(box: Box) -> None:
    done = box.sh("head -c 200000 /dev/zero; echo finished >&2", limits=Limits(output=10_000))
    assert (done.exit_code, done.stderr, done.stopped) == (0, b"finished\n", None)
    assert done.stdout == b"\0" * 10_000 + b"\n[... truncated ...]\n"


def test_a_timeout_ends_everything_and_keeps_the_output(box: Box) -> None:
    done = box.python(DAEMON, "stay", timeout=1)
    assert (done.stopped, done.exit_code, done.stdout) == ("timeout", 137, b"started\n")
    assert 1 <= done.seconds < 5
    assert not box.still_grows("beat")


def test_a_timeout_of_nothing(box: Box) -> None:
    assert box.run(["sleep", "60"], timeout=0).stopped == "timeout"


def test_cpu_time_is_limited(box: Box) -> None:
    done = box.python("while True: pass", limits=Limits(cpu_seconds=1), timeout=20)
    assert done.stopped is None
    assert done.exit_code in (128 + signal.SIGXCPU, 137)


# -- nothing is left behind


def test_a_daemon_is_gone_when_run_returns(box: Box) -> None:
    done = box.python(DAEMON, timeout=20)
    assert (done.exit_code, done.stdout, done.stopped) == (0, b"started\n", None)
    assert done.seconds < 10  # it held the output pipe
    assert not box.still_grows("beat")


def test_the_daemon_outlives_a_plain_subprocess(place: Path) -> None:
    """So the test above can fail."""
    box = make_box(level_or_skip("none"), place)
    subprocess.run([sys.executable, "-c", DAEMON], cwd=box.workspace, stdout=subprocess.DEVNULL, check=True)
    try:
        assert box.still_grows("beat")
    finally:
        os.kill(int((box.workspace / "pid").read_text()), signal.SIGKILL)


def test_processes_that_run_away_are_gone_too(box: Box) -> None:
    done = box.python(RUNNER_AWAY, timeout=20)
    assert done.exit_code == 0, done
    assert not box.still_grows("beat")


def test_a_cancelled_run_is_over_before_the_cancellation_arrives(box: Box) -> None:
    async def cancel() -> None:
        task = asyncio.create_task(box.isolation.run(["python", "-c", DAEMON, "stay"], box.jail))
        while not (box.workspace / "beat").exists():  # noqa: ASYNC110 - a process makes it
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not box.still_grows("beat")

    asyncio.run(cancel())


def test_one_command_of_a_sandbox_does_not_end_another(box: Box) -> None:
    async def both() -> tuple[int, int]:
        long = asyncio.create_task(box.isolation.run(["sh", "-c", "touch on; sleep 0.5; exit 4"], box.jail))
        while not (box.workspace / "on").exists():  # noqa: ASYNC110 - a process makes it
            await asyncio.sleep(0.01)
        short = await box.isolation.run(["python", "-c", DAEMON], box.jail)
        return (await long).exit_code, short.exit_code

    assert asyncio.run(both()) == (4, 0)


def test_many_at_once(box: Box) -> None:
    async def many() -> list[bytes]:
        runs = [box.isolation.run(["sh", "-c", f"echo {number}"], box.jail) for number in range(12)]
        return [done.stdout for done in await asyncio.gather(*runs)]

    assert asyncio.run(many()) == [b"%d\n" % number for number in range(12)]


SERVER = """
import asyncio, sys
from pathlib import Path
from pytest_klavis.embedded.isolation import Jail, choose
async def main(level, workspace, scratch, uid, code):
    isolation = await choose(level)
    await isolation.run(["python", "-c", code, "stay"], Jail(Path(workspace), Path(scratch), int(uid) or None))
asyncio.run(main(*sys.argv[1:]))
"""


def test_commands_end_with_the_server(box: Box) -> None:
    arguments = [box.isolation.level, str(box.jail.workspace), str(box.jail.scratch), str(box.jail.uid or 0), DAEMON]
    environment = {**os.environ, "TMPDIR": str(box.jail.scratch.parent)}
    with subprocess.Popen([sys.executable, "-c", SERVER, *arguments], env=environment) as server:
        deadline = time.monotonic() + 20
        while not (box.workspace / "beat").exists():
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        server.kill()
    time.sleep(0.5)
    assert not box.still_grows("beat")


def test_no_descriptor_and_no_child_is_left_in_the_server(box: Box) -> None:
    box.sh("true")
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    children = descendants(os.getpid())
    box.python(DAEMON)
    box.run(["no-such-program"])
    with pytest.raises(BadCommandError):
        box.run(["true"], cwd="missing")
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert descendants(os.getpid()) == children  # zombies count


def test_a_server_with_many_open_descriptors(box: Box) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1500:
        pytest.skip("this user may not have so many")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1500), hard))
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        assert box.sh("echo fine").stdout == b"fine\n"
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- the working directory


def test_working_directories(box: Box) -> None:
    root = box.isolation.root(box.jail)
    box.sh(f"mkdir -p a/b; ln -s a/b relative; ln -s ../a a/up; ln -s '{root}/a' absolute")
    for given, expected in [("a/b", "a/b"), ("relative", "a/b"), ("a/up/b/..", "a"), ("absolute/b", "a/b"), (root, "")]:
        assert box.run(["pwd", "-P"], cwd=given).stdout.decode().strip() == f"{root}/{expected}".rstrip("/"), given


@pytest.mark.parametrize("cwd", ["..", "a/../..", "out", "a/out", "/etc", "loop", "missing", "file", "nul\0"])
def test_working_directories_that_lead_out_or_nowhere(box: Box, cwd: str) -> None:
    box.sh("mkdir a; ln -s /etc out; ln -s ../.. a/out; ln -s loop loop; touch file")
    with pytest.raises(BadCommandError, match="working directory"):
        box.run(["pwd"], cwd=cwd)


@pytest.mark.parametrize("argv", [[], [""], "ls", ["a\0b"], ["\ud800"], ["true", "x" * 3_000_000]])
def test_argv_that_no_kernel_would_take(box: Box, argv: list[str]) -> None:
    with pytest.raises(BadCommandError):
        box.run(argv)


def test_variables_that_no_shell_would_take(box: Box) -> None:
    with pytest.raises(BadCommandError, match="A-B"):
        box.run(["true"], env={"A-B": "x"})


# -- the interpreter


def test_python_starts_without_a_word(box: Box) -> None:
    assert box.python("pass").stderr == b""
    assert box.run(["/usr/bin/python3", "-c", "pass"]).stderr == b"" or not Path("/usr/bin/python3").exists()


def test_python_has_no_packages_of_the_host(box: Box) -> None:
    done = box.python(
        "import sys, os; print(sys.executable); print([p for p in sys.path if 'packages' in p])\nimport pytest"
    )
    assert b"ModuleNotFoundError" in done.stderr
    executable, paths = done.stdout.decode().splitlines()
    assert (executable, paths) == (box.isolation.python, "[]")
    assert box.run(["python3", "-c", "import sys; print(sys.executable)"]).exit_code == 0


@pytest.mark.parametrize("name", [*LEVELS, "none"])
def test_a_virtual_environment_adds_its_packages(name: str, place: Path) -> None:
    level_or_skip(name)
    base = "/usr/bin/python3" if AS_ROOT and Path("/usr/bin/python3").exists() else sys.executable
    environment = place / "environment"
    if base == sys.executable:
        venv.create(environment, symlinks=True)
    elif subprocess.run(
        [base, "-m", "venv", "--without-pip", environment], capture_output=True, check=False
    ).returncode:
        pytest.skip(f"{base} makes no virtual environments")
    (packages,) = environment.glob("lib/python3*/site-packages")
    (packages / "harness_of_ours.py").write_text("WHERE = __file__\n")
    isolation = asyncio.run(choose(name, str(environment)))
    assert isolation.level == name, isolation.reason
    box = make_box(isolation, place)
    done = box.python("import harness_of_ours; print(harness_of_ours.WHERE)")
    assert done.stdout.decode().strip() == str(packages / "harness_of_ours.py"), done.stderr
    assert box.python("import harness_of_ours as h; open(h.WHERE, 'a')").exit_code != 0 or name == "none"


def test_a_python_that_is_none() -> None:
    isolation = asyncio.run(choose("auto", "/usr/bin/true"))
    assert isolation.level == "unavailable"
    assert "/usr/bin/true" in isolation.reason


# -- choosing


def test_auto_takes_the_best_that_works() -> None:
    best = next((name for name in LEVELS if level(name).level == name), "unavailable")
    assert level("auto").level == best


def test_unknown_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="auto, strict, landlock, seatbelt, none"):
        asyncio.run(choose("strictest"))


def test_where_nothing_works_a_run_says_what_to_do(place: Path) -> None:
    isolation = asyncio.run(choose("auto", str(place / "missing")))
    box = make_box(isolation, place)
    with pytest.raises(IsolationError, match=r"commands cannot be run.*missing(.|\n)*--klavis-isolation none"):
        box.sh("true")


def test_none_is_refused_where_the_machine_has_a_data_directory(place: Path) -> None:
    """A machine with /data, made of this one."""
    level_or_skip("strict")
    here = [word for entry in Path("/").iterdir() if entry.name != "data" for word in ("--dev-bind", entry, entry)]
    code = (
        "import asyncio; from pytest_klavis.embedded.isolation import choose\n"
        "found = asyncio.run(choose('none')); print(found.level, found.reason)"
    )
    answer = subprocess.run(
        [find_bwrap(), *here, "--dir", "/data", "--", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TMPDIR": str(place)},
    )
    assert answer.stdout.startswith("unavailable")
    assert "/data" in answer.stdout


def test_where_namespaces_are_refused_it_says_so_and_takes_the_next(place: Path) -> None:
    level_or_skip("strict")
    code = (
        "import asyncio; from pytest_klavis.embedded.isolation import choose\n"
        "found = asyncio.run(choose()); print(found.level, found.reason)"
    )
    answer = subprocess.run(
        [find_bwrap(), "--unshare-user", "--disable-userns", "--dev-bind", "/", "/", "--", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TMPDIR": str(place)},
    )
    # Who was root is nobody else in there, and cannot become a sandbox's user.
    assert answer.stdout.split()[0] in ("unavailable" if AS_ROOT else "landlock", "unavailable")
    why = "root cannot give files to another user" if AS_ROOT else "bubblewrap could not set up the sandbox"
    assert f"strict: {why}" in answer.stdout


def test_root_needs_a_uid_for_each_sandbox(box: Box) -> None:
    if not AS_ROOT:
        pytest.skip("not root")
    from dataclasses import replace

    box.jail = replace(box.jail, uid=None)
    with pytest.raises(IsolationError, match="uid of its own"):
        box.sh("true")
