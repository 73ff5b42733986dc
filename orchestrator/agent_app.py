"""The agent's API over HTTP: POST /api/v1/runs/{run_id}/{verb}. Authentication, limits, decoding; no decisions."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from orchestrator.agent_service import AgentService
from orchestrator.call_head import CallHead
from orchestrator.callers import Caller
from orchestrator.http_calls import (
    answer_to,
    answering_errors,
    body_from,
    body_of,
    correlation_in,
    correlation_of,
    decoded,
    http_exception,
    json_reply,
    too_large,
)
from orchestrator.steps import Refusal
from vetting_agent.wire import (
    API_PREFIX,
    CORRELATION_HEADER,
    DIGEST_HEADER,
    EVIDENCE_LIMIT_BYTES,
    ClaimRequest,
    HeartbeatRequest,
    HelloRequest,
    HoldRequest,
    IperfSlotRequest,
    LogRequest,
    ResultRequest,
    SensorRequest,
)

SMALL_BYTES = 64 * 2**10
BATCH_BYTES = 8 * 2**20
RESULT_BYTES = 32 * 2**20
encoded = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Verb:
    """What a verb takes, how much of it at most, and who answers."""

    request: type[Any]
    limit: int
    answer: Callable[[Caller, Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Call:
    """Who says to be whom, and what for. `run`: as it stands in the path."""

    run: str
    verb: str
    token: str | None
    correlation: str


class VerbCalls:
    """POST /api/v1/runs/{run_id}/{verb}, for both ways in: plain calls, and what uvicorn reads."""

    def __init__(self, service: AgentService) -> None:
        self._service = service
        self._verbs = {
            "hello": Verb(HelloRequest, SMALL_BYTES, service.hello),
            "claim": Verb(ClaimRequest, SMALL_BYTES, service.claim),
            "heartbeat": Verb(HeartbeatRequest, SMALL_BYTES, service.heartbeat),
            "sensor": Verb(SensorRequest, BATCH_BYTES, service.sensor),
            "log": Verb(LogRequest, BATCH_BYTES, service.log),
            "result": Verb(ResultRequest, RESULT_BYTES, service.result),
            "hold": Verb(HoldRequest, SMALL_BYTES, service.hold),
            "iperf_slot": Verb(IperfSlotRequest, SMALL_BYTES, service.iperf_slot),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        run, verb = scope["path"].rsplit("/", 2)[1:]
        headers = Headers(scope=scope)
        correlation = correlation_in(headers.get(CORRELATION_HEADER, ""))
        call = Call(run, verb, bearer_in(headers.get("Authorization", "")), correlation)
        status, content = await self._answer(call, lambda limit: body_from(receive, limit))
        await Response(content, status, media_type="application/json")(scope, receive, send)

    async def answer(self, head: CallHead, body: bytes | Exception) -> tuple[int, bytes]:
        """To a call that came as a whole (agent_line.py)."""

        async def whole(limit: int) -> bytes:
            if isinstance(body, Exception):
                raise body
            if len(body) > limit:
                raise too_large(limit)
            return body

        call = Call(head.run, head.verb, bearer_in(head.authorization), correlation_in(head.correlation))
        return await self._answer(call, whole)

    def _verb(self, name: str) -> Verb:
        if name not in self._verbs:  # 404 would tell the agent that its run does not exist
            raise Refusal(422, "unknown_verb", f"There is no verb {name!r}")
        return self._verbs[name]

    async def _answer(self, call: Call, body: Callable[[int], Awaitable[bytes]]) -> tuple[int, bytes]:
        try:
            caller = _caller(self._service, call)
            verb = self._verb(call.verb)
            with _noted(self._service, caller, call.verb):
                message = decoded(verb.request, await body(verb.limit))
                return 200, encoded(await verb.answer(caller, message))
        except Exception as problem:
            return answer_to(problem, "POST", f"{API_PREFIX}/{call.run}/{call.verb}", call.correlation)


def agent_app(service: AgentService, also: Sequence[BaseRoute] = ()) -> Starlette:
    """The application that agents talk to; `also`: what is no call with an answer."""

    async def evidence(request: Request) -> Response:
        call = Call(request.path_params["run_id"], "evidence", bearer_of(request), correlation_of(request))
        caller = _caller(service, call)
        result_id = request.query_params.get("result_id", "")
        digest = request.headers.get(DIGEST_HEADER, "")
        stage = request.path_params["stage"]
        with _noted(service, caller, "evidence"):
            content = await body_of(request, EVIDENCE_LIMIT_BYTES)
            return json_reply(await service.keep_evidence(caller, stage, result_id, digest, content))

    return Starlette(
        routes=[
            Route(f"{API_PREFIX}/{{run_id}}/{{verb}}", VerbCalls(service), methods=["POST"]),
            Route(f"{API_PREFIX}/{{run_id}}/evidence/{{stage}}", answering_errors(evidence), methods=["POST"]),
            *also,
        ],
        exception_handlers={HTTPException: http_exception},
    )


def _caller(service: AgentService, call: Call) -> Caller:
    run_id = run_id_from(call.run)
    try:
        return service.authenticate(run_id, call.token, call.correlation)
    except Refusal as refusal:
        if service.store.find_run(run_id) is not None:  # who asks for runs that are not there fills no memory
            service.pulse.went_wrong(run_id, call.verb, refusal.status, refusal.code, refusal.message, call.correlation)
        raise


@contextlib.contextmanager
def _noted(service: AgentService, caller: Caller, verb: str) -> Iterator[None]:
    """Remember how the call went, for those who look whether the host is well."""
    run_id, note = caller.run.run_id, service.pulse.went_wrong
    try:
        yield
    except Refusal as refusal:
        note(run_id, verb, refusal.status, refusal.code, refusal.message, caller.instance_id)
        raise
    except ClientDisconnect:
        note(run_id, verb, 400, "disconnected", "the host went away in the middle of a call", caller.instance_id)
        raise
    except Exception as problem:
        note(run_id, verb, 503, type(problem).__name__, "the server could not keep it", caller.instance_id)
        raise
    service.pulse.went_well(run_id, verb)


def run_id_of(request: HTTPConnection) -> int:
    return run_id_from(request.path_params["run_id"])


def run_id_from(text: str) -> int:
    """Refuses with 404 what is no number of a run."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Refusal(404, "no_such_run", f"There is no run {text[:40]!r}")
    return int(text)


def bearer_of(request: HTTPConnection) -> str | None:
    return bearer_in(request.headers.get("Authorization", ""))


def bearer_in(text: str) -> str | None:
    scheme, _, token = text.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
