"""Speaks as an agent: one call at a time over pinned TLS, whatever it is answered."""

from __future__ import annotations

import hashlib
import http.client
import json
import secrets
import ssl
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from orchestrator.conformance.clause import BrokenClause, expect

CALL_LIMIT_S = 60.0
"""More than an agent waits: a busy machine breaks no clause."""
PARTS = ["cpu:0", "disk:A", "nic:52:54:00:12:34:56"]


class Unreachable(Exception):
    """No orchestrator answers there, or it is not the one with this fingerprint."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content: bytes

    @property
    def shown(self) -> str:
        return f"HTTP {self.status} {self.content[:300].decode(errors='replace')!r}"

    def object(self) -> dict[str, Any]:
        """The body as a JSON object. Raises BrokenClause."""
        try:
            body = json.loads(self.content)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise BrokenClause(f"the body is no JSON object: {self.shown}")
        return body


def _context(fingerprints: tuple[str, ...]) -> ssl.SSLContext:
    if not fingerprints:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Door:
    """Where the orchestrator is. With fingerprints nothing is sent before one of them was seen."""

    def __init__(self, url: str, fingerprints: tuple[str, ...]) -> None:
        self.url = url
        self.fingerprints = fingerprints
        self._context = _context(fingerprints)

    def post(self, path: str, content: bytes, headers: Mapping[str, str]) -> Answer:
        """One call on a connection of its own. Raises Unreachable."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        connection = self._connection(parts.scheme, parts.hostname, parts.port)
        try:
            connection.connect()
            self._check_peer(connection)
            connection.request("POST", f"{parts.path.rstrip('/')}{path}", content, dict(headers))
            response = connection.getresponse()
            return Answer(response.status, response.read())
        except (OSError, http.client.HTTPException) as problem:
            raise Unreachable(f"{self.url} does not answer a call: {problem!r}") from None
        finally:
            connection.close()

    def _connection(self, scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
        if scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=CALL_LIMIT_S)
        return http.client.HTTPSConnection(host, port, timeout=CALL_LIMIT_S, context=self._context)

    def _check_peer(self, connection: http.client.HTTPConnection) -> None:
        if not self.fingerprints or not isinstance(connection.sock, ssl.SSLSocket):
            return
        seen = hashlib.sha256(connection.sock.getpeercert(binary_form=True) or b"").hexdigest()
        if seen not in self.fingerprints:
            raise Unreachable(f"{self.url} shows the certificate {seen}, not {' or '.join(self.fingerprints)}")


def new_mac() -> str:
    """A MAC address of nobody's: locally administered."""
    return ":".join(["02", *(f"{byte:02x}" for byte in secrets.token_bytes(5))])


@dataclass(slots=True)
class Speaker:
    """One agent process on one host."""

    door: Door
    run_id: int
    token: str | None
    mac: str = field(default_factory=new_mac)
    boot: str = field(default_factory=lambda: str(uuid.uuid4()))
    instance: str = field(default_factory=lambda: str(uuid.uuid4()))

    def send(self, verb: str, body: object = None, *, content: bytes | None = None, **headers: str) -> Answer:
        """One call, whatever comes back. `headers` are named with underscores."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        own = {"Content-Type": "application/json", "X-Correlation-ID": self.instance}
        if self.token is not None:
            own["Authorization"] = f"Bearer {self.token}"
        sent = json.dumps({} if body is None else body).encode() if content is None else content
        return self.door.post(f"/api/v1/runs/{self.run_id}/{verb}", sent, own | given)

    def call(self, verb: str, body: object = None) -> dict[str, Any]:
        """One call that is to succeed; its answer. Raises BrokenClause."""
        answer = self.send(verb, body)
        expect(answer.status == 200, f"{verb} was answered with {answer.shown}")
        return answer.object()

    def successor(self, *, rebooted: bool = False) -> Speaker:
        """The host's next agent process."""
        boot = str(uuid.uuid4()) if rebooted else self.boot
        return Speaker(self.door, self.run_id, self.token, mac=self.mac, boot=boot)

    def hello_body(self) -> dict[str, Any]:
        return {"agent_version": "conformance", "mac": self.mac, "ip": "192.0.2.7", "instance_id": self.instance}

    def claim_body(self) -> dict[str, Any]:
        return self.hello_body() | {"kernel_boot_id": self.boot, "arch": "x86_64", "image_version": None}

    def claim(self) -> dict[str, Any]:
        """Claim; a token in the answer is used from then on."""
        claim = self.call("claim", self.claim_body())
        self.token = claim.get("token") or self.token
        return claim

    def beat(self, acked: str | None = None, how: str = "done", **more: object) -> dict[str, Any]:
        """A heartbeat; its answer."""
        ack = {"acked_cmd_id": acked, "ack_status": how} if acked else {}
        return self.call("heartbeat", {"activity": "running", "dropped_log_lines": 0} | ack | more)

    def post(self, stage: str, verdict: str = "pass", **how: Any) -> str:
        """Post a result; the next state."""
        state = self.call("result", result_body(stage, verdict, **how))["next_state"]
        expect(isinstance(state, str), f"next_state is no text: {state!r}")
        return str(state)

    def pass_until(self, state: str, limit: int = 20) -> list[str]:
        """Pass stage after stage until the run stands at `state`; every state that was answered."""
        stands = self.claim()["current_state"]
        seen = [stands]
        while seen[-1] != state:
            expect(len(seen) < limit and seen[-1] not in {"Completed", "FailedHolding"}, f"the run went {seen}")
            seen.append(self.post(stage_of(seen[-1])))
        return seen


def stage_of(state: str) -> str:
    """The stage that a state stands for."""
    return "Inventory" if state == "InventoryCheck" else state


def error_finding(code: str = "disk_io_error", severity: str = "error") -> dict[str, str]:
    return {"reason_code": code, "severity": severity, "component": "disk:A", "message": "broken", "evidence": "x"}


def result_body(stage: str, verdict: str = "pass", **how: Any) -> dict[str, Any]:
    """A result as an agent posts it; `how` replaces or adds fields, `findings` those of the summary."""
    good = verdict in {"pass", "not_applicable"}
    code = "cancelled" if verdict == "cancelled" else "disk_io_error"
    findings = how.pop("findings", [] if good else [error_finding(code)])
    body = {
        "stage": stage,
        "passed": good,
        "summary": {
            "verdict": verdict,
            "headline": verdict,
            "findings": findings,
            "measurements": [],
            "coverage": {},
            "duration_s": 1.0,
            "tool_versions": {},
        },
        "message": verdict,
        "result_id": str(uuid.uuid4()),
        "components": PARTS,
    }
    inventory = {"inventory": {"cpu": {"model": "X"}}} if stage == "Inventory" else {}
    return body | inventory | how
