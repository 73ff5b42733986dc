"""Runs, results and summaries for the tests of the orchestrator, and a walk through the pure transitions."""

from __future__ import annotations

import itertools
from typing import Any

from orchestrator.clock import later
from orchestrator.run_record import Run, ordered_stages
from orchestrator.runs import transition
from orchestrator.steps import Beat, Claimed, Event, Ordered, ResultPosted, Step
from vetting_agent.wire import ResultRequest, Summary, WireFinding

START = "2026-11-21T09:00:00.000Z"
MAC = "52:54:00:12:34:56"
PARTS = ["cpu:0", "disk:A", "nic:" + MAC]


def summary(verdict: str = "pass", *findings: WireFinding) -> Summary:
    return Summary(
        verdict=verdict,
        headline=verdict,
        findings=list(findings),
        measurements=[],
        coverage={},
        duration_s=1.0,
        tool_versions={},
    )


def found(severity: str = "error", code: str = "disk_io_error") -> WireFinding:
    return WireFinding(reason_code=code, severity=severity, component="disk:A", message="broken", evidence="")


def result(
    stage: str,
    verdict: str = "pass",
    *findings: WireFinding,
    passed: bool | None = None,
    components: list[str] | None = PARTS,
    inventory: dict[str, Any] | None = None,
) -> ResultRequest:
    """A result as an agent posts it: one error finding where the verdict needs one."""
    good = verdict in {"pass", "not_applicable"}
    if not findings and not good:
        findings = (found(code="cancelled" if verdict == "cancelled" else "disk_io_error"),)
    return ResultRequest(
        stage=stage,
        passed=good if passed is None else passed,
        summary=summary(verdict, *findings),
        message=verdict,
        components=components,
        inventory=inventory if inventory is not None or stage != "Inventory" else {"cpu": {"model": "X"}},
    )


class Walk:
    """A run, moved by events; time goes on by a second with each."""

    def __init__(self, stages: list[str] | None = None, **facts: Any) -> None:
        self.run = Run(
            run_id=1, host="h", token_hash="0" * 64, created_at=START, stages=ordered_stages(stages), **facts
        )
        self.now = START
        self.history: list[str] = []
        self._ids = itertools.count(1)

    def take(self, event: Event) -> Step:
        self.now = later(self.now, 1)
        step = transition(self.run, event, self.now)
        self.run = step.run
        self.history += [note.text for note in step.notes]
        return step

    def claim(
        self, instance: str = "one", boot: str | None = "boot-1", mac: str = MAC, started_s: float | None = None
    ) -> Step:
        return self.take(Claimed(mac, "10.0.0.17", instance, "0.1.0", boot, started_s))

    def post(self, stage: str, verdict: str = "pass", *, result_id: str = "", **how: Any) -> str:
        """Post a result; the answered next_state."""
        findings = how.pop("findings", ())
        request = result(stage, verdict, *findings, **how)
        answer = self.take(ResultPosted(request, result_id or f"r{next(self._ids)}")).next_state
        assert answer is not None
        return answer

    def order(self, cmd: str, stage: str | None = None, **how: Any) -> str:
        """Order something; its cmd_id."""
        directive = self.take(Ordered(cmd, stage, **how)).directive
        assert directive is not None
        return directive.cmd_id

    def beat(self, acked: str | None = None, status: str | None = None) -> str:
        """A heartbeat; the directive it brought, or ""."""
        directive = self.take(Beat(acked, status)).directive
        return directive.cmd if directive else ""

    def pass_all(self, until: str | None = None) -> None:
        """Pass stage after stage, up to (not including) `until`."""
        while self.run.stage is not None and self.run.stage != until:
            self.post(self.run.stage)
