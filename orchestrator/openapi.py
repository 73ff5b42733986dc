"""The OpenAPI 3.1 document of the agent API, generated from the types that both ends decode with.

`vetting-orchestrator openapi` prints it, docs/openapi.json is a copy of it, and a test holds real traffic against it.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import msgspec

from vetting_agent import wire

REFERENCE = "#/components/schemas/{name}"


@dataclass(frozen=True, slots=True)
class Operation:
    """One verb: what it takes, what it answers, and when an agent calls it."""

    verb: str
    request: type[wire.Message]
    reply: type[wire.Message]
    summary: str


OPERATIONS = (
    Operation("hello", wire.HelloRequest, wire.HelloReply, "The agent is up"),
    Operation("claim", wire.ClaimRequest, wire.Claim, "Take the run for this host, or resume it"),
    Operation("heartbeat", wire.HeartbeatRequest, wire.HeartbeatReply, "I am alive; is there an order?"),
    Operation("sensor", wire.SensorRequest, wire.Empty, "A batch of live measurements"),
    Operation("log", wire.LogRequest, wire.Empty, "A batch of log lines"),
    Operation("result", wire.ResultRequest, wire.ResultReply, "The outcome of one execution of a stage"),
    Operation("hold", wire.HoldRequest, wire.HoldReply, "The key that opens this held host"),
    Operation("iperf_slot", wire.IperfSlotRequest, wire.IperfSlotReply, "Feature iperf_slot: queue for iperf3"),
)

# The agent's types take these fields as they come, because a malformed one has a meaning of its own there; what a
# server must send is stricter.
SENT = {
    ("Claim", "current_state"): {"type": "string"},
    ("Claim", "non_destructive"): {"type": "boolean"},
    ("Claim", "parameters"): {"type": "object", "additionalProperties": {"type": "object"}},
    ("ResultReply", "next_state"): {"type": "string"},
}

ERRORS = {
    "401": "No token",
    "403": "The token is wrong",
    "404": "There is no such run",
    "409": "The run is claimed by another host or by a newer agent",
    "410": "The run is over",
    "422": "The payload is not what this document says, or is too large",
    "503": "Trouble on this side: try again",
}


def document() -> dict[str, Any]:
    """The whole document."""
    paths = {f"{wire.API_PREFIX}/{{run_id}}/{one.verb}": {"post": _operation(one)} for one in OPERATIONS}
    paths[f"{wire.API_PREFIX}/{{run_id}}/evidence/{{stage}}"] = {"post": _evidence()}
    paths[f"{wire.API_PREFIX}/{{run_id}}/terminal/{{session}}"] = {"get": _terminal()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Vetting agent API",
            "version": "1",
            "summary": "What the agent in a live image says to the orchestrator, and what it is answered",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def document_text() -> str:
    return msgspec.json.format(msgspec.json.encode(document(), order="sorted"), indent=2).decode() + "\n"


def _schemas() -> dict[str, Any]:
    types = {kind for one in OPERATIONS for kind in (one.request, one.reply)} | {
        wire.ErrorEnvelope,
        wire.TerminalMessage,
    }
    ordered = sorted(types, key=lambda kind: kind.__name__)
    _, components = msgspec.json.schema_components(ordered, ref_template=REFERENCE)
    for component in components.values():
        dedent(component)
    for (name, field), schema in SENT.items():
        components[name]["properties"][field] = schema
    return dict(sorted(components.items()))


def dedent(component: dict[str, Any]) -> None:
    """Its text as Python 3.13 keeps docstrings; those before keep the source's indentation in them."""
    if "description" in component:
        component["description"] = inspect.cleandoc(component["description"])


def _operation(one: Operation) -> dict[str, Any]:
    return {
        "operationId": one.verb,
        "summary": one.summary,
        "parameters": _parameters(),
        "requestBody": {"required": True, "content": {"application/json": {"schema": _reference(one.request)}}},
        "responses": _responses(one.reply),
    }


def _evidence() -> dict[str, Any]:
    stage = {"name": "stage", "in": "path", "required": True, "schema": {"type": "string"}}
    result_id = {"name": "result_id", "in": "query", "required": True, "schema": {"type": "string"}}
    digest = {
        "name": wire.DIGEST_HEADER,
        "in": "header",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"},
    }
    return {
        "operationId": "evidence",
        "summary": f"Feature evidence: one gzip-compressed tar, at most {wire.EVIDENCE_LIMIT_BYTES} bytes",
        "parameters": [*_parameters(), stage, result_id, digest],
        "requestBody": {"required": True, "content": {"application/gzip": {}}},
        "responses": _responses(wire.Empty),
    }


def _terminal() -> dict[str, Any]:
    session = {"name": "session", "in": "path", "required": True, "schema": {"type": "string"}}
    token = {"name": wire.TERMINAL_TOKEN_HEADER, "in": "header", "required": True, "schema": {"type": "string"}}
    errors = {status: _response(text, wire.ErrorEnvelope) for status, text in ERRORS.items()}
    text = "A WebSocket: binary messages are what is typed and shown, text messages are TerminalMessage"
    return {
        "operationId": "terminal",
        "summary": "The stream of a terminal that open_terminal ordered",
        "parameters": [*_parameters(), session, token],
        "responses": {"101": {"description": text}, **errors},
    }


def _parameters() -> list[dict[str, Any]]:
    return [
        {"name": "run_id", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 1}},
        {"name": wire.CORRELATION_HEADER, "in": "header", "required": False, "schema": {"type": "string"}},
    ]


def _responses(reply: type[wire.Message]) -> dict[str, Any]:
    errors = {status: _response(text, wire.ErrorEnvelope) for status, text in ERRORS.items()}
    return {"200": _response("Done", reply), **errors}


def _response(text: str, kind: type[wire.Message]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": _reference(kind)}}}


def _reference(kind: type[wire.Message]) -> dict[str, str]:
    return {"$ref": REFERENCE.format(name=kind.__name__)}
