"""What a command leaves for the next one: files that a loader, a shell or an interpreter would run by itself.

What the next one is to trust (`python`, `git`, `sh`, the interpreter's modules) must still be the machine's. Its own
files the agent may change; HOME and the workspace are its own, also for `run()`.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.embedded.conftest import User, tar
from tests.embedded.escapes.support import Target
from tests.embedded.isolation_support import LEVELS

# A program that says when it is run in the place of another.
EVIL = "#!/bin/sh\necho PLANTED; echo PLANTED >&2\n"
EVIL_PYTHON = "import sys; print('PLANTED', file=sys.stderr)\n"

PLANTS = {
    "programs beside": "for name in NAMES: plant(name)",
    "programs in HOME": "for name in NAMES: plant(f'{HOME}/bin/{name}'); plant(f'{HOME}/.local/bin/{name}')",
    "programs in the temporary directory": "for name in NAMES: plant(f'{TMP}/{name}')",
    "programs of the system": "for name in NAMES: plant(shutil.which(name) or '/usr/local/bin/' + name)",
    "programs before those of the system": (
        "for folder in os.environ['PATH'].split(':'):\n    for name in NAMES: plant(f'{folder}/{name}')"
    ),
    "modules of the system": (
        "import json\nfor name in ('json', 'sitecustomize'): plant(json.__file__.replace('json', name), EVIL_PYTHON)"
    ),
    "byte code of the system": ("import importlib.util as u, json; plant(u.cache_from_source(json.__file__))"),
    "packages of the interpreter": (
        "import site, sysconfig\n"
        "for folder in {*site.getsitepackages(), *sysconfig.get_paths().values()}:\n"
        "    plant(folder + '/evil.pth', 'import sys; print(\"PLANTED\", file=sys.stderr)')\n"
        "    plant(folder + '/sitecustomize.py', EVIL_PYTHON)"
    ),
    "the configuration of the interpreter": (
        "for folder in {sys.prefix, os.path.dirname(sys.executable)}:\n"
        "    plant(folder + '/pyvenv.cfg', 'home = /data'); plant(folder + '/python._pth', '/data')"
    ),
    "libraries of the loader": "plant('/etc/ld.so.preload', '/data/evil.so'); plant('/etc/ld.so.cache')",
    "the shell's files": "plant('/etc/profile'); plant('/etc/bash.bashrc'); plant('/etc/environment')",
    "git's files": "plant('/etc/gitconfig', '[alias]\\n status = !echo PLANTED')",
    "the hosts": "plant('/etc/hosts', '6.6.6.6 localhost'); plant('/etc/passwd', 'root::0:0::/:/bin/sh')",
}
PLANT = """
import os, shutil, sys
NAMES = ("python", "python3", "git", "sh", "bash", "env", "cat", "ls")
HOME, TMP = os.environ["HOME"], os.environ["TMPDIR"]
def plant(path, text=EVIL):
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        if os.path.islink(path): os.unlink(path)
        with open(path, "w") as file: file.write(text)
        os.chmod(path, 0o755)
    except OSError: pass
"""
ASK = (
    "python -c 'import json, sys; print(sys.executable)' && python3 -c 'import json' && git --version && env true"
    " && cat /dev/null && bash -c : && ls -d . && id -u"
)


@pytest.mark.parametrize("how", PLANTS)
def test_the_next_command_is_the_machines(target: Target, how: str) -> None:
    before = target.box.sh(ASK)
    target.box.python(f"EVIL, EVIL_PYTHON = {EVIL!r}, {EVIL_PYTHON!r}\n{PLANT}{PLANTS[how]}")
    after = target.box.sh(ASK)
    assert b"PLANTED" not in after.stdout + after.stderr
    assert (after.stdout, after.stderr, after.exit_code) == (before.stdout, before.stderr, 0)


@pytest.mark.parametrize("how", ["programs beside"])
def test_what_is_planted_does_run_when_it_is_asked_for(target: Target, how: str) -> None:
    """So the test above can fail."""
    target.box.python(f"EVIL, EVIL_PYTHON = {EVIL!r}, {EVIL_PYTHON!r}\n{PLANT}{PLANTS[how]}")
    assert b"PLANTED" in target.box.sh(ASK, env={"PATH": "."}).stdout


def test_an_agents_environment_does_not_reach_the_way_in(target: Target) -> None:
    """LD_PRELOAD would run the agent's code in whatever is executed before the command, with its privileges."""
    target.box.put("marker", "")
    target.box.put(
        "evil.c",
        "#include <stdio.h>\n#include <unistd.h>\n__attribute__((constructor)) void f(void)"
        '{FILE *o = fopen("marker", "a"); if (o) fprintf(o, "%d\\n", (int) getuid()); }\n',
    )
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", "evil.so", "evil.c"], cwd=target.box.workspace, check=True)
    library = f"{target.box.isolation.root(target.box.jail)}/evil.so"
    target.box.run(["true"], env={"LD_PRELOAD": library, "LD_LIBRARY_PATH": ".", "BASH_ENV": "evil.c"})
    own = str(target.box.jail.uid or (1000 if target.box.isolation.level == "strict" else os.getuid()))
    assert set((target.box.workspace / "marker").read_text().split()) == {own}


# -- what the oracle's run() must not pick up

FOR_THE_ORACLE = {
    "a module beside": "open('json.py', 'w').write(EVIL_PYTHON)",
    "a module that every start imports": (
        "for name in ('sitecustomize', 'usercustomize', 'site'): open(name + '.py', 'w').write(EVIL_PYTHON)"
    ),
    "a module of the user": (
        "import site\nfolder = site.getusersitepackages(); os.makedirs(folder, exist_ok=True)\n"
        "open(folder + '/usercustomize.py', 'w').write(EVIL_PYTHON)\n"
        "open(folder + '/evil.pth', 'w').write('import sys; print(\"PLANTED\", file=sys.stderr)')\n"
        "open(folder + '/json.py', 'w').write(EVIL_PYTHON)"
    ),
    "byte code": (
        "import py_compile\n"
        "open('evil.py', 'w').write(EVIL_PYTHON); os.makedirs('__pycache__', exist_ok=True)\n"
        "for name in ('check.py', 'json.py'):\n"
        "    path = f'__pycache__/{name[:-3]}.{sys.implementation.cache_tag}.pyc'\n"
        "    py_compile.compile('evil.py', path, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)"
    ),
    "an environment around": "open('pyvenv.cfg', 'w').write('home = /data')",
    "a start-up file": "open(os.environ['HOME'] + '/.pythonrc.py', 'w').write(EVIL_PYTHON)",
    "programs": "for name in ('python', 'sh'):\n    open(name, 'w').write(EVIL); os.chmod(name, 0o755)",
    "the shell's files": (
        "for name in ('.profile', '.bashrc', '.shrc'): open(os.environ['HOME'] + '/' + name, 'w').write(EVIL)"
    ),
    "the check itself": "open('check.py', 'w').write(EVIL_PYTHON)",
    "a directory in its place": "os.mkdir('check.py')",
    "a link in its place": "os.symlink('elsewhere.py', 'check.py')",
    "a pipe in its place": "os.mkfifo('check.py')",
}


@pytest.mark.parametrize("level", LEVELS)
def test_the_oracle_runs_nothing_that_was_planted(start: Callable[..., User], level: str) -> None:
    user = start(isolation=level)
    if user.found["isolation"] != level:
        pytest.skip(f"no {level} here")
    for name, program in FOR_THE_ORACLE.items():
        sandbox = user.acquire("terminal")["local_sandbox_id"]
        code = f"import os, sys\nEVIL, EVIL_PYTHON = {EVIL!r}, {EVIL_PYTHON!r}\n{program}"
        assert user.run(sandbox, "python", "-c", code)["exit_code"] == 0, name
        oracle = base64.b64encode(tar({"check.py": "import json; print('passed')"})).decode()
        done = user.run(sandbox, "sh", "-c", "python check.py", files=oracle)
        assert (done["stdout"], done["stderr"], done["exit_code"]) == ("passed\n", "", 0), name


def test_an_oracle_without_these_measures_would(start: Callable[..., User]) -> None:
    """So the test above can fail."""
    user = start()
    sandbox = user.acquire("terminal")["local_sandbox_id"]
    code = f"EVIL_PYTHON = {EVIL_PYTHON!r}\n{FOR_THE_ORACLE['a module beside']}"
    user.run(sandbox, "python", "-c", code)
    done = user.run(sandbox, "python", "-c", "import json", env={"PYTHONSAFEPATH": ""})
    assert "PLANTED" in done["stderr"]


# -- what must not be left over for a later sandbox


def test_nothing_is_left_for_the_next_sandbox(start: Callable[..., User]) -> None:
    user = start()
    first = user.acquire("terminal")["local_sandbox_id"]
    everywhere = (
        "for d in /tmp /var/tmp /dev/shm /run /home/sandbox $HOME $TMPDIR /opt/python .; do echo x > $d/left; done"
    )
    user.run(first, "sh", "-c", everywhere)
    root = user.run(first, "pwd")["stdout"].strip()
    assert user.api.delete(f"/local-sandbox/{first}").status_code == 200
    second = user.acquire("terminal")["local_sandbox_id"]
    look = "find / -xdev -name left -not -path '/proc/*' 2>/dev/null; ls -A . $HOME $TMPDIR"
    found = user.run(second, "sh", "-c", look)["stdout"].split()
    assert [word for word in found if word.endswith("left")] == []
    assert root == "/data" or not Path(root).exists()
