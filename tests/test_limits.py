"""The setting `limits`: how it is read, what it refuses, and that it arrives where commands run."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_klavis.limits import Limits, parse, spelled


def test_each_limit_has_a_name() -> None:
    text = "memory=2G,processes=256,cpu=120s,wall=2m,file-size=512M,output=4M,disk=2G,open-files=1024"
    assert parse(text) == Limits(
        memory=2 << 30,
        processes=256,
        cpu_seconds=120,
        wall_seconds=120.0,
        file_size=512 << 20,
        output=4 << 20,
        disk=2 << 30,
        open_files=1024,
    )
    assert {name.partition("=")[0] for name in spelled(Limits()).split(",")} == {
        name.partition("=")[0] for name in text.split(",")
    }
    assert len(fields(Limits)) == len(text.split(","))


def test_what_is_not_named_keeps_its_default() -> None:
    assert parse("") == Limits()
    assert parse(" Memory = 1.5g , ") == replace(Limits(), memory=3 << 29)
    assert parse("memory=1073741824,disk=1024KiB,output=2048b") == replace(Limits(), disk=1 << 20, output=2048)
    assert parse("cpu=1.2,wall=0.5s") == replace(Limits(), cpu_seconds=2, wall_seconds=0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mem=2G", "there is no limit 'mem' (did you mean memory?); the limits are memory, processes, cpu,"),
        ("=2G", "there is no limit ''"),
        ("memory", "memory needs a value, such as memory=2G"),
        ("memory=", "memory needs a value"),
        ("memory=2T", "memory=2T is no size: use bytes, or a number with K, M or G such as 512M or 2G"),
        ("memory=-1", "is no size"),
        ("memory=1M", "memory=1M is too little for any command to run: at least 64M"),
        ("memory=99999999999999999999G", "more than the kernel can count"),
        ("memory=1G,memory=2G", "memory is given twice"),
        ("processes=many", "processes=many is no whole number"),
        ("processes=0", "at least 4"),
        ("wall=soon", "wall='soon' is no duration: use seconds or a text such as 90s, 30m or 2h"),
        ("wall=0", "it must be more than 0"),
        ("cpu=1s memory=2G", "is no duration"),
    ],
)
def test_what_cannot_be_used(text: str, words: str) -> None:
    with pytest.raises(ValueError) as error:
        parse(text)
    assert words in str(error.value)


@given(
    st.builds(
        Limits,
        memory=st.integers(64 << 20, 1 << 50),
        processes=st.integers(4, 1 << 20),
        cpu_seconds=st.integers(1, 1 << 20),
        wall_seconds=st.floats(0.1, 1e6).map(lambda value: round(value, 3)),
        file_size=st.integers(64 << 10, 1 << 50),
        output=st.integers(1 << 10, 1 << 40),
        disk=st.integers(1 << 20, 1 << 50),
        open_files=st.integers(32, 1 << 20),
    )
)
def test_what_is_spelled_is_read_again(limits: Limits) -> None:
    assert parse(spelled(limits)) == limits


SHOW = """
    def test_it(klavis_settings):
        print()
        print("memory", klavis_settings.limits.memory >> 20, "from", klavis_settings.source("limits"))
"""


def test_flag_environment_and_ini(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makeini("[pytest]\nklavis_limits = memory=300M\n")
    pytester.makepyfile(SHOW)
    pytester.runpytest("-s").stdout.fnmatch_lines(["memory 300 from tox.ini"])
    monkeypatch.setenv("KLAVIS_LIMITS", "memory=400M")
    pytester.runpytest("-s").stdout.fnmatch_lines(["memory 400 from KLAVIS_LIMITS"])
    pytester.runpytest("-s", "--klavis-limits=memory=500M").stdout.fnmatch_lines(["memory 500 from --klavis-limits"])


def test_a_wrong_one_is_a_usage_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SHOW)
    result = pytester.runpytest("--klavis-limits=memory=lots")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*'memory=lots' (from --klavis-limits) cannot be used: memory=lots is no size*"])


def test_serve_takes_them_too() -> None:
    command = [sys.executable, "-m", "pytest_klavis.cli", "serve", "--limits", "wall=never"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "argument --limits: wall='never' is no duration" in done.stderr


def test_they_arrive_where_commands_run(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_it(local_sandbox):
            box = local_sandbox(["terminal"])
            code = "import resource as r; print([r.getrlimit(n)[0] >> 20 for n in (r.RLIMIT_AS, r.RLIMIT_FSIZE)])"
            assert box.run(["python", "-c", code]).stdout == "[400, 3]\\n"
            shown = box.run(["sh", "-c", "yes | head -c 5000"]).stdout
            assert shown == "y\\n" * 512 + "\\n[... truncated ...]\\n"
            rules = box.call_tool("show_security_rules", {}).text
            for line in ("Command Timeout: 9 seconds", "CPU time per process: 7 seconds", "Memory per process: 400 MiB",
                         "Processes: 77", "File size: 3 MiB", "Workspace size: 50 MiB"):
                assert line in rules, rules
            slow = box.call_tool("run_command", {"command": "sleep 30"}, check=False)
            assert slow.is_error and "timed out after 9 seconds" in slow.text
        """
    )
    limits = "memory=400M,processes=77,cpu=7s,wall=9s,file-size=3M,output=1K,disk=50M"
    result = pytester.runpytest_subprocess(f"--klavis-limits={limits}", "--klavis-backend=embedded")
    result.assert_outcomes(passed=1)
