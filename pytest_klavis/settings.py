"""The settings of a run: flag > environment > ini > default, each value with where it came from."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from .arguments import seconds, ttl_seconds
from .limits import Limits, parse, spelled

WIDE_TTL = 86_400
"""What scopes wider than function ask for: the API cannot renew a sandbox."""


@dataclass(frozen=True)
class Option:
    """One setting: `--klavis-STEM`, `KLAVIS_STEM`, `klavis_stem`."""

    stem: str
    default: str
    parse: Callable[[str], Any]
    help: str
    metavar: str

    @property
    def flag(self) -> str:
        return f"--klavis-{self.stem}"

    @property
    def env(self) -> str:
        return f"KLAVIS_{self.stem.upper().replace('-', '_')}"

    @property
    def ini(self) -> str:
        return f"klavis_{self.stem.replace('-', '_')}"


@dataclass(frozen=True)
class Settings:
    """What this run was told. Keys come from the environment only and never show in a repr."""

    backend: str
    benchmark: str | None
    base_url: str
    region: str
    ttl: int
    acquire_timeout: float
    artifacts: str
    artifacts_dir: Path
    artifacts_extract: bool
    keep: str
    pool_size: int | None
    rate: float | None
    max_acquires: int | None
    prefetch: bool
    verify_reset: bool
    exclusive_account: bool
    require: bool
    isolation: str
    limits: Limits
    python: str | None
    install_servers: bool
    blackbox_url: str = field(repr=False)
    sources: Mapping[str, str] = field(repr=False)
    api_key: str | None = field(default=None, repr=False)
    blackbox_key: str | None = field(default=None, repr=False)

    def source(self, stem: str) -> str:
        """Where the value of `stem` came from: a flag, a variable, an ini file or "default"."""
        return self.sources[stem]


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        for one in allowed:
            if one.lower() == text.lower():
                return one
        raise ValueError(f"allowed are {', '.join(allowed)}")

    return parse


def _switch(text: str) -> bool:
    if text.lower() in {"on", "true", "yes", "1"}:
        return True
    if text.lower() in {"off", "false", "no", "0", ""}:
        return False
    raise ValueError("allowed are on, off")


def _benchmark(text: str) -> str | None:
    from . import catalog  # noqa: PLC0415  only needed where a benchmark is named

    return None if text.lower() in {"", "none"} else catalog.benchmark(text)


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("an address with http:// or https:// is taken")
    return text.rstrip("/")


def _optional(text: str) -> str | None:
    return text or None


def _count(text: str) -> int | None:
    if text.lower() in {"", "auto"}:
        return None
    if not text.isdecimal() or not int(text):
        raise ValueError("a whole number from 1 on is taken")
    return int(text)


def _rate(text: str) -> float | None:
    """Requests a second; None for no limit."""
    if text.lower() == "off":
        return None
    number, _, unit = text.replace(" ", "").partition("/")
    try:
        rate = float(number) / {"": 1, "s": 1, "m": 60, "min": 60}[unit.lower()]
    except (ValueError, KeyError):
        rate = 0.0
    if not 0.01 <= rate <= 1000:
        raise ValueError("requests a second such as 2/s, or a minute such as 300/m, or off")
    return rate


DEFAULT_BASE_URL = "https://api.klavis.ai"
BLACKBOX_URL = "https://agent.blackbox.ai/api/v1"
WHEN = ("never", "on-failure", "always")
BACKENDS = ("auto", "cloud", "embedded")
LEVELS = ("auto", "strict", "landlock", "seatbelt", "none")
OPTIONS = (
    Option(
        "backend",
        "auto",
        _choice(*BACKENDS),
        "where sandboxes come from; auto is cloud when KLAVIS_API_KEY or a base URL is set, else embedded",
        "|".join(BACKENDS),
    ),
    Option("benchmark", "", _benchmark, "flavour of the servers for every acquire that names none", "NAME"),
    Option("base-url", DEFAULT_BASE_URL, _url, "address of the Klavis API", "URL"),
    Option("region", "us", _choice("us", "asia"), "bucket for uploads and downloads", "us|asia"),
    Option("ttl", "30m", ttl_seconds, "life of a sandbox on the backend, 60s to 24h", "DURATION"),
    Option("acquire-timeout", "10m", seconds, "how long one acquire with its seeding may take", "DURATION"),
    Option("artifacts", "on-failure", _choice(*WHEN), "when workspaces and evidence are saved", "|".join(WHEN)),
    Option("artifacts-dir", "klavis-artifacts", Path, "where they are saved, in a folder per run", "DIR"),
    Option("artifacts-extract", "off", _switch, "unpack saved workspaces beside the archive", "on|off"),
    Option("keep", "never", _choice(*WHEN), "leave sandboxes alive until their TTL", "|".join(WHEN)),
    Option("pool-size", "auto", _count, "sandboxes of the account at once; auto lets each run have enough", "auto|N"),
    Option("rate", "2/s", _rate, "requests that the account is allowed; off for one without a limit", "N/s|off"),
    Option("max-acquires", "", _count, "end the run when it asks for more sandboxes than this", "N"),
    Option("prefetch", "on", _switch, "acquire and seed ahead for the next tests", "on|off"),
    Option("verify-reset", "off", _switch, "look into a sandbox that was reset before it is used again", "on|off"),
    Option("exclusive-account", "off", _switch, "nobody else uses the account: release what is found there", "on|off"),
    Option("require", "", _switch, "a server that the backend lacks is an error (on with CI) or a skip", "on|off"),
    Option("isolation", "auto", _choice(*LEVELS), "how agent code is confined when embedded", "|".join(LEVELS)),
    Option(
        "limits",
        "",
        parse,
        f"what a command may use, such as memory=2G,processes=256,wall=5m (default: {spelled(Limits())})",
        "LIMIT=VALUE,...",
    ),
    Option("python", "", _optional, "interpreter for agent code; a virtual environment adds its packages", "PATH"),
    Option("install-servers", "off", _switch, "install upstream servers when the first test needs one", "on|off"),
    Option("blackbox-url", BLACKBOX_URL, _url, "address of the Blackbox Agent API, for blackbox_workspace", "URL"),
)


def add_options(parser: pytest.Parser) -> None:
    """Declare each option as a flag and as an ini value."""
    group = parser.getgroup("klavis", "sandboxes for agent tests (pytest-klavis)")
    for option in OPTIONS:
        default = f" (default: {option.default})" if option.default else ""
        group.addoption(option.flag, metavar=option.metavar, default=None, help=f"{option.help}{default}")
        parser.addini(option.ini, f"{option.help}{default}", type=_ini_type(), default=None)


def _ini_type() -> Any:
    """What native TOML may hold: text, a boolean or a number; before pytest 9.2, which knows one type each, text."""
    return str | bool | int | float if pytest.version_tuple >= (9, 2) else "string"


def load(config: pytest.Config, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read every setting; a wrong value is a UsageError that names value, source and what is allowed."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for option in OPTIONS:
        text, source = _lookup(option, config, environ)
        try:
            values[option.stem.replace("-", "_")] = option.parse(text)
        except ValueError as error:
            raise pytest.UsageError(f"{option.flag}: {text!r} (from {source}) cannot be used: {error}") from None
        sources[option.stem] = source
    base = config.invocation_params.dir if sources["artifacts-dir"].startswith("--") else config.rootpath
    values["artifacts_dir"] = Path(os.path.normpath(base / values["artifacts_dir"]))
    if values["python"] is not None:
        values["python"] = _interpreter(values["python"], config, sources["python"])
    if values["artifacts_dir"].exists() and not values["artifacts_dir"].is_dir():
        raise pytest.UsageError(f"--klavis-artifacts-dir: {values['artifacts_dir']} is no directory")
    api_key = environ.get("KLAVIS_API_KEY") or None
    if values["backend"] == "auto":
        values["backend"], sources["backend"] = _auto_backend(api_key, sources["base-url"])
    return Settings(
        **values,
        sources=MappingProxyType(sources),
        api_key=api_key,
        blackbox_key=environ.get("BLACKBOX_API_KEY", "").strip() or None,
    )


def _lookup(option: Option, config: pytest.Config, environ: Mapping[str, str]) -> tuple[str, str]:
    flag = config.getoption(option.flag.removeprefix("--").replace("-", "_"), default=None)
    if flag is not None:
        return str(flag), option.flag
    if environ.get(option.env):  # CI sets what it has not got to nothing
        return environ[option.env], option.env
    try:
        ini = config.getini(option.ini)
    except TypeError as error:  # before pytest 9.2; later it is a UsageError
        raise pytest.UsageError(str(error)) from None
    if ini is not None:
        return str(ini), config.inipath.name if config.inipath else "ini"
    if option.stem == "require":
        return ("on", "CI") if environ.get("CI") else ("off", "default")
    return option.default, "default"


def _interpreter(text: str, config: pytest.Config, source: str) -> str:
    """The path of an interpreter or virtual environment, absolute; an ini value is relative to the rootdir."""
    base = config.invocation_params.dir if source.startswith(("--", "KLAVIS_")) else config.rootpath
    path = Path(os.path.normpath(base / text))
    if not path.exists():
        raise pytest.UsageError(f"--klavis-python: {text!r} (from {source}) is not there: looked for {path}")
    return str(path)


def _auto_backend(api_key: str | None, base_url_source: str) -> tuple[str, str]:
    if api_key:
        return "cloud", "KLAVIS_API_KEY"
    if base_url_source != "default":
        return "cloud", base_url_source
    return "embedded", "no KLAVIS_API_KEY"
