"""`pytest-klavis servers` as processes: what is installed is whole, and what fails leaves nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_klavis.embedded.side import Missing, SideEnvironment, locate
from pytest_klavis.embedded.side.environment import Lock, folder, read_lock
from pytest_klavis.embedded.side.trouble import advice, worth_telling

from .side import Tiny, held_index, make_wheel


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny(tmp_path)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    tiny = Tiny(tmp_path_factory.mktemp("installed"))
    status, said = tiny.install()
    assert status == 0, said
    tiny.said = said
    return tiny


def _found(tiny: Tiny) -> SideEnvironment:
    found = locate(tiny.variables)
    assert isinstance(found, SideEnvironment)
    return found


def test_an_installation_says_what_it_does(installed: Tiny) -> None:
    prefix = _found(installed).prefix
    said = re.sub(r"\d+s$", "5s", installed.said, flags=re.MULTILINE)
    version = json.loads((prefix / "installed.json").read_text())["python"]
    assert said == (
        "making the virtual environment\n"
        "installing packages\n"
        "unpacking packages\n"
        "compiling\n"
        "done in 5s\n"
        f"installed for Python {version}, 0 MB, in\n"
        f"  {prefix}\n"
        "  excel                   excel-mcp-server 0.1.8\n"
        "  word                    office-word-mcp-server is not in it\n"
        "  powerpoint              office-powerpoint-mcp-server is not in it\n"
        "  poste_email_toolathlon  pymap is not in it\n"
    )


def test_what_is_installed_works_where_it_is(installed: Tiny) -> None:
    found = _found(installed)
    script = subprocess.run([found.prefix / "bin" / "excel-mcp-server"], capture_output=True, text=True, check=True)
    assert script.stdout == "tiny\n"
    site = next(found.prefix.glob("lib/python*/site-packages"))
    compiled = next(site.glob("excel_mcp/__pycache__/server.*.pyc")).read_bytes()
    assert compiled[4] == 1, "hash-based and unchecked, as PEP 552 has it"
    assert str(found.prefix).encode() in compiled
    assert not list(found.prefix.rglob("*.new-*"))
    assert [path.name for path in site.iterdir() if path.name.startswith(("pip", "setuptools"))] == []
    assert (site / "tiny_for_python2.py").exists()  # what cannot be compiled is no reason to fail


def test_a_second_installation_does_nothing(installed: Tiny) -> None:
    before = (_found(installed).prefix / "installed.json").stat()
    status, said = installed.install()
    assert status == 0
    assert said.startswith("the servers are installed already (--force makes them anew)\ninstalled for Python ")
    assert (_found(installed).prefix / "installed.json").stat().st_ino == before.st_ino


def test_the_status(installed: Tiny, tiny: Tiny) -> None:
    status, said = installed.run("servers")
    assert (status, said) == (0, installed.said[installed.said.index("installed for") :])
    status, said = tiny.run("servers")
    missing = f"the servers are not installed ({tiny.servers / read_lock(tiny.variables).key} is not there)"
    assert (status, said) == (1, f"{missing}: pytest-klavis servers install\n")


def test_the_lock_is_printed_for_pip_download(installed: Tiny) -> None:
    status, said = installed.run("servers", "lock")
    assert (status, said) == (0, installed.lock.read_text())


def test_another_lock_has_another_environment_and_the_old_one_stays(tiny: Tiny) -> None:
    assert tiny.install()[0] == 0
    old = _found(tiny).prefix
    tiny.lock.write_text(f"# newer\n{tiny.lock.read_text()}")
    assert isinstance(locate(tiny.variables), Missing)
    assert tiny.install()[0] == 0
    status, said = tiny.run("servers")
    assert status == 0
    assert said.endswith(
        "There are also those of other versions of pytest-klavis or Python, which go by\n"
        f"  rm -r {old}  # 0 MB\n"
    )  # fmt: skip


def test_force_makes_it_anew(tiny: Tiny) -> None:
    assert tiny.install()[0] == 0
    prefix = _found(tiny).prefix
    (prefix / "bin" / "python").unlink()
    assert isinstance(gone := locate(tiny.variables), Missing)
    assert gone.reason.startswith(f"the Python of {prefix} is gone")
    (prefix / "spoilt").touch()
    assert tiny.install("--force")[0] == 0
    assert not (_found(tiny).prefix / "spoilt").exists()
    assert tiny.environments() == [prefix.name]


def test_half_a_folder_of_wheels(tiny: Tiny) -> None:
    next(tiny.wheels.glob("tiny_helper*")).unlink()
    status, said = tiny.install()
    assert status == 1
    assert "pytest-klavis: error: installing packages failed (exit status 1)\n" in said
    assert "  ERROR: No matching distribution found for tiny-helper==0.1.8\n" in said
    assert f"{tiny.wheels} lacks tiny-helper==0.1.8 for cp3" in " ".join(said.split())
    assert said.endswith(
        "  pytest-klavis servers lock > servers.lock\n"
        "  pip download -r servers.lock --require-hashes --no-deps \\\n"
        f"      --only-binary :all: -d {tiny.wheels}\n"
    )
    assert tiny.environments() == []


def test_a_file_that_is_not_the_one_of_the_lock(tiny: Tiny) -> None:
    with next(tiny.wheels.glob("tiny_helper*")).open("ab") as wheel:
        wheel.write(b"more")
    status, said = tiny.install()
    assert status == 1
    assert said.endswith(
        "A file is not the one that the lock names, and nothing was installed. Find out\n"
        "which index or folder it came from, and do not trust that.\n"
    )
    assert tiny.environments() == []


def test_no_index_in_reach(tiny: Tiny) -> None:
    with held_index() as index:
        variables = index.variables
    status, said = tiny.run("servers", "install", **variables, PIP_CONFIG_FILE=os.devnull, PIP_FIND_LINKS="")
    assert status == 1
    assert "No package index in reach has a wheel of excel-mcp-server==0.1.8 for" in said
    assert "--offline DIR" in said
    assert tiny.environments() == []


def test_a_folder_that_is_not_there(tiny: Tiny) -> None:
    status, said = tiny.run("servers", "install", "--offline", "nowhere")
    assert (status, said) == (1, "pytest-klavis: error: --offline nowhere: there is no such folder\n")


def test_a_relative_place_is_refused(tiny: Tiny) -> None:
    status, said = tiny.run("servers", "install", KLAVIS_SERVERS_DIR="servers")
    assert status == 1
    told = "$KLAVIS_SERVERS_DIR is 'servers', which is no absolute path\n"
    assert said.startswith(f"pytest-klavis: error: the servers could not be installed: {told}")
    status, said = tiny.run("servers", KLAVIS_SERVERS_DIR="servers")
    assert (status, said) == (1, f"the servers cannot be looked for: {told}")


def test_a_relative_lock_is_refused(tiny: Tiny) -> None:
    told = "$KLAVIS_SERVERS_LOCK is 'servers.lock', which is no absolute path\n"
    wrong = {"KLAVIS_SERVERS_LOCK": "servers.lock"}
    assert tiny.run("servers", **wrong) == (1, f"the servers cannot be looked for: {told}")
    assert tiny.run("servers", "lock", **wrong) == (1, f"pytest-klavis: error: {told}")
    status, said = tiny.run("servers", "install", **wrong)
    assert (status, said) == (1, f"pytest-klavis: error: the servers could not be installed: {told}")
    assert not tiny.servers.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="sandboxes are other users where the server is root's only")
def test_other_users_reach_what_root_installed_under_a_strict_umask(tiny: Tiny, tmp_path: Path) -> None:
    top = tmp_path / "new"
    tiny.servers = top / "servers"
    tiny.variables["KLAVIS_SERVERS_DIR"] = str(tiny.servers)
    umask = os.umask(0o077)
    try:
        status, said = tiny.install()
    finally:
        os.umask(umask)
    assert status == 0, said
    made = [top, tiny.servers, *(path for path in _found(tiny).prefix.rglob("*") if not path.is_symlink())]
    assert [path for path in made if path.stat().st_mode & (0o055 if path.is_dir() else 0o044) == 0] == []


def test_a_lock_that_is_not_there(tiny: Tiny) -> None:
    tiny.lock.unlink()
    for command in ("servers", "servers install", "servers lock"):
        status, said = tiny.run(*command.split())
        assert status == 1
        assert f"No such file or directory: '{tiny.lock}'" in said
        assert "Traceback" not in said


def test_a_terminal_sees_each_package_in_one_line(tiny: Tiny) -> None:
    terminal, theirs = os.openpty()
    command = [sys.executable, "-m", "pytest_klavis.cli", "servers", "install", "--offline", str(tiny.wheels)]
    done = subprocess.run(
        command, env={**os.environ, **tiny.variables}, stdout=subprocess.PIPE, stderr=theirs, text=True, check=True
    )
    os.close(theirs)
    seen = os.read(terminal, 65_536).decode()
    os.close(terminal)
    assert "\r\x1b[Kgetting package 1 of 2: excel_mcp_server\r\x1b[Kgetting package 2 of 2: tiny_helper\r\x1b[K" in seen
    assert seen.endswith("\r\x1b[K")
    assert done.stdout.startswith("done in ")


def test_two_at_once(tiny: Tiny) -> None:
    both = [tiny.start("servers", "install", "--offline", str(tiny.wheels)) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted("done in" in one for one in said) == [False, True]
    assert tiny.environments() == [_found(tiny).prefix.name]


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_one_leaves_nothing(tiny: Tiny, ending: signal.Signals) -> None:
    with held_index() as index, tiny.start("servers", "install", **index.variables) as process:
        assert index.asked.wait(60)
        process.send_signal(ending)
        said, _ = process.communicate()  # which ends when pip has ended as well
        assert process.returncode == 130, said
        assert tiny.environments() == []


def test_a_killed_one_leaves_nothing_that_looks_whole_and_the_next_waits_for_its_pip(tiny: Tiny) -> None:
    with held_index() as index, tiny.start("servers", "install", **index.variables) as killed:
        assert index.asked.wait(60)
        killed.kill()
        killed.wait()
        assert isinstance(locate(tiny.variables), Missing)
        [unfinished] = tiny.environments()
        assert unfinished.startswith(".new-")
        with tiny.start("servers", "install", "--offline", str(tiny.wheels)) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "waiting for another process that installs the servers\n"
            index.refuse.set()
            said, _ = second.communicate()
        assert second.returncode == 0, said
        assert tiny.environments() == [_found(tiny).prefix.name]


def test_pip_is_told_what_and_where_by_nobody_else(tiny: Tiny, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    constraint = tmp_path / "constraint.txt"
    constraint.write_text("tiny-helper<0.1\n")
    make_wheel(tiny.wheels, "tiny-helper", "0.2")
    status, said = tiny.run(
        *("servers", "install", "--offline", str(tiny.wheels)),
        PIP_TARGET=str(elsewhere),
        PIP_Target=str(elsewhere),  # pip reads it in any case
        PIP_CONSTRAINT=str(constraint),
        PIP_USER="1",
        PYTHONPATH=str(tiny.wheels),
    )
    assert status == 0, said
    assert not elsewhere.exists()


@pytest.mark.parametrize("option", ["target", "prefix", "root"])
def test_a_file_of_pip_that_leads_packages_elsewhere_is_no_success(tiny: Tiny, tmp_path: Path, option: str) -> None:
    file = tmp_path / "pip.conf"
    file.write_text(f"[install]\n{option} = {tmp_path / 'elsewhere'}\n")
    status, said = tiny.run("servers", "install", "--offline", str(tiny.wheels), PIP_CONFIG_FILE=str(file))
    assert status == 1
    lacking = "the environment lacks excel-mcp-server==0.1.8, tiny-helper==0.1.8. A file of pip's configuration"
    assert lacking in " ".join(said.split())
    assert "`pip config list`" in said
    assert tiny.environments() == []
    assert isinstance(locate(tiny.variables), Missing)


def test_a_file_of_pip_that_wants_it_silent_or_dry_is_overruled(tiny: Tiny, tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nquiet = 2\n[install]\ndry-run = true\n")
    status, said = tiny.run("servers", "install", "--offline", str(tiny.wheels), PIP_CONFIG_FILE=str(file))
    assert status == 0, said
    assert "unpacking packages\n" in said


def test_what_is_for_some_versions_of_python_is_installed_there_and_not_missed_elsewhere(tiny: Tiny) -> None:
    text = tiny.lock.read_text()
    tiny.lock.write_text(text.replace("tiny-helper==0.1.8", "tiny-helper==0.1.8 ; python_full_version < '99'"))
    status, said = tiny.install()
    assert status == 0, said
    packages = json.loads((_found(tiny).prefix / "installed.json").read_text())["packages"]
    assert packages == {"excel-mcp-server": "0.1.8", "tiny-helper": "0.1.8"}
    tiny.lock.write_text(text.replace("tiny-helper==0.1.8", "tiny-helper==0.1.8 ; python_full_version >= '99'"))
    status, said = tiny.install()
    assert status == 0, said
    packages = json.loads((_found(tiny).prefix / "installed.json").read_text())["packages"]
    assert packages == {"excel-mcp-server": "0.1.8"}


def test_what_a_lock_has_and_an_environment_lacks() -> None:
    lock = Lock(Path("lock"), b"One.Two==1 \\\n  --hash=x\ncrypto==45 ; marker\ncrypto==50 ; other\n")
    assert lock.lacking({"one-two": "1", "crypto": "50"}, ["crypto"]) == []
    assert lock.lacking({"one-two": "1"}, ["crypto", "crypto"]) == []
    assert lock.lacking({"one-two": "2"}, ["crypto"]) == ["crypto==45 or 50", "one-two==1"]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("OSError: [Errno 28] No space left on device", "The disk of /somewhere is full: the servers need about"),
        ("/usr/bin/python3: No module named ensurepip", "This Python has neither pip nor ensurepip."),
        ("ERROR: No matching distribution found for lxml==6", "No package index in reach has a wheel of lxml==6"),
    ],
)
def test_advice(said: str, told: str) -> None:
    assert advice([said], None, Path("/somewhere")).startswith(told)


def test_of_pips_words_the_last_that_matter_are_told_in_80_columns() -> None:
    noise = "WARNING: Location 'file:///wheels/a/' is ignored: it is neither a file nor a directory."
    told = worth_telling(["Collecting a==1", noise, f"ERROR: {'no good ' * 20}", "", *["[notice] new pip"] * 9])
    assert told.startswith("  ERROR: no good")
    assert max(map(len, told.splitlines())) <= 80
    assert "Location" not in told


def test_where_it_is(tmp_path: Path) -> None:
    assert folder({"KLAVIS_SERVERS_DIR": "/a", "XDG_DATA_HOME": "/b"}) == Path("/a")
    assert folder({"XDG_DATA_HOME": "/b"}) == Path("/b/pytest-klavis/servers")
    if os.geteuid() == 0:
        assert folder({"HOME": str(tmp_path)}) == Path("/var/lib/pytest-klavis/servers")
    else:
        assert folder({"HOME": str(tmp_path)}).is_relative_to(tmp_path)


def test_the_shipped_lock_has_a_hash_for_all_and_no_address() -> None:
    text = read_lock({}).text.decode()
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)
    assert len(entries) > 90
    assert all("--hash=sha256:" in entry for entry in entries[1:])
    assert "://" not in text
    assert "async-timeout==5.0.1 ; python_full_version < '3.11.3' " in text, "redis needs it on Debian 12"
    versions = read_lock({}).versions()
    assert [
        versions[name] for name in ("excel-mcp-server", "office-word-mcp-server", "office-powerpoint-mcp-server")
    ] == [
        "0.1.8",
        "1.1.11",
        "2.0.7",
    ]
