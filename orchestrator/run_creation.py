"""A new run: what the operator may ask for, checked, and the record it becomes."""

from __future__ import annotations

from typing import Any

import msgspec

from orchestrator.run_record import CONTINUE, HOLD, Intervals, Run, normal_mac, ordered_stages
from orchestrator.spec import Spec
from orchestrator.steps import Refusal
from stages.profiles import PROFILES
from vetting_agent.wire import ExpectedDisk


class RunRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /operator/v1/runs."""

    host: str
    mac: str | None = None
    profile: str = "standard"
    stages: list[str] | None = None
    parameters: dict[str, dict[str, Any]] = {}
    non_destructive: bool = True
    expected_disks: list[ExpectedDisk] | None = None
    spec: Spec | None = None
    on_failure: str = HOLD
    intervals: Intervals | None = None
    shutdown_when_completed: bool = True


def new_run(request: RunRequest, run_id: int, token_hash: str, now: str) -> Run:
    """The record of a new run. Refuses with 422 what makes no sense."""
    stages = _stages(request)
    return Run(
        run_id=run_id,
        host=request.host,
        token_hash=token_hash,
        created_at=now,
        stages=stages,
        profile=request.profile,
        parameters=_parameters(request, stages),
        non_destructive=request.non_destructive,
        expected_disks=request.expected_disks,
        spec=request.spec,
        on_failure=_one_of("on_failure", request.on_failure, (HOLD, CONTINUE)),
        shutdown_when_completed=request.shutdown_when_completed,
        intervals=_intervals(request),
        mac=_mac(request.mac),
    )


def request_again(run: Run) -> RunRequest:
    """What was asked for to get this run."""
    return RunRequest(
        host=run.host,
        mac=run.mac,
        profile=run.profile,
        stages=list(run.stages),
        parameters=run.parameters,
        non_destructive=run.non_destructive,
        expected_disks=run.expected_disks,
        spec=run.spec,
        on_failure=run.on_failure,
        intervals=run.intervals,
        shutdown_when_completed=run.shutdown_when_completed,
    )


def _stages(request: RunRequest) -> tuple[str, ...]:
    try:
        return ordered_stages(request.stages)
    except ValueError as problem:
        raise Refusal(422, "unknown_stage", str(problem)) from None


def _parameters(request: RunRequest, stages: tuple[str, ...]) -> dict[str, Any]:
    """The profile's parameters with the run's own laid over, for the stages of the run."""
    profile = PROFILES[_one_of("profile", request.profile, tuple(PROFILES))]
    if strangers := [name for name in request.parameters if name not in stages]:
        raise Refusal(422, "unknown_stage", f"Parameters for stages that the run does not have: {', '.join(strangers)}")
    merged = {name: {**profile.get(name, {}), **request.parameters.get(name, {})} for name in stages}
    return {name: values for name, values in merged.items() if values}


def _intervals(request: RunRequest) -> Intervals:
    intervals = request.intervals or Intervals()
    for name in intervals.__struct_fields__:
        if not 0.05 <= getattr(intervals, name) <= 3600:
            raise Refusal(422, "malformed", f"intervals.{name} must be between 0.05 and 3600 seconds")
    return intervals


def _mac(text: str | None) -> str | None:
    if text is None:
        return None
    mac = normal_mac(text)
    if mac is None:
        raise Refusal(422, "malformed", f"{text!r} is not a MAC address")
    return mac


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise Refusal(422, "malformed", f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    return value
