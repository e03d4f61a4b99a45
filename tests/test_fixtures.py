"""The fixtures as a user's suite uses them, on the embedded backend."""

from __future__ import annotations

import pytest


def test_a_factory_gives_a_seeded_sandbox(pytester: pytest.Pytester) -> None:
    pytester.mkdir("data")
    (pytester.path / "data" / "a.txt").write_text("alpha\n")
    pytester.makepyfile(
        """
        def test_it(local_sandbox):
            box = local_sandbox(["filesystem", "git"], workspace="data", git=True)
            assert box.list_files() == ["a.txt"]
            assert box.read_text("a.txt") == "alpha\\n"
            assert box.read_bytes("a.txt") == b"alpha\\n"
            assert set(box.servers) == {"filesystem", "git"}
            write = box.call_tool("filesystem_write_file", {"path": f"{box.root}/b.txt", "content": "beta"})
            assert not write.is_error
            diff = box.diff()
            assert (diff.added, diff.removed, diff.modified) == (("b.txt",), (), ())
            box.upload({"c/d.txt": "gamma"}, to="sub")
            assert box.read_text("sub/c/d.txt") == "gamma"
            box.reset()
            assert box.list_files() == []
        """
    )
    pytester.runpytest().assert_outcomes(passed=1)


def test_a_handle_tells_what_it_is_and_hides_what_is_secret(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import json, os
        import pytest
        from pytest_klavis import SpecError, ToolError, LocalSandbox

        def test_it(local_sandbox, monkeypatch):
            monkeypatch.setenv("BLACKBOX_API_KEY", "planted")
            box: LocalSandbox = local_sandbox(["filesystem", "terminal"])
            assert box.id in repr(box) and box.id in box.urls["filesystem"]
            assert "local_sandbox_id" not in repr(box.servers) + repr(box.servers["filesystem"])
            with pytest.raises(SpecError, match="2 servers: name one of filesystem, terminal"):
                box.url
            with pytest.raises(SpecError, match="no server 'git'"):
                box.connect("git")
            assert box.mcp_config()["mcpServers"]["filesystem"]["url"] == box.urls["filesystem"]
            assert {tool.name for tool in box.tools("terminal")} == {"run_command", "show_security_rules"}
            assert len(box.tools()) == 16
            assert box.call_tool("run_command", {"command": "echo hi"}).text.count("hi")
            with pytest.raises(ToolError, match="Unknown tool 'read_file' .did you mean 'filesystem_read_file'?"):
                box.call_tool("read_file")
            assert box.call_tool("nope", check=False).is_error
            with pytest.raises(SpecError, match="as a mapping"):
                box.call_tool("run_command", "ls")
            with pytest.raises(ToolError) as raised:
                box.call_tool("filesystem_read_file", {"path": f"{box.root}/absent"})
            assert raised.value.tool == "filesystem_read_file"
            assert box.call_tool("filesystem_read_file", {"path": "absent"}, check=False).is_error
            assert "BLACKBOX_API_KEY" not in box.env()
            assert json.loads(box.env()["KLAVIS_MCP_SERVER_URLS"]) == dict(box.urls)
            assert box.info()["local_sandbox_id"] == box.id
            assert box.account is None
            assert box.metadata["filesystem"]["backend"] == "embedded"
            assert repr(box.metadata) == "{'filesystem': '***', 'terminal': '***'}"
            assert dict(box.auth_data) == {} or not any(box.auth_data.values())
        """
    )
    pytester.runpytest().assert_outcomes(passed=1)


def test_run_brings_hidden_files_for_one_call(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nnorecursedirs = hidden\n")
    hidden = pytester.mkdir("hidden")
    (hidden / "test_calc.py").write_text(
        "import unittest, calc\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(calc.add(1, 2), 3)\n"
    )
    pytester.makepyfile(
        """
        import pytest
        from pytest_klavis import SpecError

        def test_it(local_sandbox, tmp_path):
            box = local_sandbox("filesystem", workspace={"calc.py": "def add(a, b): return a - b", "test_calc.py": "x"})
            bad = box.run(["python", "-m", "unittest"], files="hidden")
            assert bad.exit_code != 0 and "FAILED" in bad.stderr
            box.upload({"calc.py": "def add(a, b): return a + b"})
            good = box.run(["python", "-m", "unittest"], files="hidden")
            assert good.exit_code == 0, good.stderr
            assert box.read_text("test_calc.py") == "x"
            assert box.run(["cat", "x.txt"], files={"x.txt": "from a mapping"}).stdout == "from a mapping"
            assert box.run(["sh", "-c", "echo $WORD; exit 3"], env={"WORD": "hi"}).exit_code == 3
            assert box.run(["sleep", "5"], timeout=0.3).stopped == "timeout"
            assert box.run(["sleep", "5"], timeout="0.3s").stopped == "timeout"
            with pytest.raises(SpecError, match="no duration"):
                box.run(["ls"], timeout="soon")
            with pytest.raises(FileNotFoundError, match="build"):
                box.run(["ls"], cwd="build")  # the agent's fault, not the infrastructure's
            with pytest.raises(SpecError, match="upload.. takes a path"):
                box.upload(3)
            with pytest.raises(SpecError, match="make it first"):
                box.download("no/such/dir/w.tar.gz")
            with pytest.raises(SpecError, match="list of texts"):
                box.run("ls")
            with pytest.raises(SpecError, match="absent"):
                box.run(["ls"], files="absent")
            saved = box.download(tmp_path)
            assert saved.name == "workspace.tar.gz" and saved.stat().st_size
        """
    )
    pytester.runpytest().assert_outcomes(passed=1)


def test_wider_scopes_share_one_sandbox(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="module")
        def shared(module_local_sandbox):
            return module_local_sandbox("filesystem")

        def test_first(shared):
            shared.upload({"a.txt": "x"})

        def test_second(shared):
            assert shared.list_files() == ["a.txt"]

        @pytest.mark.parametrize("scope", ["class", "package", "session"])
        def test_others(scope, request):
            factory = request.getfixturevalue(f"{scope}_local_sandbox")
            assert factory("filesystem").list_files() == []
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["4 acquired, 4 released, 0 leaked on the embedded backend*"])


def test_a_handle_ends_with_its_scope(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_klavis import SpecError
        kept = []

        def test_first(local_sandbox):
            kept.append(local_sandbox("filesystem"))

        def test_second():
            with pytest.raises(SpecError, match="cannot be used any more"):
                kept[0].list_files()
        """
    )
    pytester.runpytest().assert_outcomes(passed=2)


def test_declared_sandboxes(pytester: pytest.Pytester) -> None:
    for name in ("one", "two"):
        folder = pytester.path / "data" / name
        folder.mkdir(parents=True)
        (folder / "name.txt").write_text(name)
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("task", ["one", "two"])
        @pytest.mark.local_sandbox(["filesystem"], workspace="data/{task}")
        def test_parametrized(sandbox, klavis_box, task):
            assert sandbox is klavis_box
            assert sandbox.read_text("name.txt") == task

        @pytest.mark.local_sandbox("filesystem", name="b")
        @pytest.mark.local_sandbox("filesystem")
        def test_several(sandboxes):
            assert list(sandboxes) == ["b", "local"]
            assert sandboxes["b"].id != sandboxes["local"].id
            with pytest.raises(KeyError, match="no sandbox 'c'; there are b, local"):
                sandboxes["c"]

        @pytest.mark.local_sandbox("filesystem", workspace={"a.txt": "class"})
        class TestClass:
            def test_inherits(self, sandbox):
                assert sandbox.list_files() == ["a.txt"]

            @pytest.mark.local_sandbox("filesystem")
            def test_nearest_wins(self, sandbox):
                assert sandbox.list_files() == []
        """
    )
    pytester.runpytest().assert_outcomes(passed=5)


def test_a_set_is_all_or_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_both_local(klavis_sandboxes):
            boxes = klavis_sandboxes(["git", "filesystem"], workspace={"a.txt": "x"})
            assert list(boxes) == ["git", "filesystem"]
            assert boxes["git"] is boxes["filesystem"]
            assert set(boxes.mcp_config()["mcpServers"]) == {"git", "filesystem"}

        def test_one_cannot_be_had(klavis_sandboxes):
            klavis_sandboxes(["filesystem", "github"])
        """
    )
    result = pytester.runpytest("-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["*SKIPPED*the embedded backend has no remote sandbox (github)*"])
    result = pytester.runpytest("--klavis-require=on")
    result.assert_outcomes(passed=1, errors=1)


@pytest.mark.parametrize("plugin", ["anyio", "asyncio"])
def test_async(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, plugin: str) -> None:
    pytest.importorskip("mcp", reason="connect() needs the extra [mcp]")
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(
        f"""
        import pytest
        pytestmark = pytest.mark.{plugin}

        async def test_factory(local_sandbox):
            box = await local_sandbox.acquire("filesystem", workspace={{"a.txt": "x"}})
            assert await box.alist_files() == ["a.txt"]
            assert await box.aread_text("a.txt") == "x"
            assert await box.aread_bytes("a.txt") == b"x"
            assert (await box.acall_tool("filesystem_read_file", {{"path": "a.txt"}})).text == "x"
            assert len(await box.atools()) == 14
            assert (await box.ainfo())["local_sandbox_id"] == box.id
            assert (await box.arun(["cat", "a.txt"])).stdout == "x"
            await box.aupload({{"b.txt": "y"}})
            assert (await box.adiff()).added == ("b.txt",)
            with await box.asnapshot() as tree:
                assert tree.files == ["a.txt", "b.txt"]
            await box.areset()
            assert await box.alist_files() == []

        @pytest.mark.local_sandbox("filesystem", workspace={{"a.txt": "x"}})
        async def test_connect(sandbox, tmp_path):
            assert (await sandbox.adownload(tmp_path)).exists()
            async with sandbox.connect() as session:
                answer = await session.call_tool("filesystem_read_file", {{"path": "a.txt"}})
                assert answer.content[0].text == "x"
        """
    )
    # anyio runs each test on asyncio and on trio.
    monkeypatch.delenv("PYTEST_ADDOPTS")
    pytester.runpytest().assert_outcomes(passed=4 if plugin == "anyio" else 2)


def test_a_factory_is_not_a_sandbox(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_klavis import SpecError

        def test_it(local_sandbox, klavis_sandbox, klavis_sandboxes):
            with pytest.raises(SpecError, match="local_sandbox is a factory.*call it first: box = local_sandbox"):
                local_sandbox.read_text("a.txt")
            with pytest.raises(SpecError, match="box = klavis_sandbox"):
                klavis_sandbox.url
            assert not hasattr(klavis_sandboxes, "urls")
            assert repr(local_sandbox) == "<factory local_sandbox>"
        """
    )
    pytester.runpytest().assert_outcomes(passed=1)


def test_the_client_releases_what_it_acquired(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_klavis import NotFoundError
        ids = []

        def test_acquire(klavis_client):
            ids.append(klavis_client.acquire_local_sandbox(["filesystem"]).local_sandbox_id)
            ids.append(klavis_client.acquire_local_sandbox(["filesystem"]).local_sandbox_id)
            klavis_client.release_local_sandbox(ids[0])

        def test_gone(klavis_client):
            for one in ids:
                with pytest.raises(NotFoundError):
                    klavis_client.get_local_sandbox(one)
            assert klavis_client.list_local_sandboxes().total_count == 0
        """
    )
    pytester.runpytest().assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('local_sandbox(["filesystem", "github"])', "github is a remote sandbox: use klavis_sandbox"),
        ('local_sandbox("filesystem", workspace="nowhere")', "nowhere"),
        ('local_sandbox("filesystem", worspace="x")', "did you mean 'workspace'"),
        ('local_sandbox("filesystm")', "filesystm"),
        ('local_sandbox("filesystem", data={"a": 1})', "not among the servers asked for"),
        ('local_sandbox("filesystem", benchmark="Unheard")', "Unheard"),
        ('klavis_sandbox("github", data="nowhere.json")', "nowhere.json"),
    ],
)
def test_what_cannot_be_right_is_an_error_and_acquires_nothing(
    pytester: pytest.Pytester, body: str, words: str
) -> None:
    pytester.makepyfile(f"def test_it(local_sandbox, klavis_sandbox):\n    {body}")
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*{words}*"])
    result.stdout.no_fnmatch_line("*acquired*")


def test_the_benchmark_of_the_run_reaches_the_servers(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        def names(box):
            return {tool.name for tool in box.tools()}

        def test_flag(local_sandbox):
            assert "read_file" in names(local_sandbox("filesystem"))

        def test_call_wins(local_sandbox):
            assert "filesystem_read_file" in names(local_sandbox("filesystem", benchmark=None))

        @pytest.mark.klavis_benchmark(None)
        def test_mark_wins(local_sandbox):
            assert "filesystem_read_file" in names(local_sandbox("filesystem"))

        @pytest.mark.local_sandbox(["python_execute"])
        def test_alias(sandbox):
            assert list(sandbox.servers) == ["python_execute"]
            assert list(sandbox.mcp_config()["mcpServers"]) == ["python_execute"]
        """
    )
    result = pytester.runpytest("--klavis-benchmark=toolathlon")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["klavis: benchmark Toolathlon (from --klavis-benchmark)"])


def test_hooks_of_a_conftest(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        from pytest_klavis import InfraError

        def pytest_klavis_acquired(item, sandbox):
            if "refused" in item.name:
                raise InfraError("not good enough")

        def pytest_klavis_artifacts(item, sandbox, path):
            (path / "mine.txt").write_text(sandbox.id)
        """
    )
    pytester.makepyfile(
        """
        def test_fails(local_sandbox):
            local_sandbox("filesystem")
            assert 0

        def test_refused(local_sandbox):
            local_sandbox("filesystem")
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(failed=1, errors=1)
    result.stdout.fnmatch_lines(["*not good enough*", "2 acquired, 2 released, 0 leaked*"])
    assert len(list(pytester.path.glob("klavis-artifacts/latest/test_hooks*/attempt-1/*/mine.txt"))) >= 1


def test_unused_means_free(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys, threading

        def test_it():
            heavy = {"httpx", "pydantic", "starlette", "uvicorn", "anyio.to_thread", "filelock"} & set(sys.modules)
            assert not heavy
            assert [one.name for one in threading.enumerate()] == ['MainThread']
        """
    )
    before = {path.name for path in pytester.path.iterdir()}
    flags = ["-p", "no:anyio", "-p", "no:rerunfailures", "-p", "no:cacheprovider"]
    result = pytester.runpytest_subprocess(*flags)
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*acquired*")
    after = {path.name for path in pytester.path.iterdir() if not path.name.startswith(("runpytest", "__", "std"))}
    assert after == before
