"""Workspaces of Blackbox runs as a user's suite asks for them, against a stand-in for its API."""

from __future__ import annotations

import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .blackbox import (
    FILES,
    KEY,
    WRAPPINGS,
    Blackbox,
    Misbehaviour,
    Run,
    blackbox_api,
    drips,
    error,
    reset,
    says,
    targz,
    zipped,
)


@pytest.fixture
def blackbox(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Blackbox]:
    """A stand-in for Blackbox, which suites inside the test use; temporary files go into a directory of its own."""
    temporary = tmp_path_factory.mktemp("tmpdir")
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with blackbox_api() as found:
        monkeypatch.setenv("KLAVIS_BLACKBOX_URL", found.url)
        monkeypatch.setenv("BLACKBOX_API_KEY", KEY)
        yield found
    left = [path for path in temporary.rglob("*") if path.is_file() and path.name in {"archive", "report.md"}]
    assert left == []


def test_a_downloaded_workspace_seeds_a_sandbox(pytester: pytest.Pytester, blackbox: Blackbox) -> None:
    pytester.makepyfile(
        """
        def test_it(local_sandbox, blackbox_workspace):
            box = local_sandbox(["filesystem"], workspace=blackbox_workspace("run-1"))
            assert box.list_files() == ["report.md", "src/calc.py"]
            assert box.diff().added == box.diff().modified == ()
            box.upload({"report.md": "Q3: down\\n"})
            assert box.diff().modified == ("report.md",)
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["1 acquired, 1 released, 0 leaked on the embedded backend*"])
    (asked,) = blackbox.downloads()
    assert asked.query == {"path": "/vercel/sandbox", "format": "tar"}
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert blackbox.looks() == 0


def test_alone_it_starts_no_server(pytester: pytest.Pytester, blackbox: Blackbox) -> None:
    pytester.makepyfile(
        """
        from pathlib import Path

        def test_it(blackbox_workspace, request):
            first, second = blackbox_workspace("run-1"), blackbox_workspace("run-1", format="zip")
            assert first != second
            for folder in (first, second):
                assert isinstance(folder, Path) and not folder.is_relative_to(request.config.rootpath)
                assert (folder / "src" / "calc.py").read_text().startswith("def add")
                assert sorted(path.name for path in folder.parent.iterdir()) == ["workspace"]
            Path("where.txt").write_text(str(first))
            assert request.node.get_closest_marker("klavis")

        def test_to_the_end_of_the_session():
            assert Path(Path("where.txt").read_text(), "report.md").is_file()
        """
    )
    result = pytester.runpytest("-v")
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*acquired*")
    assert not Path((pytester.path / "where.txt").read_text()).parent.exists()
    assert [one.query["format"] for one in blackbox.downloads()] == ["tar", "zip"]
    result = pytester.runpytest("-m", "not klavis")
    result.assert_outcomes(failed=1, deselected=1)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_the_sandboxes_root_is_stripped_and_nothing_else(
    pytester: pytest.Pytester, blackbox: Blackbox, kind: str
) -> None:
    for number, wrapping in enumerate(WRAPPINGS):
        blackbox.runs[f"whole-{number}"] = Run(wrapping=wrapping)
        blackbox.runs[f"single-{number}"] = Run(files={"app/main.py": b"x = 1\n"}, wrapping=wrapping)
    pytester.makepyfile(
        f"""
        import pytest

        def names(folder):
            return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

        @pytest.mark.parametrize("number", range({len(WRAPPINGS)}))
        def test_it(blackbox_workspace, number):
            assert names(blackbox_workspace(f"whole-{{number}}", format="{kind}")) == ["report.md", "src/calc.py"]
            part = blackbox_workspace(f"whole-{{number}}", path="/vercel/sandbox/src/", format="{kind}")
            assert names(part) == ["calc.py"]
            assert names(blackbox_workspace(f"single-{{number}}", format="{kind}")) == ["app/main.py"]
        """
    )
    pytester.runpytest().assert_outcomes(passed=len(WRAPPINGS))
    assert {one.query["path"] for one in blackbox.downloads()} == {"/vercel/sandbox", "/vercel/sandbox/src"}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ('""', "run_id='' is no run id: give the `runId` that POST /tasks answered"),
        ('"../run-1"', "without slashes or spaces"),
        ('".."', "is no run id"),
        ('"run 1"', "without slashes or spaces"),
        ("7", "run_id=7 is no run id"),
        ('"run-1", path="src"', "path='src' is no path in the run's sandbox: give an absolute one without '..'"),
        ('"run-1", path="/vercel/../etc"', "without '..', as '/vercel/sandbox'"),
        ('"run-1", path=""', "give an absolute one"),
        ('"run-1", format="rar"', "format='rar' is not known: allowed are 'tar', 'zip'"),
        ('"run-1", fromat="zip"', "no argument 'fromat' .did you mean 'format'[?][)]; it takes run_id, path, format"),
        ("", "missing a required argument: 'run_id'"),
    ],
)
def test_wrong_arguments_are_refused_before_any_request(
    pytester: pytest.Pytester, blackbox: Blackbox, call: str, words: str
) -> None:
    pytester.makepyfile(f"def test_it(blackbox_workspace):\n    blackbox_workspace({call})\n")
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    assert re.search(words, result.stdout.str())
    assert blackbox.requests == []


def test_without_a_key_it_is_an_error_that_names_it(
    pytester: pytest.Pytester, blackbox: Blackbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BLACKBOX_API_KEY")
    pytester.makepyfile(
        """
        import pytest

        def test_it(blackbox_workspace):
            blackbox_workspace("run-1")

        def test_swallowed(blackbox_workspace):
            try:
                blackbox_workspace("run-1")
            except Exception:
                pass

        @pytest.mark.xfail
        def test_expected(blackbox_workspace):
            blackbox_workspace("run-1")

        @pytest.fixture
        def seed(blackbox_workspace):
            return blackbox_workspace("run-1")

        def test_in_a_fixture(seed): ...
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(errors=4)
    assert result.stdout.str().count("needs a key: set BLACKBOX_API_KEY in the environment") >= 4
    assert blackbox.requests == []


def test_it_is_waited_for_a_run_that_has_not_begun(pytester: pytest.Pytester, blackbox: Blackbox) -> None:
    blackbox.runs["run-1"].statuses = ["pending", "pending", "in_progress"]
    pytester.makepyfile(
        """
        def test_it(blackbox_workspace, caplog):
            assert (blackbox_workspace("run-1") / "report.md").exists()
            assert "run 'run-1' was pending and had no sandbox; its workspace was downloaded" in caplog.text
            assert "may not be what the run ends with" in caplog.text
        """
    )
    pytester.runpytest("--timeout=1", "--timeout-method=signal").assert_outcomes(passed=1)


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "interrupted"])
def test_a_run_that_is_over_and_has_no_sandbox(pytester: pytest.Pytester, blackbox: Blackbox, status: str) -> None:
    blackbox.runs["run-1"] = Run(statuses=[status], has_sandbox=False)
    pytester.makepyfile("def test_it(blackbox_workspace):\n    blackbox_workspace('run-1')\n")
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "E *NotFoundError: download workspace was answered with HTTP 404: No sandbox available for this task",
            f"E *Run 'run-1' is over ({status}) and has no sandbox: it never got one, or it is gone by now.",
            "E *Download sooner after a run's end, or start the task again.",
        ]
    )
    assert (len(blackbox.downloads()), blackbox.looks()) == (2, 1)


def test_other_runs_that_are_not_found(pytester: pytest.Pytester, blackbox: Blackbox) -> None:
    blackbox.runs["slow"] = Run(statuses=["queued"])
    blackbox.runs["odd"] = Run(statuses=["hibernating"], has_sandbox=False)
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("run", ["slow", "odd", "nobodys"])
        def test_it(blackbox_workspace, run):
            blackbox_workspace(run)
        """
    )
    result = pytester.runpytest("--klavis-acquire-timeout=2s", "--tb=short")
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(
        [
            "*Run 'slow' is still queued after 2 s and has no sandbox yet.",
            "*Ask again when it is over, or wait longer for it: --klavis-acquire-timeout.",
            "*Run 'odd' is still hibernating after 2 s*",
            "*HTTP 404: Task not found",
            "*127.0.0.1:* knows no run 'nobodys':",
            "*check the id, and that BLACKBOX_API_KEY is of the account that started it.",
        ]
    )


ARCHIVE = targz({"a.txt": b"x" * 5000})
TROUBLE: dict[str, tuple[Misbehaviour, str]] = {
    "401": (error(401, f"Invalid API key {KEY}"), "AuthError: *HTTP 401: Invalid API key <*"),
    "403": (error(403, "Task belongs to a different user"), "AuthError: *HTTP 403: Task belongs to*"),
    "400": (error(400, "Invalid path"), "RequestRefusedError: *HTTP 400: Invalid path"),
    "html": (
        says(200, b"<html><title>Sign in</title>", {"Content-Type": "text/html"}),
        "ArchiveError: *are no archive: '<html><title>Sign in</title>'",
    ),
    "json": (says(200, {"error": f"for {KEY}"}), 'ArchiveError: *no archive: \'{"error": "for <*>"}\''),
    "nothing": (says(200, b""), "ArchiveError: *HTTP 200 and 0 bytes that are no archive: nothing"),
    "cut, no length": (says(200, ARCHIVE[:80], {"Content-Length": ""}), "ArchiveError: *'run-1' cannot be unpacked: *"),
    "hostile tar": (
        says(200, targz({"a/../../evil.py": b"x"})),
        "ArchiveError: *'run-1' cannot be *: member *a/../*",
    ),
    "hostile zip": (
        says(200, zipped({"/etc/evil": b"x"})),
        "ArchiveError: *'run-1' cannot be *: member '/etc/' *",
    ),
    "redirect": (error(302, "", {"Location": "https://example.com"}), "ApiError: *HTTP 302*"),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_trouble_is_an_error_that_says_what_came(pytester: pytest.Pytester, blackbox: Blackbox, name: str) -> None:
    fault, words = TROUBLE[name]
    blackbox.faults.append(fault)
    pytester.makepyfile(
        """
        def test_it(blackbox_workspace):
            try:
                blackbox_workspace("run-1")
            except Exception:
                assert False, "no workspace"
        """
    )
    result = pytester.runpytest("--showlocals")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"E *{words}"])
    if name in ("401", "403"):
        result.stdout.fnmatch_lines(["E *BLACKBOX_API_KEY in the environment*"])
    assert KEY not in result.stdout.str()
    assert len(blackbox.downloads()) == 1


PASSING: dict[str, list[Misbehaviour]] = {
    "503": [error(503, "busy"), error(502, "<html>bad gateway</html>")],
    "500": [error(500, "Failed to stream archive")],
    "429": [error(429, "slow down", {"Retry-After": "1"})],
    "reset": [reset, reset],
    "cut": [says(200, ARCHIVE[:-20], {"Content-Length": str(len(ARCHIVE))})],
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_tried_again(pytester: pytest.Pytester, blackbox: Blackbox, name: str) -> None:
    blackbox.faults += PASSING[name]
    pytester.makepyfile(
        "def test_it(blackbox_workspace):\n    assert (blackbox_workspace('run-1') / 'report.md').exists()"
    )
    pytester.runpytest().assert_outcomes(passed=1)
    assert len(blackbox.downloads()) == len(PASSING[name]) + 1
    assert {one.query["format"] for one in blackbox.downloads()} == {"tar"}


def test_what_does_not_pass_ends(pytester: pytest.Pytester, blackbox: Blackbox) -> None:
    pytester.makepyfile("def test_it(blackbox_workspace):\n    blackbox_workspace('run-1')\n")
    blackbox.faults += [error(503, "down for maintenance")] * 20
    result = pytester.runpytest("--tb=short")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E *ServerError: download workspace was answered with HTTP 503: down for maintenance"])
    blackbox.faults[:] = [drips(0.05)]
    result = pytester.runpytest("--tb=short", "--klavis-acquire-timeout=2s")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E *TransportError: download workspace was not answered by 127.0.0.1:* within 2 s*"])


def test_a_sandbox_without_zip_gives_a_tar(pytester: pytest.Pytester, blackbox: Blackbox) -> None:
    blackbox.runs["run-1"].has_zip = False
    pytester.makepyfile(
        """
        def test_it(blackbox_workspace, caplog):
            assert (blackbox_workspace("run-1", format="zip") / "report.md").exists()
            assert "the sandbox of Blackbox run 'run-1' cannot make a zip, so a tar is asked for" in caplog.text
        """
    )
    pytester.runpytest().assert_outcomes(passed=1)
    assert [one.query["format"] for one in blackbox.downloads()] == ["zip", "tar"]


def test_the_format_that_came_is_taken(pytester: pytest.Pytester, blackbox: Blackbox) -> None:
    blackbox.faults.append(says(200, zipped(FILES), {"Content-Type": "application/octet-stream"}))
    pytester.makepyfile(
        "def test_it(blackbox_workspace):\n    assert (blackbox_workspace('run-1') / 'report.md').exists()"
    )
    pytester.runpytest().assert_outcomes(passed=1)


def test_what_is_left_out_is_told(pytester: pytest.Pytester, blackbox: Blackbox) -> None:
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for number in range(10):
            link = tarfile.TarInfo(f"./venv/bin/python{number}")
            link.type, link.linkname = tarfile.SYMTYPE, "/usr/bin/python3"
            archive.addfile(link)
    blackbox.runs["run-1"].archive = out.getvalue()
    blackbox.runs["empty"] = Run(files={})
    pytester.makepyfile(
        """
        def test_links(blackbox_workspace):
            assert list(blackbox_workspace("run-1").rglob("python*")) == []
            assert list(blackbox_workspace("empty").iterdir()) == []
            assert False
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*WARNING*the workspace of Blackbox run 'run-1' has links that were left out:",
            "*'venv/bin/python0': *",
            "*and 2 more",
            "*WARNING*the workspace of Blackbox run 'empty' is empty: /vercel/sandbox holds no file",
        ]
    )


@pytest.mark.parametrize("workers", ["0", "2"])
def test_what_is_told_can_be_printed(pytester: pytest.Pytester, blackbox: Blackbox, workers: str) -> None:
    """A lone surrogate in a log is more than xdist can send: the worker died, and the run passed."""
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        for name, target in (("./l", "/x\x1b]0;pwned\x07"), ("./n\udcff\x1b", "/x\udcff")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
    blackbox.runs["run-1"].archive = out.getvalue()
    pytester.makepyfile("def test_it(blackbox_workspace):\n    blackbox_workspace('run-1')\n    assert False")
    result = pytester.runpytest("-n", workers)
    result.assert_outcomes(failed=1)
    assert result.ret == 1
    shown = result.stdout.str()
    assert "'l': an absolute link: /x\\x1b]0;pwned\\x07\n" in shown
    assert "'n\\udcff\\x1b': an absolute link: /x\\xff\n" in shown
    assert "\x1b]" not in shown


@pytest.mark.parametrize("pack", [targz, zipped])
def test_names_that_only_other_systems_mind_are_taken(
    pytester: pytest.Pytester, blackbox: Blackbox, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    blackbox.runs["run-1"].archive = pack({"we\\ird.txt": b"1", "a\tb": b"2", "README/x": b"3", "Readme.md": b"4"})
    pytester.makepyfile(
        r"""
        def test_it(blackbox_workspace):
            names = sorted(path.name for path in blackbox_workspace("run-1").rglob("*") if path.is_file())
            assert names == ["Readme.md", "a\tb", "we\\ird.txt", "x"]
        """
    )
    pytester.runpytest().assert_outcomes(passed=1)


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system takes both names for one")
def test_names_that_differ_in_case_are_taken(pytester: pytest.Pytester, blackbox: Blackbox) -> None:
    blackbox.runs["run-1"].archive = targz({"README": b"1", "readme": b"2"})
    pytester.makepyfile(
        """
        def test_it(blackbox_workspace):
            folder = blackbox_workspace("run-1")
            assert [(folder / name).read_text() for name in ("README", "readme")] == ["1", "2"]
        """
    )
    pytester.runpytest().assert_outcomes(passed=1)


def test_async(pytester: pytest.Pytester, blackbox: Blackbox) -> None:
    blackbox.faults.append(error(429, "slow down", {"Retry-After": "1"}))
    pytester.makepyfile(
        """
        import anyio, pytest
        from pytest_klavis import BlackboxWorkspaceFactory, NotFoundError

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        async def test_it(blackbox_workspace: BlackboxWorkspaceFactory):
            ticks, found = 0, []

            async def one():
                found.append(await blackbox_workspace.acquire("run-1"))

            async with anyio.create_task_group() as group:
                group.start_soon(one)
                while not found:
                    ticks += 1
                    await anyio.sleep(0.01)
            assert ticks > 20
            async with anyio.create_task_group() as group:
                group.start_soon(one)
                group.start_soon(one)
            assert len({*found}) == 3 and all((folder / "report.md").exists() for folder in found)

        @pytest.mark.anyio
        async def test_trouble(blackbox_workspace):
            with pytest.raises(NotFoundError):
                await blackbox_workspace.acquire("nobodys")
        """
    )
    result = pytester.runpytest("--timeout=0.5", "--timeout-method=signal")
    result.assert_outcomes(passed=1, errors=1)


def test_each_worker_has_its_own(pytester: pytest.Pytester, blackbox: Blackbox) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(6))
        def test_it(blackbox_workspace, number):
            folder = blackbox_workspace("run-1")
            assert sorted(path.name for path in folder.iterdir()) == ["report.md", "src"]
            (folder / "mine.txt").write_text(str(number))
        """
    )
    pytester.runpytest("-n", "2").assert_outcomes(passed=6)
    assert len(blackbox.downloads()) == 6


def test_a_factory_says_that_it_is_one(pytester: pytest.Pytester, blackbox: Blackbox) -> None:
    pytester.makepyfile("def test_it(blackbox_workspace):\n    blackbox_workspace.joinpath('report.md')\n")
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "*blackbox_workspace is a factory, not a directory, and has no 'joinpath': call it first: workspace = *",
        ]
    )


def test_what_an_agent_left_cannot_stay(pytester: pytest.Pytester, blackbox: Blackbox) -> None:
    pytester.makepyfile(
        """
        from pathlib import Path

        def test_it(blackbox_workspace):
            folder = blackbox_workspace("run-1")
            Path("where.txt").write_text(str(folder))
            (folder / "src").chmod(0)
            folder.chmod(0o500)
        """
    )
    pytester.runpytest().assert_outcomes(passed=1)
    assert not Path((pytester.path / "where.txt").read_text()).parent.exists()


def downloads() -> list[Path]:
    """The directories of runs below the temporary directory that hold downloads."""
    return sorted(Path(tempfile.gettempdir()).glob("pytest-klavis-*/*-blackbox-*"))


def test_a_killed_runs_downloads_go_with_the_next_server(
    pytester: pytest.Pytester, blackbox: Blackbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        test_dies="""
        import os, signal

        def test_it(blackbox_workspace):
            blackbox_workspace("run-1")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        test_lives="""
        import os, time
        from pathlib import Path

        def test_it(blackbox_workspace, local_sandbox):
            mine = blackbox_workspace("run-1")
            for folder in mine.parents[3].parent.iterdir():
                os.utime(folder, (0, 0))  # the dead one's is swept, ours is not
            dead = Path(os.environ["DEAD"])
            assert dead.exists() and dead != mine.parents[3]
            local_sandbox("filesystem", workspace=mine)
            end = time.monotonic() + 10
            while dead.exists() and time.monotonic() < end:
                time.sleep(0.05)
            assert not dead.exists() and (mine / "report.md").exists()
        """,
    )
    assert pytester.runpytest_subprocess("test_dies.py").ret == -signal.SIGKILL
    (dead,) = downloads()
    assert len(list(dead.rglob("report.md"))) == 1
    monkeypatch.setenv("DEAD", str(dead))
    pytester.runpytest_subprocess("test_lives.py").assert_outcomes(passed=1)
    assert downloads() == []


def test_a_download_that_is_cut_short_leaves_nothing(pytester: pytest.Pytester, blackbox: Blackbox) -> None:
    blackbox.faults += [says(200, ARCHIVE), drips(0.05)]
    pytester.makepyfile(
        """
        import os, signal, threading

        def test_it(blackbox_workspace):
            assert (blackbox_workspace("run-1") / "a.txt").exists()
            threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
            blackbox_workspace("run-1")
        """
    )
    result = pytester.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert len(blackbox.downloads()) == 2
    assert downloads() == []


SWALLOWING = """
    def test_it(blackbox_workspace):
        try:
            blackbox_workspace("run-1")
        except Exception:
            pass
"""


@pytest.mark.parametrize(
    "case",
    [
        ("BLACKBOX_API_KEY", " \n", "*set BLACKBOX_API_KEY in the environment*"),
        (
            "BLACKBOX_API_KEY",
            "sk-plan ted",
            "*BLACKBOX_API_KEY is empty or holds characters that no HTTP header carries",
        ),
        ("KLAVIS_BLACKBOX_URL", "http://user:plan ted@127.0.0.1", "*must be http(s)://host*--klavis-blackbox-url"),
        ("KLAVIS_BLACKBOX_URL", "http://127.0.0.1:9", "*download workspace was not answered by 127.0.0.1:9 *"),
        ("TMPDIR", "/proc/1", "*could not be stored*"),
    ],
)
def test_a_machine_that_is_not_set_up_is_an_error(
    pytester: pytest.Pytester, blackbox: Blackbox, monkeypatch: pytest.MonkeyPatch, case: tuple[str, str, str]
) -> None:
    variable, value, words = case
    monkeypatch.setenv(variable, value)
    pytester.makepyfile(SWALLOWING)
    if variable == "TMPDIR":
        monkeypatch.setattr(tempfile, "tempdir", value)
    result = pytester.runpytest("-p", "no:cacheprovider", "--capture=sys", f"--basetemp={pytester.path / 'base'}")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([words])
    assert "plan ted" not in result.stdout.str()
