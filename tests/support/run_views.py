"""Hand-made views of a run, for tests of what reads them: the verdict, the report, the live table."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from stages import STAGES
from stages.outcome import Finding, Measurement, Outcome, ReasonCode, error, info, warning
from vetting_agent.run_view import AgentView, LogView, RunView, SampleView, StageView
from vetting_agent.wire import summary_of

START = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)
SECONDS = {"Inventory": 2, "SMART": 20, "CPUStress": 62, "Storage": 34, "Network": 13, "GPU": 1, "PSU": 1}
SOUND = Outcome("All is well", tool_versions={"stress-ng": "0.15.06"}, duration_s=1.0)
NO_SUCH = Outcome("No such hardware", hardware_present=False)


def stamp(seconds: float) -> str:
    """The time so many seconds after the run began."""
    return (START + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def done(stage: str, outcome: Outcome, start: float = 0.0, **changes: Any) -> StageView:
    """A stage that ended with this outcome."""
    facts: dict[str, Any] = {
        "attempts": 1,
        "valid": outcome.passed,
        "passed": outcome.passed,
        "started_at": stamp(start),
        "finished_at": stamp(start + SECONDS[stage]),
        "summary": summary_of(outcome),
        "message": outcome.message,
    }
    return StageView(stage=stage, state="done", **{**facts, **changes})


def waiting(stage: str) -> StageView:
    """A stage that has not begun."""
    return StageView(stage=stage, state="waiting")


def running(stage: str, start: float = 0.0) -> StageView:
    """A stage that has begun."""
    return StageView(stage=stage, state="running", attempts=1, started_at=stamp(start))


def found(*findings: Finding, **more: Any) -> Outcome:
    """An outcome with these findings."""
    return Outcome("Something was found", findings=findings, **more)


def agent_view(**changes: Any) -> AgentView:
    """An agent that has said little."""
    facts: dict[str, Any] = dict.fromkeys(AgentView.__struct_fields__)
    return AgentView(**{**facts, "dropped_log_lines": 0, **changes})


def run_view(stages: Iterable[StageView], **changes: Any) -> RunView:
    """A run of these stages; Completed unless said otherwise."""
    facts: dict[str, Any] = {
        "run_id": 1,
        "host": "node-17",
        "state": "Completed",
        "profile": "quick",
        "created_at": stamp(0),
        "finished_at": None,
        "stalled": False,
        "non_destructive": True,
        "parameters": {},
        "stages": list(stages),
        "run_findings": [],
        "inventory": None,
        "spec_diff": [],
        "agent": agent_view(),
        "hold": None,
        "directives": [],
        "events": [],
        "last_log": None,
        "hottest": None,
    }
    return RunView(**{**facts, **changes})


def all_sound(**changes: Any) -> RunView:
    """A run in which every stage passed."""
    start, views = 1.0, []
    for stage in STAGES:
        views.append(done(stage.name, SOUND, start))
        start += SECONDS[stage.name]
    return run_view(views, **changes)


def log_line(number: int, level: str, stage: str, text: str) -> LogView:
    """A line of the agent's log."""
    return LogView(id=number, ts=stamp(number), level=level, stage=stage, text=text, instance_id="i", seq=number)


def sick_run() -> RunView:
    """A run in which each kind of verdict occurs, on a machine whose disk has a hostile name."""
    hostile = "disk:<script>alert(1)</script>\x1b[2J\u202e"
    smart = found(
        error(ReasonCode.DISK_MEDIA_ERRORS, hostile, "The disk reports 8 pending sectors", "197 Pending_Sector 8"),
        warning(ReasonCode.DISK_REALLOCATED, "disk:WD-WX12", "The disk has moved 24 sectors to spares"),
        info(ReasonCode.EARLIER_EVENTS, "kernel", "2 corrected memory errors were logged before this run"),
        measurements=(
            Measurement("temperature", "disk:WD-WX12", 41.0, "°C", 60.0, True),
            Measurement("pending_sectors", hostile, 8.0, "sectors", 0.0, False),
            Measurement("power_on_time", "disk:WD-WX12", 31204.0, "h"),
        ),
        coverage={"disk:WD-WX12": 1.0},
        tool_versions={"smartctl": "7.4"},
    )
    storage = found(
        error(ReasonCode.DISK_NOT_TESTED, "disk:vda", "The disk could not be opened: Operation not permitted"),
        coverage={"disk:WD-WX12": 0.043, "disk:vda": 0.0},
    )
    network = found(info(ReasonCode.NET_THROUGHPUT_NOT_TESTED, "nic:52:54:00:12:34:56", "Not tested: same host"))
    load = Outcome(
        "2 CPUs and 1.9 GiB of memory computed right for 60 s",
        measurements=tuple(Measurement("bogo_ops", f"cpu:{n}", 5210.5 + 10 * n, "ops/s", 4100.0, True) for n in (0, 1)),
        coverage={"memory": 0.91},
        tool_versions={"stress-ng": "0.15.06"},
    )
    return run_view(
        [
            done("Inventory", SOUND, 1.0),
            done("SMART", smart, 3.0),
            done("CPUStress", load, 23.0),
            done("Storage", storage, 85.0),
            done("Network", network, 119.0),
            done("GPU", NO_SUCH, 132.0),
            done("PSU", NO_SUCH, 133.0),
        ],
        state="FailedHolding",
        inventory={
            "system": {"vendor": "Supermicro", "product": "SYS-1029P", "serial": "S1234", "uuid": None},
            "memory": {"total_gib": 63.7, "dimms": [{"slot": "A1", "size_gib": 32}, {"slot": "B1", "size_gib": 32}]},
            "disks": [{"name": "sda", "serial": "WD-WX12", "model": "<b>WD</b> Gold", "size_gb": 4000.8}],
            "gpus": [],
            "bmc": None,
            "notes": ["No BMC was found"],
        },
    )


def samples() -> list[SampleView]:
    """Temperatures, watts, clocks and throughput of `sick_run`, every two seconds."""
    made = []
    for at in range(2, 132, 2):
        loaded = 1.0 if 23 <= at <= 85 else 0.0
        for core in range(10):
            value = 38 + core + 30 * loaded * (1 - math.exp(-(at - 23) / 12))
            made.append(SampleView(ts=stamp(at), kind="temperature", key=f"cpu:{core}", value=value, unit="C"))
        made.append(SampleView(ts=stamp(at), kind="power", key="psu:PSU1", value=110 + 160 * loaded, unit="W"))
        made.append(SampleView(ts=stamp(at), kind="clock", key="cpu:0", value=1200 + 2100 * loaded, unit="MHz"))
        if 85 <= at <= 119:
            rate = 190 - (at - 85)
            made.append(SampleView(ts=stamp(at), kind="throughput", key="disk:WD-WX12", value=rate, unit="MB/s"))
    return made
