"""A claim: bound to the run in one transaction, answered, and noted when a stranger tried; new tokens for a run.

No HTTP, and nothing that the server remembers: agent_service.py calls it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from orchestrator.boot_tokens import rotated
from orchestrator.callers import Caller, claimable, refuse_when_over
from orchestrator.clock import now_text
from orchestrator.identifiers import check_identifier, given_mac
from orchestrator.keeping import keep, keep_event
from orchestrator.pacing import paced
from orchestrator.run_record import Run
from orchestrator.runs import transition
from orchestrator.steps import Claimed, Refusal
from orchestrator.store import Store, Transaction
from vetting_agent.run_view import EventView
from vetting_agent.wire import FEATURE_EVIDENCE, FEATURE_IPERF_SLOT, Claim, ClaimRequest

STRAY_EVENTS = 20
"""A refused claim is noted once among so many events, however often it is tried."""


def claim_event(request: ClaimRequest) -> Claimed:
    """What the request says. Refuses with 422 what is no MAC address and no identifier."""
    check_identifier("instance_id", request.instance_id)
    return Claimed(
        mac=given_mac(request.mac),
        ip=request.ip,
        instance_id=request.instance_id,
        agent_version=request.agent_version,
        kernel_boot_id=request.kernel_boot_id,
        started_s=request.agent_started_s,
    )


async def claimed(store: Store, caller: Caller, event: Claimed, factor: float) -> tuple[Run, str | None]:
    """The run that now belongs to this host, and its new token if it gets one. `factor`: of the usual intervals."""

    def work(transaction: Transaction) -> tuple[Run, str | None]:
        now, before = now_text(), transaction.run(caller.run.run_id)
        run, token = claimable(before, caller, event)
        step = transition(run, event, now)
        step = replace(step, run=paced(step.run, factor))
        keep(transaction, before, step, now)
        return step.run, token

    try:
        run, token = await store.write(work)
    except Refusal as refusal:
        if refusal.code in {"wrong_token", "superseded"}:
            await _note_stray_claim(store, caller.run.run_id, event, refusal)
        raise
    refuse_when_over(run)  # the claim itself may show that a cancelled run has ended
    return run, token


async def _note_stray_claim(store: Store, run_id: int, event: Claimed, refusal: Refusal) -> None:
    """A token or an instance of before: a late host or call, or someone who listened. People see it."""
    text = f"refused a claim by {event.mac} at {event.ip[:64]}: {refusal.message}"
    note = EventView(ts=now_text(), kind="claim", text=text)
    if not any(one.text == text for one in await store.events(run_id, STRAY_EVENTS)):
        await store.write(lambda transaction: keep_event(transaction, run_id, note))


def claim_reply(run: Run, token: str | None, iperf_port: int | None) -> Claim:
    """What the host is told."""
    return Claim(
        stages=list(run.stages),
        current_state=run.state,
        iperf_port=iperf_port,
        expected_disks=run.expected_disks,
        non_destructive=run.non_destructive,
        parameters=run.parameters,
        heartbeat_interval_s=run.pace.heartbeat_s,
        sensor_interval_s=run.pace.sensor_s,
        log_interval_s=run.pace.log_s,
        token=token,
        features=[FEATURE_EVIDENCE, *([FEATURE_IPERF_SLOT] if iperf_port else [])],
    )


async def rotate_token(store: Store, run_id: int, also: Callable[[Transaction], None]) -> tuple[Run, str]:
    """A new token for the run; all its others end at once. `also`: in the same transaction. Raises Refusal 410."""

    def work(transaction: Transaction) -> tuple[Run, str]:
        run, token = rotated(transaction.run(run_id))
        transaction.put_run(run)
        transaction.add_event(run_id, EventView(ts=now_text(), kind="token", text="the run's token was rotated"))
        also(transaction)
        return run, token

    return await store.write(work)
