"""What is saved of a failure, where, and for how long."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from .cloud import SEED, Cloud, Fault

FAILS = """
    import pytest

    @pytest.mark.local_sandbox("filesystem", workspace={"kept.txt": "1\\n", "changed.txt": "before\\n"})
    def test_fails(sandbox):
        sandbox.upload({"changed.txt": "after\\n", "new.txt": "new\\n"})
        assert 0

    @pytest.mark.local_sandbox("filesystem")
    def test_passes(sandbox):
        pass
"""


def only(pytester: pytest.Pytester, pattern: str) -> Path:
    [found] = pytester.path.glob(pattern)
    assert found.exists()
    return found


def test_a_failure_keeps_workspace_changes_and_facts(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=FAILS)
    result = pytester.runpytest("--junitxml=junit.xml")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        [
            "* klavis sandbox 'local': filesystem *",
            "changed against the seed:",
            "  M changed.txt (+1 -1)",
            "  A new.txt (+1)",
            "saved in klavis-artifacts/*/test_it-test_fails-*/attempt-1/local",
            "2 acquired, 2 released, 0 leaked on the embedded backend, isolation *",
            "sandboxes held for * s, waited * s, * API calls",
            "evidence in klavis-artifacts/*:",
            "  test_it-test_fails-*/attempt-1/local",
        ]
    )
    folder = only(pytester, "klavis-artifacts/latest/test_it-test_fails-*/attempt-1/local")
    with tarfile.open(folder / "workspace.tar.gz") as archive:
        names = sorted(name.removeprefix("./") for name in archive.getnames())
    assert [name for name in names if name not in {"", "."}] == ["changed.txt", "kept.txt", "new.txt"]
    changes = (folder / "changes.txt").read_text()
    assert "-before\n+after\n" in changes
    facts = json.loads((folder / "sandbox.json").read_text())
    assert facts["test"] == "test_it.py::test_fails"
    assert facts["servers"] == ["filesystem"]
    assert facts["outcome"] == "failed"
    assert "http" not in (folder / "sandbox.json").read_text()
    assert not list(pytester.path.glob("klavis-artifacts/latest/*test_passes*"))
    assert 'name="klavis_artifacts"' in (pytester.path / "junit.xml").read_text()
    assert (pytester.path / "klavis-artifacts" / ".gitignore").read_text() == "*\n"


def test_under_xdist(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=FAILS)
    result = pytester.runpytest("-n2")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        ["* klavis sandbox 'local': filesystem *", "  M changed.txt (+1 -1)", "2 acquired, 2 released, 0 leaked*"]
    )
    only(pytester, "klavis-artifacts/latest/test_it-test_fails-*/attempt-1/local/workspace.tar.gz")


def test_dist_each_keeps_the_evidence_of_each_worker(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=FAILS)
    pytester.runpytest("-n2", "--dist=each").assert_outcomes(failed=2, passed=2)
    assert len(list(pytester.path.glob("klavis-artifacts/latest/*/attempt-1/local/workspace.tar.gz"))) == 2


@pytest.mark.parametrize(("when", "count"), [("never", 0), ("always", 2)])
def test_the_rule(pytester: pytest.Pytester, when: str, count: int) -> None:
    pytester.makepyfile(test_it=FAILS)
    pytester.runpytest(f"--klavis-artifacts={when}").assert_outcomes(failed=1, passed=1)
    assert len(list(pytester.path.glob("klavis-artifacts/latest/*/attempt-1/local/workspace.tar.gz"))) == count


def test_extracted_and_never_collected(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        def test_fails(local_sandbox):
            local_sandbox("filesystem", workspace={"test_planted.py": "def test_planted(): pass"}, name="a/b c")
            assert 0
        """
    )
    result = pytester.runpytest("--klavis-artifacts-extract=on", "--klavis-artifacts-dir=evidence")
    result.assert_outcomes(failed=1)
    only(pytester, "evidence/latest/*/attempt-1/a-b-c/workspace/test_planted.py")
    pytester.runpytest("--klavis-artifacts-dir=evidence").assert_outcomes(failed=1)


def test_failures_of_setup_and_teardown_count(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.fixture
        def broken(local_sandbox):
            local_sandbox("filesystem", workspace={"a.txt": "x"})
            assert 0

        def test_setup(broken):
            pass

        @pytest.fixture
        def leaves_badly(local_sandbox):
            box = local_sandbox("filesystem")
            yield box
            box.upload({"teardown.txt": "x"})
            assert 0

        def test_teardown(leaves_badly):
            pass
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(errors=2, passed=1)
    only(pytester, "klavis-artifacts/latest/*test_setup*/attempt-1/local/workspace.tar.gz")
    changes = only(pytester, "klavis-artifacts/latest/*test_teardown*/attempt-1/local/changes.txt")
    assert "teardown.txt" in changes.read_text()


def test_a_shared_sandbox_is_saved_for_each_failing_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.fixture(scope="module")
        def box(module_local_sandbox):
            return module_local_sandbox("filesystem")

        @pytest.mark.parametrize("name", ["a", "b", "c"])
        def test_it(box, name):
            box.upload({f"{name}.txt": "x"})
            assert name == "b"
        """
    )
    pytester.runpytest().assert_outcomes(failed=2, passed=1)
    first, last = sorted(pytester.path.glob("klavis-artifacts/latest/*/attempt-1/local/changes.txt"))
    assert first.read_text().split("\n\n")[0].splitlines() == ["A a.txt (+1)"]
    assert last.read_text().split("\n\n")[0].splitlines() == ["A a.txt (+1)", "A b.txt (+1)", "A c.txt (+1)"]


def test_evidence_that_cannot_be_saved_is_told_beside_the_failure(pytester: pytest.Pytester, cloud: Cloud) -> None:
    cloud.faults = [Fault("GET /local-sandbox/.*/dump", status=422, body='{"detail": "no room"}')]
    pytester.makepyfile(
        test_it="""
        def test_dump(local_sandbox):
            local_sandbox("filesystem")
            assert 0, "the agent's own failure"
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the agent's own failure*", "its state could NOT be saved: *HTTP 422*no room*"])
    result.stdout.no_fnmatch_line("saved in *")


def test_an_artifacts_dir_that_cannot_be_written(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("file").write_text("")
    pytester.makepyfile(test_it=FAILS)
    result = pytester.runpytest("--klavis-artifacts-dir=file")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--klavis-artifacts-dir: * is no directory"])
    result = pytester.runpytest("--klavis-artifacts-dir=/proc/klavis")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*its evidence could not be saved: *"])
    result.stdout.no_fnmatch_line("evidence in *")


def test_a_sandbox_that_was_gone_at_the_end_makes_the_failure_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        def test_it(local_sandbox, klavis_client):
            klavis_client.release_local_sandbox(local_sandbox("filesystem").id)
            assert 0, "the agent did nothing"
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*the agent did nothing*", "*The sandbox was gone before the test was over*"])


def test_the_tests_own_files(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.parametrize("fail", [True, False])
        def test_it(klavis_artifacts, fail):
            (klavis_artifacts / "note.txt").write_text("x")
            assert not fail
        """
    )
    pytester.runpytest().assert_outcomes(failed=1, passed=1)
    only(pytester, "klavis-artifacts/latest/*/attempt-1/files/note.txt")
    pytester.makepyfile(test_other="def test_passes(klavis_artifacts): pass")
    pytester.runpytest("test_other.py").assert_outcomes(passed=1)
    only(pytester, "klavis-artifacts/latest/*/attempt-1/files/note.txt")  # a green run does not take `latest`
    assert len(list(pytester.path.glob("klavis-artifacts/latest/test_it*"))) == 1


def test_the_last_runs_are_kept_and_nothing_of_the_users_is_removed(pytester: pytest.Pytester) -> None:
    root = pytester.mkdir("klavis-artifacts")
    for number in range(25):
        (root / f"20200101-{number:06}-aaaaaa").mkdir()
        (root / f"20200101-{number:06}-aaaaaa" / ".klavis-run").touch()
    (root / "00000000-mine").mkdir()
    pytester.makepyfile(test_it=FAILS)
    pytester.runpytest().assert_outcomes(failed=1, passed=1)
    runs = [path.name for path in root.iterdir() if (path / ".klavis-run").exists() and not path.is_symlink()]
    assert len(runs) == 20
    assert (root / "00000000-mine").is_dir()


def test_a_kept_sandbox_is_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=FAILS)
    result = pytester.runpytest("--klavis-keep=on-failure", "--klavis-ttl=60s")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["2 acquired, 1 released, 1 kept, 0 leaked*", "kept until its TTL: *"])


def test_a_seed_that_cannot_be_put_in_is_an_error_saved_and_released(pytester: pytest.Pytester, cloud: Cloud) -> None:
    cloud.faults = [Fault("POST /local-sandbox/.*/initialize", status=422, body='{"detail": "no gzip"}')]
    pytester.makepyfile(
        test_it="""
        def test_it(local_sandbox):
            local_sandbox("filesystem", workspace={"a.txt": "x"})
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*SeedError*could not be put into it*422*no gzip*", "*1 acquired, 1 released, 0 leaked*"]
    )
    only(pytester, "klavis-artifacts/latest/*/attempt-1/local/workspace.tar.gz")
    assert cloud.held() == []


def test_a_shared_and_an_own_sandbox_of_one_name_have_a_folder_each(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        def test_it(module_local_sandbox, local_sandbox):
            module_local_sandbox("filesystem", workspace={"shared.txt": "x"})
            local_sandbox("filesystem", workspace={"own.txt": "x"})
            assert 0

        def test_again(module_local_sandbox, local_sandbox):
            local_sandbox("filesystem", workspace={"own.txt": "x"})
            assert 0
        """
    )
    pytester.runpytest().assert_outcomes(failed=2)
    for test in ("test_it", "test_again"):
        folders = [path.name for path in pytester.path.glob(f"klavis-artifacts/latest/test_it-{test}-*/attempt-1/*")]
        assert sorted(folders) == ["local", "local-2"]


REMOTE = """
    def test_it(klavis_sandbox):
        klavis_sandbox("github")
        assert 0, "the agent's own failure"
"""
LOCAL = """
    def test_it(local_sandbox):
        local_sandbox("filesystem", workspace={"a.txt": "x"})
        assert 0, "the agent's own failure"
"""


def test_a_server_without_a_dump_leaves_the_failure_alone(pytester: pytest.Pytester, cloud: Cloud) -> None:
    cloud.dialect = SEED
    pytester.makepyfile(REMOTE)
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["its state: the server holds no data that could be saved", "what is known of it: *"])
    result.stdout.no_fnmatch_line("*could NOT be saved*")


@pytest.mark.parametrize(
    ("suite", "fault"),
    [
        (REMOTE, {"pattern": "GET /sandbox/github/.*/dump", "status": 405}),
        (REMOTE, {"pattern": "GET /sandbox/github/.*/dump", "lose_answer": True}),
        (REMOTE, {"pattern": "GET /sandbox/github/.*", "lose_answer": True}),
        (LOCAL, {"pattern": "GET /storage/.*", "lose_answer": True}),
        (LOCAL, {"pattern": "GET /storage/.*", "status": 404, "body": "<Error/>"}),
    ],
    ids=["no dump", "dump without an answer", "no answer at all", "storage without an answer", "nothing in storage"],
)
def test_trouble_with_the_evidence_on_the_cloud_leaves_the_failure_alone(
    pytester: pytest.Pytester, cloud: Cloud, suite: str, fault: dict[str, object]
) -> None:
    cloud.faults = [Fault(**fault)]  # type: ignore[arg-type]
    pytester.makepyfile(suite)
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the agent's own failure*", "1 acquired, 1 released, 0 leaked*"])


@pytest.mark.parametrize("status", [404, 410])
def test_a_sandbox_that_is_gone_on_the_cloud_makes_the_failure_an_error(
    pytester: pytest.Pytester, cloud: Cloud, status: int
) -> None:
    cloud.faults = [Fault("GET /sandbox/github/.*", status=status, body='{"detail": "no such sandbox"}')]
    pytester.makepyfile(REMOTE)
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*The sandbox was gone before the test was over*"])


def test_what_a_test_that_blocks_sockets_left_on_the_cloud_is_saved_when_they_are_open_again(
    pytester: pytest.Pytester, cloud: Cloud
) -> None:
    pytester.makepyfile(
        """
        import socket, pytest

        @pytest.fixture
        def box(local_sandbox):
            return local_sandbox("filesystem", workspace={"a.txt": "x"})

        @pytest.fixture
        def blocked(box, monkeypatch):
            def refuse(*args, **kwargs):
                raise RuntimeError("blocked")
            monkeypatch.setattr(socket, "create_connection", refuse)

        def test_it(blocked):
            assert 0
        """
    )
    pytester.runpytest().assert_outcomes(failed=1)
    only(pytester, "klavis-artifacts/latest/*/attempt-1/local/workspace.tar.gz")
    assert cloud.held() == []


def test_an_embedded_server_that_died_makes_an_error_beside_the_failure(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os, pathlib, signal, time
        from pytest_klavis.session import KEY

        def test_it(local_sandbox, request):
            local_sandbox("filesystem", workspace={"a.txt": "x"})
            own = request.config.stash[KEY].run.id.encode()
            for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
                if own in entry.read_bytes():
                    os.kill(int(entry.parent.name), signal.SIGKILL)
            time.sleep(0.5)
            assert 0
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=1, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_it*", "*The sandbox was gone before the test was over*"])
