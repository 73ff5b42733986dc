"""What the world outside is told of a run, and when: the events of webhooks. Pure.

An event follows from a run's record before and after a change, so that no change can be kept without its event. The
form of the body is documented in docs/operations.md; fields are added, never renamed.
"""

from __future__ import annotations

import uuid

import msgspec
from msgspec.structs import replace

from orchestrator.run_record import ABORTED, CANCELLED, RELEASED, Record, Run
from orchestrator.runs import SILENT_HEARTBEATS
from vetting_agent.wire import COMPLETED, FAILED_HOLDING, WireFinding

SCHEMA = 1
HELD, STALLED, RECOVERED, PING = "run.held", "host.stalled", "host.recovered", "ping"
ARRIVALS = {
    FAILED_HOLDING: HELD,
    COMPLETED: "run.completed",
    CANCELLED: "run.cancelled",
    ABORTED: "run.aborted",
    RELEASED: "run.released",
}
"""The event of a run that comes to a state."""
MOST_FINDINGS = 20
ERROR = "error"


class RunFacts(Record, frozen=True, kw_only=True, omit_defaults=False):
    """The run as it stands after the event."""

    run_id: int
    host: str
    state: str
    previous_state: str
    profile: str
    mac: str | None
    ip: str | None
    stages_passed: int
    stages: int
    created_at: str
    finished_at: str | None
    url: str | None = None
    """Its page in the console; None where no console is served."""


class EventData(Record, frozen=True, kw_only=True, omit_defaults=False):
    """`sequence` grows with every event of a server: what came later is newer. `stage`: the one that it is about."""

    schema: int = SCHEMA
    sequence: int = 0
    reason: str
    run: RunFacts | None = None
    stage: str | None = None
    alert: str | None = None
    """With host.*: the state that the console shows: stale, auth_failed, api_unreachable, result_failed."""
    findings: tuple[WireFinding, ...] = ()
    """Those of the run itself, not of its stages."""


class WebhookEvent(Record, frozen=True, kw_only=True, omit_defaults=False):
    """A body as Standard Webhooks wants it: type, time and data. The id travels in the header alone."""

    type: str
    timestamp: str
    data: EventData


def new_event_id() -> str:
    return f"evt_{uuid.uuid4().hex}"


def body_of(event: WebhookEvent, sequence: int, console_url: str | None = None) -> bytes:
    """The event as JSON, numbered, with a link to the run's page."""
    run = event.data.run
    if run is not None and console_url is not None:
        run = replace(run, url=f"{console_url.rstrip('/')}/runs/{run.run_id}")
    return msgspec.json.encode(replace(event, data=replace(event.data, sequence=sequence, run=run)))


def events_of(before: Run, after: Run, now: str) -> list[WebhookEvent]:
    """What of this change is told, in the order in which it is told."""
    if before is after:
        return []
    events = []
    if before.stalled and not after.stalled:
        events.append(host_event(RECOVERED, after, "stale", "The host is heard again", now))
    if after.stalled and not before.stalled:
        text = f"The host has been silent for {SILENT_HEARTBEATS} heartbeats"
        events.append(host_event(STALLED, after, "stale", text, now))
    kind = ARRIVALS.get(after.state)
    if kind is not None and (before.state != after.state or _failed_again(before, after)):
        events.append(_arrival(kind, before, after, now))
    return events


def host_event(kind: str, run: Run, alert: str, reason: str, now: str) -> WebhookEvent:
    """That the console's alert about a run's host arose, or ended."""
    data = EventData(reason=reason, run=facts_of(run, run.state), stage=run.awaited_stage, alert=alert)
    return WebhookEvent(type=kind, timestamp=now, data=data)


def facts_of(run: Run, previous_state: str) -> RunFacts:
    return RunFacts(
        run_id=run.run_id,
        host=run.host,
        state=run.state,
        previous_state=previous_state,
        profile=run.profile,
        mac=run.mac,
        ip=run.ip,
        stages_passed=sum(run.has_valid_pass(name) for name in run.stages),
        stages=len(run.stages),
        created_at=run.created_at,
        finished_at=run.finished_at,
    )


def _arrival(kind: str, before: Run, after: Run, now: str) -> WebhookEvent:
    stage = _failed_stage(before, after) if kind == HELD else None
    data = EventData(
        reason=_why_held(before, after, stage) if kind == HELD else f"The run is {after.state}",
        run=facts_of(after, before.state),
        stage=stage,
        findings=tuple(after.findings[:MOST_FINDINGS]),
    )
    return WebhookEvent(type=kind, timestamp=now, data=data)


def _failed_again(before: Run, after: Run) -> bool:
    """A retry in the hold ended, and the run holds on."""
    return before.is_holding and after.is_holding and _new_results(before, after) != []


def _new_results(before: Run, after: Run) -> list[str]:
    """Stages that got another result."""
    return [name for name, one in after.records.items() if one.result_id != before.record_of(name).result_id]


def _failed_stage(before: Run, after: Run) -> str | None:
    """The stage whose result led to the hold; else the first that has no pass."""
    without = [name for name in after.stages if not after.has_valid_pass(name)]
    return next((name for name in _new_results(before, after) if name in without), next(iter(without), None))


def _why_held(before: Run, after: Run, stage: str | None) -> str:
    """What is wrong in one line: what is new of the run itself, else what the stage says."""
    new = [one.message for one in after.findings if one.severity == ERROR and one not in before.findings]
    message = after.record_of(stage).message if stage is not None else None
    return next(iter(new), message or "The run waits for an operator")
