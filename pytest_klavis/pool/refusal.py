"""What the API said of the key, as the ledger holds it: an AuthError as text and back."""

from __future__ import annotations

import json

from pytest_klavis.errors import AuthError

__tracebackhide__ = True  # users read their own frames


def text_of(error: AuthError) -> str:
    """The ledger's text for an error; its body is redacted already."""
    notes = list(getattr(error, "__notes__", ()))
    return json.dumps([error.operation, error.status, error.body, error.hint, notes])


def error_of(text: str) -> AuthError:
    """The error of a text."""
    operation, status, body, hint, notes = json.loads(text)
    error = AuthError(operation, status, body, hint)
    for note in notes:
        error.add_note(note)
    return error
