"""The address of a sandbox is a key to it: it is in no output, wherever a test puts it."""

from __future__ import annotations

import pytest


def test_an_instance_url_is_nowhere(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import json, logging, warnings
        import pytest

        def test_it(local_sandbox, record_property):
            box = local_sandbox("filesystem")
            url = box.url
            logging.getLogger("agent").warning("connecting to %s", url)
            warnings.warn(f"slow: {url}")
            print(url, json.dumps({"url": url}))
            record_property("url", url)
            assert url == "", f"compared {url}"
        """
    )
    flags = ["-rA", "--showlocals", "-vv", "--junitxml=junit.xml", "--log-file=log.txt", "-o", "log_cli=true"]
    result = pytester.runpytest_subprocess(
        *flags, "-o", "junit_logging=all", "-W", "default"
    )  # record_property warns, too
    result.assert_outcomes(failed=1, warnings=2)
    outputs = [result.stdout.str(), result.stderr.str()]
    outputs += [(pytester.path / name).read_text() for name in ("junit.xml", "log.txt")]
    for output in outputs:
        assert "local_sandbox_id=" not in output
    assert "filesystem url>" in outputs[0]  # host and server stay readable
