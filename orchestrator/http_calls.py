"""What all HTTP endpoints share: bodies with a limit, JSON in and out, and the error envelope.

Every error, of whatever cause, is answered as {"error": {"code", "message", "correlation_id"}}, because an agent
takes a final status without it for a proxy's page.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Receive

from orchestrator.steps import Refusal
from orchestrator.store import StoreFailed
from orchestrator.who import Who, local_who
from vetting_agent.wire import CORRELATION_HEADER, ErrorBody, ErrorEnvelope

log = logging.getLogger(__name__)
T = TypeVar("T")
BODY_TIME_S = 30.0
DRAIN_LIMIT_BYTES = 64 * 2**20
"""A body over its limit is read and dropped up to here, so that the sender gets to see the answer."""
PLAIN = re.compile(r"[A-Za-z0-9._:-]{1,64}")

Endpoint = Callable[[Request], Awaitable[Response]]


def correlation_of(request: HTTPConnection) -> str:
    """The caller's correlation id: the agent's instance_id. Empty when missing or not plain text."""
    return correlation_in(request.headers.get(CORRELATION_HEADER, ""))


def correlation_in(given: str) -> str:
    return given if PLAIN.fullmatch(given) else ""


def who_asks(request: Request) -> Who:
    """The console's guard says who asks; on the socket it is whoever may open it."""
    who = getattr(request.state, "who", None)
    return who if isinstance(who, Who) else local_who(correlation_of(request))


def json_reply(message: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(message), status, media_type="application/json")


def error_reply(request: Request, status: int, code: str, message: str) -> Response:
    return Response(error_body(correlation_of(request), code, message), status, media_type="application/json")


def error_body(correlation: str, code: str, message: str) -> bytes:
    """The envelope."""
    body = ErrorBody(code=code, message=message, correlation_id=correlation)
    return msgspec.json.encode(ErrorEnvelope(error=body))


def answering_errors(endpoint: Endpoint) -> Endpoint:
    """The endpoint with every exception turned into an answer."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Exception as problem:
            status, content = answer_to(problem, request.method, request.url.path, correlation_of(request))
            return Response(content, status, media_type="application/json")

    return answer


def answer_to(problem: Exception, method: str, path: str, correlation: str) -> tuple[int, bytes]:
    """What a call gets that ended with this exception, which is logged where it is the server's own trouble."""
    if isinstance(problem, Refusal):
        return problem.status, error_body(correlation, problem.code, problem.message)
    if isinstance(problem, StoreFailed):
        log.warning("%s %s: the store failed: %s", method, path, problem)
        return 503, error_body(correlation, "store_failed", "The database did not take it; try again")
    if isinstance(problem, ClientDisconnect):
        return 400, error_body(correlation, "disconnected", "The caller went away")
    log.error("%s %s failed", method, path, exc_info=problem)
    return 500, error_body(correlation, "internal", "A fault of the orchestrator; its log has the details")


def too_large(limit: int) -> Refusal:
    return Refusal(422, "too_large", f"The body has more than the {limit} bytes allowed here")


def too_slow() -> Refusal:
    return Refusal(503, "too_slow", f"The body did not arrive within {BODY_TIME_S:.0f} s")


async def http_exception(request: Request, problem: Exception) -> Response:
    """Starlette's own refusals (no such path, wrong method), in the envelope."""
    assert isinstance(problem, HTTPException)
    code = {404: "no_such_path", 405: "wrong_method"}.get(problem.status_code, "refused")
    return error_reply(request, problem.status_code, code, problem.detail)


async def body_of(request: Request, limit: int) -> bytes:
    """The whole body. Raises Refusal 422 when it is larger than `limit`, 503 when it takes too long."""
    return await body_from(request.receive, limit)


async def body_from(receive: Receive, limit: int) -> bytes:
    """The same without a Request. Raises ClientDisconnect too."""
    chunks: list[bytes] = []
    size, more = 0, True
    try:
        async with asyncio.timeout(BODY_TIME_S):
            while more and size <= DRAIN_LIMIT_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunk: bytes = message.get("body", b"")
                more = message.get("more_body", False)
                size += len(chunk)
                if size <= limit:
                    chunks.append(chunk)
    except TimeoutError:
        raise too_slow() from None
    if size > limit:
        raise too_large(limit)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def decoded(kind: type[T], body: bytes) -> T:
    """The body as `kind`. Raises Refusal 422 that names the field.

    What forbids unknown fields forbids them in all its parts: a misspelt one would else mean its default.
    """
    try:
        value = msgspec.json.decode(body, type=kind)
        strict = isinstance(value, msgspec.Struct) and value.__struct_config__.forbid_unknown_fields
        stranger = _stranger(msgspec.json.decode(body), value) if strict else None
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        raise Refusal(422, "malformed", str(problem)) from None
    except RecursionError:
        raise Refusal(422, "malformed", "JSON is nested too deeply") from None
    if stranger is not None:
        raise Refusal(422, "malformed", f"Object contains unknown field `{stranger}`")
    return value


def _stranger(raw: Any, value: Any, place: str = "") -> str | None:
    """The first field of the JSON that no part of the value has, by its path."""
    found: Iterator[str | None] = iter(())
    if isinstance(value, msgspec.Struct) and isinstance(raw, dict):
        known = dict(zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True))
        if unknown := [name for name in raw if name not in known]:
            return f"{place}{unknown[0]}"
        found = (_stranger(part, getattr(value, known[name]), f"{place}{name}.") for name, part in raw.items())
    elif isinstance(value, list | tuple) and isinstance(raw, list):
        pairs = enumerate(zip(raw, value, strict=True))
        found = (_stranger(part, one, f"{place.rstrip('.')}[{index}].") for index, (part, one) in pairs)
    return next((one for one in found if one is not None), None)


def number_of(request: Request, name: str, default: int, highest: int) -> int:
    """A query parameter that is a whole number from 0 to `highest`."""
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Refusal(422, "malformed", f"{name} must be a whole number, not {text!r}")
    return min(int(text), highest)
