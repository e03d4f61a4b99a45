"""Where the state of an account lives: what is chosen, made, refused and said."""

from __future__ import annotations

import os
import pwd
import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pytest_klavis import rundir
from pytest_klavis.errors import BackendError
from pytest_klavis.pool.statedir import account_directory, filesystem_of, is_remote, state_directory

CLOUD, KEY = "https://api.klavis.ai", "sk-secret-1"
_root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")


def _local(path: Path) -> str | None:
    return "ext4"


def _explicit(path: Path) -> dict[str, str]:
    return {"KLAVIS_STATE_DIR": str(path)}


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files, empty."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_the_place_is_the_named_one_or_by_the_rules_of_xdg(tmp_path: Path) -> None:
    home, state = str(tmp_path / "home"), str(tmp_path / "state")
    usual = tmp_path / "home/.local/state/pytest-klavis"
    for environ, expected in (
        ({"HOME": home}, usual),
        ({"HOME": home, "XDG_STATE_HOME": "", "KLAVIS_STATE_DIR": ""}, usual),
        ({"HOME": home, "XDG_STATE_HOME": "relative"}, usual),
        ({"HOME": home, "XDG_STATE_HOME": state}, tmp_path / "state/pytest-klavis"),
        ({"HOME": home, "XDG_STATE_HOME": state, "KLAVIS_STATE_DIR": f"{home}/k"}, tmp_path / "home/k"),
        ({"HOME": home, "KLAVIS_STATE_DIR": "~/k"}, tmp_path / "home/k"),
    ):
        found = state_directory(environ, _local)
        assert (found.path, found.note) == (expected, "")
    assert list(tmp_path.iterdir()) == []


def test_without_a_home_the_password_database_knows_it() -> None:
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    assert state_directory({}, _local).path == home / ".local/state/pytest-klavis"


def test_an_account_has_a_private_directory(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        found = account_directory(CLOUD, KEY, _explicit(tmp_path / "a/b"), _local)
    finally:
        os.umask(before)
    assert found.path.parent == tmp_path / "a/b"
    assert found.path.name.startswith("api.klavis.ai-")
    assert len(found.path.name) == len("api.klavis.ai-") + 16
    assert sorted(path.name for path in found.path.iterdir()) == ["answers", "owners"]
    for path in (tmp_path / "a", tmp_path / "a/b", found.path, found.path / "answers", found.path / "owners"):
        assert _mode(path) == 0o700
    assert account_directory(CLOUD, KEY, _explicit(tmp_path / "a/b"), _local) == found


def test_an_account_is_a_host_and_a_key_and_the_key_is_not_told(tmp_path: Path) -> None:
    def name(url: str, key: str = KEY) -> str:
        return account_directory(url, key, _explicit(tmp_path), _local).path.name

    assert name(CLOUD) == name("https://API.klavis.ai:443/v2/") == name("https://user:word@api.klavis.ai")
    different = [
        name(CLOUD),
        name(CLOUD, "sk-secret-2"),
        name(CLOUD, "sk-secret-\udcff"),
        name("https://eu.klavis.ai"),
        name("http://127.0.0.1:8080"),
        name("http://127.0.0.1:8081"),
        name("http://[::1]:8080"),
        name(f"https://{'a' * 60}.{'b' * 60}.{'c' * 60}.example"),
        name(f"https://{'a' * 60}.{'b' * 60}.{'c' * 60}.example2"),
    ]
    assert len(set(different)) == len(different)
    assert name("http://127.0.0.1:8080").startswith("127.0.0.1_8080-")
    for found in different:
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,120}", found)
        assert "secret" not in found
    assert "word" not in name("https://user:word@api.klavis.ai")


def test_our_directories_that_were_too_open_are_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    found = account_directory(CLOUD, KEY, _explicit(tmp_path), _local).path
    for path in (found, found / "owners", found / "answers"):
        path.chmod(0o777)
    account_directory(CLOUD, KEY, _explicit(tmp_path), _local)
    assert [_mode(path) for path in (found, found / "owners", found / "answers")] == [0o700] * 3
    assert _mode(tmp_path) == 0o755


def _refusal(environ: dict[str, str], filesystem: str = "ext4") -> str:
    with pytest.raises(BackendError) as caught:
        account_directory(CLOUD, KEY, environ, lambda _: filesystem)
    assert KEY not in str(caught.value)
    assert "KLAVIS_STATE_DIR" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
def test_a_place_where_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(mode)
    assert f"{place}: others can write there (mode {mode:04o}): chmod go-w {place}" in _refusal(_explicit(place))
    assert list(place.iterdir()) == []


def test_a_link_to_a_directory_of_ones_own_will_do(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    found = account_directory(CLOUD, KEY, _explicit(tmp_path / "link"), _local).path
    assert (tmp_path / "real" / found.name / "owners").is_dir()


def test_links_in_the_place_of_our_own_directories_are_refused(tmp_path: Path) -> None:
    found = account_directory(CLOUD, KEY, _explicit(tmp_path), _local).path
    (found / "answers").rename(tmp_path / "elsewhere")
    (found / "answers").symlink_to(tmp_path / "elsewhere")
    assert f"{found}/answers: it is a symbolic link" in _refusal(_explicit(tmp_path))
    found.rename(tmp_path / "account")
    found.symlink_to(tmp_path / "account")
    assert f"{found}: it is a symbolic link" in _refusal(_explicit(tmp_path))
    found.unlink()
    found.symlink_to("/nowhere/else")
    assert f"{found}: it is a symbolic link" in _refusal(_explicit(tmp_path))


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("/nowhere/else")
    assert f"{tmp_path}/file: it is not a directory" in _refusal(_explicit(tmp_path / "file"))
    assert "not a directory" in _refusal(_explicit(tmp_path / "file/below"))
    assert f"{tmp_path}/link: it is a symbolic link to nowhere" in _refusal(_explicit(tmp_path / "link"))
    assert "file name too long" in _refusal(_explicit(tmp_path / ("x" * 300)))
    found = account_directory(CLOUD, KEY, _explicit(tmp_path), _local).path
    (found / "owners").rmdir()
    (found / "owners").write_text("")
    assert f"{found}/owners: it is not a directory" in _refusal(_explicit(tmp_path))


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="no /proc")
def test_what_cannot_be_made_is_refused() -> None:
    assert "/proc/nowhere: it cannot be made or opened: no such file or directory" in _refusal(
        _explicit(Path("/proc/nowhere/below"))
    )


@pytest.mark.parametrize("value", ["state", "./state", "~somebody/state", "~x"])
def test_a_relative_place_is_refused(value: str) -> None:
    assert f"KLAVIS_STATE_DIR={value} has to be an absolute path" in _refusal({"KLAVIS_STATE_DIR": value})


def test_no_home_is_refused() -> None:
    assert "HOME is 'relative'" in _refusal({"HOME": "relative"})


@_root_only
def test_someone_elses_directory_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "place"
    found = account_directory(CLOUD, KEY, _explicit(place), _local).path
    os.chown(found, 12_345, 12_345)
    assert f"{found}: it belongs to uid 12345, not to 0" in _refusal(_explicit(place))
    os.chown(place, 12_345, 12_345)
    assert f"{place}: it belongs to uid 12345, not to 0" in _refusal(_explicit(place))
    (tmp_path / "link").symlink_to(place)
    assert f"{tmp_path}/link: it belongs to uid 12345, not to 0" in _refusal(_explicit(tmp_path / "link"))


def _unprivileged(place: Path) -> str:
    """What a process without privileges gets, or is told."""
    answer, told = os.pipe()
    if (child := os.fork()) == 0:  # forked child
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(12_345)
            os.setuid(12_345)
        try:
            os.write(told, str(account_directory(CLOUD, KEY, _explicit(place), _local).path).encode())
        except BaseException as error:  # noqa: BLE001
            os.write(told, f"{type(error).__name__} {error}".encode())
        os._exit(0)
    os.close(told)
    os.waitpid(child, 0)
    with os.fdopen(answer) as pipe:
        return pipe.read()


@pytest.fixture
def open_place() -> Path:
    """A directory of the unprivileged user's own, below one that it can walk through."""
    folder = Path(tempfile.mkdtemp(prefix="klavis-test-", dir="/tmp"))
    if os.geteuid() == 0:
        os.chown(folder, 12_345, 12_345)
    return folder


def test_a_place_that_is_not_writable_is_refused(open_place: Path) -> None:
    try:
        account = Path(_unprivileged(open_place / "state"))
        assert account.parent == open_place / "state"
        (account / "owners").chmod(0o500)
        assert _unprivileged(open_place / "state") == str(account)  # ours: made writable again
        open_place.chmod(0o500)
        refused = _unprivileged(open_place / "other")
        assert refused.startswith("BackendError")
        assert f"{open_place}/other: it cannot be made or opened: permission denied" in refused
        open_place.chmod(0)
        assert f"{open_place}/other: permission denied" in _unprivileged(open_place / "other")
    finally:
        open_place.chmod(0o700)
        rundir.remove_tree(open_place)


@_root_only
@pytest.mark.skipif(sys.platform != "linux", reason="mounts as on Linux")
def test_a_read_only_file_system_is_refused(tmp_path: Path) -> None:
    account_directory(CLOUD, KEY, _explicit(tmp_path / "old"), _local)
    (tmp_path / "new").mkdir(mode=0o700)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pytest_klavis.pool.statedir import account_directory\n"
        "for place in sys.argv[2:]:\n"
        "    try: account_directory('https://api.klavis.ai', 'sk-secret-1', {'KLAVIS_STATE_DIR': place})\n"
        "    except Exception as error: print(error)"
    )
    places = [str(tmp_path / name) for name in ("old", "new")]
    mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", mount, str(tmp_path), sys.executable, "-c", code]
    try:
        done = subprocess.run(
            [*command, str(Path(rundir.__file__).parents[1]), *places], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("no unshare")
    if done.returncode:
        pytest.skip(f"no mounts here: {done.stderr}")
    old, new = done.stdout.splitlines()
    assert "its file system is read-only" in old
    assert "it cannot be made or opened: read-only file system" in new


@pytest.mark.parametrize("filesystem", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse.glusterfs", "lustre"])
def test_a_network_file_system_is_refused_when_it_was_asked_for(tmp_path: Path, tmp: Path, filesystem: str) -> None:
    assert f"it is on a network file system ({filesystem}), where SQLite's WAL" in _refusal(
        _explicit(tmp_path / "state"), filesystem
    )
    assert list(tmp_path.iterdir()) == [tmp]
    assert list(tmp.iterdir()) == []


def test_a_default_on_a_network_file_system_moves_with_a_note(tmp_path: Path, tmp: Path) -> None:
    def mounts(path: Path) -> str:
        return "ext4" if path.is_relative_to(tmp) else "nfs4"

    found = account_directory(CLOUD, KEY, {"HOME": str(tmp_path / "home")}, mounts)
    top = tmp.resolve() / f"pytest-klavis-{os.geteuid()}-state"
    assert found.path.parent == top
    assert _mode(top) == 0o700
    assert str(top) in found.note
    assert "network file system (nfs4)" in found.note
    assert "KLAVIS_STATE_DIR" in found.note
    assert list(tmp_path.iterdir()) == [tmp]


def test_the_place_it_moves_to_has_to_be_private_and_local(tmp_path: Path, tmp: Path) -> None:
    home = {"HOME": str(tmp_path / "home")}

    def mounts(path: Path) -> str:
        return "ext4" if path.is_relative_to(tmp) else "nfs4"

    top = tmp.resolve() / f"pytest-klavis-{os.geteuid()}-state"
    assert f"and so is {top} (nfs4)" in _refusal(home, "nfs4")
    (tmp_path / "mine").mkdir(mode=0o700)
    top.symlink_to(tmp_path / "mine")
    with pytest.raises(BackendError, match="it is a symbolic link"):
        account_directory(CLOUD, KEY, home, mounts)
    top.unlink()
    top.mkdir()
    top.chmod(0o777)
    with pytest.raises(BackendError, match="others can write there"):
        account_directory(CLOUD, KEY, home, mounts)


def test_file_systems_of_one_machine_are_not_remote() -> None:
    local = (
        *("overlay", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "apfs", "fuse.fuse-overlayfs", "fuseblk", "fuse", None),
        *("fuse.encfs", "virtiofs", "ramfs", "f2fs", "nfsd", "smbios", "squashfs"),
    )
    assert [kind for kind in local if is_remote(kind)] == []
    remote = (
        *("nfs", "NFS4", "cifs", "smb2", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "gpfs", "davfs"),
        *("fuse.sshfs", "fuse.s3fs", "fuse.davfs", "fuse.ceph-fuse", "fuse.rclone", "fuse.gcsfuse"),
    )
    assert [kind for kind in remote if not is_remote(kind)] == []


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="no /proc")
def test_the_file_system_of_a_path_is_that_of_its_mount(tmp_path: Path) -> None:
    assert filesystem_of(Path("/proc/self")) == filesystem_of(Path("/proc/self/no/such/thing")) == "proc"
    (tmp_path / "link").symlink_to("/proc")
    assert filesystem_of(tmp_path / "link" / "nowhere") == "proc"
    assert filesystem_of(tmp_path) not in {None, "proc"}
    assert not is_remote(filesystem_of(Path("/proc")))


@_root_only
@pytest.mark.skipif(sys.platform != "linux", reason="mounts as on Linux")
def test_mounts_with_odd_names_and_mounts_over_mounts_are_told_apart(tmp_path: Path) -> None:
    odd = tmp_path / "a b\tc\\d"
    (odd / "below").mkdir(parents=True)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from pytest_klavis.pool.statedir import filesystem_of\n"
        "print(*(filesystem_of(Path(path)) for path in sys.argv[2:]))"
    )
    mount = (
        'mount -t tmpfs none "$0/below" && mount -t ramfs none "$0" && mkdir "$0/below" "$0/more" && '
        'mount -t tmpfs none "$0/more" && mount -t ramfs none "$0/more" && mount -t tmpfs none "$0/more" && exec "$@"'
    )
    command = ["unshare", "-m", "sh", "-c", mount, str(odd), sys.executable, "-c", code]
    paths = [str(path) for path in (odd, odd / "below", odd / "below/x", odd / "more/x")]
    try:
        done = subprocess.run(
            [*command, str(Path(rundir.__file__).parents[1]), *paths], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("no unshare")
    if done.returncode:
        pytest.skip(f"no mounts here: {done.stderr}")
    assert done.stdout.split() == ["ramfs", "ramfs", "ramfs", "tmpfs"]
