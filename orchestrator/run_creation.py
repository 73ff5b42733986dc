"""A new run: what the operator may ask for, checked, and the record it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from orchestrator.clock import later
from orchestrator.hardware_profile import HardwareProfile
from orchestrator.host_record import HostRecord
from orchestrator.parameters import parameter_problems
from orchestrator.run_record import CONTINUE, HOLD, Intervals, Run, normal_mac, ordered_stages
from orchestrator.spec import Spec
from orchestrator.steps import Refusal
from stages.profiles import PROFILES
from vetting_agent.wire import ExpectedDisk

LONGEST_TOKEN_S = 366 * 86400.0


class WantedIntervals(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Seconds between calls of the agent; None: the usual ones, or longer ones where the server has very many hosts."""

    heartbeat_s: float | None = None
    sensor_s: float | None = None
    log_s: float | None = None

    def chosen(self) -> dict[str, float]:
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in values.items() if value is not None}


class RunRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /operator/v1/runs. What is not given comes from the host's hardware profile, if it has one."""

    host: str
    mac: str | None = None
    profile: str | None = None
    """The test profile: quick, standard, burnin."""
    hardware: str | None = None
    """Another hardware profile than the host's; "" for none."""
    token_valid_s: float | None = None
    """The printed token ends after so long if no host has claimed with it. None: with the run."""
    stages: list[str] | None = None
    parameters: dict[str, dict[str, Any]] = {}
    non_destructive: bool = True
    expected_disks: list[ExpectedDisk] | None = None
    spec: Spec | None = None
    on_failure: str = HOLD
    intervals: WantedIntervals | None = None
    shutdown_when_completed: bool = True


@dataclass(frozen=True, slots=True)
class Template:
    """What the server knows for a new run: the host, and the newest version of its hardware profile."""

    host: HostRecord | None = None
    profile_name: str | None = None
    profile_version: int = 0
    profile: HardwareProfile = field(default_factory=HardwareProfile)


def new_run(request: RunRequest, run_id: int, token_hash: str, now: str, template: Template | None = None) -> Run:
    """The record of a new run. Refuses with 422 what makes no sense."""
    template = template or Template()
    hardware = template.profile
    chosen = request.intervals.chosen() if request.intervals else {}
    stages = _stages(request.stages if request.stages is not None else hardware.stages)
    mac = _mac(request.mac)
    macs = template.host.macs if template.host else ()
    if macs and mac is not None and mac not in macs:
        raise Refusal(422, "other_host", f"{request.host} has the MAC addresses {', '.join(macs)}, not {mac}")
    profile = _one_of("profile", request.profile or hardware.test_profile, tuple(PROFILES))
    return Run(
        run_id=run_id,
        host=request.host,
        token_hash=token_hash,
        token_expires_at=_expiry(request.token_valid_s, now),
        created_at=now,
        stages=stages,
        profile=profile,
        hardware=template.profile_name,
        hardware_version=template.profile_version,
        peers=hardware.peers,
        parameters=_parameters(PROFILES[profile], hardware.parameters, request.parameters, stages),
        non_destructive=request.non_destructive,
        expected_disks=request.expected_disks,
        spec=request.spec or hardware.spec,
        on_failure=_one_of("on_failure", request.on_failure, (HOLD, CONTINUE)),
        shutdown_when_completed=request.shutdown_when_completed,
        intervals=_intervals(chosen),
        chosen_intervals=tuple(chosen),
        mac=mac,
        macs=() if mac is not None else macs,
    )


def request_again(run: Run) -> RunRequest:
    """What was asked for to get this run."""
    return RunRequest(
        host=run.host,
        mac=run.mac,
        profile=run.profile,
        hardware=run.hardware or "",
        stages=list(run.stages),
        parameters=run.parameters,
        non_destructive=run.non_destructive,
        expected_disks=run.expected_disks,
        spec=run.spec,
        on_failure=run.on_failure,
        intervals=_wanted(run),
        shutdown_when_completed=run.shutdown_when_completed,
    )


def _stages(names: list[str] | None) -> tuple[str, ...]:
    try:
        return ordered_stages(names)
    except ValueError as problem:
        raise Refusal(422, "unknown_stage", str(problem)) from None


def _parameters(
    profile: Mapping[str, Mapping[str, Any]],
    hardware: dict[str, dict[str, Any]],
    own: dict[str, dict[str, Any]],
    stages: tuple[str, ...],
) -> dict[str, Any]:
    """The test profile's with the hardware profile's and the run's own laid over, for the stages of the run."""
    if strangers := [name for name in own if name not in stages]:
        raise Refusal(422, "unknown_stage", f"Parameters for stages that the run does not have: {', '.join(strangers)}")
    layers = (profile, hardware, own)
    merged = {name: {key: value for layer in layers for key, value in layer.get(name, {}).items()} for name in stages}
    if problems := [message for _, message in parameter_problems(merged)]:
        raise Refusal(422, "bad_parameter", "; ".join(problems))
    return {name: values for name, values in merged.items() if values}


def _expiry(valid_s: float | None, now: str) -> str | None:
    if valid_s is None:
        return None
    if not 1 <= valid_s <= LONGEST_TOKEN_S:
        raise Refusal(422, "malformed", f"token_valid_s must be between 1 and {LONGEST_TOKEN_S:.0f} seconds")
    return later(now, valid_s)


def _intervals(chosen: dict[str, float]) -> Intervals:
    for name, value in chosen.items():
        if not 0.05 <= value <= 3600:
            raise Refusal(422, "malformed", f"intervals.{name} must be between 0.05 and 3600 seconds")
    return Intervals(**chosen)


def _wanted(run: Run) -> WantedIntervals | None:
    """What the operator chose, as far as it is known: a record of before tells it by what is unusual."""
    usual = Intervals()
    own = {name: getattr(run.intervals, name) for name in usual.__struct_fields__}
    chosen = {
        name: value for name, value in own.items() if name in run.chosen_intervals or value != getattr(usual, name)
    }
    return WantedIntervals(**chosen) if chosen else None


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
