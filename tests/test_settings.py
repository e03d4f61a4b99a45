"""Each setting by flag, environment, ini and default, with its source in the header."""

from __future__ import annotations

import pytest

SHOW = """
    def test_it(klavis_settings):
        print()
        for stem in ("backend", "benchmark", "ttl", "keep", "require", "artifacts"):
            print(stem, getattr(klavis_settings, stem), klavis_settings.source(stem))
"""


def test_flag_wins_over_environment_over_ini(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makeini("[pytest]\nklavis_ttl = 1h\nklavis_keep = always\nklavis_benchmark = mcp_atlas\n")
    pytester.makepyfile(SHOW)
    monkeypatch.setenv("KLAVIS_TTL", "2h")
    monkeypatch.setenv("KLAVIS_KEEP", "on-failure")
    result = pytester.runpytest("-s", "--klavis-ttl=3h")
    result.stdout.fnmatch_lines_random(
        [
            "ttl 10800 --klavis-ttl",
            "keep on-failure KLAVIS_KEEP",
            "benchmark MCP_Atlas tox.ini",
            "artifacts on-failure default",
            "require False default",
            "backend embedded no KLAVIS_API_KEY",
        ]
    )
    result.stdout.fnmatch_lines(["klavis: benchmark MCP_Atlas (from tox.ini)"])


@pytest.mark.skipif(pytest.version_tuple < (9, 0), reason="native TOML came with pytest 9.0")
def test_native_toml(pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml('[tool.pytest]\nklavis_ttl = "45m"\nklavis_require = "on"\n')
    pytester.makepyfile(SHOW)
    result = pytester.runpytest("-s")
    result.stdout.fnmatch_lines_random(["ttl 2700 pyproject.toml", "require True pyproject.toml"])


def test_ci_requires(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(SHOW)
    monkeypatch.setenv("CI", "true")
    pytester.runpytest("-s").stdout.fnmatch_lines(["*require True CI"])


def test_a_key_or_a_base_url_means_the_cloud(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(SHOW)
    result = pytester.runpytest("-s", "--klavis-base-url=https://api.eu.klavis.ai/")
    result.stdout.fnmatch_lines(["klavis: cloud at api.eu.klavis.ai, billed to your account (from --klavis-base-url)"])
    monkeypatch.setenv("KLAVIS_API_KEY", "planted-secret-key")
    result = pytester.runpytest("-s")
    result.stdout.fnmatch_lines(["klavis: cloud at api.klavis.ai, billed to your account (from KLAVIS_API_KEY)"])
    result.stdout.no_fnmatch_line("*planted-secret-key*")


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--klavis-backend=moon", "*'moon' (from --klavis-backend)*allowed are auto, cloud, embedded*"),
        ("--klavis-ttl=5", "*'5' (from --klavis-ttl)*60s to 24h*"),
        ("--klavis-acquire-timeout=soon", "*no duration*"),
        ("--klavis-artifacts=sometimes", "*allowed are never, on-failure, always*"),
        ("--klavis-artifacts-extract=perhaps", "*allowed are on, off*"),
        ("--klavis-base-url=klavis.ai", "*http:// or https://*"),
        ("--klavis-python=nowhere/venv", "*'nowhere/venv' (from --klavis-python) is not there*"),
        ("--klavis-region=mars", "*allowed are us, asia*"),
        ("--klavis-blackbox-url=agent.blackbox.ai", "*http:// or https://*"),
    ],
)
def test_a_wrong_value_is_a_usage_error(pytester: pytest.Pytester, flag: str, words: str) -> None:
    pytester.makepyfile(SHOW)
    result = pytester.runpytest(flag)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([words])


def test_an_empty_variable_is_no_value(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(SHOW)
    for name in ("KLAVIS_BASE_URL", "KLAVIS_TTL", "KLAVIS_API_KEY"):
        monkeypatch.setenv(name, "")
    pytester.runpytest("-s").stdout.fnmatch_lines(["*ttl 1800 default", "*"])


def test_a_password_in_the_base_url_is_not_shown(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SHOW)
    result = pytester.runpytest("--klavis-base-url=https://user:planted-password@api.example.com")
    result.stdout.fnmatch_lines(["klavis: cloud at api.example.com,*"])
    result.stdout.no_fnmatch_line("*planted-password*")


def test_help_lists_every_setting(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("--help")
    result.stdout.fnmatch_lines(["*--klavis-backend=auto|cloud|embedded*", "*--klavis-python=PATH*", "*klavis_ttl*"])
    result.stdout.no_fnmatch_line("*api-key*")


def test_names_ignore_case(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SHOW)
    pytester.runpytest("-s", "--klavis-benchmark=TOOLATHLON").stdout.fnmatch_lines(["*benchmark Toolathlon *"])
    pytester.runpytest("-s", "--klavis-benchmark=none").stdout.fnmatch_lines(["*benchmark None *"])


def test_where_blackbox_is_and_its_key(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(
        """
        def test_it(klavis_settings):
            print()
            print(klavis_settings.blackbox_url, klavis_settings.source("blackbox-url"))
            print(klavis_settings, klavis_settings.blackbox_key)
        """
    )
    default = "https://agent.blackbox.ai/api/v1"
    pytester.runpytest("-s").stdout.fnmatch_lines([f"{default} default", "*Settings(*) None"])
    pytester.makeini("[pytest]\nklavis_blackbox_url = https://ini.example.com/v1/\n")
    pytester.runpytest("-s").stdout.fnmatch_lines(["https://ini.example.com/v1 tox.ini"])
    monkeypatch.setenv("KLAVIS_BLACKBOX_URL", "https://env.example.com")
    monkeypatch.setenv("BLACKBOX_API_KEY", "sk-planted-blackbox-key")
    result = pytester.runpytest("-s", "--klavis-blackbox-url=https://user:planted-password@flag.example.com")
    (shown,) = [line for line in result.outlines if line.startswith("Settings(")]
    assert "flag.example.com" not in shown
    assert "sk-planted" not in shown.rpartition(")")[0]
    result.stdout.fnmatch_lines(["klavis: embedded*", "*flag.example.com --klavis-blackbox-url"])
    failing = "def test_it(klavis_settings):\n    assert klavis_settings.blackbox_key == klavis_settings.blackbox_url"
    pytester.makepyfile(failing)
    result = pytester.runpytest("-s", "--showlocals")
    result.assert_outcomes(failed=1)
    assert "sk-planted" not in result.stdout.str()
