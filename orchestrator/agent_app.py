"""The agent's API over HTTP: POST /api/v1/runs/{run_id}/{verb}. Authentication, limits, decoding; no decisions."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.agent_service import AgentService
from orchestrator.callers import Caller
from orchestrator.http_calls import (
    answer_to,
    answering_errors,
    body_from,
    body_of,
    correlation_of,
    decoded,
    http_exception,
    json_reply,
)
from orchestrator.steps import Refusal
from vetting_agent.wire import (
    API_PREFIX,
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
CALL_PATH = re.compile(f"{re.escape(API_PREFIX)}/[^/]+/[^/]+")
JSON_TYPE = (b"content-type", b"application/json")
encoded = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Verb:
    """What a verb takes, how much of it at most, and who answers."""

    request: type[Any]
    limit: int
    answer: Callable[[Caller, Any], Awaitable[Any]]


class VerbCalls:
    """POST /api/v1/runs/{run_id}/{verb} as a plain ASGI application: thousands of calls a second go this way.

    Starlette's request, router and middlewares would take more of a heartbeat's time than all that follows.
    """

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
        try:
            content = await self._answer(scope, receive)
        except Exception as problem:
            await answer_to(problem, Request(scope, receive))(scope, receive, send)
            return
        headers = [(b"content-length", b"%d" % len(content)), JSON_TYPE]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, scope: Scope, receive: Receive) -> bytes:
        run_text, name = scope["path"].rsplit("/", 2)[1:]
        caller = _caller(self._service, HTTPConnection(scope), run_text, name)
        verb = self._verbs.get(name)
        if verb is None:  # 404 would tell the agent that its run does not exist
            raise Refusal(422, "unknown_verb", f"There is no verb {name!r}")
        with _noted(self._service, caller, name):
            message = decoded(verb.request, await body_from(receive, verb.limit))
            return encoded(await verb.answer(caller, message))


def agent_app(service: AgentService, also: Sequence[BaseRoute] = ()) -> ASGIApp:
    """The application that agents talk to; `also`: what is no call with an answer."""
    calls = VerbCalls(service)

    async def evidence(request: Request) -> Response:
        caller = _caller(service, request, request.path_params["run_id"], "evidence")
        result_id = request.query_params.get("result_id", "")
        digest = request.headers.get(DIGEST_HEADER, "")
        stage = request.path_params["stage"]
        with _noted(service, caller, "evidence"):
            content = await body_of(request, EVIDENCE_LIMIT_BYTES)
            return json_reply(await service.keep_evidence(caller, stage, result_id, digest, content))

    others = Starlette(
        routes=[
            Route(f"{API_PREFIX}/{{run_id}}/{{verb}}", calls, methods=["POST"]),
            Route(f"{API_PREFIX}/{{run_id}}/evidence/{{stage}}", answering_errors(evidence), methods=["POST"]),
            *also,
        ],
        exception_handlers={HTTPException: http_exception},
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        is_call = scope["type"] == "http" and scope["method"] == "POST" and CALL_PATH.fullmatch(scope["path"])
        await (calls if is_call else others)(scope, receive, send)

    return app


def _caller(service: AgentService, connection: HTTPConnection, run_text: str, verb: str) -> Caller:
    run_id, correlation = run_id_from(run_text), correlation_of(connection)
    try:
        return service.authenticate(run_id, bearer_of(connection), correlation)
    except Refusal as refusal:
        if service.store.find_run(run_id) is not None:  # who asks for runs that are not there fills no memory
            service.pulse.went_wrong(run_id, verb, refusal.status, refusal.code, refusal.message, correlation)
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
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
