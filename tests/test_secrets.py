"""No secret is in any byte that pytest writes, wherever a test puts it."""

from __future__ import annotations

import base64
import fnmatch
import html
import json
import re
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from textwrap import dedent
from threading import Thread
from typing import Any
from urllib.parse import quote

import pytest

PLANTS = Path(__file__).with_name("secret_plants.py")
INNOCENT = "the enterprise plan of the us region is true since 2026-11-22 on port 54321, see postgres"
"""What the answers hold in `metadata`, and what is no secret all the same."""

KLAVIS_KEY = "sk-kl-4f9Xq27Zt81LmVb30PwRs65Yd"
BLACKBOX_KEY = "bb_83hJq0Zx7LwN52kTdVr94Mc1"
INSTANCE = "5b1f7c3e-92d4-4a6b-8e01-7d3c95fa2b48"
URL = f"https://github-mcp-server.klavis.ai/mcp/?instance_id={INSTANCE}"
SIGNED = (
    "https://storage.googleapis.com/bucket/{}.tar.gz?X-Goog-Credential=svc%40project%2F20261122&X-Goog-Signature={}"
)
UPLOAD_SIGNATURE = "9c41be07d2a65f83" * 8
DOWNLOAD_SIGNATURE = "e17b50c9f3d8246a" * 8
TOKEN = "ghp_7Hq2mZk9Xw4Lb8Rt1Vn6Pd3Jf5Sg0Yc"
PEM_LINES = (
    "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC7ab1Xz93",
    "BKcwggSjAgEAAoIBAQC7VJTUt9Us8cKBwkaPJw02",
    "kQ1oYz5Wl0v8RrT3nHd6Ux==",
)
PEM = "\n".join(("-----BEGIN PRIVATE KEY-----", *PEM_LINES, "-----END PRIVATE KEY-----", ""))
PASSWORD_LINES = ("Tr\"ou'b\\4dor %41&<ö😀>", "second-l1ne")
PASSWORD = "\n".join(PASSWORD_LINES)
NOTION = "ntn_51h8Kx20Pq73Lz"
ACCOUNT = "box-17@klavis-tests.dev"

RANDOM = (KLAVIS_KEY, BLACKBOX_KEY, INSTANCE, UPLOAD_SIGNATURE, DOWNLOAD_SIGNATURE, TOKEN, *PEM_LINES[:2])
"""Not even pieces of these may be seen."""


def forbidden() -> dict[str, str]:
    """What must not be seen -> what it is."""
    found: dict[str, str] = {}
    for secret in (*RANDOM, *PEM_LINES, *PASSWORD_LINES, PASSWORD, URL, NOTION, ACCOUNT):
        name = secret[:12]
        config = base64.b64encode(json.dumps({"email": "a@b.test", "password": secret, "name": "x"}).encode()).decode()
        ways = [secret, repr(secret)[1:-1], ascii(secret)[1:-1], repr(secret.encode())[2:-1], json.dumps(secret)[1:-1]]
        ways += [
            html.escape(repr(secret)[1:-1]),
            json.dumps(json.dumps(secret))[3:-3],
            quote(secret),
            quote(secret, safe=""),
            html.escape(secret),
        ]
        if secret != URL:  # host and server stay readable, also in base64
            ways += [base64.b64encode(secret.encode()).decode().rstrip("=")[:-1], config[44:56]]
        found |= dict.fromkeys(ways, name)
    for secret in RANDOM:
        found |= {secret[at : at + 10]: f"a piece of {secret[:12]}" for at in range(len(secret) - 9)}
    return {way: name for way, name in found.items() if way not in {"-----BEGIN", "https://gi"}}


FORBIDDEN = forbidden()


def leaks(text: str) -> list[str]:
    """The secrets that can be read in `text`, each with its surroundings."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    found = []
    for way, name in FORBIDDEN.items():
        at = plain.find(way)
        if at >= 0:
            found.append(f"{name}: {plain[max(at - 60, 0) : at + 60]!r}")
    return found


def clean(pytester: pytest.Pytester, result: pytest.RunResult) -> str:
    """Check every byte that a run wrote, and return what it showed."""
    written = {"stdout": result.stdout.str(), "stderr": result.stderr.str()}
    for path in pytester.path.rglob("*"):
        if path.is_file() and path.suffix not in {".py", ".pyc", ".ini"}:
            written[str(path.relative_to(pytester.path))] = path.read_text("utf-8", "replace")
    found = {name: leaks(text) for name, text in written.items()}
    assert not any(found.values()), "\n".join(f"{name}: {one}" for name, all_ in found.items() for one in all_[:20])
    return written["stdout"]


class _Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, content = _answer_to(self.command, self.path.partition("?")[0])
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815

    def log_message(self, *args: Any) -> None:
        """Nothing."""


def _answer_to(method: str, path: str) -> tuple[int, Any]:
    plain = {"sandbox_id": "gh-1", "server_name": "github", "status": "occupied", "message": "done"}
    if path == "/sandbox/github" and method == "POST":
        return 201, {**plain, "server_urls": {"github": URL}}
    if path == "/sandbox/github/gh-1" and method == "GET":
        words = {"plan": "enterprise", "region": "us", "enabled": "true", "since": "2026-11-22", "kind": "postgres"}
        auth = {
            "access_token": TOKEN,
            "nested": {"private_key": PEM},
            "password": PASSWORD,
            "port": 54321,
            "db": "54321",
        }
        metadata = {"toolathon_notion_integration_key": NOTION, "test_account_email": ACCOUNT, **words}
        return 200, {**plain, "server_url": URL, "auth_data": auth, "metadata": metadata}
    if path == "/local-sandbox/box/upload-url":
        return 200, {"upload_url": SIGNED.format("up", UPLOAD_SIGNATURE), "expires_in_minutes": 30}
    if path == "/local-sandbox/box/dump":
        return 200, {"download_url": SIGNED.format("down", DOWNLOAD_SIGNATURE), "expires_in_minutes": 30}
    return 200, plain


@pytest.fixture
def planted(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.Pytester]:
    """Both keys in the environment, an API whose answers are full of secrets, and the suite of plants."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Api)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("KLAVIS_API_KEY", KLAVIS_KEY)
    monkeypatch.setenv("BLACKBOX_API_KEY", BLACKBOX_KEY)
    monkeypatch.setenv("KLAVIS_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    yield pytester
    server.shutdown()
    thread.join()
    server.server_close()


def plant(pytester: pytest.Pytester) -> None:
    shutil.copy(PLANTS, pytester.path / "test_plants.py")


LOUD = ["--log-file=log.txt", "--log-file-level=DEBUG", "-o", "log_cli=true", "--log-cli-level=DEBUG"]
LOUD += ["-o", "log_file_format=%(message)s", "--doctest-modules", "--durations=5", "-W", "default"]
RUNS = {
    "colour": [*LOUD, "-vv", "-rA", "-l", "--color=yes", "--setup-show", "-o", "junit_family=xunit1"],
    "workers": ["-n2", "-rA", "-l", "--tb=short", "--log-file=log.txt", "--doctest-modules"],
    "native": [*LOUD, "--tb=native", "-ra", "-v"],
    "quiet": ["--tb=line", "-rA", "-q"],
}


@pytest.mark.parametrize("flags", RUNS.values(), ids=RUNS)
def test_no_secret_is_in_any_byte(planted: pytest.Pytester, flags: list[str]) -> None:
    shutil.copy(PLANTS, planted.path / "test_plants.py")
    result = planted.runpytest_subprocess(*flags, "--junitxml=junit.xml", "-o", "junit_logging=all")
    outcomes = result.parseoutcomes()
    assert outcomes["failed"] > 50
    assert outcomes["passed"] > 5
    assert outcomes["errors"] == 2
    shown = re.sub(r"\x1b\[[0-9;]*m", "", clean(planted, result))
    assert INNOCENT in (planted.path / "junit.xml").read_text()
    if "-rA" in flags:
        assert INNOCENT in shown
        assert "<github-mcp-server.klavis.ai url>" in shown


def suite(pytester: pytest.Pytester, body: str, conftest: str = "") -> None:
    """A small suite that knows both keys."""
    keys = 'import os\nimport pytest\nKEY = os.environ["KLAVIS_API_KEY"]\nOTHER = os.environ["BLACKBOX_API_KEY"]\n'
    pytester.makepyfile(keys + dedent(body))
    pytester.makeconftest(keys + dedent(conftest))


@pytest.mark.parametrize("flags", [["-n0"], ["-n2"], ["--collect-only"]], ids=["alone", "workers", "collect-only"])
def test_a_secret_in_a_node_id_is_refused(planted: pytest.Pytester, flags: list[str]) -> None:
    """Ids are everywhere, and other tools take them as they are: the test is named, and nothing runs."""
    conftest = """
        class Data(pytest.File):
            def collect(self):
                yield Case.from_parent(self, name="case")

        class Case(pytest.Item):
            def runtest(self):
                pass

        def pytest_collect_file(file_path, parent):
            if file_path.suffix == ".data":
                return Data.from_parent(parent, path=file_path)
    """
    suite(
        planted,
        """
        @pytest.mark.parametrize("key", [KEY])
        def test_parameter(key):
            pass

        @pytest.mark.parametrize("key", [pytest.param(KEY, id="named"), pytest.param({"k": KEY}, id="deep")])
        def test_named(key):
            pass

        """,
        conftest,
    )
    planted.makepyfile(
        test_other="""
        import os, pytest

        @pytest.fixture(params=[os.environ["BLACKBOX_API_KEY"]])
        def other(request):
            return request.param

        class TestOther:
            def test_fixture(self, other):
                pass
        """
    )
    (planted.path / "data").mkdir()
    (planted.path / "data" / f"{KLAVIS_KEY}.data").touch()
    result = planted.runpytest_subprocess(*flags, "-v", "--junitxml=junit.xml")
    assert result.ret in {pytest.ExitCode.INTERRUPTED, pytest.ExitCode.TESTS_FAILED}
    shown = clean(planted, result)
    for name in ("test_parameter[[]<KLAVIS_API_KEY>[]]", "TestOther::test_fixture[[]<BLACKBOX_API_KEY>[]]"):
        result.stdout.fnmatch_lines([f"*.py::{name}"])
    assert 'pytest.param(value, id="name")' in shown
    assert "data/<KLAVIS_API_KEY>.data" in shown
    assert "PASSED" not in shown


def test_without_a_secret_any_id_goes(pytester: pytest.Pytester) -> None:
    values = [KLAVIS_KEY, URL, "Bearer abc.DEF-123"]
    pytester.makepyfile(f"import pytest\n@pytest.mark.parametrize('v', {values!r})\ndef test_it(v): pass")
    pytester.runpytest_subprocess().assert_outcomes(passed=3)


def test_errors_of_collection(planted: pytest.Pytester) -> None:
    suite(planted, 'print(KEY)\nraise ValueError(f"{KEY} {OTHER!r}")')
    planted.makepyfile(
        test_exits='import os, pytest\npytest.skip(os.environ["KLAVIS_API_KEY"], allow_module_level=True)'
    )
    planted.makepyfile(test_syntax=f"key = '{KLAVIS_KEY}' +")
    for flags in (["-ra", "-l"], ["-n2", "--tb=native", "-rA"]):
        result = planted.runpytest_subprocess(*flags, "--junitxml=junit.xml")
        outcomes = result.parseoutcomes()
        assert outcomes["errors"] >= 2  # each worker tells
        assert outcomes["skipped"] == 1
        assert "<KLAVIS_API_KEY>" in clean(planted, result)


@pytest.mark.parametrize(
    ("conftest", "words"),
    [
        ("raise ValueError(KEY)", "ValueError: <KLAVIS_API_KEY>"),
        ("def pytest_runtest_logfinish(): raise ValueError(KEY)", "INTERNALERROR> E *ValueError: <KLAVIS_API_KEY>"),
        ("def pytest_runtest_setup(): pytest.exit(f'because {OTHER}')", "*Exit: because <BLACKBOX_API_KEY>*"),
        ("def pytest_runtest_setup(): raise KeyboardInterrupt(KEY)", "*KeyboardInterrupt: <KLAVIS_API_KEY>*"),
        (
            """
            def pytest_report_header(): return f'key {KEY}'
            def pytest_terminal_summary(terminalreporter): terminalreporter.write_line(f'last {OTHER}')
            """,
            "key <KLAVIS_API_KEY>*last <BLACKBOX_API_KEY>",
        ),
    ],
    ids=["conftest", "internal", "exit", "interrupt", "lines"],
)
def test_what_pytest_says_without_a_report(planted: pytest.Pytester, conftest: str, words: str) -> None:
    suite(planted, "def test_it(): pass", conftest)
    result = planted.runpytest_subprocess("--full-trace", "--junitxml=junit.xml")
    clean(planted, result)
    assert fnmatch.fnmatch((result.stderr if conftest.startswith("raise") else result.stdout).str(), f"*{words}*")


def test_errors_of_workers(planted: pytest.Pytester) -> None:
    suite(planted, "def test_crash():\n    print(KEY)\n    os._exit(3)\ndef test_last(): print(KEY)")
    result = planted.runpytest_subprocess("-n2", "--junitxml=junit.xml", "-rA")
    assert "worker 'gw" in clean(planted, result)
    broken = "def pytest_runtest_protocol(): raise ValueError(f'{KEY} {OTHER}')"
    suite(planted, "def test_it(): pass", broken)
    result = planted.runpytest_subprocess("-n2", "--junitxml=junit.xml", "-rA")
    assert "ValueError: <KLAVIS_API_KEY> <BLACKBOX_API_KEY>" in clean(planted, result) + result.stderr.str()


def test_a_timeout_that_dumps_what_was_captured(planted: pytest.Pytester) -> None:
    suite(planted, "import time\ndef test_it():\n    print(KEY)\n    key = OTHER\n    time.sleep(30)")
    result = planted.runpytest_subprocess("--timeout=1", "--timeout-method=thread")
    assert "<KLAVIS_API_KEY>" in clean(planted, result)


def test_the_debugger_shows_a_clean_report(planted: pytest.Pytester) -> None:
    suite(planted, "def test_it():\n    print(KEY)\n    assert KEY == OTHER")
    result = planted.run(*planted._getpytestargs(), "--pdb", "-l", stdin=b"q\n")
    clean(planted, result)
    result.stdout.fnmatch_lines(["E *- <BLACKBOX_API_KEY>", "E *+ <KLAVIS_API_KEY>"])


def test_a_secret_known_late_is_gone_from_what_comes_later(planted: pytest.Pytester) -> None:
    """What was captured before is old text in a new report; what had been written to the terminal is out."""
    suite(
        planted,
        f"""
        import json, logging

        def test_it(klavis_client, record_property):
            print("{TOKEN}")
            logging.getLogger("early").warning("{TOKEN}")
            record_property("token", "{TOKEN}")
            found = klavis_client.get_sandbox("github", "gh-1")
            assert found.auth_data["access_token"] == ""
        """,
    )
    result = planted.runpytest_subprocess("--junitxml=junit.xml", "-o", "junit_logging=all", "--tb=native")
    result.assert_outcomes(failed=1)
    assert result.stdout.str().count("<auth_data.access_token>") >= 3
    clean(planted, result)


@pytest.mark.parametrize("key", ["", KLAVIS_KEY])
def test_no_value_of_a_report_ends_the_run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("KLAVIS_API_KEY", key)
    pytester.makepyfile(
        """
        import collections, os, pytest

        class Odd(collections.namedtuple("Odd", "a b")):
            def __new__(cls, both):
                return super().__new__(cls, both, both)

        class Silent:
            told = 0

            def __str__(self):  # JUnit can, the second time
                if os.environ["KLAVIS_API_KEY"] and not self.told:
                    self.told = 1
                    raise ValueError
                return "told"

        KEY = os.environ["KLAVIS_API_KEY"] or "no-key"
        cycle = [KEY]
        cycle.append(cycle)
        deep = KEY
        for _ in range(3000):
            deep = [deep]

        @pytest.mark.parametrize("value", [cycle, Odd([KEY]), deep, Silent()], ids=["cycle", "odd", "deep", "silent"])
        def test_it(value, record_property):
            record_property("it", value)
        """
    )
    result = pytester.runpytest_subprocess("--junitxml=junit.xml", "-n0")
    result.assert_outcomes(passed=4)
    shown = (pytester.path / "junit.xml").read_text()
    assert KLAVIS_KEY not in shown
    assert "could not be redacted" in shown


@pytest.mark.parametrize("key", ["", KLAVIS_KEY])
def test_half_a_character_ends_no_worker(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("KLAVIS_API_KEY", key)
    pytester.makepyfile(
        r"""
        import json, pytest

        HALF = json.loads('"ENOENT \\udcff"')

        def test_it(record_property):
            record_property("it", {HALF})
            print(HALF)
            raise ValueError(HALF)
        """
    )
    result = pytester.runpytest_subprocess("-n2")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([r"E *ValueError: ENOENT \udcff"])


def test_a_run_whose_worker_broke_is_no_success(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): pass")
    pytester.makeconftest(
        """
        import os

        def pytest_runtest_protocol():
            if "PYTEST_XDIST_WORKER" in os.environ:
                raise ValueError
        """
    )
    assert pytester.runpytest_subprocess("-n1").ret == pytest.ExitCode.INTERNAL_ERROR


@pytest.mark.parametrize(
    "raised",
    [
        "raise OSError(2, KEY, f'/tmp/{KEY}', None, OTHER)",
        "raise ExceptionGroup('several', [ValueError(KEY), ExceptionGroup('inner', [KeyError(OTHER)])])",
        "raise ValueError(KEY) from KeyError(OTHER)",
        "error = ValueError(KEY); error.add_note(OTHER); error.me = error; raise error",
        "int(KEY)",
    ],
)
@pytest.mark.parametrize("hook", ["pytest_cmdline_main(config)", "pytest_unconfigure()"])
def test_errors_that_reach_the_terminal_past_pytest(planted: pytest.Pytester, hook: str, raised: str) -> None:
    suite(planted, "def test_it(): pass", f"def {hook}: {raised}")
    result = planted.runpytest_subprocess("-n0")
    clean(planted, result)
    assert "<KLAVIS_API_KEY>" in result.stderr.str()


def test_what_a_test_writes_past_pytest_cannot_be_held_back(planted: pytest.Pytester) -> None:
    """Documented: under -s print goes to the terminal itself. What is logged or reported is clean all the same."""
    body = """
        import logging, sys

        def test_it(capsys):
            handler = logging.StreamHandler(sys.stderr)
            logging.getLogger("own").addHandler(handler)
            logging.getLogger("own").error("logged %s", KEY, extra={"token": KEY})
            logging.getLogger("own").removeHandler(handler)
            assert KEY == ""

        def test_printed():
            print("printed", OTHER)
    """
    suite(planted, body)
    fields = ["--log-file=log.txt", "-o", "log_file_format=field %(token)s"]
    result = planted.runpytest_subprocess("-s", "-o", "log_cli=true", *fields)
    assert (planted.path / "log.txt").read_text() == "field <KLAVIS_API_KEY>\n"
    shown = result.stdout.str() + result.stderr.str()
    assert f"printed {BLACKBOX_KEY}" in shown
    assert KLAVIS_KEY not in shown
    assert "logged <KLAVIS_API_KEY>" in shown


def test_the_test_itself_sees_what_there_is(planted: pytest.Pytester) -> None:
    """Redaction is for people: what a test captures, compares and writes are the real values."""
    suite(
        planted,
        """
        def test_it(capsys, tmp_path):
            print(KEY)
            assert capsys.readouterr().out.strip() == KEY
            with pytest.raises(ValueError, match=KEY):
                raise ValueError(KEY)
            with pytest.warns(UserWarning, match=KEY):
                import warnings; warnings.warn(KEY)
        """,
    )
    planted.runpytest_subprocess().assert_outcomes(passed=1)


def test_evidence_holds_no_secret(planted: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded backend, with keys in the environment all the same; the workspace itself is the agent's."""
    suite(
        planted,
        """
        def test_it(local_sandbox):
            box = local_sandbox("filesystem", workspace={"a.txt": "a"})
            box.upload({"notes.txt": f"the key is {KEY}"})
            assert box.url == "", repr(box)
        """,
    )
    monkeypatch.delenv("KLAVIS_BASE_URL")
    result = planted.runpytest_subprocess("--klavis-backend=embedded", "-l")
    result.assert_outcomes(failed=1)
    for archive in planted.path.rglob("workspace.tar.gz"):
        archive.unlink()
    shown = clean(planted, result)
    assert "local_sandbox_id=" not in shown
    assert "filesystem url>" in shown
    assert "the key is <KLAVIS_API_KEY>" in next(planted.path.rglob("changes.txt")).read_text()
