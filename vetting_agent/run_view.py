"""A run as the operator's side shows it: what `vetting-orchestrator run show --json` prints.

The orchestrator makes it; the `vet` command and the report read it. Times are RFC 3339 UTC.
"""

from __future__ import annotations

from typing import Any

import msgspec

from vetting_agent.wire import Summary


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every view."""


class StageView(View, frozen=True, kw_only=True):
    """One stage of the run, in the order of the walk."""

    stage: str
    state: str
    """`waiting`, `running`, or `done`."""
    attempts: int = 0
    valid: bool = False
    """A pass that still counts."""
    passed: bool | None = None
    result_id: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    summary: Summary | None = None
    message: str | None = None
    waived: list[str] = []
    """"code component" of error findings in spite of which it passed: a person waived them."""


class LogView(View, frozen=True, kw_only=True):
    id: int
    ts: str
    level: str
    stage: str
    text: str
    instance_id: str
    seq: int | None


class SampleView(View, frozen=True, kw_only=True):
    ts: str
    kind: str
    key: str
    value: float
    unit: str


class DirectiveView(View, frozen=True, kw_only=True):
    cmd_id: str
    cmd: str
    stage: str | None
    override_flags: dict[str, Any] | None
    status: str
    """`waiting`, `done` or `refused`."""
    created_at: str
    acked_at: str | None
    identify: dict[str, Any] | None = None
    """Which lamp: `target`, `on`, `seconds`."""
    answer: str | None = None
    """Why the agent refused it."""


class HoldView(View, frozen=True, kw_only=True):
    requested: bool
    ip: str | None
    expires_at: str | None
    ssh_host_key: str | None = None
    """The fingerprint that ssh shows to who comes for the first time."""


class AgentView(View, frozen=True, kw_only=True):
    """What the agent last said of itself."""

    instance_id: str | None
    agent_version: str | None
    mac: str | None
    ip: str | None
    kernel_boot_id: str | None
    last_seen_at: str | None
    activity: str | None
    stage: str | None
    elapsed_s: float | None
    progress: float | None
    eta_s: float | None
    dropped_log_lines: int


class EventView(View, frozen=True, kw_only=True):
    """One line of the run's history: state changes, refusals, operator's acts."""

    ts: str
    kind: str
    text: str


class RunView(View, frozen=True, kw_only=True):
    run_id: int
    host: str
    state: str
    profile: str
    created_at: str
    finished_at: str | None
    stalled: bool
    non_destructive: bool
    parameters: dict[str, Any]
    stages: list[StageView]
    run_findings: list[Any]
    """Findings of the orchestrator itself (spec_mismatch, host_rebooted …), as finding objects."""
    inventory: dict[str, Any] | None
    spec_diff: list[str]
    agent: AgentView
    hold: HoldView | None
    directives: list[DirectiveView]
    events: list[EventView]
    last_log: LogView | None
    hottest: SampleView | None
    log_lines_over_quota: int = 0
    samples_over_quota: int = 0
    """Of the host's, acknowledged and dropped by the server."""
