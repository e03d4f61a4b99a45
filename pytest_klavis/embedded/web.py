"""Reading requests and writing answers: capped bodies, refusals with the API's bodies, JSON that always encodes."""

from __future__ import annotations

import asyncio
import json
import math
from typing import TYPE_CHECKING, Any, NoReturn

from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request

JSON_LIMIT = 16 << 20  # bytes of a JSON body
RUN_LIMIT = 96 << 20  # bytes of a run's body: 64 MB of files, as base64
_LARGE = 1 << 20  # characters that are not encoded on the event loop


class Refusal(Exception):  # noqa: N818 - an answer, not an accident
    """A request that is answered with a status of 400 or above and `{"detail": ...}`."""

    def __init__(self, status: int, detail: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


def invalid(loc: Sequence[str | int], message: str, kind: str, given: Any = None) -> dict[str, Any]:
    """One item of a 422's `detail` (`ValidationError` of the API reference). A long input is not echoed."""
    shown = given if isinstance(given, str | int | float | bool | None) else None
    if isinstance(shown, str) and len(shown) > 200:
        shown = shown[:200] + "..."
    return {"type": kind, "loc": list(loc), "msg": message, "input": shown}


def refuse_invalid(*problems: dict[str, Any]) -> NoReturn:
    """Answer 422 with these items."""
    raise Refusal(422, list(problems))


def encode(content: Any) -> bytes:
    """JSON as bytes. Lone surrogates, which a client may have sent or a file may hold, are escaped."""
    try:
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


async def encode_aside(content: Any) -> bytes:
    """`encode`, in a thread where it takes long."""
    return await asyncio.to_thread(encode, content) if _characters(content) > _LARGE else encode(content)


def _characters(content: Any) -> int:
    if isinstance(content, str):
        return len(content)
    if isinstance(content, dict):
        return sum(map(_characters, content.values()))
    return sum(map(_characters, content)) if isinstance(content, list) else 0


def reply(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer; one that is encoded already, when it is bytes."""
    body = content if isinstance(content, bytes) else encode(content)
    return Response(body, status, headers, media_type="application/json")


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises Refusal 413 as soon as it is known to be larger than `limit` bytes."""
    declared = request.headers.get("content-length", "")
    received = bytearray()
    if not (declared.isdecimal() and int(declared) > limit):
        async for chunk in request.stream():
            received += chunk
            if len(received) > limit:
                break
        else:
            return bytes(received)
    raise Refusal(413, f"the body is larger than {limit:,} bytes", {"Connection": "close"})


def parse(body: bytes | str) -> Any:
    """JSON as it is defined. Raises ValueError for anything else: NaN, Infinity, 1e999 and endless nesting included."""
    try:
        return json.loads(body, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


async def read_object(request: Request, limit: int = JSON_LIMIT, *, required: bool = True) -> dict[str, Any]:
    """The body as a JSON object. An empty body is `{}` unless `required`. Raises Refusal 413 and 422."""
    body = await read_body(request, limit)
    if not body and not required:
        return {}
    try:
        content = parse(body)
    except ValueError as error:
        refuse_invalid(invalid(["body"], f"JSON decode error: {error}", "json_invalid"))
    if content is None and not required:
        return {}
    if not isinstance(content, dict):
        refuse_invalid(invalid(["body"], "Input should be a JSON object", "model_attributes_type", content))
    return content
