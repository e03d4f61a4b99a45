"""schemathesis on the description of a running server: first with ids that exist, then as it finds its own way.

All of its checks. `SCHEMATHESIS_SEED` repeats a run (each prints its seed), `SCHEMATHESIS_EXAMPLES` makes it longer.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import pytest

from .embedded import KEY, local_sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from .embedded import Box

pytestmark = pytest.mark.skipif(
    find_spec("schemathesis") is None, reason="needs schemathesis: tox -e clients-rest, or install it"
)

HOOKS = "tests.clients.schemathesis_hooks"
EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "25")  # per operation
# Where a valid request is refused all the same, and why.
REFUSED = {
    "/sandbox/{server_name}": "there are no remote sandboxes yet, whatever the request says",
    "/local-sandbox/{local_sandbox_id}/run": "directories that are not there, files that are no archive",
    "/local-sandbox/poste_email_toolathlon/{sandbox_id}/initialize": "addresses and dates have rules beyond a schema",
}


def run(api: httpx.Client, place: Path, config: str, *options: str) -> None:
    """One run of the command line, with a configuration. Fails with all that it printed."""
    seed = os.environ.get("SCHEMATHESIS_SEED") or str(secrets.randbelow(1 << 32))
    refused = "".join(
        f'[[operations]]\ninclude-path = "{path}"\n[operations.checks.positive_data_acceptance]\nenabled = false\n'
        for path in REFUSED
    )
    file = place / "schemathesis.toml"
    file.write_text(config + refused)
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "--config-file",
        str(file),
        "run",
        f"{api.base_url}/openapi.json",
    ]
    more = ["--header", f"Authorization: Bearer {KEY}", "--seed", seed, "--no-color"]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": HOOKS, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*command, *more, "--continue-on-failure", *options],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    sys.stdout.write(f"SCHEMATHESIS_SEED={seed}\n{done.stdout[-6000:]}")
    assert done.returncode == 0, f"SCHEMATHESIS_SEED={seed}\n{done.stdout}\n{done.stderr}"


@pytest.fixture
def everything(api: httpx.Client) -> Iterator[Box]:
    """A sandbox with all servers that there are here."""
    with local_sandbox(api, "ALL") as sandbox:
        yield sandbox


def test_sandboxes_that_exist(everything: Box, api: httpx.Client, tmp_path: Path) -> None:
    box = everything
    sandbox = f"/local-sandbox/{box.id}"
    upload = urlsplit(api.post(f"{sandbox}/upload-url").json()["upload_url"])
    api.put(f"{upload.path}?{upload.query}", content=b"no archive").raise_for_status()
    download = urlsplit(api.get(f"{sandbox}/dump").json()["download_url"])
    config = [f'parameters = {{ "path.local_sandbox_id" = "{box.id}", "path.sandbox_id" = "{box.id}" }}\n']
    for url, kind in ((upload, "uploads"), (download, "dumps")):
        known = {"path.name": url.path.rpartition("/")[2]} | {f"query.{k}": v for k, v in parse_qsl(url.query)}
        named = ", ".join(f'"{name}" = "{value}"' for name, value in known.items())
        config.append(
            f'[[operations]]\ninclude-path = "/storage/{{sandbox_id}}/{kind}/{{name}}"\nparameters = {{ {named} }}\n'
        )
    run(
        *(api, tmp_path, "".join(config), "--phases", "coverage,fuzzing", "--max-examples", EXAMPLES),
        *("--exclude-method", "DELETE", "--exclude-path-regex", "/dump$|^/sandbox"),
    )
    assert api.get(sandbox).status_code == 200


def test_whole_lives_of_sandboxes(api: httpx.Client, tmp_path: Path) -> None:
    """Ids are found by the links of the description only: an id of a server in a sandbox is none of a sandbox."""
    config = "[phases.stateful.inference]\nalgorithms = []\n"
    run(api, tmp_path, config, "--phases", "coverage,fuzzing,stateful", "--max-examples", EXAMPLES)
    for sandbox in api.get("/local-sandbox").json()["local_sandboxes"]:
        api.delete(f"/local-sandbox/{sandbox['local_sandbox_id']}")
