"""Files outside of the workspace: read, written, made, watched, listed, by name, by link and by descriptor."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.embedded.escapes.support import Attack, Target, locked, shown

ATTACKS = {
    # -- reading
    "read a file": Attack("print('ESCAPED', open(SECRET).read())"),
    "read by ..": locked("print('ESCAPED', open('../' * 20 + SECRET).read())"),
    "read by an absolute link": Attack("os.symlink(SECRET, 'link'); print('ESCAPED', open('link').read())"),
    "read by a link to a folder": Attack("os.symlink('/', 'slash'); print('ESCAPED', open('slash' + SECRET).read())"),
    "read by a chain of links": Attack(
        "for n in range(30): os.symlink(f'l{n + 1}', f'l{n}')\n"
        "os.symlink(SECRET, 'l30'); print('ESCAPED', open('l0').read())"
    ),
    "read by a hard link": locked("os.link(SECRET, 'hard'); print('ESCAPED', open('hard').read())"),
    "read by a hard link to a link": Attack(
        "os.symlink(SECRET, 'soft'); os.link('soft', 'hard', follow_symlinks=False)\n"
        "print('ESCAPED', open('hard').read())"
    ),
    "read by /proc/self/root": Attack("print('ESCAPED', open('/proc/self/root' + SECRET).read())"),
    "read by /proc/self/cwd": Attack(
        "os.chdir(os.path.dirname(SECRET)); print('ESCAPED', open('/proc/self/cwd/secret.txt').read())"
    ),
    "read by the directory of a thread": Attack(
        "print('ESCAPED', open(f'/proc/self/task/{threading.get_native_id()}/root' + SECRET).read())"
    ),
    "read by the root of process 1": locked("print('ESCAPED', open('/proc/1/root' + SECRET).read())"),
    "read by the root of the server": locked("print('ESCAPED', open(f'/proc/{SERVER}/root{SECRET}').read())"),
    "read by the directory of another process": locked(
        "os.chdir(f'/proc/{VICTIM}/cwd'); print('ESCAPED', os.listdir('.'))"
    ),
    "read by a descriptor of the root": Attack(
        "print('ESCAPED', os.read(os.open(SECRET[1:], os.O_RDONLY, dir_fd=os.open('/', os.O_PATH)), 99))"
    ),
    "read by opening a path only, then again": Attack(
        "print('ESCAPED', open(f'/proc/self/fd/{os.open(SECRET, os.O_PATH)}').read())"
    ),
    "read from its own directory": Attack(
        "os.chdir(os.path.dirname(SECRET)); print('ESCAPED', open('secret.txt').read())"
    ),
    "read what a race shows": Attack(
        "os.mkdir('real'); open('real/secret.txt', 'w').write('x')\n"
        "def flip():\n"
        "    while True:\n"
        "        for to in ('real', os.path.dirname(SECRET)): os.symlink(to, 'new'); os.rename('new', 'd')\n"
        "threading.Thread(target=flip, daemon=True).start()\n"
        "end = time.monotonic() + 1.5\n"
        "while time.monotonic() < end:\n"
        "    try: text = open('d/secret.txt').read()\n"
        "    except OSError: continue\n"
        "    if text != 'x': print('ESCAPED', text); break"
    ),
    "map a file": Attack("import mmap; print('ESCAPED', mmap.mmap(os.open(SECRET, os.O_RDONLY), 0, prot=1)[:])"),
    "copy a file in the kernel": Attack(
        "call(326, 285, os.open(SECRET, os.O_RDONLY), None, os.open('x', os.O_RDWR | os.O_CREAT), None, 99, 0)\n"
        "print('ESCAPED', open('x').read())"
    ),
    "open by a handle": locked(
        "handle, mount = ctypes.create_string_buffer(struct.pack('Ii', 128, 0), 136), ctypes.c_int()\n"
        "call(303, 264, -100, SECRET.encode(), handle, ctypes.byref(mount), 0)\n"
        "print('ESCAPED', os.read(call(304, 265, os.open('/', os.O_RDONLY), handle, 0), 99))"
    ),
    "execute a program": Attack("subprocess.run([TOOL])"),
    "execute a program by the loader": Attack("subprocess.run(['sh', TOOL])"),
    "list a directory": Attack("print('ESCAPED', os.listdir(os.path.dirname(SECRET)))"),
    "list the devices": Attack(
        "own = 'console core fd full null ptmx pts random shm stderr stdin stdout tty urandom zero'\n"
        "if set(os.listdir('/dev')) - set(own.split()): print('ESCAPED')"
    ),
    "list the modules of the kernel": Attack("print('ESCAPED', os.listdir('/sys'))"),
    # -- writing
    "write a file": Attack("open(FOLDER + '/made', 'w').write('x'); print('ESCAPED')"),
    "write by a link": Attack("os.symlink(FOLDER, 'out'); open('out/made', 'w').write('x'); print('ESCAPED')"),
    "write to a file": Attack("open(LOOSE, 'a').write('x'); print('ESCAPED')"),
    "truncate a file": Attack("os.truncate(LOOSE, 0); print('ESCAPED')"),
    "remove a file": Attack("os.unlink(LOOSE); print('ESCAPED')"),
    "rename a file": Attack("os.rename(LOOSE, LOOSE + '2'); print('ESCAPED')"),
    "take a file": locked("os.rename(LOOSE, 'mine'); print('ESCAPED')"),
    "give a file": locked("open('x', 'w'); os.rename('x', FOLDER + '/made'); print('ESCAPED')"),
    "exchange two files": locked(
        "open('x', 'w'); call(316, 276, -100, b'x', -100, LOOSE.encode(), 2); print('ESCAPED')"
    ),
    "link a file out": locked("open('x', 'w'); os.link('x', FOLDER + '/made'); print('ESCAPED')"),
    "make a directory": Attack("os.mkdir(FOLDER + '/made'); print('ESCAPED')"),
    "make a link": Attack("os.symlink('x', FOLDER + '/made'); print('ESCAPED')"),
    "make a pipe": Attack("os.mkfifo(FOLDER + '/made'); print('ESCAPED')"),
    "make a socket": Attack("socket.socket(socket.AF_UNIX).bind(FOLDER + '/made'); print('ESCAPED')"),
    "make a nameless file": Attack("os.write(os.open(FOLDER, os.O_TMPFILE | os.O_RDWR), b'x'); print('ESCAPED')"),
    "name a nameless file": Attack(
        "fd = os.open(FOLDER, os.O_TMPFILE | os.O_RDWR)\n"
        "call(265, 37, -100, f'/proc/self/fd/{fd}'.encode(), -100, (FOLDER + '/made').encode(), 0x400)\n"
        "print('ESCAPED')"
    ),
    "write to the machine's shared memory": Attack(
        "path = f'/dev/shm/klavis-{VICTIM}'; open(path, 'w').close(); os.unlink(path)\n"
        "print('ESCAPED' if os.stat('/dev/shm').st_dev == SHM_DEVICE else '')".replace(
            "SHM_DEVICE", str(Path("/dev/shm").stat().st_dev)
        )
    ),
    # -- attributes
    "touch a file": Attack("os.utime(LOOSE); print('ESCAPED')", gaps=("landlock",)),
    "attribute of a file": locked("os.setxattr(LOOSE, 'user.x', b'x'); print('ESCAPED')", "landlock"),
    "mode of a file of the server's": Attack(
        "os.chmod(SECRET, 0o644); print('ESCAPED')", ("user",), ("landlock as user",)
    ),
    # -- looking
    "does a file exist": Attack("os.stat(SECRET); print('ESCAPED')", gaps=("landlock",)),
    "where does a link lead": Attack("os.readlink(LINK); print('ESCAPED')", gaps=("landlock",)),
    "watch names": Attack(
        "if libc.inotify_add_watch(libc.inotify_init(), FOLDER.encode(), 0x100) >= 0: print('ESCAPED')"
    ),
    "watch a directory": Attack(
        "fcntl.fcntl(os.open(FOLDER, os.O_RDONLY), fcntl.F_NOTIFY, fcntl.DN_CREATE); print('ESCAPED')"
    ),
    "watch everything": locked("call(300, 262, 0, 0); print('ESCAPED')"),
    "lock a file": Attack("fcntl.flock(open(LOOSE), fcntl.LOCK_EX); print('ESCAPED')"),
    # -- other sandboxes
    "another sandbox": Attack("print('ESCAPED', open(OTHER + '/answer.txt').read())"),
    "another sandbox by a neighbour's name": Attack(
        "os.chdir('..'); os.chdir('../other/workspace'); print('ESCAPED', open('answer.txt').read())"
    ),
    "another sandbox, written to": Attack("open(OTHER + '/answer.txt', 'a').write('x'); print('ESCAPED')", ("user",)),
    "the list of sandboxes": Attack("print('ESCAPED', os.listdir(os.path.dirname(os.path.dirname(OTHER))))"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(target: Target, name: str) -> None:
    target.resists(ATTACKS[name])


@pytest.mark.parametrize("name", shown(ATTACKS))
def test_the_attack_works_without_isolation(unprotected: Target, name: str) -> None:
    unprotected.yields(ATTACKS[name])


def test_the_hosts_own_files(target: Target) -> None:
    said = target.attack(
        "for path in ('/etc/shadow', '/etc/passwd', '/root', '/var/log', '/etc/ssh', '/sys/kernel', '/boot',\n"
        "             '/proc/kcore', '/dev/kmsg', '/dev/mem', '/dev/vda', '/dev/sda', '/run/docker.sock'):\n"
        "    try: text = open(path).read(100) if not os.path.isdir(path) else os.listdir(path)\n"
        "    except OSError: continue\n"
        "    if path == '/root' and text == ['.pyenv']: continue\n"
        "    print('READ', path, text)"
    )
    host = Path("/etc/passwd").read_text().splitlines()[0]
    assert host not in said
    assert [line.split()[1] for line in said.splitlines() if line.startswith("READ")] in ([], ["/etc/passwd"])
    if "READ" in said:
        assert "READ /etc/passwd sandbox:" in said


def test_programs_of_the_system_cannot_be_changed(target: Target) -> None:
    python = target.box.isolation.python
    for path in (python, "/usr/bin/env", f"{Path(python).parent}/made", "/usr/made"):
        done = target.box.sh(f"echo x >> {path} || rm -f {path} && test ! -e {path}")
        assert done.exit_code != 0 or not Path(path).exists(), path
    assert target.box.run(["python", "-c", "print(1)"]).stdout == b"1\n"
