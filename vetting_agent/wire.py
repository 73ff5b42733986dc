"""Every request and reply of docs/protocol.md as a frozen type. No input, no output.

Unknown fields are ignored. Decoding raises `msgspec.ValidationError` or `msgspec.DecodeError` (both
`msgspec.MsgspecError`), whose text names the field. Fields marked (v1+) in the protocol have defaults here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from stages.outcome import Outcome, Verdict

API_PREFIX = "/api/v1/runs"
VERBS = ("hello", "claim", "heartbeat", "sensor", "log", "result", "hold")

# Run states that are not a stage's own.
FAILED_HOLDING = "FailedHolding"
COMPLETED = "Completed"
SPEC_VALIDATE = "SpecValidate"
REPORTING = "Reporting"

# Directives.
CANCEL_STAGE = "cancel_stage"
RETRY_STAGE = "retry_stage"
SHUTDOWN = "shutdown"
ABORT = "abort"
OPEN_TERMINAL = "open_terminal"
IDENTIFY = "identify"

FEATURE_EVIDENCE = "evidence"
FEATURE_IPERF_SLOT = "iperf_slot"

CORRELATION_HEADER = "X-Correlation-ID"
DIGEST_HEADER = "X-Content-SHA256"
TERMINAL_TOKEN_HEADER = "X-Terminal-Token"
EVIDENCE_LIMIT_BYTES = 16 * 2**20


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every message."""


class HelloRequest(Message, frozen=True, kw_only=True):
    agent_version: str
    mac: str
    ip: str
    instance_id: str


class HelloReply(Message, frozen=True, kw_only=True):
    """What a preflight may know before any claim; all of it (v1+)."""

    stages: list[str] | None = None
    current_state: str | None = None
    iperf_port: int | None = None
    iperf_host: str | None = None


class ClaimRequest(Message, frozen=True, kw_only=True):
    ip: str
    mac: str
    instance_id: str
    agent_version: str
    kernel_boot_id: str | None = None
    arch: str | None = None
    image_version: str | None = None
    agent_started_s: float | None = None
    """When this instance started, in seconds since the kernel did."""


class ExpectedDisk(Message, frozen=True, kw_only=True):
    serial: str
    size_gb: float | None = None


class Claim(Message, frozen=True, kw_only=True):
    """The reply to `claim`. `parameters`, `non_destructive` and `current_state` are kept as they came: a malformed one
    is no malformed reply, it has a meaning of its own (a failed stage; true; the agent parks)."""

    stages: list[str]
    current_state: Any = None
    iperf_port: int | None = None
    expected_disks: list[ExpectedDisk] | None = None
    non_destructive: Any = True
    iperf_host: str | None = None
    parameters: Any = None
    heartbeat_interval_s: float | None = None
    sensor_interval_s: float | None = None
    log_interval_s: float | None = None
    token: str | None = None
    features: list[str] | None = None
    """None as an empty list: many programs write null for a list that was never filled."""

    def offers(self, feature: str) -> bool:
        """Whether the server does this beyond the table of the protocol."""
        return feature in (self.features or ())

    @property
    def is_destructive(self) -> bool:
        """True only when `non_destructive` is exactly false."""
        return self.non_destructive is False


class HeartbeatRequest(Message, frozen=True, kw_only=True):
    activity: str | None = None
    stage: str | None = None
    elapsed_s: float | None = None
    progress: float | None = None
    eta_s: float | None = None
    acked_cmd_id: str | None = None
    ack_status: str | None = None
    ack_message: str | None = None
    dropped_log_lines: int | None = None


class OverrideFlags(Message, frozen=True, kw_only=True):
    wipe: bool = False
    serials: list[str] | None = None


class TerminalOrder(Message, frozen=True, kw_only=True):
    """What `open_terminal` needs to know. `token` opens the one stream of this session, once."""

    session: str
    token: str
    columns: int = 80
    rows: int = 24
    open_s: float = 15.0
    """How long the agent may try to connect, and then to get a shell's first word."""
    idle_s: float = 1800.0
    limit_s: float = 28800.0

    def __repr__(self) -> str:
        return f"TerminalOrder({self.session})"


class IdentifyOrder(Message, frozen=True, kw_only=True):
    """What `identify` needs to know. `target`: `host`, or a disk as `disk:SERIAL`."""

    target: str
    on: bool = True
    seconds: float = 900.0
    """How long the lamp stays lit."""


class TerminalMessage(Message, frozen=True, kw_only=True, omit_defaults=True):
    """A text message of a terminal's stream; what is typed and shown goes as binary messages."""

    type: str
    columns: int | None = None
    rows: int | None = None
    bytes: int | None = None
    shell: str | None = None
    reason: str | None = None
    status: int | None = None


class HeartbeatReply(Message, frozen=True, kw_only=True):
    cmd: str = ""
    stage: str | None = None
    override_flags: OverrideFlags | None = None
    cmd_id: str | None = None
    terminal: TerminalOrder | None = None
    identify: IdentifyOrder | None = None


class Sample(Message, frozen=True, kw_only=True):
    kind: str
    key: str
    value: float
    unit: str
    ts: str | None = None


class SensorRequest(Message, frozen=True, kw_only=True):
    samples: list[Sample]


class LogLine(Message, frozen=True, kw_only=True):
    ts: str
    level: str
    stage: str
    text: str
    seq: int | None = None


class LogRequest(Message, frozen=True, kw_only=True):
    lines: list[LogLine]


class WireFinding(Message, frozen=True, kw_only=True):
    reason_code: str
    severity: str
    component: str
    message: str
    evidence: str


class WireMeasurement(Message, frozen=True, kw_only=True):
    name: str
    component: str
    value: float
    unit: str
    limit: float | None
    ok: bool | None


class Summary(Message, frozen=True, kw_only=True):
    """The `summary` object: all fields always there, empty lists included."""

    verdict: str
    headline: str
    findings: list[WireFinding]
    measurements: list[WireMeasurement]
    coverage: dict[str, float]
    duration_s: float
    tool_versions: dict[str, str]


class ResultRequest(Message, frozen=True, kw_only=True, omit_defaults=True):
    stage: str
    passed: bool
    summary: Summary
    message: str
    inventory: dict[str, Any] | None = None
    result_id: str | None = None
    components: list[str] | None = None


class ResultReply(Message, frozen=True, kw_only=True):
    next_state: Any = None


class HoldRequest(Message, frozen=True, kw_only=True):
    ip: str
    ssh_host_key: str | None = None
    """Its fingerprint: SHA256:…"""


class HoldReply(Message, frozen=True, kw_only=True):
    authorized_key: str
    expires_at: str | None = None
    site_keys: list[str] = []
    """Keys of the site's own people, installed and removed with the run's."""


class IperfSlotRequest(Message, frozen=True, kw_only=True):
    """Feature `iperf_slot`: `acquire` (repeated until granted, and again to keep the slot) or `release`."""

    action: str
    slot_id: str


class IperfSlotReply(Message, frozen=True, kw_only=True):
    granted: bool
    port: int | None = None
    more_ports: list[int] = []
    """Further servers that this host has to itself as well."""
    retry_after_s: float = 2.0
    lease_s: float = 60.0
    ahead: int = 0
    """How many hosts are served before this one."""


class ErrorBody(Message, frozen=True, kw_only=True):
    code: str
    message: str
    correlation_id: str = ""


class ErrorEnvelope(Message, frozen=True, kw_only=True):
    error: ErrorBody


class Empty(Message, frozen=True, kw_only=True):
    """The reply `{}`."""


def summary_of(outcome: Outcome) -> Summary:
    """The wire's form of an outcome."""
    return Summary(
        verdict=outcome.verdict.value,
        headline=outcome.headline,
        findings=[
            WireFinding(
                reason_code=finding.reason_code.value,
                severity=finding.severity.value,
                component=finding.component,
                message=finding.message,
                evidence=finding.evidence,
            )
            for finding in outcome.findings
        ],
        measurements=[
            WireMeasurement(
                name=one.name,
                component=one.component,
                value=one.value,
                unit=one.unit,
                limit=one.limit,
                ok=one.ok,
            )
            for one in outcome.measurements
        ],
        coverage=dict(outcome.coverage),
        duration_s=outcome.duration_s,
        tool_versions=dict(outcome.tool_versions),
    )


def result_request(
    stage: str,
    outcome: Outcome,
    *,
    result_id: str,
    inventory: Mapping[str, Any] | None,
    components: list[str] | None,
) -> ResultRequest:
    """The `result` call for one execution of a stage."""
    return ResultRequest(
        stage=stage,
        passed=outcome.passed,
        summary=summary_of(outcome),
        message=outcome.message,
        inventory=None if inventory is None else dict(inventory),
        result_id=result_id,
        components=components,
    )


def passes(verdict: str) -> bool:
    """Whether a verdict counts as passed; an unknown word does not."""
    return verdict in {Verdict.PASS.value, Verdict.NOT_APPLICABLE.value}
