"""A run as the operator sees it, put together from what the store holds."""

from __future__ import annotations

from typing import Any

import msgspec

from orchestrator.quota import OverQuota
from orchestrator.run_record import Directive, Run, StageRecord
from orchestrator.store import Status, Store
from vetting_agent.run_view import AgentView, DirectiveView, HoldView, RunView, SampleView, StageView
from vetting_agent.wire import Summary

EVENT_LIMIT = 1000
RECENT_BATCHES = 5


async def view_of(store: Store, run: Run, *, whole: bool = True) -> RunView:
    """The run; not `whole`: without inventory, summaries, history and last values, as a list shows it."""
    over = (await store.document(OverQuota, str(run.run_id)) if whole else None) or OverQuota()
    return RunView(
        run_id=run.run_id,
        host=run.host,
        state=run.state,
        profile=run.profile,
        created_at=run.created_at,
        finished_at=run.finished_at,
        stalled=run.stalled,
        non_destructive=run.non_destructive,
        parameters=run.parameters,
        stages=[await _stage_view(store, run, name, whole=whole) for name in run.stages],
        run_findings=[_plain(one) for one in run.findings],
        inventory=await _inventory(store, run) if whole else None,
        spec_diff=run.spec_diff,
        agent=_agent_view(run, store.status(run.run_id)),
        hold=_hold_view(run),
        directives=[directive_view(one) for one in run.directives],
        events=await store.events(run.run_id, EVENT_LIMIT) if whole else [],
        last_log=await store.last_log(run.run_id) if whole else None,
        hottest=_hottest(await store.recent_samples(run.run_id, RECENT_BATCHES)) if whole else None,
        log_lines_over_quota=over.log_lines,
        samples_over_quota=over.samples,
    )


async def _stage_view(store: Store, run: Run, name: str, *, whole: bool) -> StageView:
    record = run.record_of(name)
    return StageView(
        stage=name,
        state=_state_of(run, record),
        attempts=record.attempts,
        valid=record.valid,
        passed=record.passed,
        result_id=record.result_id,
        started_at=record.started_at,
        finished_at=record.finished_at,
        summary=await _summary(store, run, record) if whole else None,
        message=record.message,
        waived=list(record.waived),
    )


def _state_of(run: Run, record: StageRecord) -> str:
    if run.in_flight == record.stage:
        return "running"
    return "waiting" if record.passed is None else "done"


async def _summary(store: Store, run: Run, record: StageRecord) -> Summary | None:
    if record.result_id is None:
        return None
    result = await store.result(run.run_id, record.result_id)
    return result.summary if result else None


async def _inventory(store: Store, run: Run) -> dict[str, Any] | None:
    if run.inventory_result_id is None:
        return None
    result = await store.result(run.run_id, run.inventory_result_id)
    return result.inventory if result else None


def _agent_view(run: Run, status: Status | None) -> AgentView:
    return AgentView(
        instance_id=run.instance_id,
        agent_version=run.agent_version,
        mac=run.mac,
        ip=run.ip,
        kernel_boot_id=run.kernel_boot_id,
        last_seen_at=status.last_seen_at if status else None,
        activity=status.activity if status else None,
        stage=status.stage if status else None,
        elapsed_s=status.elapsed_s if status else None,
        progress=status.progress if status else None,
        eta_s=status.eta_s if status else None,
        dropped_log_lines=status.dropped_log_lines if status else 0,
    )


def _hold_view(run: Run) -> HoldView | None:
    if run.hold_ip is None:
        return None
    return HoldView(
        requested=run.is_holding, ip=run.hold_ip, expires_at=run.hold_expires_at, ssh_host_key=run.hold_host_key
    )


def directive_view(directive: Directive) -> DirectiveView:
    return DirectiveView(
        cmd_id=directive.cmd_id,
        cmd=directive.cmd,
        stage=directive.stage,
        override_flags=None if directive.override_flags is None else _plain(directive.override_flags),
        status=directive.status,
        created_at=directive.created_at,
        acked_at=directive.acked_at,
        identify=None if directive.identify is None else _plain(directive.identify),
        answer=directive.answer,
    )


def _hottest(samples: list[SampleView]) -> SampleView | None:
    """The highest temperature among the newest value of each sensor. `samples` are the newest batches, newest first."""
    newest: dict[str, SampleView] = {}
    for sample in sorted(samples, key=lambda one: one.ts, reverse=True):
        if sample.kind.startswith("temp"):
            newest.setdefault(sample.key, sample)
    return max(newest.values(), key=lambda one: one.value, default=None)


def _plain(message: Any) -> Any:
    return msgspec.to_builtins(message)
