"""The shapes of mcp_config; tests/frameworks hands them to the real packages."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from pytest_klavis.errors import SpecError
from pytest_klavis.mcp.config import mcp_config


@dataclass(frozen=True)
class Server:
    url: str
    headers: dict[str, str] = field(default_factory=dict)


SERVERS = {"git": Server("http://h/git/mcp/?id=1"), "mail": Server("http://h/mail/mcp/?id=1", {"x-mail": "e30="})}
HEADERS = {"x-mail": "e30="}


@pytest.mark.parametrize(
    ("style", "config"),
    [
        (
            "standard",
            {
                "mcpServers": {
                    "git": {"type": "http", "url": SERVERS["git"].url},
                    "mail": {"type": "http", "url": SERVERS["mail"].url, "headers": HEADERS},
                }
            },
        ),
        (
            "claude",
            {
                "git": {"type": "http", "url": SERVERS["git"].url},
                "mail": {"type": "http", "url": SERVERS["mail"].url, "headers": HEADERS},
            },
        ),
        (
            "langchain",
            {
                "git": {"transport": "streamable_http", "url": SERVERS["git"].url},
                "mail": {"transport": "streamable_http", "url": SERVERS["mail"].url, "headers": HEADERS},
            },
        ),
        (
            "openai-agents",
            [
                {"name": "git", "params": {"url": SERVERS["git"].url}, "client_session_timeout_seconds": 120.0},
                {
                    "name": "mail",
                    "params": {"url": SERVERS["mail"].url, "headers": HEADERS},
                    "client_session_timeout_seconds": 120.0,
                },
            ],
        ),
        (
            "pydantic-ai",
            [
                {"client": SERVERS["git"].url, "id": "git"},
                {"client": SERVERS["mail"].url, "id": "mail", "headers": HEADERS},
            ],
        ),
    ],
)
def test_the_shape_of_each_style(style: str, config: object) -> None:
    assert mcp_config(SERVERS, style) == config  # type: ignore[arg-type]
    assert json.loads(json.dumps(config)) == config


def test_standard_is_the_default() -> None:
    assert mcp_config(SERVERS) == mcp_config(SERVERS, "standard")


def test_headers_are_copied() -> None:
    config = mcp_config(SERVERS, "claude")
    config["mail"]["headers"]["x-mail"] = "changed"
    assert SERVERS["mail"].headers == HEADERS


@pytest.mark.parametrize("style", ["openai", "Claude", "", None, []])
def test_an_unknown_style_lists_what_there_is(style: str) -> None:
    with pytest.raises(SpecError, match="there are standard, claude, langchain, openai-agents, pydantic-ai"):
        mcp_config(SERVERS, style)  # type: ignore[arg-type]
