"""The OpenAPI 3.1 document of the operator API, from the types that its endpoints decode and answer with.

`vetting-orchestrator openapi --operator` prints it; a test calls a real server with what it allows, and a few that it
does not. Paths are those of the local socket; the console serves all but users, tokens, audit, webhooks and terminals.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from orchestrator import host_messages as hosts
from orchestrator import operator_messages as messages
from orchestrator.host_record import HostRecord, ProfileVersion, UnknownHosts, Waiting
from orchestrator.openapi import REFERENCE, dedent
from orchestrator.peers import Baseline
from orchestrator.run_creation import RunRequest
from orchestrator.store import AuditEntry, EvidenceRecord, HoldKey
from orchestrator.terminal_app import Seen, Wanted
from orchestrator.web import accounts_api as accounts
from orchestrator.webhook_app import PingOutcome, WantedPing, WebhookList
from vetting_agent import run_view
from vetting_agent.preflight_report import Report
from vetting_agent.wire import CORRELATION_HEADER, Empty, ErrorEnvelope

PREFIX = "/operator/v1"
INTEGERS = frozenset({"run_id", "evidence_id"})
ERRORS = {
    "400": "The call broke off",
    "403": "The caller may not do this",
    "404": "There is no such thing",
    "409": "It makes no sense now",
    "410": "The run is over",
    "422": "What was sent is not what this document says, or is too large",
    "429": "Too many at once",
    "503": "Trouble on this side: try again",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One endpoint. `reply` is a type, one of several, or the media type of what is no JSON."""

    method: str
    path: str
    summary: str
    reply: Any
    request: Any = None
    status: int = 200
    query: tuple[tuple[str, str], ...] = ()
    """(name, JSON type) of each query parameter."""


_PAGE = (("after", "integer"), ("limit", "integer"))
_RUN, _HOST, _PROFILE, _MAC = "/runs/{run_id}", "/hosts/{name}", "/profiles/{name}", "/boot-queue/{mac}"

OPERATIONS = (
    Operation("GET", "/server", "Where the server is", messages.ServerInfo),
    Operation("POST", "/runs", "A new run", messages.RunCreated, RunRequest, 201),
    Operation("GET", "/runs", "All runs, in short", list[run_view.RunView]),
    Operation("GET", _RUN, "One run", run_view.RunView),
    Operation("GET", f"{_RUN}/logs", "Log lines after a number", list[run_view.LogView], query=_PAGE),
    Operation("GET", f"{_RUN}/samples", "Samples after a number", messages.SamplesPage, query=_PAGE),
    Operation(
        "POST", f"{_RUN}/directives", "An order for the agent", run_view.DirectiveView, messages.DirectiveRequest, 201
    ),
    Operation(
        "GET",
        f"{_RUN}/preflight",
        "Look from here whether all works between server and host",
        Report,
        query=(("hop_limit", "integer"),),
    ),
    Operation("POST", f"{_RUN}/release", "End the run, let the host go", run_view.RunView),
    Operation("POST", f"{_RUN}/token", "Rotate the run's token", hosts.TokenRotated),
    Operation("GET", f"{_RUN}/hold-key", "The key pair that opens the held host", HoldKey),
    Operation("GET", f"{_RUN}/evidence", "What evidence there is", list[EvidenceRecord]),
    Operation("GET", f"{_RUN}/evidence/{{evidence_id}}", "One piece of it", "application/gzip"),
    Operation("GET", f"{_RUN}/report", "The report in one of its forms", "*/*", query=(("form", "string"),)),
    Operation("POST", f"{_RUN}/terminal", "Order a terminal", messages.TerminalMinted, Wanted, 201),
    Operation("POST", f"{_RUN}/terminal/failures", "A failure that only the page saw", Empty, Seen),
    Operation("GET", "/report-key", "The public key of signed reports", "application/x-pem-file"),
    Operation("GET", "/metrics", "For Prometheus", "text/plain"),
    Operation("GET", "/hosts", "All hosts", list[HostRecord]),
    Operation("POST", "/hosts", "A new host", HostRecord, hosts.HostRequest, 201),
    Operation("POST", "/hosts/import", "Hosts as CSV", hosts.ImportReport, "text/csv", query=(("dry_run", "boolean"),)),
    Operation("GET", _HOST, "One host", HostRecord),
    Operation("PATCH", _HOST, "Change a host", HostRecord, hosts.HostEdit),
    Operation("DELETE", _HOST, "Forget a host", Empty),
    Operation("GET", "/unknown-hosts", "What becomes of unknown hosts", UnknownHosts),
    Operation("PUT", "/unknown-hosts", "Set it", UnknownHosts, UnknownHosts),
    Operation("GET", "/boot-queue", "Unknown hosts that wait", list[Waiting]),
    Operation("POST", f"{_MAC}/approve", "Make it a host", hosts.Approved, hosts.ApproveRequest),
    Operation("POST", f"{_MAC}/reject", "Send it away", Waiting),
    Operation("DELETE", _MAC, "Forget that it asked", Empty),
    Operation("GET", "/profiles", "All hardware profiles", list[hosts.ProfileView]),
    Operation("POST", "/profiles/check", "What is wrong with a profile", hosts.CheckReport, hosts.ProfileText),
    Operation("GET", _PROFILE, "One version of a profile", ProfileVersion, query=(("version", "integer"),)),
    Operation("POST", _PROFILE, "A new version", ProfileVersion, hosts.ProfileText, 201),
    Operation("DELETE", _PROFILE, "Remove a profile that nothing goes by", Empty),
    Operation("GET", f"{_PROFILE}/versions", "All versions", list[ProfileVersion]),
    Operation("POST", f"{_PROFILE}/learn", "Learn from a run", hosts.LearntProfile, hosts.LearnRequest, 201),
    Operation(
        "GET",
        f"{_PROFILE}/diff",
        "Two versions, or a version and a host",
        (hosts.ProfileDiff, hosts.HostDiff),
        query=(("old", "integer"), ("new", "integer"), ("host", "string"), ("version", "integer")),
    ),
    Operation("GET", f"{_PROFILE}/baselines", "Its hosts' figures beside each other", list[Baseline]),
    Operation("GET", "/users", "Who may log in", list[accounts.UserView]),
    Operation("POST", "/users", "A new user", accounts.UserView, accounts.NewUser, 201),
    Operation("POST", "/users/{name}", "A new role or password", accounts.UserView, accounts.ChangedUser),
    Operation("POST", "/users/{name}/remove", "Remove a user", Empty),
    Operation("GET", "/tokens", "Keys of programs", list[accounts.TokenView]),
    Operation("POST", "/tokens", "A new key", accounts.NewToken, accounts.WantedToken, 201),
    Operation("POST", "/tokens/{key}/revoke", "End a key", accounts.TokenView),
    Operation("GET", "/audit", "Who did what", list[AuditEntry], query=(("limit", "integer"),)),
    Operation("GET", "/webhooks", "What waits to be told", WebhookList, query=(("limit", "integer"),)),
    Operation("POST", "/webhooks/test", "Send a signed ping", PingOutcome, WantedPing),
)


def document() -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for one in OPERATIONS:
        paths.setdefault(PREFIX + one.path, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Vetting operator API",
            "version": "1",
            "summary": "What people and programs may ask of the orchestrator",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": _components()},
    }


def document_text() -> str:
    return msgspec.json.format(msgspec.json.encode(document(), order="sorted"), indent=2).decode() + "\n"


def _components() -> dict[str, Any]:
    kinds = [kind for one in OPERATIONS for kind in (one.request, *_each(one.reply)) if kind is not None]
    types = [kind for kind in kinds if not isinstance(kind, str)]
    _, components = msgspec.json.schema_components([*types, ErrorEnvelope], ref_template=REFERENCE)
    for component in components.values():
        dedent(component)
    return dict(sorted(components.items()))


def _each(reply: Any) -> tuple[Any, ...]:
    return reply if isinstance(reply, tuple) else (reply,)


def _schema_of(kind: Any) -> dict[str, Any]:
    if isinstance(kind, tuple):
        return {"anyOf": [_schema_of(one) for one in kind]}
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=REFERENCE)
    return schema


def _operation(one: Operation) -> dict[str, Any]:
    words = [one.method.lower(), *re.findall(r"[a-z]+", one.path.replace("_", ""))]
    made: dict[str, Any] = {
        "operationId": "_".join(words),
        "summary": one.summary,
        "parameters": _parameters(one),
        "responses": {str(one.status): _content("Done", one.reply), **_errors(one)},
    }
    if one.request is not None:
        made["requestBody"] = {"required": True, **_content("", one.request)}
        del made["requestBody"]["description"]
    return made


def _parameters(one: Operation) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)}", one.path)
    kinds = {name: {"type": "integer", "minimum": 1} if name in INTEGERS else {"type": "string"} for name in names}
    made: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": kind} for name, kind in kinds.items()
    ]
    made += [{"name": name, "in": "query", "required": False, "schema": _query(kind)} for name, kind in one.query]
    return [*made, {"name": CORRELATION_HEADER, "in": "header", "required": False, "schema": {"type": "string"}}]


def _query(kind: str) -> dict[str, Any]:
    return {"type": "integer", "minimum": 0} if kind == "integer" else {"type": kind}


def _errors(one: Operation) -> dict[str, Any]:
    made = {status: _content(text, ErrorEnvelope) for status, text in ERRORS.items()}
    if one.request == "text/csv":  # what is wrong with the lines is the same report
        made["422"] = _content(ERRORS["422"], (ErrorEnvelope, one.reply))
    return made


def _content(text: str, kind: Any) -> dict[str, Any]:
    content = {kind: {}} if isinstance(kind, str) else {"application/json": {"schema": _schema_of(kind)}}
    return {"description": text, "content": content}
