"""The terminal's endpoints: for operators (mint, health, socket, failures the page saw) and the one for agents.

How an operator is known is the business of who mounts these: `Access` is the seam.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from orchestrator.agent_app import bearer_of, run_id_of
from orchestrator.agent_service import AgentService
from orchestrator.http_calls import answering_errors, body_of, correlation_of, decoded, json_reply
from orchestrator.operator_messages import TerminalMinted
from orchestrator.runs import check_caller
from orchestrator.steps import Refusal
from orchestrator.terminal_failures import FAILURES, MINT, UPGRADE, TerminalFailed
from orchestrator.terminal_recording import NOTICE
from orchestrator.terminal_session import Operator
from orchestrator.terminals import Terminals, failure_message
from vetting_agent.wire import API_PREFIX, TERMINAL_TOKEN_HEADER, ErrorBody, ErrorEnvelope

log = logging.getLogger(__name__)
Access = Callable[[HTTPConnection], Awaitable[Operator]]
"""The operator behind a call, of whatever kind. Raises Refusal for those who may not enter hosts."""
BODY_BYTES = 16 * 1024
DETAIL_CHARACTERS = 500


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a mint."""

    columns: int = 80
    rows: int = 24


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """The first message on the operator's socket. The token is here so that it stands in no URL."""

    token: str


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A failure that only the page could see."""

    code: str
    detail: str = ""


def operator_routes(terminals: Terminals, access: Access, prefix: str) -> list[BaseRoute]:
    """Below `prefix`: POST /runs/{id}/terminal[/failures], GET /terminal/health, and the WebSocket /terminal/socket."""

    async def mint(request: Request) -> Response:
        run_id = run_id_of(request)
        try:
            operator = await access(request)
        except Refusal as refusal:
            log.warning("terminal %s: run %d: %s: %s", correlation_of(request), run_id, MINT, refusal.message)
            raise
        wanted = decoded(Wanted, await body_of(request, BODY_BYTES))
        session = await terminals.mint(run_id, operator, correlation_of(request), wanted.columns, wanted.rows)
        limits = session.limits
        waits = {
            "browser_socket": limits.hello_s,
            "open_sent": limits.fetch_s(session.heartbeat_s),
            "node_stream": limits.open_s,
            "pty": limits.open_s,
        }
        reply = TerminalMinted(
            token=session.browser_token, correlation_id=session.session, waits_s=waits, notice=NOTICE
        )
        return json_reply(reply, 201)

    async def health(_request: Request) -> Response:
        return json_reply({"terminal": "vetting-orchestrator"})

    async def failures(request: Request) -> Response:
        run_id, operator = run_id_of(request), await access(request)
        seen = decoded(Seen, await body_of(request, BODY_BYTES))
        if seen.code not in FAILURES:
            raise Refusal(422, "malformed", f"There is no failure {seen.code[:64]!r}")
        detail = f"seen by the page: {seen.detail[:DETAIL_CHARACTERS]}"
        await terminals.note_failure(run_id, operator, correlation_of(request), seen.code, detail)
        return json_reply({})

    async def socket(websocket: WebSocket) -> None:
        try:
            operator = await access(websocket)
        except Refusal as refusal:
            await _deny(websocket, refusal)
            return
        await websocket.accept()
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await websocket.send_text(msgspec.json.encode(await _attend(terminals, operator, websocket)).decode())
            await websocket.close()

    return [
        Route(f"{prefix}/runs/{{run_id}}/terminal", answering_errors(mint), methods=["POST"]),
        Route(f"{prefix}/runs/{{run_id}}/terminal/failures", answering_errors(failures), methods=["POST"]),
        Route(f"{prefix}/terminal/health", answering_errors(health), methods=["GET"]),
        WebSocketRoute(f"{prefix}/terminal/socket", socket),
    ]


async def _attend(terminals: Terminals, operator: Operator, websocket: WebSocket) -> dict[str, Any]:
    try:
        async with asyncio.timeout(terminals.limits.hello_s):
            opening = msgspec.json.decode(await websocket.receive_text(), type=Opening)
        session = terminals.take(opening.token, operator.binding)
    except (TimeoutError, msgspec.MsgspecError, KeyError):
        text = f"The page did not say within {terminals.limits.hello_s:g} s which terminal it wants"
        return failure_message("", UPGRADE, text)
    except TerminalFailed as failure:
        return failure_message("", failure.code, failure.detail)
    return await terminals.attend(session, websocket)


def agent_routes(service: AgentService, terminals: Terminals) -> list[BaseRoute]:
    """The WebSocket that an agent opens when it is told to."""

    async def stream(websocket: WebSocket) -> None:
        token = bearer_of(websocket)
        try:
            caller = service.authenticate(run_id_of(websocket), token, correlation_of(websocket))
            check_caller(caller.run, caller.instance_id)
            given = websocket.headers.get(TERMINAL_TOKEN_HEADER, "")
            session = terminals.meet(caller.run.run_id, websocket.path_params["session"], given, token or "")
        except Refusal as refusal:
            await _deny(websocket, refusal)
            return
        await websocket.accept()
        if session.node.done():  # a second one, while we accepted this one
            await websocket.close()
            return
        session.node.set_result(websocket)
        await session.over.wait()
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await websocket.close()

    return [WebSocketRoute(f"{API_PREFIX}/{{run_id}}/terminal/{{session}}", stream)]


async def _deny(websocket: WebSocket, refusal: Refusal) -> None:
    error = ErrorBody(code=refusal.code, message=refusal.message, correlation_id=correlation_of(websocket))
    body = msgspec.json.encode(ErrorEnvelope(error=error))
    # The server ends a connection on which it refused a stream: unless it says so, a client sends its next call there.
    answer = Response(body, refusal.status, {"Connection": "close"}, media_type="application/json")
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await websocket.send_denial_response(answer)
