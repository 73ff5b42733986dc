"""Whether a host is heard, and if not, why: one of six states, each with its last reason. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.pulse import Failure
from orchestrator.run_record import Run
from orchestrator.runs import SILENT_HEARTBEATS

HEALTHY, STALE, AUTH_FAILED = "healthy", "stale", "auth_failed"
API_UNREACHABLE, RESULT_FAILED, UNKNOWN = "api_unreachable", "result_failed", "unknown"
QUIET_HEARTBEATS = 2
"""A stranger with a wrong token must not make a host look refused that calls all the time."""


@dataclass(frozen=True, slots=True)
class Liveness:
    """`ts`: when the reason arose, if that is known."""

    state: str
    reason: str
    correlation_id: str = ""
    ts: str | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """What is remembered of a run's calls. `at`: when its host last called, by the monotonic clock `now` is of."""

    now: float
    at: float | None
    auth: Failure | None = None
    trouble: Failure | None = None
    result: Failure | None = None


def liveness_of(run: Run, heard: Heard) -> Liveness:
    """How it stands with the host of this run."""
    if run.is_over or run.powered_off:
        why = f"the run is {run.state}" if run.is_over else "the host was powered off on order"
        return Liveness(UNKNOWN, f"{why}: no calls are expected", run.instance_id or "")
    silent_s = heard.now - heard.at if heard.at is not None else None
    quiet = silent_s is None or silent_s > QUIET_HEARTBEATS * run.pace.heartbeat_s
    if heard.auth is not None and quiet and _newer(heard.auth, heard.at):
        return _of(AUTH_FAILED, heard.auth)
    if run.instance_id is None:
        return Liveness(UNKNOWN, "no host has claimed this run yet")
    if heard.trouble is not None:
        return _of(API_UNREACHABLE, heard.trouble)
    if run.stalled:
        text = f"no call for {SILENT_HEARTBEATS} heartbeats"
        return Liveness(STALE, text, run.instance_id)
    if heard.result is not None:
        return _of(RESULT_FAILED, heard.result)
    if silent_s is None:
        return Liveness(UNKNOWN, "not heard since the server was started", run.instance_id)
    return Liveness(HEALTHY, "calls as it should", run.instance_id)


def _newer(failure: Failure, heard_at: float | None) -> bool:
    return heard_at is None or failure.at > heard_at


def _of(state: str, failure: Failure) -> Liveness:
    return Liveness(state, f"{failure.verb}: {failure.code}: {failure.message}", failure.correlation_id, failure.ts)
