"""The wire: the Klavis client, its models, transport and the registry of secrets. Importing it loads none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_klavis.api.client import KlavisClient

__all__ = ["KlavisClient"]


def __getattr__(name: str) -> Any:
    """Load the client (httpx, pydantic) when it is first asked for: a suite without sandboxes pays nothing."""
    if name == "KlavisClient":
        from pytest_klavis.api.client import KlavisClient  # noqa: PLC0415 (that is the point)

        return KlavisClient
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
